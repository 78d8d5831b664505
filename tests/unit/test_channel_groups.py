"""Couplings of channels: whatever is pruned computes what the whole model does without those channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.task import Task
from autoshrink.techniques.channel_groups import ChannelGraph
from autoshrink.techniques.prune import prune
from autoshrink.tensors import run_example
from tests.small_models import ConvStack, model_task

IMAGE = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).normal(size=(1, 7, 6)).astype(np.float32)


def halve(task: Task, **others: Any) -> tuple[nn.Module, dict[str, Any]]:
    return prune(task.model(), task, ratio=0.5, round_to=8, **others)


def removed(structure: dict[str, Any]) -> dict[str, list[int]]:
    return {layer: channels for layer, _, channels in structure["history"]}


class Shuffled(nn.Module):
    """Grouped convolution, channel shuffle."""

    def __init__(self, width: int = 32, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.grouped = nn.Conv2d(width, width, 1, groups=groups)
        self.second = nn.Conv2d(width, width, 3)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(torch.relu(self.first(x)))
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        out: torch.Tensor = self.head(torch.relu(self.second(x)).mean((2, 3)))
        return out


class Concatenated(nn.Module):
    """Dense connections."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 24, 3, padding=1)
        self.third = nn.Conv2d(40, 32, 1)
        self.head = nn.Linear(72, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.first(x))
        x = torch.cat((a, torch.relu(self.second(a))), 1)
        x = torch.cat((x, torch.relu(self.third(x))), 1)
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


class Gated(nn.Module):
    """A gated linear unit: both halves of a projection lose the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 64)
        self.middle = nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.project(x).chunk(2, -1)
        out: torch.Tensor = self.head(torch.relu(self.middle(a * torch.sigmoid(b)))).mean(1)
        return out


class Squeezed(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3)
        self.squeeze = nn.Linear(32, 16)
        self.excite = nn.Linear(16, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        out: torch.Tensor = self.head((x * gate[:, :, None, None]).mean((2, 3)))
        return out


class Heads(nn.Module):
    """Attention by softmax with a fixed scale, so that fewer channels change nothing but what they carried."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(6, 32)
        self.out = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = (q @ k.transpose(-2, -1) / 3).softmax(-1) @ v
        out: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class UpSampled(nn.Module):
    """A transposed convolution beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.last = nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.first(x))
        out: torch.Tensor = self.last(torch.cat((a, self.up(torch.relu(self.down(a)))), 1))
        return out


@pytest.mark.parametrize(
    ("build", "example"),
    [
        (ConvStack, IMAGE),
        (Shuffled, IMAGE),
        (Concatenated, IMAGE),
        (Squeezed, IMAGE),
        (UpSampled, IMAGE),
        (Gated, SEQUENCE),
        (Heads, SEQUENCE),
    ],
)
def test_only_the_removed_channels_are_missing(build: Callable[[], nn.Module], example: np.ndarray[Any, Any]) -> None:
    """The pruned model computes what the whole one does with the removed channels at zero."""
    task = model_task(build, example)
    groups, _ = ChannelGraph(task.model(), task).groups(())
    pruned, structure = halve(task)
    masked = task.model()
    for root, channels in removed(structure).items():
        assert channels
        for name in next(group.layers for group in groups if group.layers[0] == root):
            layer = masked.get_submodule(name)
            with torch.no_grad():
                if isinstance(layer, nn.ConvTranspose2d):
                    layer.weight[:, channels] = 0
                else:
                    layer.weight[channels] = 0  # type: ignore[index, operator]
                layer.bias[channels] = 0  # type: ignore[index, operator]
    expected, found = run_example(masked, task)["y"], run_example(pruned, task)["y"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, run_example(task.model(), task)["y"], atol=1e-4)


@pytest.mark.parametrize(("width", "groups"), [(32, 4), (64, 8)])
def test_shuffled_channels_are_left_alone(width: int, groups: int) -> None:
    """Where there are as many groups as channels in each, only the missing attention tells it from heads."""
    task = model_task(lambda: Shuffled(width, groups), IMAGE)
    assert list(removed(halve(task)[1])) == ["second", "first"]


class ClassToken(nn.Module):
    """Patches beside a class token: whether tokens or channels are joined cannot be told."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.expand, self.contract = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), 1)
        x = x + self.contract(torch.relu(self.expand(x)))
        out: torch.Tensor = self.head(x[:, 0])
        return out


def test_channels_that_may_have_been_joined_are_left_alone() -> None:
    assert list(removed(halve(model_task(ClassToken, IMAGE))[1])) == ["expand"]


def test_heads_lose_the_same_positions() -> None:
    _, structure = halve(model_task(Heads, SEQUENCE))
    (channels,) = removed(structure).values()
    assert len(channels) == 16
    positions = [[channel % 8 for channel in channels if channel // 8 == head] for head in range(4)]
    assert positions == [positions[0]] * 4


class NormedWide(nn.Module):
    """A layer norm whose weights tell their channels apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 64)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 5)
        with torch.no_grad():
            self.norm.weight.copy_(torch.arange(64.0))
            self.norm.bias.copy_(torch.arange(64.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.first(x)))
        return out


def test_layer_norm_keeps_its_weights_in_order() -> None:
    task = model_task(NormedWide, SEQUENCE)
    pruned, structure = prune(task.model(), task, ratio=0.9, round_to=4)
    kept = sorted(set(range(64)) - set(removed(structure)["first"]))
    norm = pruned.get_submodule("norm")
    assert isinstance(norm, nn.LayerNorm)
    assert norm.weight.tolist() == norm.bias.tolist() == kept
    assert norm.normalized_shape == (len(kept),)


class BuiltInAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.layer(self.embed(x)))
        return out


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 32)
        self.layer = kind(32, 32, batch_first=True)
        self.after = nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.after(self.layer(self.embed(x))[0])))
        return out


@pytest.mark.parametrize(
    ("build", "kept", "pruned"),
    [
        (BuiltInAttention, "embed", "layer.linear1"),
        (lambda: Recurrent(nn.GRU), "embed", "after"),
        (lambda: Recurrent(nn.LSTM), "embed", "after"),
    ],
)
def test_layers_beside_built_in_attention_and_recurrence_keep_their_width(
    build: Callable[[], nn.Module], kept: str, pruned: str
) -> None:
    model, structure = halve(model_task(build, SEQUENCE))
    assert list(removed(structure)) == [pruned]
    assert model.get_submodule(kept).out_features == 32
