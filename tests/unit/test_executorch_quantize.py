"""Integers, ranges and which layers get them, before anything is lowered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends.base import Source
from autoshrink.backends.executorch_graph import DEQUANTIZE_CHANNELS, aten, for_xnnpack
from autoshrink.backends.executorch_linear4 import quantize_linear4, rounded4
from autoshrink.backends.executorch_quantize import (
    RangeObserver,
    quantize_dynamic,
    quantize_static,
    to_integers,
    weight_of,
)
from autoshrink.errors import StageError
from autoshrink.program import Program, read_program, weight_layers, write_program
from autoshrink.techniques.calibrate import BINS, histogram, spread, tail_range
from tests.model_tasks import task_of

SHAPE = (3, 8, 8)


class Small(nn.Module):
    """A plain, a depthwise and a transposed convolution, each before a rectifier, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.hidden = nn.Linear(6, 32)
        self.fc = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.depthwise(self.conv(x).relu()).relu()).relu()
        return self.fc(self.hidden(x.mean((2, 3))).relu())  # type: ignore[no-any-return]


class Infinite(nn.Module):
    """Scores that are masked before they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.fc = nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("mask", torch.zeros(8).index_fill(0, torch.tensor([2]), -torch.inf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.query(x) + self.mask).softmax(-1))  # type: ignore[no-any-return]


def prepared(model: nn.Module, folder: Path, shape: tuple[int, ...], rows: int = 16) -> tuple[Program, Source]:
    random = np.random.default_rng(0)
    task = task_of(model.eval(), x=random.normal(size=(1, *shape)).astype(np.float32))
    write_program(model, task, 1, folder / "model.pt2")
    np.save(folder / "x.npy", random.normal(size=(rows, *shape)).astype(np.float32))
    source = Source(folder / "model.pt2", calibration=folder, settings={"samples": rows})
    return read_program(source.model), source


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def quantized(module: fx.GraphModule) -> list[str]:
    return [name for name, node in weight_layers(module) if node.args[1].op == "call_function"]


def test_weights_span_127_steps_each_way() -> None:
    integers, scale = to_integers(torch.tensor([[1.0, -2.0], [0.5, 0.0]]), axis=0)
    assert integers.tolist() == [[64, -127], [127, 0]]
    torch.testing.assert_close(scale, torch.tensor([2.0, 0.5]) / 127)
    integers, scale = to_integers(torch.tensor([[1.0, -2.0], [0.5, 0.0]]), axis=1)
    assert integers.tolist() == [[127, -127], [64, 0]]


def test_a_channel_of_nothing_has_a_step_that_kernels_can_multiply() -> None:
    _, scale = to_integers(torch.tensor([[1.27, 0.0], [0.0, 0.0]]), axis=0)
    torch.testing.assert_close(scale, torch.tensor([0.01, 0.01 / 4096]))


def test_percentiles_are_those_of_calibrate() -> None:
    values = np.random.default_rng(0).normal(size=(4, 6000)).astype(np.float32)
    observer = RangeObserver(dtype=torch.int8, quant_min=-128, quant_max=127)
    for row in values:
        observer(torch.from_numpy(row))
    low, high = float(values.min()), float(values.max())
    assert (float(observer.min_val), float(observer.max_val)) == (low, high)
    observer.count_tails()
    counts = np.zeros(BINS, np.int64)
    for row in values:
        observer(torch.from_numpy(row))
        counts += histogram(spread(row), low, high)
    observer.cut_tails()
    expected = tail_range(counts, low, high)
    np.testing.assert_allclose((float(observer.min_val), float(observer.max_val)), expected, rtol=1e-6)
    assert low < expected[0] < expected[1] < high


@torch.no_grad()
def test_static_quantizes_every_layer_and_keeps_the_ends_when_asked(tmp_path: Path) -> None:
    program, source = prepared(Small(), tmp_path, SHAPE)
    module = for_xnnpack(program)
    every = quantize_static(module, program, source)
    assert quantized(every) == ["conv", "depthwise", "up", "hidden", "fc"]
    inputs = (torch.from_numpy(np.load(tmp_path / "x.npy")[:1]),)
    agreement = sqnr_db(module(*inputs)[0].numpy(), every(*inputs)[0].numpy())
    assert 30 < agreement < 100
    # Output channels of a transposed convolution are its second dimension.
    layers = dict(weight_layers(every))
    assert layers["up"].args[1].target == DEQUANTIZE_CHANNELS
    assert [layers[name].args[1].args[3] for name in ("conv", "up")] == [0, 1]
    ends = quantize_static(module, program, replace(source, settings={**source.settings, "keep_float": "first_last"}))
    assert quantized(ends) == ["depthwise", "up", "hidden"]
    linear = replace(source, settings={"grid": {"operators": ["Gemm"], "per_channel": False}})
    by_tensor = quantize_static(module, program, linear)
    assert quantized(by_tensor) == ["hidden", "fc"]
    assert dict(weight_layers(by_tensor))["fc"].args[1].target != DEQUANTIZE_CHANNELS


@torch.no_grad()
def test_what_is_unbounded_stays_float(tmp_path: Path) -> None:
    program, source = prepared(Infinite(), tmp_path, (8,))
    module = for_xnnpack(program)
    static = quantize_static(module, program, source)
    inputs = (torch.from_numpy(np.load(tmp_path / "x.npy")[:1]),)
    assert sqnr_db(module(*inputs)[0].numpy(), static(*inputs)[0].numpy()) > 30
    add = next(node for node in static.graph.nodes if node.target == aten.add.Tensor)
    assert [user.target for user in add.users] == [aten.softmax.int]


@pytest.mark.parametrize(
    ("rows", "given", "reason"),
    [
        (16, {"calibration": None}, "there is no calibration set"),
        (0, {}, "has no rows"),
        (
            16,
            {"settings": {"grid": {"operators": ["LSTM"], "per_channel": True}}},
            "quantizes no convolution or linear",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_said(tmp_path: Path, rows: int, given: dict[str, Any], reason: str) -> None:
    program, source = prepared(Small(), tmp_path, SHAPE, rows)
    with pytest.raises(StageError, match=reason) as caught:
        quantize_static(for_xnnpack(program), program, replace(source, **given))
    assert caught.value.stage == "compile"


def test_an_activation_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    program, source = prepared(Small(), tmp_path, SHAPE)
    samples = np.load(tmp_path / "x.npy")
    samples[3] = np.nan
    np.save(tmp_path / "x.npy", samples)
    with pytest.raises(StageError, match="activation 'arrays_0' is NaN on a calibration sample"):
        quantize_static(for_xnnpack(program), program, source)


@torch.no_grad()
def test_dynamic_takes_convolutions_before_rectifiers_and_no_depthwise_ones(tmp_path: Path) -> None:
    program, source = prepared(Small(), tmp_path, SHAPE)
    expected = program.module(*program.example)[0]
    module = quantize_dynamic(for_xnnpack(program), source)
    module.recompile()
    assert quantized(module) == ["conv", "hidden", "fc"]
    assert 30 < sqnr_db(expected.numpy(), module(*program.example)[0].numpy()) < 100


def test_four_bits_are_exact_where_they_can_be() -> None:
    weight = torch.tensor([[step * value for step in (0.5, 0.25) for value in range(-8, 8)] * 2])
    integers, steps = rounded4(weight, 16)
    assert steps.tolist() == [[0.5, 0.25, 0.5, 0.25]]
    assert integers.tolist() == [list(range(-8, 8)) * 4]
    # A block of zeros, and one that bfloat16 has no exact step for.
    integers, steps = rounded4(torch.cat((torch.zeros(1, 16), torch.full((1, 16), 0.1)), 1), 16)
    assert integers[0, :16].tolist() == [0] * 16
    assert float(steps[0, 1]) == float(steps[0, 1].to(torch.bfloat16))
    assert float(integers[0, 16] * steps[0, 1]) == pytest.approx(0.1, rel=0.02)


@torch.no_grad()
def test_four_bits_are_for_linear_layers_of_whole_blocks(tmp_path: Path) -> None:
    program, source = prepared(Small(), tmp_path, SHAPE)
    expected = program.module(*program.example)[0]
    module = quantize_linear4(for_xnnpack(program), replace(source, settings={"block": 32}))
    module.recompile()
    assert quantized(module) == ["fc"]
    assert weight_of(module, dict(weight_layers(module))["fc"]).shape == (4, 32)
    assert 10 < sqnr_db(expected.numpy(), module(*program.example)[0].numpy()) < 60


class Clamped(nn.Module):
    """A convolution that computes values of some hundred, of which a clamp leaves 0 to 6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        with torch.no_grad():
            self.conv.weight.mul_(100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.nn.functional.relu6(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_clamp_shares_the_grid_of_its_layer(tmp_path: Path) -> None:
    program, source = prepared(Clamped(), tmp_path, SHAPE)
    x = program.example[0]
    expected = program.module(x)[0]
    converted = quantize_static(for_xnnpack(program), read_program(source.model), source)
    clamp = next(node for node in converted.graph.nodes if node.target == aten.hardtanh.default)
    assert clamp.args[0].target == aten.conv2d.default
    (grid,) = (user for user in clamp.users if "quantize_per_tensor" in str(user.target))
    assert (grid.args[1] * 255, grid.args[2]) == (pytest.approx(6.0), -128)
    # On a grid that spans the convolution's own values it is 20 dB.
    assert sqnr_db(expected.detach().numpy(), converted(x)[0].detach().numpy()) > 35
