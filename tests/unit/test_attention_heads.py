"""Whole attention heads: what is left computes what the model did without them, or they stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autoshrink.errors import StageError
from autoshrink.export import export_onnx
from autoshrink.tasks.encoder import PatchEncoder
from autoshrink.techniques.attention_heads import heads_left, set_heads, why_heads_must_stay
from autoshrink.techniques.channel_groups import ChannelGraph, ChannelGroup, traceable_copy
from autoshrink.techniques.channel_pruning import replay
from autoshrink.techniques.prune import prune
from autoshrink.tensors import run_example
from tests.small_models import model_task, tiny_task

SEQUENCE = np.random.default_rng(0).normal(size=(1, 7, 6)).astype(np.float32)
IMAGE = np.random.default_rng(0).normal(size=(1, 1, 12, 12)).astype(np.float32)


class Heads(nn.Module):
    """Attention over 4 heads of 8 channels; `cut` and `join` say where a forward has its sizes from."""

    def __init__(self, cut: Callable[[nn.Module], tuple[int, int]], join: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.n_heads = 4
        self.blocks = 4
        self.query, self.key, self.value = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(6, 32)
        self.out = nn.Linear(32, 5)
        self._cut, self._join = cut, join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = self._cut(self)
        q, k, v = (layer(x).unflatten(-1, sizes).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        out: torch.Tensor = self.out(mixed.reshape(len(x), -1, *self._join) if self._join else mixed.flatten(2))
        return out


def by_attribute(model: nn.Module) -> tuple[int, int]:
    return (int(model.n_heads), -1)  # type: ignore[arg-type]


def by_shape(_model: nn.Module) -> tuple[int, int]:
    return (-1, 8)


def by_both(model: nn.Module) -> tuple[int, int]:
    return (int(model.n_heads), 8)  # type: ignore[arg-type]


def by_number(_model: nn.Module) -> tuple[int, int]:
    return (4, -1)


def attention_of(model: nn.Module, task: Any) -> ChannelGroup:
    groups, _ = ChannelGraph(traceable_copy(model), task).groups(())
    return next(group for group in groups if group.heads > 1)


def lost(structure: dict[str, Any], layer: str) -> list[int]:
    return next(list(channels) for root, _, channels in structure["history"] if root == layer)


@pytest.mark.parametrize("cut", [by_attribute, by_shape, by_both])
def test_what_is_left_computes_what_the_model_did_without_the_heads(
    cut: Callable[[nn.Module], tuple[int, int]],
) -> None:
    task = model_task(lambda: Heads(cut), SEQUENCE)
    pruned, structure = prune(task.model(), task, ratio=0.5, heads="remove")
    channels = lost(structure, "value")
    assert len(channels) == 16
    assert channels == [
        channel for head in sorted({c // 8 for c in channels}) for channel in range(8 * head, 8 * head + 8)
    ]
    silent = task.model()
    with torch.no_grad():
        # A head whose values are zero adds nothing.
        silent.get_submodule("value").weight[channels] = 0  # type: ignore[index, operator]
        silent.get_submodule("value").bias[channels] = 0  # type: ignore[index, operator]
    expected, found = run_example(silent, task)["y"], run_example(pruned, task)["y"]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, run_example(task.model(), task)["y"], atol=1e-3)
    assert pruned.n_heads == 2
    # Another attribute of the same value is not touched.
    assert pruned.blocks == 4


def test_the_weakest_heads_go() -> None:
    task = model_task(lambda: Heads(by_attribute), SEQUENCE)
    model = task.model()
    with torch.no_grad():
        for name in ("query", "key", "value"):
            model.get_submodule(name).weight[8:16] *= 0.01  # type: ignore[index, operator]
        model.get_submodule("out").weight[:, 8:16] *= 0.01  # type: ignore[index]
    _, structure = prune(model, task, ratio=0.25, heads="remove")
    assert lost(structure, "value") == list(range(8, 16))
    assert structure["heads"] == {"n_heads": 3}


def test_narrow_heads_stay_as_many() -> None:
    task = model_task(lambda: Heads(by_attribute), SEQUENCE)
    pruned, structure = prune(task.model(), task, ratio=0.5, heads="narrow")
    assert pruned.n_heads == 4
    assert structure["heads"] == {}
    assert {channel // 8 for channel in lost(structure, "value")} == {0, 1, 2, 3}


def test_blocks_are_whole_heads_and_whole_multiples() -> None:
    task = model_task(lambda: Heads(by_attribute), SEQUENCE)
    pruned, _ = prune(task.model(), task, ratio=0.25, heads="remove", round_to=16)
    assert pruned.n_heads == 2


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Heads(by_number), "cuts its channels into heads in another way"),
        (lambda: Heads(by_attribute, (32,)), "the model does not run with fewer"),
    ],
)
def test_heads_that_are_written_into_the_forward_stay(build: Callable[[], nn.Module], reason: str) -> None:
    task = model_task(build, SEQUENCE)
    with pytest.raises(StageError, match=f"layer value: its heads must stay.*{reason}.*leave prune out"):
        prune(task.model(), task, ratio=0.5, heads="remove")


def test_heads_that_must_stay_are_no_reason_to_refuse_the_rest() -> None:
    task = model_task(
        lambda: nn.Sequential(nn.Linear(6, 6), Heads(by_number), nn.Linear(5, 32), nn.Linear(32, 5)), SEQUENCE
    )
    pruned, structure = prune(task.model(), task, ratio=0.5, heads="remove", round_to=8)
    assert [root for root, _, _ in structure["history"]] == ["2"]
    assert pruned.get_submodule("1.query").out_features == 32


def test_a_kept_attention_keeps_its_heads() -> None:
    task = replace(tiny_task("transformer"), keep=("attention",))
    pruned, structure = prune(task.model(), task, ratio=0.5, heads="remove")
    assert pruned.get_submodule("attention").heads == 4
    assert structure["heads"] == {}


class TestAttributes:
    def test_those_of_the_owner_that_hold_the_number(self) -> None:
        task = tiny_task("transformer")
        group = attention_of(task.model(), task)
        assert (group.heads, group.parts, group.width) == (4, 4, 32)
        assert heads_left(task.model(), group, range(24)) == {"attention.heads": 1}
        assert why_heads_must_stay(task.model(), task, group) == ""

    def test_a_number_that_is_another_is_none_of_them(self) -> None:
        task = tiny_task("transformer")
        model = task.model()
        group = attention_of(model, task)
        model.get_submodule("attention").heads = 5  # type: ignore[assignment]
        assert heads_left(model, group, range(8)) == {}

    def test_are_set_by_name(self) -> None:
        task = tiny_task("transformer")
        model = task.model()
        set_heads(model, {"attention.heads": 2})
        assert model.get_submodule("attention").heads == 2


@pytest.fixture(params=["narrow", "remove"])
def heads(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("scope", ["global", "per_layer"])
def test_the_built_in_encoder(heads: str, scope: str, tmp_path: Path) -> None:
    task = model_task(lambda: PatchEncoder(32, 2, 3, 8, 12, 4, 5), IMAGE)
    pruned, structure = prune(task.model(), task, ratio=0.5, heads=heads, scope=scope, round_to=8)
    assert run_example(pruned, task)["y"].shape == (1, 5)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (pruned, task.model())]
    assert counts[0] < 0.5 * counts[1]
    export_onnx(pruned, task, 2, tmp_path / "model.onnx")
    again = replay(task.model(), structure, task)
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(run_example(again, task)["y"], run_example(pruned, task)["y"])


def test_the_built_in_encoder_loses_heads_and_hidden_channels_in_every_layer() -> None:
    task = model_task(lambda: PatchEncoder(32, 2, 3, 8, 12, 4, 5), IMAGE)
    pruned, structure = prune(task.model(), task, ratio=0.5, heads="remove", round_to=8)
    for layer in ("layers.0", "layers.1"):
        left = structure["heads"][f"{layer}.attention.heads"]
        assert 1 <= left < 4
        assert pruned.get_submodule(f"{layer}.attention.query").out_features == 8 * left
        assert pruned.get_submodule(f"{layer}.expand").out_features < 96
