"""Low-rank factorization: layers become two or three thinner ones, where that saves arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from autoshrink.errors import StageError
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.techniques.allocate import Option, allocate
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.layer_calls import CONVOLUTIONS, TRANSPOSED, kept_layers, layer_calls, names_of_weights
from autoshrink.techniques.thin_layers import Candidate, Ranks, Thinned, empty_layers, layer_macs
from autoshrink.tensors import run_example
from autoshrink.types import Choice, Range, Settings

RULES = ("energy", "budget")
CONVOLUTION_FORMS = ("tucker", "spatial")
LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
READS_WEIGHTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Their forward takes the weights of the layers in them rather than call these."""
FORWARDS = ("forward", "_conv_forward")
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError)
"""What a model raises that does not get along with an `nn.Sequential` in a layer's place."""

LEAST_SHARE = 0.002
"""Of the multiply-accumulates: calling a second layer costs more than a smaller one saves. And a narrow pair at the end
of a network is what OpenVINO 2026.4 computed wrongly with 8-bit integers on one thread."""

Structure = dict[str, list[Any]]
"""Layer -> [kind, [rank, ...]], JSON."""


class Factorize(ModuleTechnique):
    """Replaces layers by products of thinner ones; fine-tuning afterwards repairs what that loses."""

    name: ClassVar[str] = "factorize"
    version: ClassVar[int] = 2
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "rule": Parameter(
            Choice(RULES), "energy", "ranks that keep the same share of each layer's energy, or that meet a budget"
        ),
        "energy": Parameter(
            Range(0.3, 1.0), 0.9, "share of the squared singular values that is kept", when=("rule", ("energy",))
        ),
        "budget": Parameter(
            Range(0.1, 1.0), 0.5, "share of the model's multiply-accumulates that may be left", ("rule", ("budget",))
        ),
        "convolutions": Parameter(
            Choice(CONVOLUTION_FORMS),
            "tucker",
            "kernels over 1x1: 1x1, thinner kernel, 1x1 (tucker), or columns and then rows (spatial)",
        ),
    }
    trains: ClassVar[bool] = False

    def is_off(self, settings: Settings) -> bool:
        """All of the energy, or of the multiply-accumulates."""
        rules = (str(settings["rule"]),) if "rule" in settings else RULES
        return any(settings.get(rule) == 1 for rule in rules)

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:
        """The settings that count with their defaults, and `round_to`, the target's channel multiple."""
        resolved: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if parameter.when is None or resolved.get(parameter.when[0]) in parameter.when[1]:
                value = settings.get(name, parameter.default)
                resolved[name] = value if isinstance(value, str) else float(value)
        return {**resolved, "round_to": target.channel_multiple}

    def fingerprint(self, task: Task) -> str:
        """Of the layers that must stay."""
        return " ".join(task.keep)

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The model with thinner layers, and which ones they are."""
        rule = str(settings["rule"])
        return factorize(
            model,
            context.task,
            rule=rule,
            share=float(settings[rule]),
            convolutions=str(settings["convolutions"]),
            round_to=int(settings["round_to"]),
            progress=context.progress,
        )

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:  # noqa: ARG002
        """Puts empty thin layers in the same places."""
        for name, (kind, ranks) in structure.items():
            model = _replaced(model, name, empty_layers(model.get_submodule(name), kind, tuple(ranks)))
        return model


def factorize(
    model: nn.Module,
    task: Task,
    *,
    rule: str = "energy",
    share: float = 0.9,
    convolutions: str = "tucker",
    round_to: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[nn.Module, Structure]:
    """A copy of `model` with layers replaced by products of thinner ones, in eval mode.

    Linear layers and 1x1 convolutions by a truncated SVD (Denton et al. 2014), larger kernels by Tucker-2 on their
    channels (Kim et al. 2016) or by a column and a row kernel (Jaderberg et al. 2014, scheme 2). A layer is replaced
    only where that takes fewer multiply-accumulates and fewer parameters; whether it is faster is for the measurement
    to say. Grouped and transposed convolutions, layers in `task.keep`, with shared weights, parametrizations, hooks or
    a forward of their own, those whose weights `nn.MultiheadAttention` or `nn.TransformerEncoderLayer` reads, and those
    that take under 0.2 % of the multiply-accumulates stay.

    Args:
        model: not touched.
        task: its example input is run, for the positions at which layers compute.
        rule: `energy` gives each layer the least ranks that keep `share` of its squared singular values (of each of
            both sides for Tucker, which may together lose twice the rest). `budget` leaves `share` of the
            multiply-accumulates that the model's linear and convolution layers take, and among all such ranks takes
            those that lose least: the relative energy lost of each layer, weighted by its share of the parameters (the
            energy lost over all weights, were every layer scaled to the same root mean square).
        share: see `rule`, over 0 to 1.
        convolutions: `tucker` or `spatial`; the latter for two-dimensional ones, others are done by Tucker-2.
        round_to: ranks are multiples of this, at least one.
        progress: called with layers done and layers in all.

    Returns:
        The model, and the JSON value from which `Factorize.rebuild` repeats its structure.

    Raises:
        ValueError: a setting is not one of those above.
        StageError: no layer gains, the budget cannot be met, or the model does not run with thin layers in place.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; it must be one of {', '.join(RULES)}")
    if convolutions not in CONVOLUTION_FORMS:
        raise ValueError(f"convolutions is {convolutions!r}; it must be one of {', '.join(CONVOLUTION_FORMS)}")
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be over 0 and at most 1")
    thinned = copy.deepcopy(model).eval()
    calls = layer_calls(thinned, task, LAYERS)
    expected = _output_shapes(thinned, task)
    left = _unfit(thinned, task)
    for name, layer in thinned.named_modules():
        if isinstance(layer, LAYERS) and name not in left and layer not in calls:
            left[name] = "is not called when the example input is run"
    candidates = [
        Candidate(name, layer, calls[layer], convolutions)
        for name, layer in thinned.named_modules()
        if isinstance(layer, LAYERS) and name not in left
    ]
    total = sum(layer_macs(layer, shapes) for layer, shapes in calls.items())
    small = {
        c.name: f"takes {c.macs / total:.2%} of the multiply-accumulates"
        for c in candidates
        if c.macs < LEAST_SHARE * total
    }
    left |= small
    candidates = [candidate for candidate in candidates if candidate.name not in small]
    if rule == "energy":
        chosen = _by_energy(candidates, share, round_to, left)
    else:
        chosen = _by_budget(candidates, share, round_to, left, total)
    if not chosen:
        raise StageError("factorize", f"no layer becomes cheaper ({_listed(left)}); leave factorize out")
    structure: Structure = {}
    for done, (candidate, ranks) in enumerate(chosen, 1):
        thinned = _replaced(thinned, candidate.name, candidate.replacement(ranks))
        structure[candidate.name] = [candidate.kind, list(ranks)]
        progress(done, len(chosen))
    _check_runs(model, thinned, task, chosen, expected)
    return thinned, structure


def _unfit(model: nn.Module, task: Task) -> dict[str, str]:
    """The layers that cannot be replaced, each with the reason."""
    kept = kept_layers(model, task, "factorize")
    names = names_of_weights(model)
    read = {
        inner: f"its weight is read by {name or 'the model'}, a {type(outer).__name__}"
        for name, outer in model.named_modules()
        if isinstance(outer, READS_WEIGHTS)
        for inner in outer.modules()
    }
    reasons = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        reason = _objection(layer)
        if not reason:
            everywhere = [other for parameter in layer.parameters(recurse=False) for other in names[id(parameter)]]
            shared = [other for other in everywhere if other.rpartition(".")[0] != name]
            if shared:
                reason = f"shares its weight with {', '.join(shared)}"
        if layer in read:
            reason = read[layer]
        if layer in kept:
            reason = "stands in Task.keep"
        if reason:
            reasons[name] = reason
    return reasons


def _objection(layer: nn.Module) -> str:
    """Why a layer cannot be replaced, by itself; empty when it can."""
    if isinstance(layer, TRANSPOSED):
        return "is a transposed convolution"
    if is_parametrized(layer):
        return "has parametrizations"
    plain = next(cls for cls in (nn.Linear, *CONVOLUTIONS) if isinstance(layer, cls))
    if any(getattr(type(layer), name, None) is not getattr(plain, name, None) for name in FORWARDS):
        return f"is a {type(layer).__name__} with a forward of its own"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "has hooks"
    if getattr(layer, "groups", 1) > 1:
        return "is a grouped convolution"
    if not isinstance(layer.weight, nn.Parameter) or not layer.weight.is_floating_point():
        return "has a weight that is no floating-point parameter"
    if not torch.isfinite(layer.weight).all():
        return "has weights that are NaN or infinite"
    return ""


def _by_energy(
    candidates: list[Candidate], share: float, round_to: int, left: dict[str, str]
) -> list[tuple[Candidate, Ranks]]:
    """The layers that gain, with their ranks; the others go to `left`."""
    chosen = []
    for candidate in candidates:
        thinned = candidate.by_energy(share, round_to)
        if candidate.gains(thinned):
            chosen.append((candidate, thinned.ranks))
        else:
            left[candidate.name] = _no_gain(candidate, thinned)
    return chosen


def _by_budget(
    candidates: list[Candidate], share: float, round_to: int, left: dict[str, str], total: int
) -> list[tuple[Candidate, Ranks]]:
    """The layers and ranks that lose least within `share` of `total` multiply-accumulates.

    Raises:
        StageError: that much cannot be saved.
    """
    weights = sum(candidate.parameters for candidate in candidates)
    offers: list[list[Thinned]] = []
    options: list[list[Option]] = []
    for candidate in candidates:
        offers.append(candidate.all(round_to))
        part = candidate.parameters / weights
        options.append([Option(candidate.macs, 0.0), *(Option(each.macs, each.lost * part) for each in offers[-1])])
        if not offers[-1]:
            left[candidate.name] = _no_gain(candidate, candidate.by_energy(0, round_to))
    if not any(offers):
        return []
    untouched = total - sum(candidate.macs for candidate in candidates)
    least = untouched + sum(min(option.cost for option in layer) for layer in options)
    if least > share * total:
        also = f" ({_listed(left)})" if left else ""
        raise StageError(
            "factorize",
            f"a budget of {share:g} cannot be met: with the lowest ranks of layer "
            f"{', '.join(candidate.name for candidate, offer in zip(candidates, offers, strict=True) if offer)} "
            f"{least / total:.3f} of the multiply-accumulates are left{also}; raise factorize.budget over that",
        )
    picks = allocate(options, share * total - untouched)
    return [
        (candidate, offer[pick - 1].ranks)
        for candidate, offer, pick in zip(candidates, offers, picks, strict=True)
        if pick
    ]


def _no_gain(candidate: Candidate, thinned: Thinned) -> str:
    ranks = " x ".join(map(str, thinned.ranks))
    return (
        f"at rank {ranks} it takes {thinned.macs:,} multiply-accumulates and {thinned.parameters:,} parameters, as it "
        f"is {candidate.macs:,} and {candidate.parameters:,}"
    )


def _listed(left: Mapping[str, str]) -> str:
    return "; ".join(f"layer {name or 'the model'}: {why}" for name, why in left.items()) or (
        "it has no linear layer and no convolution"
    )


def _replaced(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """`model`, changed in place, or `layer` where that is all of it."""
    if not name:
        return layer
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, layer)
    return model


def _output_shapes(model: nn.Module, task: Task) -> dict[str, list[int]]:
    with torch.no_grad():
        return {name: list(output.shape) for name, output in run_example(model, task).items()}


def _check_runs(
    model: nn.Module,
    thinned: nn.Module,
    task: Task,
    chosen: list[tuple[Candidate, Ranks]],
    expected: dict[str, list[int]],
) -> None:
    """Runs the example.

    Raises:
        StageError: the model fails with thin layers, each of which was tried alone to name the guilty ones.
    """
    error = _failure(thinned, task, expected)
    if error is None:
        return
    guilty = []
    for candidate, ranks in chosen:
        alone = copy.deepcopy(model).eval()
        if _failure(_replaced(alone, candidate.name, candidate.replacement(ranks)), task, expected) is not None:
            guilty.append(candidate.name)
    names = guilty or [candidate.name for candidate, _ in chosen]
    them = ", ".join(f'"{name}"' for name in names)
    raise StageError(
        "factorize",
        f"layer {', '.join(names)}: the model does not run with thinner layers there, most likely its forward reads "
        f"the layer's weight or sizes: {error}; keep it: put {them} into Task.keep",
    ) from error


def _failure(model: nn.Module, task: Task, expected: dict[str, list[int]]) -> Exception | None:
    try:
        found = _output_shapes(model, task)
    except FAILURES as error:
        return error
    return None if found == expected else RuntimeError(f"its outputs become {found}, they were {expected}")
