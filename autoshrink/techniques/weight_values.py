"""What techniques share that leave weights with few values: which layers they treat, and the plain model afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from autoshrink.errors import StageError
from autoshrink.task import Task
from autoshrink.techniques.layer_calls import CONVOLUTIONS, TRANSPOSED, layer_calls, names_of_weights

KEEP = ("first_last", "last", "none")
"""Which ends of the model stay float."""


def treatable_layers(model: nn.Module, task: Task, keep: str, stage: str) -> dict[str, nn.Conv2d | nn.Linear]:
    """The Conv2d and Linear layers whose weights may take other values, by name, in the order they run.

    A run on the task's example gives the order; a layer that it does not call, such as the projections inside
    `nn.MultiheadAttention`, is none of them. Weights that are shared (with an embedding, with another layer) or
    parametrized stay as they are.

    Args:
        model: not touched.
        task: gives the example input.
        keep: `first_last`, `last` or `none` of the layers with weights stay float.
        stage: named in errors.

    Raises:
        StageError: nothing is left; says of each layer why.
    """
    # In eval mode: a run in training mode would move the running statistics.
    copied = copy.deepcopy(model).eval()
    names = {layer: name for name, layer in copied.named_modules()}
    called = [names[layer] for layer in layer_calls(copied, task, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))]
    ends = {"first_last": {*called[:1], *called[-1:]}, "last": set(called[-1:]), "none": set()}[keep]
    shared = names_of_weights(model)
    left: dict[str, nn.Conv2d | nn.Linear] = {}
    others: dict[str, str] = {}
    for name in called:
        layer = model.get_submodule(name)
        if name in ends:
            others[name] = f"stays float by keep {keep}"
        elif not isinstance(layer, nn.Conv2d | nn.Linear):
            others[name] = f"is a {type(layer).__name__}"
        elif parametrize.is_parametrized(layer) or not isinstance(layer._parameters.get("weight"), nn.Parameter):
            others[name] = "its weight is calculated from other tensors"
        elif len(shared[id(layer.weight)]) > 1:
            others[name] = f"its weight is shared: {', '.join(shared[id(layer.weight)])}"
        else:
            left[name] = layer
    if not left:
        reasons = "; ".join(f"layer {name}: {reason}" for name, reason in others.items())
        way_out = f"set {stage}.keep to none, or leave {stage} out" if ends else f"leave {stage} out"
        raise StageError(
            stage, f"no layer is left ({reasons or 'it calls no convolution and no linear layer'}); {way_out}"
        )
    return left


def with_state(model: nn.Module, trained: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy of `model`, in eval mode, with the values of `trained`.

    Args:
        model: plain, not touched.
        trained: `model` with other values, and a parametrized weight in some layers.
        names: of these layers.
    """
    plain = copy.deepcopy(model).eval()
    expected = plain.state_dict()
    state = {name: value for name, value in trained.state_dict().items() if name in expected}
    with torch.no_grad():
        weights: dict[str, Any] = {
            f"{name}.weight".removeprefix("."): trained.get_submodule(name).weight for name in names
        }
    plain.load_state_dict({**state, **weights})
    return plain
