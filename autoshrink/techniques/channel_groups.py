"""Which channels of a model stand and fall together: torch-pruning's dependency graph (Fang et al. 2023), made safe.

The graph follows channels through a model from its autograd trace. Where it loses them (sizes cut up by a reshape, a
concatenation it cannot place, recurrent layers) it would remove the wrong ones and say nothing; such groups are left
at full width here, with the reason.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning.ops import OPTYPE

from autoshrink.errors import StageError
from autoshrink.task import Task
from autoshrink.tensors import run_example

ROOTS = (tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR)
"""A group begins at a layer of these types."""
CUTTING = (OPTYPE.CONCAT, OPTYPE.SPLIT, OPTYPE.UNBIND)
"""Operations through which channels change their numbers."""
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What torch and torch-pruning raise when a forward does not fit the channels any more."""

History = list[list[Any]]
"""[[layer, whether its output channels, [channel, ...]], ...], JSON."""


@dataclass(frozen=True)
class ChannelGroup:
    """Layers that lose the same channels.

    Attributes:
        layers: qualified names of those whose output loses them, the root first.
        width: output channels of the root.
        parts: equally long runs of channels (groups of a convolution or a group norm, attention heads) that must lose
            the same positions.
        heads: of those parts, how many are attention heads and nothing else; 1 when none are.
        members: torch-pruning's group with every channel in it, for its importance measures.
    """

    layers: tuple[str, ...]
    width: int
    parts: int
    heads: int
    members: Any


def traceable_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters all have gradients: the graph is traced through autograd."""
    copied = copy.deepcopy(model).eval()
    for parameter in copied.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return copied


def without(model: nn.Module, task: Task, group: ChannelGroup, channels: list[int]) -> nn.Module:
    """A copy of `model` in eval mode in which one of its groups has lost `channels`, and nothing else has.

    Raises:
        RuntimeError: among others of torch's and torch-pruning's own, the channels cannot be removed.
    """
    copied = traceable_copy(model)
    ChannelGraph(copied, task).replay([[group.layers[0], True, channels]])
    return copied


class ChannelGraph:
    """The dependency graph of a model, which it prunes in place. The model is put into eval mode."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model = model
        self._names = {layer: name for name, layer in model.named_modules()}
        self._parameter_names = {id(parameter): name for name, parameter in model.named_parameters()}
        outputs: list[torch.Tensor] = []

        def forward(traced: nn.Module, _inputs: object) -> list[torch.Tensor]:
            outputs.extend(output for output in run_example(traced, task).values() if output.grad_fn is not None)
            return outputs

        norms = {type(layer): _SortedLayerNorm() for layer in model.modules() if isinstance(layer, nn.LayerNorm)}
        with _quiet(), torch.enable_grad():
            try:
                self._graph = tp.DependencyGraph().build_dependency(
                    model, None, forward_fn=forward, customized_pruners=norms, verbose=False
                )
            except Exception as error:
                # Whatever an unusual forward does to a tracer ends here; the trial fails with the reason.
                reason = f"how the layers depend on each other cannot be traced: {type(error).__name__}: {error}"
                raise StageError("prune", f"{reason}; leave prune out of the space") from error
        self._outputs = {output.grad_fn for output in outputs}

    def groups(self, keep: tuple[str, ...]) -> tuple[list[ChannelGroup], dict[str, str]]:
        """The groups that can lose channels; and the other layers, each with the reason.

        Args:
            keep: qualified names of layers, or of blocks of layers, whose output width must stay.

        Raises:
            StageError: `keep` names no layer of the model.
        """
        modules = dict(self._model.named_modules())
        unknown = [name for name in keep if name not in modules]
        if unknown:
            known = ", ".join(name for name in modules if name)
            raise StageError("prune", f"Task.keep names {', '.join(unknown)}, no layer of the model; it has {known}")
        kept = {layer for name in keep for layer in modules[name].modules()}
        found: list[ChannelGroup] = []
        left: dict[str, str] = {}
        with _quiet():
            for root in [layer for layer in self._graph.module2node if isinstance(layer, ROOTS)]:
                if any(self._names[root] in group.layers for group in found) or self._names[root] in left:
                    continue
                try:
                    members = self._members(root, range(self._graph.get_out_channels(root)))
                    layers = tuple(dict.fromkeys(self._names[layer] for layer in self._losing_outputs(members)))
                    parts, heads, reason = self._judge(members, kept)
                except (IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                    # What torch-pruning's index mappings raise on a model that they do not understand.
                    layers, reason = (self._names[root],), f"cannot be followed: {error}"
                if reason:
                    left.update(dict.fromkeys(layers, reason))
                else:
                    found.append(ChannelGroup(layers, len(members[0].idxs), parts, heads, members))
        return found, left

    def _members(self, root: nn.Module, channels: Iterable[int]) -> Any:
        """torch-pruning's group for some output channels of a layer."""
        prune_channels = self._graph.get_pruner_of_module(root).prune_out_channels
        return self._graph.get_pruning_group(root, prune_channels, list(channels))

    def _losing_outputs(self, members: Any) -> Iterator[nn.Module]:
        for dep, _ in members:
            if isinstance(dep.target.module, ROOTS) and self._graph.is_out_channel_pruning_fn(dep.handler):
                yield dep.target.module

    def remove(self, group: ChannelGroup, channels: list[int]) -> None:
        """Takes output channels off the group's root, and what belongs to them off every other layer.

        Raises:
            RuntimeError: they cannot be removed alone.
        """
        with _quiet():
            members = self._members(self._model.get_submodule(group.layers[0]), channels)
            if sorted(members[0].idxs) != sorted(channels):
                raise RuntimeError(f"{len(channels)} channels take {len(members[0].idxs)} with them")
            members.prune()

    def history(self) -> History:
        """What was removed so far, in order."""
        return copy.deepcopy(self._graph.pruning_history())

    def replay(self, history: History) -> None:
        """Removes what `history` says."""
        with _quiet():
            self._graph.load_pruning_history(copy.deepcopy(history))

    def _judge(self, members: Any, kept: set[nn.Module]) -> tuple[int, int, str]:
        """Parts and heads of a group, and why it must be left alone (empty when it need not)."""
        heads, reason = _reshaped_parts(members)
        others = self._coupled_parts(members)
        for dep, channels in members:
            node, loses_outputs = dep.target, self._graph.is_out_channel_pruning_fn(dep.handler)
            if loses_outputs and (node.grad_fn in self._outputs or node.type is OPTYPE.OUTPUT):
                return 1, 1, "feeds an output"
            if loses_outputs and node.module in kept:
                return 1, 1, "stands in Task.keep"
            reason = reason or _unmapped(node) or self._unsupported(node)
            own, count = self._own_parts(node, loses_outputs)
            if count is not None and any(channel >= count for channel in channels):
                reason = reason or f"which they are in {self._name(node)} cannot be followed"
            # Positions within the parts are only known when the channels are the root's, one for one.
            if own > 1 and list(channels) != list(range(len(members[0].idxs))):
                reason = reason or f"{self._name(node)} is grouped across what is joined before it"
            others = math.lcm(others, own)
        return math.lcm(heads, others), heads if others == 1 else 1, reason

    def _coupled_parts(self, members: Any) -> int:
        """Into how many parts a root is split of which all lose the same positions, as in a gated linear unit.

        Raises:
            ValueError: its channels are coupled in another pattern.
        """
        root, width = members[0].dep.target.module, len(members[0].idxs)

        def taken_with(channels: Iterable[int]) -> list[int]:
            return sorted(self._members(root, channels)[0].idxs)

        half = list(range(width // 2))
        if taken_with([0]) == [0] and taken_with(half) == half:
            return 1
        parts = len(taken_with([0]))
        length = width // parts
        for position in range(length):
            if taken_with([position]) != list(range(position, width, length)):
                raise ValueError("its channels depend on each other")
        return parts

    def _own_parts(self, node: Any, loses_outputs: bool) -> tuple[int, int | None]:
        """Groups and channels of one layer, at its output or its input; no channels for an operation."""
        pruner = self._graph.get_pruner_of_module(node.module)
        if loses_outputs:
            groups, count = pruner.get_out_channel_groups(node.module), self._graph.get_out_channels(node)
        else:
            groups, count = pruner.get_in_channel_groups(node.module), self._graph.get_in_channels(node)
        return 1 if node.type is OPTYPE.DEPTHWISE_CONV else groups, count

    def _unsupported(self, node: Any) -> str:
        layer = node.module
        if node.type in (OPTYPE.MHA, OPTYPE.LSTM):
            return f"{self._name(node)} is a {type(layer).__name__}, whose width is not changed"
        if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) != 1:
            return f"{self._name(node)} normalises more than the channels"
        if node.type is OPTYPE.DEPTHWISE_CONV and layer.in_channels != layer.out_channels:
            return f"{self._name(node)} joins channels into groups"
        if node.type is OPTYPE.CONV and layer.transposed and layer.groups > 1:
            return f"{self._name(node)} is a grouped transposed convolution"
        if node.type is OPTYPE.PARAMETER:
            owner = self._model.get_submodule(self._name(node).rpartition(".")[0])
            if isinstance(owner, nn.RNNBase):
                return f"{self._name(node)} is of a {type(owner).__name__}, whose width is not changed"
        return ""

    def _name(self, node: Any) -> str:
        if node.type is OPTYPE.PARAMETER:
            return self._parameter_names.get(id(node.module), "a parameter")
        return self._names.get(node.module) or type(node.module).__name__


class _SortedLayerNorm(tp.pruner.function.LayernormPruner):  # type: ignore[misc]
    """torch-pruning 1.6 keeps a layer norm's weights in the order of a set, which is not always the ascending one."""

    def prune_out_channels(self, layer: nn.LayerNorm, idxs: list[int]) -> nn.LayerNorm:
        """Removes `idxs` from the weights and the normalised shape."""
        removed = set(idxs)
        kept = [channel for channel in range(layer.normalized_shape[-1]) if channel not in removed]
        for name in ("weight", "bias"):
            if getattr(layer, name, None) is not None:
                setattr(layer, name, self._prune_parameter_and_grad(getattr(layer, name), kept, 0))
        layer.normalized_shape = (len(kept),)
        return layer

    prune_in_channels = prune_out_channels


def _unmapped(node: Any) -> str:
    """Why channels cannot be followed through an operation that joins or splits them."""
    if node.type not in CUTTING:
        return ""
    pieces = node.inputs if node.type is OPTYPE.CONCAT else node.outputs
    known = all(any(dep.index_mapping) for dep in node.dependencies if dep.target in pieces)
    return "" if known else "its channels are joined or split in a way that cannot be followed"


def _reshaped_parts(members: Any) -> tuple[int, str]:
    """Into how many parts reshapes cut the channels of a group, and why that cannot be followed.

    Only attention is understood: channels cut into heads and joined again in the same order. A channel shuffle, for
    one, joins them in another.
    """
    nodes = [dep.target for dep, _ in members]
    widths = {len(channels) for _, channels in members}
    cuts: set[tuple[int, ...]] = set()
    joins: set[tuple[int, ...]] = set()
    for node in nodes:
        if node.type is not OPTYPE.RESHAPE or not hasattr(node.grad_fn, "_saved_self_sym_sizes"):
            continue
        for before, after in _aligned(node.grad_fn._saved_self_sym_sizes, node.grad_fn._input_metadata[0].shape):
            if len(after) > 1 and widths & set(before):
                cuts.add(after)
            if len(before) > 1 and widths & set(after):
                joins.add(before)
    if not cuts:
        return 1, ""
    attention = any("Attention" in name or "Softmax" in name for name in map(_operation, nodes))
    moved = any(node.type in (*CUTTING, OPTYPE.SLICE) for node in nodes)
    if not attention or moved or len(cuts) > 1 or cuts != joins:
        return 1, "its channels are reshaped in a way that cannot be followed"
    return math.prod(cuts.pop()[:-1]), ""


def _operation(node: Any) -> str:
    return str(node.grad_fn.name()) if hasattr(node.grad_fn, "name") else ""


def _aligned(before: Any, after: Any) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shortest runs of sizes that a reshape maps onto each other; sizes of 1 are left out."""
    left, right = ([int(size) for size in sizes if size != 1] for sizes in (before, after))
    while left and right:
        run, other = [left.pop(0)], [right.pop(0)]
        while math.prod(run) != math.prod(other):
            if math.prod(run) < math.prod(other):
                run.append(left.pop(0))
            else:
                other.append(right.pop(0))
        yield tuple(run), tuple(other)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch_pruning")
        yield
