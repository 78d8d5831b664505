from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autoshrink.task import Task
from autoshrink.tasks.resnet import ResNet
from autoshrink.techniques.fold_norms import fold_norms, refold
from autoshrink.tensors import run_example
from tests.small_models import model_task, tiny_task

IMAGE = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
ROW = np.random.default_rng(0).normal(size=(1, 6)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).normal(size=(1, 5, 6)).astype(np.float32)


def with_statistics(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The model with normalisations that do something."""

    def built() -> nn.Module:
        model = build()
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
                assert layer.running_var is not None
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
                if layer.affine:
                    nn.init.normal_(layer.weight, 1)
                    nn.init.normal_(layer.bias)
        return model

    return built


def folded(task: Task) -> tuple[nn.Module, list[list[str]]]:
    """What became of the task's model, once it is known to compute the same and to be repeatable."""
    model = task.model()
    before = copy.deepcopy(model.state_dict())
    result, pairs = fold_norms(model, task)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(model.state_dict()) == list(before)
    again = refold(task.model(), pairs)
    assert list(again.state_dict()) == list(result.state_dict())
    with torch.no_grad():
        expected, found, repeated = (run_example(m, task) for m in (model, result, again))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(repeated[name], found[name])
    assert not result.training
    assert not any(layer._forward_hooks for layer in result.modules())
    return result, pairs


def test_known_numbers() -> None:
    norm = nn.BatchNorm2d(2, eps=0)
    task = model_task(lambda: nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), norm), IMAGE)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0]))
        norm.running_mean.copy_(torch.tensor([2.0, 1.0]))  # type: ignore[union-attr]
        norm.running_var.copy_(torch.tensor([4.0, 0.25]))  # type: ignore[union-attr]
    model = task.model()
    weight = model.get_parameter("0.weight").detach().clone()
    result, pairs = fold_norms(model, task)
    assert pairs == [["0", "1"]]
    assert isinstance(result.get_submodule("1"), nn.Identity)
    factor = torch.tensor([1.5, -2.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(result.get_parameter("0.weight"), nn.Parameter(weight * factor))
    torch.testing.assert_close(result.get_parameter("0.bias"), nn.Parameter(torch.tensor([-2.5, 2.0])))


def test_every_norm_of_a_residual_network() -> None:
    result, pairs = folded(model_task(with_statistics(lambda: ResNet(8)), np.ones((1, 1, 12, 12), np.float32)))
    assert pairs[0] == ["stem.0", "stem.1"] and ["blocks.1.shortcut.0", "blocks.1.shortcut.1"] in pairs
    assert len(pairs) == 9
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in result.modules())


@pytest.mark.parametrize("name", ["conv_only", "transformer", "two_outputs"])
def test_a_model_without_norms_stays_what_it_is(name: str) -> None:
    assert folded(tiny_task(name))[1] == []


@pytest.mark.parametrize(
    ("build", "example"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), ROW),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()), IMAGE),
        (lambda: nn.Sequential(nn.Conv1d(5, 4, 3, bias=False), nn.BatchNorm1d(4)), SEQUENCE),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), IMAGE),
    ],
    ids=["linear", "not affine", "one dimension", "grouped"],
)
def test_other_layers_that_a_norm_follows(build: Callable[[], nn.Module], example: np.ndarray) -> None:
    assert folded(model_task(with_statistics(build), example))[1] == [["0", "1"]]


def test_frozen_weights_stay_frozen() -> None:
    result, pairs = folded(model_task(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), IMAGE))
    assert pairs and all(parameter.requires_grad for parameter in result.parameters())
    task = model_task(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).requires_grad_(False), IMAGE
    )
    result, pairs = folded(task)
    assert pairs and not any(parameter.requires_grad for parameter in result.parameters())


class Branches(nn.Module):
    """A convolution and its normalisation, used in the way that `kind` says; and a pair that can always be folded."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.plain = nn.Conv2d(3, 4, 1)
        self.plain_norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1)
        if kind == "shared":
            self.other.weight = self.conv.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain_norm(self.plain(x)).relu()
        y: torch.Tensor = self.conv(x)
        if self.kind == "used beside":
            return self.norm(y) + 1e-6 * y  # type: ignore[no-any-return]
        if self.kind == "rectified before":
            return self.norm(y.relu_())  # type: ignore[no-any-return]
        if self.kind == "called twice":
            return self.norm(y) + self.conv(x)  # type: ignore[no-any-return]
        if self.kind == "norm called twice":
            return self.norm(y) + self.norm(x)  # type: ignore[no-any-return]
        if self.kind == "looked into":
            return self.norm(y) * self.norm.weight.mean()  # type: ignore[no-any-return]
        if self.kind == "shared":
            return self.norm(y) + self.other(x)  # type: ignore[no-any-return]
        if self.kind == "detached":
            return self.norm(y) + y.detach()  # type: ignore[no-any-return]
        return self.other(self.norm(y.clone()))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kind",
    [
        *("used beside", "rectified before", "called twice", "norm called twice"),
        *("looked into", "shared", "detached", "something between"),
    ],
)
def test_what_cannot_be_folded_stays_and_the_rest_is_folded(kind: str) -> None:
    result, pairs = folded(model_task(with_statistics(lambda: Branches(kind)), IMAGE))
    assert pairs == [["plain", "plain_norm"]]
    assert isinstance(result.get_submodule("norm"), nn.BatchNorm2d)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),
        lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 1), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, track_running_stats=True)),
    ],
    ids=["before", "parametrized", "own statistics", "after a rectifier", "transposed", "instances"],
)
def test_what_is_no_pair(build: Callable[[], nn.Module]) -> None:
    assert folded(model_task(build, IMAGE))[1] == []


def test_a_norm_over_the_steps_of_a_sequence_is_no_norm_of_channels() -> None:
    task = model_task(with_statistics(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))), SEQUENCE)
    assert folded(task)[1] == []


def test_a_hook_of_the_users_own_may_look_at_the_output() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        model[0].register_forward_hook(lambda _layer, _inputs, output: output * 2)
        return model

    model = build()
    assert fold_norms(model.eval(), model_task(build, IMAGE))[1] == []
