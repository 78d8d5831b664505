"""Which layers a model calls, in which order and with which shapes; and which of them the user wants kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoshrink.errors import StageError
from autoshrink.task import Task
from autoshrink.tensors import run_example

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

Shapes = list[tuple[tuple[int, ...], tuple[int, ...]]]
"""Of a layer's first input and its output, one pair a call."""


def layer_calls(model: nn.Module, task: Task, kinds: tuple[type[nn.Module], ...]) -> dict[nn.Module, Shapes]:
    """The layers of `kinds` that a run on the task's example input calls, in the order of their last calls.

    Args:
        model: in eval mode; is left without hooks.
        task: gives the example input.
        kinds: classes of layers; their subclasses count.
    """
    calls: dict[nn.Module, Shapes] = {}

    def remember(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        first = next(iter((*inputs, *named.values())))
        # nn.MultiheadAttention returns its output and its scores.
        result = output[0] if isinstance(output, tuple) else output
        calls[layer] = [*calls.pop(layer, []), (tuple(first.shape), tuple(result.shape))]

    handles = [
        layer.register_forward_hook(remember, with_kwargs=True) for layer in model.modules() if isinstance(layer, kinds)
    ]
    with removed(handles), torch.no_grad():
        run_example(model, task)
    return calls


@contextmanager
def removed(handles: list[Any]) -> Iterator[None]:
    """Takes hooks away at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def kept_layers(model: nn.Module, task: Task, stage: str) -> set[nn.Module]:
    """The layers that `task.keep` names, those inside a named block included.

    Raises:
        StageError: it names no layer of the model.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in task.keep if name not in modules]
    if unknown:
        known = ", ".join(name for name in modules if name)
        raise StageError(stage, f"Task.keep names {', '.join(unknown)}, no layer of the model; it has {known}")
    return {layer for name in task.keep for layer in modules[name].modules()}


def names_of_weights(model: nn.Module) -> dict[int, list[str]]:
    """`id` of each parameter -> the qualified names under which it stands: several where it is shared."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names
