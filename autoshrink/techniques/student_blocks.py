"""Cheaper blocks in the place of a CNN's dense convolutions: depthwise separable ones and inverted residuals."""

from __future__ import annotations

from collections import Counter, OrderedDict

import torch
from torch import nn

from autoshrink.errors import StageError

EXPANSION = 2
"""Hidden channels of an inverted residual over its inputs: the paper's 6 costs more than the 3 x 3 it replaces here."""
CONVOLUTIONS = ("dense", "separable", "inverted")


def separable(dense: nn.Conv2d) -> nn.Sequential:
    """A depthwise and a pointwise convolution with a batch norm and a ReLU between (Howard et al. 2017, figure 3).

    Of k * k * C * D weights it has k * k * C + C * D. Takes and gives what `dense` does; the norm and the activation
    that follow the pointwise one are those that followed `dense`. Its weights are random.
    """
    inputs, dtype = dense.in_channels, dense.weight.dtype
    pointwise = nn.Conv2d(inputs, dense.out_channels, 1, bias=dense.bias is not None, dtype=dtype)
    return nn.Sequential(
        OrderedDict(
            depthwise=_depthwise(dense, inputs),
            norm=nn.BatchNorm2d(inputs, dtype=dtype),
            act=nn.ReLU(),
            pointwise=pointwise,
        )
    )


class InvertedResidual(nn.Module):
    """Widens, filters each channel by itself, narrows without an activation (Sandler et al. 2018, figure 4).

    Takes and gives what `dense` does; its input is added where the shapes allow it. Each of the three convolutions has
    its batch norm. Its weights are random.

    Maps [N, inputs, H, W] to [N, outputs, H', W'].
    """

    def __init__(self, dense: nn.Conv2d) -> None:
        super().__init__()
        inputs, outputs, dtype = dense.in_channels, dense.out_channels, dense.weight.dtype
        hidden = EXPANSION * inputs
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False, dtype=dtype)
        self.norm1 = nn.BatchNorm2d(hidden, dtype=dtype)
        self.depthwise = _depthwise(dense, hidden)
        self.norm2 = nn.BatchNorm2d(hidden, dtype=dtype)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False, dtype=dtype)
        self.norm3 = nn.BatchNorm2d(outputs, dtype=dtype)
        self.act = nn.ReLU6()
        self.adds = inputs == outputs and _keeps_size(dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        y: torch.Tensor = self.act(self.norm1(self.expand(x)))
        y = self.act(self.norm2(self.depthwise(y)))
        y = self.norm3(self.project(y))
        return x + y if self.adds else y


def rewrite(model: nn.Module, kind: str) -> None:
    """Puts `separable` or `inverted` blocks in the place of every convolution of `model` that has a cheaper form.

    Those are `nn.Conv2d` with a kernel over 1 x 1, one group and more than one input channel. A layer or a weight that
    stands in a model under two names stays as it is.

    Raises:
        StageError: the model has no such convolution; names its layers.
    """
    reasons = _reasons(model)
    chosen = [name for name, reason in reasons.items() if not reason]
    if not chosen:
        raise StageError("student", _nothing_to_rewrite(model, kind, reasons))
    for name in chosen:
        dense = model.get_submodule(name)
        if not isinstance(dense, nn.Conv2d):
            raise TypeError(f"{name} is a {type(dense).__name__}")
        block = separable(dense) if kind == "separable" else InvertedResidual(dense)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, block.train(dense.training).to(dense.weight.device))


def _reasons(model: nn.Module) -> dict[str, str]:
    """Each convolution's name and why it stays; an empty text when it need not."""
    layers = list(model.named_modules(remove_duplicate=False))
    uses = Counter(id(layer) for _, layer in layers)
    owners = Counter(id(p) for layer in model.modules() for p in layer.parameters(recurse=False))
    reasons = {}
    for name, layer in layers:
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        if not name or type(layer) is not nn.Conv2d:
            reasons[name] = f"is a {type(layer).__name__}" if name else "is the whole model"
        elif uses[id(layer)] > 1 or any(owners[id(p)] > 1 for p in layer.parameters()):
            reasons[name] = "is shared"
        elif layer.groups > 1:
            reasons[name] = f"has {layer.groups} groups"
        elif max(layer.kernel_size) == 1:
            reasons[name] = "has a 1 x 1 kernel"
        elif layer.in_channels == 1:
            reasons[name] = "has one input channel"
        else:
            reasons[name] = ""
    return reasons


def _nothing_to_rewrite(model: nn.Module, kind: str, reasons: dict[str, str]) -> str:
    if reasons:
        found = ", ".join(f"{name or 'it'} {reason}" for name, reason in reasons.items())
    else:
        layers = [(name, layer) for name, layer in model.named_modules() if name and not list(layer.children())]
        some = ", ".join(f"{name} ({type(layer).__name__})" for name, layer in layers[:4])
        found = f"it has none, but {some}" + (" and more" if len(layers) > 4 else "")
    return (
        f"the model has no convolution that could be {kind}, which takes a kernel over 1 x 1, one group and several "
        f"input channels: {found}; set student.convolutions to dense"
    )


def _depthwise(dense: nn.Conv2d, channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        channels,
        dense.kernel_size,  # type: ignore[arg-type]
        dense.stride,  # type: ignore[arg-type]
        dense.padding,  # type: ignore[arg-type]
        dense.dilation,  # type: ignore[arg-type]
        groups=channels,
        bias=False,
        padding_mode=dense.padding_mode,
        dtype=dense.weight.dtype,
    )


def _keeps_size(dense: nn.Conv2d) -> bool:
    if any(stride != 1 for stride in dense.stride):
        return False
    if isinstance(dense.padding, str):
        return dense.padding == "same"
    sizes = zip(dense.padding, dense.dilation, dense.kernel_size, strict=True)
    return all(2 * padding == dilation * (kernel - 1) for padding, dilation, kernel in sizes)
