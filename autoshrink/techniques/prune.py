"""Structured pruning: whole channels are removed, and with them everything in other layers that belongs to them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch_pruning as tp
from torch import nn

from autoshrink.errors import StageError
from autoshrink.fingerprints import training_fingerprint
from autoshrink.task import Task, call
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.channel_groups import ChannelGraph, ChannelGroup, History
from autoshrink.tensors import as_tensors, run_example
from autoshrink.types import Choice, Range, Settings, Target

RATIO_MAX = 0.95
TAYLOR_BATCHES = 8
IMPORTANCES = ("magnitude", "taylor")


class Prune(ModuleTechnique):
    """Removes the channels that matter least, over all layers at once, in multiples that the target computes well."""

    name: ClassVar[str] = "prune"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "ratio": Parameter(Range(0.0, RATIO_MAX), 0.5, "share of the channels that are removed"),
        "importance": Parameter(
            Choice(IMPORTANCES),
            "magnitude",
            "how channels are ranked: L2 norm of their weights, or first-order effect on the loss (needs train)",
        ),
    }
    trains: ClassVar[bool] = False

    def is_off(self, settings: Settings) -> bool:
        """A ratio of 0."""
        return settings.get("ratio") == 0

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:
        """Adds `round_to`, the target's channel multiple."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        return {**defaults, **settings, "round_to": target.channel_multiple}

    def fingerprint(self, task: Task) -> str:
        """Of the training set and its loss, which `taylor` ranks by, and of the layers that must stay."""
        return f"{training_fingerprint(task)} {' '.join(task.keep)}"

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The pruned model, and what was removed."""
        return prune(
            model,
            context.task,
            ratio=float(settings["ratio"]),
            importance=str(settings["importance"]),
            round_to=int(settings["round_to"]),
            seed=context.seed,
        )

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:
        """Removes the same channels of a fresh model."""
        return replay(model, structure, task)


def prune(
    model: nn.Module, task: Task, *, ratio: float, importance: str = "magnitude", round_to: int = 1, seed: int = 0
) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of `model` with the least important channels removed, in eval mode.

    Channels of all layers are ranked together by group importance, normalised by the group's mean (Fang et al. 2023,
    section 3.3): `magnitude` is the L2 norm of the weights, `taylor` the first-order change of the loss (Molchanov et
    al. 2019, equation 8), its gradient taken over some batches in the order that `seed` fixes. They go in blocks, so
    that a layer that loses any keeps a multiple of `round_to`; none loses more than half of what uniform pruning
    would leave it. Layers that feed an output, that `task.keep` names, or whose channels cannot be followed
    (`nn.MultiheadAttention`, recurrent layers, fused attention projections) keep their width. May make a model smaller
    and no faster when `round_to` is not the target's vector width.

    Args:
        model: not touched.
        task: its example input is run; `taylor` needs `train` and `loss`.
        ratio: share of the removable channels to remove, 0 to 0.95, met to within half a block.
        importance: `magnitude` or `taylor`.
        round_to: channels of a block.
        seed: of the order of batches.

    Returns:
        The model, and the JSON value from which `replay` removes the same channels.

    Raises:
        ValueError: `ratio` or `importance` is not one of those above.
        StageError: nothing can be removed, or the pruned model does not run or has outputs of another shape.
    """
    if not 0 <= ratio <= RATIO_MAX:
        raise ValueError(f"ratio is {ratio}; it must be between 0 and {RATIO_MAX}")
    if importance not in IMPORTANCES:
        raise ValueError(f"importance is {importance!r}; it must be one of {', '.join(IMPORTANCES)}")
    if importance == "taylor" and not task.trains:
        raise StageError(
            "prune", f"importance taylor needs a training set and a loss, task {task.name} has none; use magnitude"
        )
    pruned = _traceable_copy(model)
    shapes = _output_shapes(pruned, task)
    graph = ChannelGraph(pruned, task)
    groups, left = graph.groups(task.keep)
    if not any(group.width > math.lcm(group.parts, round_to) for group in groups):
        raise StageError("prune", _nothing_to_remove(groups, left, round_to))
    if importance == "taylor":
        _accumulate_gradients(pruned, task, seed)
    rank = (
        tp.importance.GroupTaylorImportance() if importance == "taylor" else tp.importance.GroupMagnitudeImportance(p=2)
    )
    scores = [rank(group.members) for group in groups]
    chosen = channels_to_remove(scores, [group.parts for group in groups], ratio, round_to)
    history: History = []
    try:
        for group, channels in zip(groups, chosen, strict=True):
            if channels:
                graph.remove(group, channels)
        history = graph.history()
        found = _output_shapes(pruned, task)
        if found != shapes:
            raise RuntimeError(f"its outputs become {found}, they were {shapes}")
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        removed = [(group, channels) for group, channels in zip(groups, chosen, strict=True) if channels]
        raise StageError("prune", _culprits(model, task, removed, shapes, error)) from error
    tied = _tied_again(model, pruned)
    _finish(pruned, model)
    return pruned, {"history": history, "tied": tied}


def replay(model: nn.Module, structure: Mapping[str, Any], task: Task) -> nn.Module:
    """`model` with the channels removed that `structure` (of `prune`) names; its weights may be anything."""
    pruned = _traceable_copy(model)
    ChannelGraph(pruned, task).replay(structure["history"])
    for names in structure["tied"]:
        _tie(pruned, names)
    _finish(pruned, model)
    return pruned


def channels_to_remove(
    scores: Sequence[torch.Tensor], parts: Sequence[int], ratio: float, round_to: int
) -> list[list[int]]:
    """The channels that go, for each group, ascending.

    Args:
        scores: importance of each channel [width], one tensor a group, comparable between groups.
        parts: of each group, the equally long runs of channels that must lose the same positions.
        ratio: share of all channels to remove; no group loses more than `ratio + (1 - ratio) / 2` of its own.
        round_to: a group that loses any keeps a multiple of this and of its parts.
    """
    blocks: list[tuple[float, int, int, list[int]]] = []
    for index, (score, count) in enumerate(zip(scores, parts, strict=True)):
        # Positions within a part; a group whose weights are all zero has no mean to be normalised by.
        positions = torch.nan_to_num(score.double()).view(count, -1).mean(0)
        order = positions.argsort(stable=True).tolist()
        size = math.lcm(round_to, count) // count
        most = int((ratio + (1 - ratio) / 2) * len(order))
        start, stop, depth = 0, len(order) % size or size, 0
        while stop < len(order) and stop <= most:
            block = order[start:stop]
            blocks.append((float(positions[block].mean()), index, depth, block))
            start, stop, depth = stop, stop + size, depth + 1
    wanted = ratio * sum(len(score) for score in scores)
    removed: list[list[int]] = [[] for _ in scores]
    taken = [0] * len(scores)
    total = 0
    for _, index, depth, block in sorted(blocks):
        size = len(block) * parts[index]
        if depth == taken[index] and total + size / 2 <= wanted:
            length = len(scores[index]) // parts[index]
            removed[index] += [part * length + position for part in range(parts[index]) for position in block]
            taken[index] += 1
            total += size
    return [sorted(channels) for channels in removed]


def _traceable_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters all have gradients: the graph is traced through autograd."""
    copied = copy.deepcopy(model).eval()
    for parameter in copied.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return copied


def _finish(pruned: nn.Module, model: nn.Module) -> None:
    """Gives the parameters the flags they had in `model`, and takes the gradients away."""
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    for name, parameter in pruned.named_parameters(remove_duplicate=False):
        parameter.grad = None
        parameter.requires_grad_(trainable[name])


def _output_shapes(model: nn.Module, task: Task) -> dict[str, list[int]]:
    with torch.no_grad():
        return {name: list(output.shape) for name, output in run_example(model, task).items()}


def _accumulate_gradients(model: nn.Module, task: Task, seed: int) -> None:
    if task.train is None or task.loss is None:
        raise AssertionError("checked by prune")
    for _, (_, batch) in zip(range(TAYLOR_BATCHES), task.train.epoch(seed), strict=False):
        outputs = call(model, as_tensors(batch.inputs), tuple(task.outputs))
        task.loss(outputs, as_tensors(batch.targets)).backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _nothing_to_remove(groups: list[ChannelGroup], left: Mapping[str, str], round_to: int) -> str:
    narrow = {
        name: f"has {group.width} channels, removed in multiples of {math.lcm(group.parts, round_to)}"
        for group in groups
        for name in group.layers
    }
    reasons = "; ".join(f"layer {name}: {reason}" for name, reason in {**narrow, **left}.items())
    return f"no layer can lose channels ({reasons or 'it has no convolution and no linear layer'}); leave prune out"


def _culprits(
    model: nn.Module,
    task: Task,
    removed: list[tuple[ChannelGroup, list[int]]],
    shapes: dict[str, list[int]],
    error: Exception,
) -> str:
    """Which groups the model cannot do without, each tried alone on a fresh copy."""
    guilty: list[ChannelGroup] = []
    for group, channels in removed:
        alone = _traceable_copy(model)
        try:
            ChannelGraph(alone, task).replay([[group.layers[0], True, channels]])
            failed = _output_shapes(alone, task) != shapes
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            failed = True
        if failed:
            guilty.append(group)
    names = [group.layers[0] for group in guilty or [group for group, _ in removed]]
    others = sorted({name for group in guilty for name in group.layers} - set(names))
    also = f" (with {', '.join(others)})" if others else ""
    them = ", ".join(f'"{name}"' for name in names)
    return (
        f"layer {', '.join(names)}{also}: the model does not run with fewer channels there, most likely a size is "
        f"written into its forward: {error}; keep it: put {them} into Task.keep"
    )


def _tied_again(model: nn.Module, pruned: nn.Module) -> list[list[str]]:
    """Ties what pruning untied (each layer gets a tensor of its own), where both lost the same; gives their names."""
    shared: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    tied = []
    for names in shared.values():
        tensors = [pruned.get_parameter(name) for name in names]
        same = all(tensor.shape == tensors[0].shape and torch.equal(tensor, tensors[0]) for tensor in tensors)
        if same and any(tensor is not tensors[0] for tensor in tensors):
            _tie(pruned, names)
            tied.append(names)
    return tied


def _tie(model: nn.Module, names: Sequence[str]) -> None:
    parameter = model.get_parameter(names[0])
    for name in names[1:]:
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, parameter)
