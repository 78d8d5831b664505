"""Whole attention heads: whether a model can do without some, and the attributes in which it keeps their number."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autoshrink.task import Task
from autoshrink.techniques.channel_groups import FAILURES, ChannelGroup, without
from autoshrink.tensors import run_example

ATTRIBUTES = ("heads", "num_heads", "n_heads", "num_attention_heads", "nhead")
"""Names under which attention modules keep the number of their heads."""
AGREEMENT = 1e-4
"""Largest difference of outputs, relative in the L2 norm, that is put down to the rounding of floats."""


def heads_left(model: nn.Module, group: ChannelGroup, channels: Sequence[int]) -> dict[str, int]:
    """The attributes of a model that must change when whole heads of a group go: qualified name -> heads left.

    They are those of the modules that own the group's layers, under the usual names, that hold the number of heads.

    Args:
        model: as it is before.
        group: of attention heads.
        channels: that go, all of some heads.
    """
    owners = dict.fromkeys(name.rpartition(".")[0] for name in group.layers)
    found = [
        f"{owner}.{name}" if owner else name
        for owner in owners
        for name in ATTRIBUTES
        if type(vars(model.get_submodule(owner)).get(name)) is int
        and vars(model.get_submodule(owner))[name] == group.heads
    ]
    left = group.heads - len(channels) * group.heads // group.width
    return dict.fromkeys(found, left)


def set_heads(model: nn.Module, heads: Mapping[str, int]) -> None:
    """Sets attributes, by qualified name, in place."""
    for name, count in heads.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, count)


def why_heads_must_stay(model: nn.Module, task: Task, group: ChannelGroup) -> str:
    """Why a group cannot lose whole heads; empty when it can.

    Tried on the task's example with the first head: a model without it must compute what the whole one does with the
    head's query, key and value at zero, for then it adds nothing.
    """
    first = list(range(group.width // group.heads))
    silent = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            for name in group.layers:
                layer = silent.get_submodule(name)
                for tensor in (layer.weight, layer.bias):
                    if isinstance(tensor, torch.Tensor):
                        if len(tensor) != group.width:
                            return f"its heads must stay: they are not those of {name}"
                        tensor[first] = 0
            pruned = without(model, task, group, first)
            set_heads(pruned, heads_left(model, group, first))
            expected, found = run_example(silent, task), run_example(pruned, task)
    except FAILURES as error:
        return f"its heads must stay, the model does not run with fewer: {error}"
    for name, output in expected.items():
        if found[name].shape != output.shape:
            return f"its heads must stay: with fewer, output {name} becomes {list(found[name].shape)}"
        if not (found[name] - output).double().norm() <= AGREEMENT * output.double().norm():
            return "its heads must stay: with fewer, the model cuts its channels into heads in another way"
    return ""
