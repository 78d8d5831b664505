"""Removal of the least important channels of a model: what goes, and the surgery itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.fingerprints import training_fingerprint
from autoshrink.sensitivities import SharedOut
from autoshrink.task import Task, call
from autoshrink.techniques.attention_heads import heads_left, set_heads, why_heads_must_stay
from autoshrink.techniques.channel_blocks import Block, blocks_of, least_important
from autoshrink.techniques.channel_groups import FAILURES, ChannelGraph, ChannelGroup, traceable_copy, without
from autoshrink.techniques.prune_sensitivity import Sensitivity, measured, sensitivities_of, share_out
from autoshrink.tensors import as_tensors, run_example

RATIO_MAX = 0.95
TAYLOR_BATCHES = 8
IMPORTANCES = ("magnitude", "taylor")
SCOPES = ("global", "per_layer")
HEADS = ("narrow", "remove")


def replay(model: nn.Module, structure: Mapping[str, Any], task: Task) -> nn.Module:
    """`model` with the channels removed that `structure` (of `Pruning.by`) names; its weights may be anything."""
    pruned = traceable_copy(model)
    ChannelGraph(pruned, task).replay(structure["history"])
    set_heads(pruned, structure["heads"])
    for names in structure["tied"]:
        _tie(pruned, names)
    _finish(pruned, model)
    return pruned


class Pruning:
    """A copy of a model that is about to be pruned once, with settings as `prune.prune` takes them.

    Raises:
        ValueError: a setting is unknown.
        StageError: `taylor` without a training set; the model cannot be traced.
    """

    def __init__(
        self, model: nn.Module, task: Task, *, importance: str, scope: str, heads: str, round_to: int, seed: int
    ) -> None:
        for name, value, allowed in (
            ("importance", importance, IMPORTANCES),
            ("scope", scope, SCOPES),
            ("heads", heads, HEADS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if importance == "taylor" and not task.trains:
            raise StageError(
                "prune", f"importance taylor needs a training set and a loss, task {task.name} has none; use magnitude"
            )
        self._model = model
        self._task = task
        self._importance = importance
        self._scope = scope
        self._heads = heads
        self._round_to = round_to
        self._seed = seed
        self._pruned = traceable_copy(model)
        self._shapes = _output_shapes(self._pruned, task)
        self._graph = ChannelGraph(self._pruned, task)
        found, self._left = self._graph.groups(task.keep)
        self._groups = []
        for group in found:
            why = why_heads_must_stay(model, task, group) if self._whole_heads(group) else ""
            if why:
                self._left.update(dict.fromkeys(group.layers, why))
            else:
                self._groups.append(group)

    def nothing_to_remove(self) -> str:
        """Why no channel can go, layer by layer; empty when some can."""
        sizes = [math.lcm(self._unit(group), self._round_to) for group in self._groups]
        if any(group.width > size for group, size in zip(self._groups, sizes, strict=True)):
            return ""
        narrow = {
            name: f"has {group.width} channels, removed in multiples of {size}"
            for group, size in zip(self._groups, sizes, strict=True)
            for name in group.layers
        }
        reasons = "; ".join(f"layer {name}: {reason}" for name, reason in {**narrow, **self._left}.items())
        return f"no layer can lose channels ({reasons or 'it has no convolution and no linear layer'}); leave prune out"

    def by(
        self,
        ratio: float,
        cache: StageCache | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        shared_out: Callable[[SharedOut], None] = lambda _found: None,
    ) -> tuple[nn.Module, dict[str, Any], float]:
        """The pruned model, the JSON value for `replay`, and the share that was removed; to be called once.

        With the scope `per_layer`, `shared_out` is told what was measured and chosen.

        Raises:
            StageError: nothing can be removed, or the pruned model does not run or has outputs of another shape.
            OSError: the cache cannot be written.
        """
        nothing = self.nothing_to_remove()
        if nothing:
            raise StageError("prune", nothing)
        if self._importance == "taylor":
            _accumulate_gradients(self._pruned, self._task, self._seed)
            rank = tp.importance.GroupTaylorImportance()
        else:
            rank = tp.importance.GroupMagnitudeImportance(p=2)
        blocks = [
            blocks_of(rank(group.members), group.parts, self._round_to, self._whole_heads(group))
            for group in self._groups
        ]
        widths = [group.width for group in self._groups]
        tried = [[channel for block in own[:1] for channel in block.channels] for own in blocks]
        heads: dict[str, int] = {}
        try:
            if self._scope == "per_layer":
                sensitivities = self._sensitivities(blocks, cache, progress)
                chosen, share = share_out(sensitivities, blocks, widths, ratio)
                names = [group.layers[0] for group in self._groups]
                of_layers = sensitivities_of(sensitivities, blocks, names, widths, self._model, self._task)
                shares = {n: len(gone) / width for n, gone, width in zip(names, chosen, widths, strict=True)}
                shared_out(SharedOut(of_layers, shares))
            else:
                chosen = least_important(blocks, widths, ratio)
                share = sum(map(len, chosen)) / sum(widths)
            tried = chosen
            for group, channels in zip(self._groups, chosen, strict=True):
                if channels:
                    self._graph.remove(group, channels)
                    heads |= self._heads_left(group, channels)
            history = self._graph.history()
            set_heads(self._pruned, heads)
            found = _output_shapes(self._pruned, self._task)
            if found != self._shapes:
                raise RuntimeError(f"its outputs become {found}, they were {self._shapes}")
        except FAILURES as error:
            raise StageError("prune", self._culprits(tried, error)) from error
        tied = _tied_again(self._model, self._pruned)
        _finish(self._pruned, self._model)
        return self._pruned, {"history": history, "heads": heads, "tied": tied}, share

    def _whole_heads(self, group: ChannelGroup) -> bool:
        return self._heads == "remove" and group.heads > 1

    def _unit(self, group: ChannelGroup) -> int:
        """Channels of which none can go without the others."""
        return group.width // group.heads if self._whole_heads(group) else group.parts

    def _heads_left(self, group: ChannelGroup, channels: Sequence[int]) -> dict[str, int]:
        return heads_left(self._model, group, channels) if self._whole_heads(group) else {}

    def _alone(self, group: ChannelGroup, channels: list[int]) -> nn.Module:
        """A copy of the model without some channels of one group; it must still run."""
        pruned = without(self._model, self._task, group, channels)
        set_heads(pruned, self._heads_left(group, channels))
        found = _output_shapes(pruned, self._task)
        if found != self._shapes:
            raise RuntimeError(f"its outputs become {found}, they were {self._shapes}")
        return pruned

    def _sensitivities(
        self, blocks: list[list[Block]], cache: StageCache | None, progress: Callable[[int, int], None]
    ) -> list[Sensitivity]:
        trained = [training_fingerprint(self._task), self._seed] if self._importance == "taylor" else []
        return measured(
            copy.deepcopy(self._model).eval(),
            self._task,
            blocks,
            [group.width for group in self._groups],
            lambda index, channels: self._alone(self._groups[index], channels),
            key=[self._importance, self._heads, self._round_to, list(self._task.keep), trained],
            cache=cache,
            progress=progress,
        )

    def _culprits(self, removed: Sequence[list[int]], error: Exception) -> str:
        """Which groups the model cannot do without, each tried alone on a fresh copy."""
        touched = [(group, channels) for group, channels in zip(self._groups, removed, strict=True) if channels]
        guilty: list[ChannelGroup] = []
        for group, channels in touched:
            try:
                self._alone(group, channels)
            except FAILURES:
                guilty.append(group)
        names = [group.layers[0] for group in guilty or [group for group, _ in touched]]
        others = sorted({name for group in guilty for name in group.layers} - set(names))
        also = f" (with {', '.join(others)})" if others else ""
        them = ", ".join(f'"{name}"' for name in names)
        return (
            f"layer {', '.join(names)}{also}: the model does not run with fewer channels there, most likely a size is "
            f"written into its forward: {error}; keep it: put {them} into Task.keep"
        )


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
        raise AssertionError("checked by Pruning")
    for _, (_, batch) in zip(range(TAYLOR_BATCHES), task.train.epoch(seed), strict=False):
        outputs = call(model, as_tensors(batch.inputs), tuple(task.outputs))
        task.loss(outputs, as_tensors(batch.targets)).backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


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
