"""Sparsity: single weights become zero, anywhere or in the N:M pattern, at once or gradually in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from autoshrink.errors import StageError
from autoshrink.fingerprints import training_fingerprint
from autoshrink.target import Target
from autoshrink.task import Task, fingerprint
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.layer_calls import CONVOLUTIONS, TRANSPOSED, kept_layers, layer_calls, names_of_weights
from autoshrink.techniques.sparse_masks import (
    GROUP,
    cubic_ramp,
    global_masks,
    group_mask,
    input_norms,
    magnitude_scores,
    row_mask,
    wanda_scores,
)
from autoshrink.techniques.training import Plan, train
from autoshrink.types import Choice, Range, Settings

RATIO_MAX = 0.98
ZEROS = {"2:4": 2, "1:4": 3}
"""Pattern -> zeros in every four input channels."""
PATTERNS = ("unstructured", *ZEROS)
IMPORTANCES = ("magnitude", "wanda", "movement")
SCHEDULES = ("one_shot", "gradual")
UPDATES = 20
"""How often about a gradual schedule makes new masks."""
WEIGHTS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED, nn.MultiheadAttention)


class Sparsify(ModuleTechnique):
    """Makes weights zero. No runtime here computes that faster on a processor, and a plain file is as large as before.

    What gets smaller is the compressed file. The 2:4 pattern has faster kernels on NVIDIA's GPUs, and only there.
    """

    name: ClassVar[str] = "sparsify"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "pattern": Parameter(
            Choice(PATTERNS),
            "unstructured",
            "zeros anywhere, or N left of every 4 input channels: faster on NVIDIA GPUs only (2:4), never on a CPU",
        ),
        "ratio": Parameter(
            Range(0.0, RATIO_MAX),
            0.7,
            "share of the weights that become zero: a smaller compressed file, not a smaller plain one",
            when=("pattern", ("unstructured",)),
        ),
        "importance": Parameter(
            Choice(IMPORTANCES),
            "magnitude",
            "what stays: large weights, those with large inputs as well (wanda), or those that training moves from 0",
            trains=("movement",),
        ),
        "schedule": Parameter(
            Choice(SCHEDULES),
            "one_shot",
            "all zeros before training, or more and more of them in its first two thirds",
            trains=("gradual",),
        ),
        "epochs": Parameter(
            Range(0.0, 20.0), 1.0, "passes over the training set under the teacher; 0 does not train", trains_above=0.0
        ),
        "learning_rate": Parameter(
            Range(0.0, 1.0), 0.0, "largest step of the one-cycle schedule; 0 is the optimizer's usual: 0.05, 0.001"
        ),
    }
    trains: ClassVar[bool] = False

    def is_off(self, settings: Settings) -> bool:
        """A ratio of 0, without an N:M pattern."""
        return settings.get("pattern", "unstructured") == "unstructured" and settings.get("ratio") == 0

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:  # noqa: ARG002
        """The settings that count with their defaults, numbers with a point: the same for every target."""
        resolved: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if parameter.when is None or resolved.get(parameter.when[0]) in parameter.when[1]:
                value = settings.get(name, parameter.default)
                resolved[name] = value if isinstance(value, str) else float(value)
        return resolved

    def fingerprint(self, task: Task) -> str:
        """Of the training set and its loss, of the calibration set, which `wanda` runs, and of the kept layers."""
        return f"{training_fingerprint(task)} {fingerprint(task.calibration)} {' '.join(task.keep)}"

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The sparse model; its structure is that of `model`."""
        sparse = sparsify(
            model,
            context,
            pattern=str(settings["pattern"]),
            ratio=float(settings.get("ratio", 0.0)),
            importance=str(settings["importance"]),
            schedule=str(settings["schedule"]),
            epochs=float(settings["epochs"]),
            learning_rate=float(settings["learning_rate"]),
        )
        return sparse, None

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:  # noqa: ARG002
        """The model as it is: zeros change no structure."""
        return model


def sparsify(
    model: nn.Module,
    context: Context,
    *,
    pattern: str = "unstructured",
    ratio: float = 0.7,
    importance: str = "magnitude",
    schedule: str = "one_shot",
    epochs: float = 0.0,
    learning_rate: float = 0.0,
) -> nn.Module:
    """A copy of `model` with weights set to zero, in eval mode.

    Of linear layers, convolutions and attention's own projections; never biases and norms. Weights that layers share
    are masked once. Dense stay the last layer to run (the head), layers in `task.keep`, transposed convolutions,
    weights that are made by parametrizations, and for N:M those whose input channels (of a group) are no multiple of
    4, as the first convolution's. A weight that has become zero stays zero in this training and, in tensors with
    enough zeros, in every later one.

    Args:
        model: not touched.
        context: its calibration set is run for `wanda`; training uses what `training.train` does.
        pattern: `unstructured`, or `2:4` and `1:4`: as many weights stay of every 4 consecutive input channels, at each
            position of a kernel. Mishra et al. 2021 describe 2:4.
        ratio: share of the weights of these layers that become zero, 0 to 0.98, met to one weight (for `wanda` in each
            output row); `unstructured` only.
        importance: `magnitude` ranks weights of all layers together, each divided by its layer's root mean square.
            `wanda` (Sun et al. 2023) ranks magnitude times the norm of the input feature over the calibration set,
            taken once, within each output row; weights whose input cannot be seen (attention's own) by magnitude.
            `movement` (Sanh et al. 2020, equation 5) ranks the sum over the training steps of -w dL/dw over all layers
            together; what has become zero never comes back.
        schedule: `one_shot` sets all zeros before training (for `movement` after its first third). `gradual` sets more
            and more in the first two thirds: cubic (Zhu & Gupta 2017), with about 20 new masks; N:M patterns one more
            zero of each four at a time.
        epochs: passes over the training set; 0 does not train.
        learning_rate: the largest of the one-cycle schedule; 0 is the optimizer's usual.

    Raises:
        ValueError: a setting is not one of those above.
        StageError: no layer can be sparse; training is wanted of a task without training set; `gradual` or `movement`
            is wanted without training; or training fails.
    """
    for name, value, known in (
        ("pattern", pattern, PATTERNS),
        ("importance", importance, IMPORTANCES),
        ("schedule", schedule, SCHEDULES),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    if not 0 <= ratio <= RATIO_MAX:
        raise ValueError(f"ratio is {ratio}; it must be between 0 and {RATIO_MAX}")
    task = context.task
    in_training = [value for value in (importance, schedule) if value in ("movement", "gradual")]
    if epochs > 0 and not task.trains:
        raise StageError(
            "sparsify",
            f"epochs is {epochs:g}, but task {task.name} has no training set and loss; give it both, or set "
            "sparsify.epochs to 0",
        )
    if in_training and epochs == 0:
        raise StageError(
            "sparsify",
            f"by {' and '.join(in_training)} zeros are set in training, and epochs is 0; set sparsify.epochs over 0, "
            "or use magnitude and one_shot",
        )
    sparse = copy.deepcopy(model).eval()
    names = _sparse_weights(sparse, task, pattern)
    norms: dict[str, torch.Tensor] = {}
    if importance == "wanda":
        masked = {id(sparse.get_parameter(name)): name for name in names}
        layers = [
            layer
            for layer in sparse.modules()
            if isinstance(layer, (nn.Linear, *CONVOLUTIONS)) and id(layer.weight) in masked
        ]
        found = input_norms(sparse, layers, task.calibration, tuple(task.outputs))
        norms = {masked[key]: value for key, value in found.items()}
    masking = _Masking(names, _Rule(pattern, ratio, importance, schedule), norms)
    masking.begin(sparse)
    if epochs > 0:
        try:
            sparse = train(sparse, context, Plan(epochs, learning_rate), "sparsify", masking)
        finally:
            masking.stop_listening()
    masking.finish(sparse)
    return sparse


def _sparse_weights(model: nn.Module, task: Task, pattern: str) -> list[str]:
    """The qualified names of the weights that get zeros, one for each tensor.

    Raises:
        StageError: there are none; names each layer and the reason.
    """
    kept = kept_layers(model, task, "sparsify")
    calls = layer_calls(model, task, LAYERS)
    head = set(list(calls)[-1].modules()) if calls else set()
    names = names_of_weights(model)
    reasons: dict[str, str] = {}
    found: dict[int, str] = {}
    dense: set[int] = set()
    for name, layer in model.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        own = [layer._parameters[each] for each in WEIGHTS if layer._parameters.get(each) is not None]
        reason = _objection(layer, own, pattern)
        if layer in head:
            reason = "is the last layer to run"
        if layer in kept:
            reason = "stands in Task.keep"
        if reason:
            reasons[name] = reason
            dense |= {id(weight) for weight in own}
        else:
            found |= {id(weight): names[id(weight)][0] for weight in own}
    chosen = [name for key, name in found.items() if key not in dense]
    if not chosen:
        shared = [name.rpartition(".")[0] for name in found.values()]
        reasons |= dict.fromkeys(shared, "shares its weight with a layer that stays dense")
        listed = "; ".join(f"layer {name or 'the model'}: {reason}" for name, reason in reasons.items())
        raise StageError(
            "sparsify",
            f"no layer can be sparse ({listed or 'it has no linear layer and no convolution'}); leave sparsify out",
        )
    return chosen


def _objection(layer: nn.Module, weights: list[nn.Parameter | None], pattern: str) -> str:
    """Why a layer stays dense, by itself; empty when it need not."""
    if isinstance(layer, TRANSPOSED):
        return "is a transposed convolution"
    if not weights or not all(weight is not None and weight.is_floating_point() for weight in weights):
        return "has a weight that is no floating-point parameter of its own"
    channels = [weight.shape[1] for weight in weights if weight is not None]
    if pattern in ZEROS and any(count % GROUP for count in channels):
        return f"takes {max(channels)} input channels (of a group), no multiple of {GROUP}"
    return ""


@dataclass(frozen=True)
class _Rule:
    pattern: str
    ratio: float
    importance: str
    schedule: str


class _Masking:
    """Sets zeros, and keeps them before each step of a training.

    Masks and movement scores are buffers of the model meanwhile: a checkpoint of the training holds them.
    """

    def __init__(self, names: list[str], rule: _Rule, norms: Mapping[str, torch.Tensor]) -> None:
        self._names = names
        self._rule = rule
        self._norms = norms
        self._handles: list[RemovableHandle] = []

    def begin(self, model: nn.Module) -> None:
        """Adds the buffers, and sets the zeros that come before training."""
        for index, name in enumerate(self._names):
            weight = model.get_parameter(name)
            model.register_buffer(_mask(index), torch.ones_like(weight, dtype=torch.bool))
            if self._rule.importance == "movement":
                model.register_buffer(_score(index), torch.zeros(weight.shape, device=weight.device))
        if self._rule.schedule == "one_shot" and self._rule.importance != "movement":
            self._update(model, 1.0)

    def __call__(self, model: nn.Module, step: int, total: int) -> None:
        """Before a step of training."""
        if self._rule.importance == "movement" and not self._handles:
            self._listen(model)
        # The optimizer moves masked weights: their gradient is not zero, nor is its momentum.
        self._set_zeros(model)
        if self._rule.schedule == "gradual":
            end = total * 2 // 3
            if step <= end and (step % max(1, end // UPDATES) == 0 or step == end):
                self._update(model, cubic_ramp(step, end))
        elif self._rule.importance == "movement" and step == max(1, total // 3):
            self._update(model, 1.0)

    def stop_listening(self) -> None:
        """Takes the hooks off the gradients."""
        for handle in self._handles:
            handle.remove()

    def finish(self, model: nn.Module) -> None:
        """Sets all zeros, also those that a training too short for its schedule left out; takes the buffers away."""
        self._set_zeros(model)
        self._update(model, 1.0)
        for index in range(len(self._names)):
            delattr(model, _mask(index))
            if self._rule.importance == "movement":
                delattr(model, _score(index))

    def _update(self, model: nn.Module, share: float) -> None:
        """New masks with `share` of the final zeros; those that are there stay."""
        rule = self._rule
        masks = [model.get_buffer(_mask(index)) for index in range(len(self._names))]
        # On the CPU: equal scores lose the same weights on every device.
        scores = [self._scores(model, index).masked_fill(~mask, -torch.inf).cpu() for index, mask in enumerate(masks)]
        if rule.pattern in ZEROS:
            found = [group_mask(score, round(share * ZEROS[rule.pattern])) for score in scores]
        elif rule.importance == "wanda":
            found = [row_mask(score, share * rule.ratio) for score in scores]
        else:
            found = global_masks(scores, round(share * rule.ratio * sum(score.numel() for score in scores)))
        for mask, new in zip(masks, found, strict=True):
            mask.copy_(new)
        self._set_zeros(model)

    def _scores(self, model: nn.Module, index: int) -> torch.Tensor:
        name = self._names[index]
        if self._rule.importance == "movement":
            return model.get_buffer(_score(index))
        weight = model.get_parameter(name)
        return wanda_scores(weight, self._norms[name]) if name in self._norms else magnitude_scores(weight)

    def _set_zeros(self, model: nn.Module) -> None:
        with torch.no_grad():
            for index, name in enumerate(self._names):
                # Not a product: a weight of -1 would become -0, and an infinite one NaN.
                model.get_parameter(name).masked_fill_(~model.get_buffer(_mask(index)), 0.0)

    def _listen(self, model: nn.Module) -> None:
        """Adds up -w dL/dw after each backward pass, before the gradient is clipped and the weight moved."""
        for index, name in enumerate(self._names):
            score = model.get_buffer(_score(index))

            def add(weight: torch.Tensor, score: torch.Tensor = score) -> None:
                if weight.grad is not None:
                    score.sub_(weight.detach() * weight.grad)

            weight = model.get_parameter(name)
            self._handles.append(weight.register_post_accumulate_grad_hook(add))  # type: ignore[no-untyped-call]


def _mask(index: int) -> str:
    return f"_sparse_mask_{index}"


def _score(index: int) -> str:
    return f"_sparse_score_{index}"
