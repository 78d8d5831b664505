"""Feature hints: a model in training learns the features that its teacher's last layer sees (FitNets)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from autoshrink.errors import StageError
from autoshrink.task import Task
from autoshrink.tensors import run_example

SMALLEST = 1e-12
"""Features whose mean square is under this are taken to be zero."""


class Tap:
    """Keeps what a layer was given at its last call, until it is taken."""

    def __init__(self, layer: nn.Module) -> None:
        self._seen: torch.Tensor | None = None
        self._hook = layer.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)

    def take(self) -> torch.Tensor | None:
        """The first tensor of the last call, in its own dtype; None when there was no call since the last time."""
        seen, self._seen = self._seen, None
        return seen

    def close(self) -> None:
        """Takes the hook off the layer."""
        self._hook.remove()


class Hint(nn.Module):
    """The loss between the features of a model in training and its teacher's (Romero et al. 2015, equation 3).

    Features are the input of the last layer with weights that runs, the head: [N, C] or [N, ..., C] before a linear
    layer, [N, C, ...] before a convolution. A model of another width has them projected by a linear layer that is
    trained along and thrown away; positions of a convolution's features are averaged where their number differs.

    Args:
        model: in training; its head is watched until `close`.
        teacher: not touched.
        task: its example is run through copies of both.
        stage: named in errors.
        seed: of the projection's first weights.

    Raises:
        StageError: a model has no head, or the features differ in something other than their width.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, task: Task, stage: str, seed: int) -> None:
        super().__init__()
        self._stage = stage
        self.teacher_head, theirs = _head(teacher, task, stage, "the teacher")
        self._head, ours = self._own_head(model, task)
        convolution = isinstance(teacher.get_submodule(self.teacher_head), _ConvNd)
        self._channels = 1 if convolution else -1
        self._positions = tuple(range(2, theirs.ndim)) if convolution else ()
        self._pooled = convolution and ours.ndim == theirs.ndim and ours.shape[2:] != theirs.shape[2:]
        widths = ours.shape[self._channels], theirs.shape[self._channels]
        if not self._pooled and _without(ours, self._channels) != _without(theirs, self._channels):
            raise StageError(
                stage,
                f"the features before {self._head} have shape {list(ours.shape)}, the teacher's before "
                f"{self.teacher_head} {list(theirs.shape)}; hints compare features that differ in their width alone: "
                f"set {stage}.hint to 0",
            )
        self.projection: nn.Module = nn.Identity()
        if widths[0] != widths[1]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.projection = nn.Linear(*widths)
        self._tap = Tap(model.get_submodule(self._head))

    def _own_head(self, model: nn.Module, task: Task) -> tuple[str, torch.Tensor]:
        """The layer with the name of the teacher's head, for a factorized one is no single layer; else the last one."""
        if self.teacher_head in dict(model.named_modules()):
            features = features_before(model, task, self.teacher_head)
            if features is not None and features.is_floating_point():
                return self.teacher_head, features
        return _head(model, task, self._stage, "the model")

    def forward(self, theirs: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the features of the model's last batch, over the mean square of the teacher's.

        Args:
            theirs: the teacher's for the same samples, float32, on the same device.

        Raises:
            StageError: the model ran without its head.
        """
        ours = self._tap.take()
        if ours is None:
            raise StageError(self._stage, f"{self._head} did not run in training; set {self._stage}.hint to 0")
        ours = ours.float()
        if self._pooled:
            ours, theirs = ours.mean(self._positions), theirs.mean(self._positions)
        ours = self.projection(ours.movedim(self._channels, -1)).movedim(-1, self._channels)
        return functional.mse_loss(ours, theirs) / theirs.square().mean().clamp_min(SMALLEST)

    def close(self) -> None:
        """Leaves the model as it was."""
        self._tap.close()


def head_of(model: nn.Module, task: Task) -> str | None:
    """The name of the last layer with weights that runs on the example; None when there is none.

    A layer's weights are its own parameters of two dimensions or more: a norm is no head.
    """
    copied = copy.deepcopy(model).cpu().eval()
    order: list[str] = []
    for name, layer in copied.named_modules():
        if name and "parametrizations" not in name.split(".") and _has_weights(layer):
            layer.register_forward_pre_hook(lambda _layer, _args, name=name: order.append(name))
    with torch.no_grad():
        run_example(copied, task)
    return order[-1] if order else None


def features_before(model: nn.Module, task: Task, layer: str) -> torch.Tensor | None:
    """What `layer` is given for the task's example, in eval mode; None when it does not run or gets no tensor."""
    copied = copy.deepcopy(model).cpu().eval()
    tap = Tap(copied.get_submodule(layer))
    with torch.no_grad():
        run_example(copied, task)
    return tap.take()


def _head(model: nn.Module, task: Task, stage: str, whose: str) -> tuple[str, torch.Tensor]:
    name = head_of(model, task)
    way_out = f"set {stage}.hint to 0"
    if name is None:
        raise StageError(stage, f"{whose} has no head to take features before: no layer with weights runs; {way_out}")
    features = features_before(model, task, name)
    if features is None or not features.is_floating_point() or features.ndim < 2:
        found = "no tensor" if features is None else f"{features.dtype} {list(features.shape)}"
        raise StageError(stage, f"{name}, the last layer of {whose}, is given {found}, which is no features; {way_out}")
    if len(features) != 1:
        reason = f"{name}, the last layer of {whose}, is given {len(features)} rows for one sample; {way_out}"
        raise StageError(stage, reason)
    return name, features


def _has_weights(layer: nn.Module) -> bool:
    # The parameters of a parametrized layer lie in another module.
    own = any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
    return own or parametrize.is_parametrized(layer)


def _without(features: torch.Tensor, dimension: int) -> list[int]:
    sizes = list(features.shape)
    del sizes[dimension]
    return sizes
