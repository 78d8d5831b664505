"""Batch normalisation folded into the layer before it, as the exporter does, but while the model is still torch's.

A normalisation that is folded at the export multiplies each channel of the weight by a factor of its own. A technique
that chooses the weight's very values has to come after that.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autoshrink.agreement import sqnr_db
from autoshrink.task import Task
from autoshrink.techniques.layer_calls import names_of_weights, removed
from autoshrink.tensors import run_example

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
AGREEMENT_DB = 60.0
"""The least agreement of the outputs, as of an ONNX file with torch."""

Pairs = list[list[str]]
"""[layer, its normalisation] by qualified name."""


def fold_norms(model: nn.Module, task: Task) -> tuple[nn.Module, Pairs]:
    """A copy of `model` in eval mode whose batch normalisations are in the weights and biases of the layers before.

    With g = gamma / sqrt(variance + epsilon), weights become w * g by output channel and the bias (b - mean) * g + beta
    (Jacob et al. 2018, equation 14, with the running statistics); an `nn.Identity` stands where the normalisation was.
    A pair is folded when a run on the task's example shows that the layer is called once, that its output goes to the
    normalisation and, by autograd's graph, nowhere else, and when the outputs of the model stay what they were. All
    others stay as they are: with shared or parametrized weights, hooks, or without running statistics.

    Args:
        model: not touched.
        task: gives the example input.

    Returns:
        The copy, and the pairs from which `refold` repeats it; none when there is nothing to fold.
    """
    folded = copy.deepcopy(model).eval()
    candidates = _pairs(copy.deepcopy(folded), task)
    if not candidates:
        return folded, []
    expected = _outputs(folded, task)
    together = refold(folded, candidates)
    if _agrees(together, task, expected):
        return together, candidates
    pairs: Pairs = []
    for pair in candidates:
        alone = refold(folded, [pair])
        if _agrees(alone, task, expected):
            folded = alone
            pairs.append(pair)
    return folded, pairs


def refold(model: nn.Module, pairs: Sequence[Sequence[str]]) -> nn.Module:
    """A copy of `model`, in eval mode, with the pairs folded that `fold_norms` gave; its weights may be anything."""
    folded = copy.deepcopy(model).eval()
    for layer_name, norm_name in pairs:
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        _fold(layer, norm)
        folded.set_submodule(norm_name, nn.Identity().eval())
    return folded


def _fold(layer: Any, norm: Any) -> None:
    weight = layer.weight
    with torch.no_grad():
        mean, variance = norm.running_mean.double(), norm.running_var.double()
        gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
        beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
        bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()
        factor = gamma / (variance + norm.eps).sqrt()
        weight.copy_(weight.double() * factor.view(-1, *[1] * (weight.ndim - 1)))
        shifted = ((bias - mean) * factor + beta).to(weight.dtype)
        if layer.bias is None:
            layer.bias = nn.Parameter(shifted, requires_grad=weight.requires_grad)
        else:
            layer.bias.copy_(shifted)


def _pairs(model: nn.Module, task: Task) -> Pairs:
    """The candidates, in the order they run. `model` may be changed."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    shared = names_of_weights(model)
    layers = {layer: name for name, layer in model.named_modules() if _is_plain(layer, LAYERS)}
    norms = {layer: name for name, layer in model.named_modules() if _is_plain(layer, NORMS)}
    calls: Counter[nn.Module] = Counter()
    makers: dict[int, tuple[Any, Any]] = {}
    takers: dict[int, tuple[Any, Any]] = {}
    alive = []

    def remember(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[layer] += 1
        # A tensor that is freed may leave its id to another one.
        alive.append((inputs, output))
        # Of a sequence [N, T, channels] the norm would take T for the channels.
        if layer in layers and not (isinstance(layer, nn.Linear) and output.ndim != 2):
            makers[id(output)] = (layer, output.grad_fn)
        elif layer in norms and inputs:
            takers[id(inputs[0])] = (layer, output.grad_fn)

    handles = [layer.register_forward_hook(remember) for layer in (*layers, *norms)]
    with removed(handles), torch.enable_grad():
        outputs = run_example(model, task)
    readers = _readers([output.grad_fn for output in outputs.values() if output.grad_fn is not None])
    pairs = []
    for key, (layer, made) in makers.items():
        norm, read = takers.get(key, (None, None))
        if (
            isinstance(norm, NORMS)
            and made is not None
            and read is not None
            and calls[layer] == calls[norm] == 1
            and readers.get(made) == [read]
            and layer.weight.shape[0] == norm.num_features
            and norm.running_mean is not None
            and norm.running_var is not None
            and all(len(shared[id(part)]) == 1 for part in layer.parameters())
        ):
            pairs.append([layers[layer], norms[norm]])
    return pairs


def _is_plain(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Of one of the kinds and not of a subclass, such as a parametrized one, and without hooks of the user's."""
    return type(layer) in kinds and not (layer._forward_hooks or layer._forward_pre_hooks)


def _readers(roots: list[Any]) -> dict[Any, list[Any]]:
    """Node of autograd's graph -> the nodes that read its result."""
    readers: dict[Any, list[Any]] = {root: [None] for root in roots}
    todo, seen = list(roots), set(roots)
    while todo:
        node = todo.pop()
        for source, _ in node.next_functions:
            if source is None:
                continue
            readers.setdefault(source, []).append(node)
            if source not in seen:
                seen.add(source)
                todo.append(source)
    return readers


def _outputs(model: nn.Module, task: Task) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return run_example(model, task)


def _agrees(model: nn.Module, task: Task, expected: dict[str, torch.Tensor]) -> bool:
    try:
        found = _outputs(model, task)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        # A forward that looks into the normalisation, for its weight for example, cannot do without it.
        return False
    return all(sqnr_db(expected[name].numpy(), found[name].numpy()) >= AGREEMENT_DB for name in expected)
