"""Binary and ternary weights: one or two bits a weight in the file, trained with a straight-through estimator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from autoshrink.fingerprints import training_fingerprint
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.training import Plan, train
from autoshrink.techniques.weight_values import KEEP, treatable_layers, with_state
from autoshrink.types import Choice, Range, Settings

VALUES = ("binary", "ternary")
THRESHOLD = 0.7
"""Of the mean magnitude: below it a ternary weight is 0 (Li et al. 2016, equation 6)."""
CLIP = 1.0
"""Magnitude of a latent weight beyond which it gets no gradient (Courbariaux et al. 2015, section 2.4)."""

ON = ("values", VALUES)


class Binarize(ModuleTechnique):
    """Two or three values a channel: {-s, s} or {-s, 0, s}, for convolutions and linear layers.

    It makes the file small: 1 or 2 bits a weight. It does not make the model faster: no runtime here has kernels for
    1- or 2-bit weights on a processor, they compute in float32, or as int8 when static int8 follows.
    """

    name: ClassVar[str] = "binarize"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "values": Parameter(
            Choice((*VALUES, "off")), "binary", "of a weight: -s and s, or -s, 0 and s; smaller, and no faster"
        ),
        "keep": Parameter(Choice(KEEP), "first_last", "layers with weights that stay float", ON),
        "epochs": Parameter(Range(0.1, 40.0), 3.0, "passes over the training set", ON),
        "learning_rate": Parameter(
            Range(0.0, 1.0), 0.0, "largest step of the one-cycle schedule; 0 is the optimizer's usual: 0.05, 0.001", ON
        ),
        "temperature": Parameter(Range(1.0, 20.0), 4.0, "softens the teacher's class scores", ON),
        "alpha": Parameter(Range(0.0, 1.0), 0.7, "share of the teacher in the loss; the rest is the task's own", ON),
    }
    trains: ClassVar[bool] = True
    # A codebook would be trained away, and binary weights have no zero.
    excluded_by: ClassVar[frozenset[str]] = frozenset({"cluster", "sparsify"})
    few_values: ClassVar[bool] = True

    def is_off(self, settings: Settings) -> bool:
        """The values `off`."""
        return settings.get("values") == "off"

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:  # noqa: ARG002
        """The settings with their defaults, numbers with a point: training is the same for every target."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        resolved = {**defaults, **settings}
        return {name: value if isinstance(value, str) else float(value) for name, value in resolved.items()}

    def fingerprint(self, task: Task) -> str:
        """Of the training set, its augmentation and the loss."""
        return training_fingerprint(task)

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The trained model with two or three values a channel; its structure is that of `model`."""
        plan = Plan(
            float(settings["epochs"]),
            float(settings["learning_rate"]),
            temperature=float(settings["temperature"]),
            alpha=float(settings["alpha"]),
        )
        return binarize(model, context, plan, values=str(settings["values"]), keep=str(settings["keep"])), None

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:  # noqa: ARG002
        """The model as it is: only weights change."""
        return model


def binarize(
    model: nn.Module, context: Context, plan: Plan, *, values: str = "binary", keep: str = "first_last"
) -> nn.Module:
    """A trained copy of `model`, in eval mode, whose inner layers have binary or ternary weights.

    Every step computes with `binary_weight` or `ternary_weight` of latent float weights, which start as those of
    `model` and get the gradient as if they had been used themselves (straight through, Bengio et al. 2013), unless
    their magnitude is over 1 (Courbariaux et al. 2015). Batch normalisation is trained along and keeps its place; when
    the exporter folds it, each channel still has its two or three values. Afterwards the plain weights hold those.

    Args:
        model: not touched. Shared, parametrized and embedded weights stay float, and so do those of
            `nn.MultiheadAttention`.
        context: as of `training.train`.
        plan: as of `training.train`.
        values: `binary` or `ternary`.
        keep: the ends that stay float: `first_last`, `last` or `none`, in the order that the example runs them.

    Raises:
        ValueError: `values` or `keep` is not one of those above.
        StageError: no layer is left to treat, the task has no training set and loss, or the training diverges.
    """
    for name, value, known in (("values", values, VALUES), ("keep", keep, KEEP)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    names = list(treatable_layers(model, context.task, keep, Binarize.name))
    latent = copy.deepcopy(model)
    for name in names:
        parametrize.register_parametrization(latent.get_submodule(name), "weight", _StraightThrough(values))
    trained = train(latent, context, plan, Binarize.name)
    return with_state(model, trained, names)


def binary_weight(weight: torch.Tensor) -> torch.Tensor:
    """sign(w) * mean |w|, the mean over each output channel (Rastegari et al. 2016, equation 6), with sign(0) = 1.

    Args:
        weight: float [outputs, ...].
    """
    scale = _over_channel(weight.abs()).mean(1)
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    return torch.where(weight < 0, -scale, scale)


def ternary_weight(weight: torch.Tensor) -> torch.Tensor:
    """0 where |w| is at most 0.7 mean |w|, else sign(w) times the mean magnitude of those others, by output channel.

    Li et al. 2016, equations 5 and 6. A channel of zeros stays one.

    Args:
        weight: float [outputs, ...].
    """
    magnitude = _over_channel(weight.abs())
    large = magnitude > THRESHOLD * magnitude.mean(1, keepdim=True)
    scale = (magnitude * large).sum(1, keepdim=True) / large.sum(1, keepdim=True).clamp(min=1)
    values = torch.where(large, torch.where(_over_channel(weight) < 0, -scale, scale), torch.zeros_like(scale))
    return values.view_as(weight)


def _over_channel(weight: torch.Tensor) -> torch.Tensor:
    return weight.reshape(len(weight), -1)


class _Quantized(torch.autograd.Function):
    """Binary or ternary weights whose gradient goes to the latent ones as it is, up to the clip."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, values: str) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return binary_weight(weight) if values == "binary" else ternary_weight(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradients[0] * (weight.abs() <= CLIP), None


class _StraightThrough(nn.Module):
    """Parametrization of a weight by a latent one."""

    def __init__(self, values: str) -> None:
        super().__init__()
        self.values = values

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        quantized: torch.Tensor = _Quantized.apply(weight, self.values)  # type: ignore[no-untyped-call]
        return quantized
