"""A program rewritten for XNNPACK calculates what it did; its layers keep their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autoshrink.backends.executorch_float16 import store_half
from autoshrink.backends.executorch_graph import aten, for_xnnpack, layer_of, traced_again
from autoshrink.program import Program, read_program, weight_layers, write_program
from tests.model_tasks import task_of


def program_of(model: nn.Module, folder: Path, *shape: int) -> Program:
    example = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    task = task_of(model.eval(), x=example)
    write_program(model, task, 1, folder / "model.pt2")
    return read_program(folder / "model.pt2")


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2, bias=False)
        self.norm_up = nn.BatchNorm2d(6)
        for norm in (self.norm, self.norm_up):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).clamp(min=0)
        x = self.norm_up(self.up(x)).clamp(-1, 2)
        return x.mean((2, 3))


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).view(rows, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(rows, tokens, width)[:, -1]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def test_norms_clamps_and_means(tmp_path: Path) -> None:
    program = program_of(Pooled(), tmp_path, 3, 8, 8)
    expected = program.module(*program.example)[0]
    module = for_xnnpack(program)
    torch.testing.assert_close(module(*program.example)[0], expected, rtol=1e-5, atol=1e-5)
    targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert targets == [
        *(aten.conv2d.default, aten.relu.default, aten.conv_transpose2d.input, aten.hardtanh.default),
        *(aten.mean.dim, aten.reshape.default),
    ]
    assert [name for name, _ in weight_layers(module)] == ["conv", "up"]
    # Statistics and weights that were folded are not kept, for they would be shipped.
    assert len(list(module.parameters())) + len(list(module.buffers())) == 4


@torch.no_grad()
def test_attention_and_entries_of_a_dimension(tmp_path: Path) -> None:
    program = program_of(Attended(), tmp_path, 5, 16)
    expected = program.module(*program.example)[0]
    module = for_xnnpack(program)
    torch.testing.assert_close(module(*program.example)[0], expected, rtol=1e-5, atol=1e-6)
    targets = [node.target for node in module.graph.nodes]
    assert targets.count(aten.bmm.default) == 2
    assert not {aten.scaled_dot_product_attention.default, aten.unbind.int, aten.select.int} & set(targets)


@torch.no_grad()
def test_a_mask_stays_with_the_operator_that_takes_it(tmp_path: Path) -> None:
    class Causal(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(x, x, x, is_causal=True)

    program = program_of(Causal(), tmp_path, 5, 8)
    expected = program.module(*program.example)[0]
    module = for_xnnpack(program)
    torch.testing.assert_close(module(*program.example)[0], expected)
    assert aten.scaled_dot_product_attention.default in [node.target for node in module.graph.nodes]


@torch.no_grad()
def test_half_precision_lies_between_float32_ends(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) + torch.full((4,), 0.5) + torch.arange(4, dtype=torch.float32)

    program = program_of(Shifted(), tmp_path, 8)
    expected = program.module(*program.example)[0]
    module, notes = store_half(for_xnnpack(program))
    half = traced_again(module, program.example)
    found = half(*program.example)[0]
    assert found.dtype == torch.float32
    assert 0 < float((found - expected).abs().max()) < 0.01
    assert {value.dtype for value in half.parameters()} == {torch.float16}
    assert notes == ()


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [("model.blocks.0.conv.weight", "blocks.0.conv"), ("model.fc.weight_integers", "fc"), ("model.table", "table")],
)
def test_layers_are_named_by_their_weights(parameter: str, layer: str) -> None:
    assert layer_of(parameter) == layer
