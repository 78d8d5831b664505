"""What was trained on a grid reaches XNNPACK on that grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends.base import Source
from autoshrink.backends.executorch import ExecuTorch
from autoshrink.backends.executorch_graph import DEQUANTIZE, QUANTIZE, aten, for_xnnpack, traced_again
from autoshrink.backends.executorch_trained import FULL, match_kernels
from autoshrink.program import Program, read_program, standard_program, write_program
from autoshrink.task import Task
from autoshrink.techniques.onnx_int8 import Grid
from autoshrink.techniques.quantized_graph import FloatGraph, add_quantizers, initialise
from autoshrink.tensors import as_tensors
from autoshrink.types import LOW_BIT_WEIGHTS, Recipe
from tests.model_tasks import task_of
from tests.small_models import tiny_task

QAT = Recipe.from_json([{"technique": "qat"}])


class Joined(nn.Module):
    """Two branches of unlike ranges, joined; rectifiers of both kinds; a sum that is rectified."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.join, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        with torch.no_grad():
            self.right.weight.mul_(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((nn.functional.relu6(self.left(x)), self.right(x)), 1)
        x = nn.functional.max_pool2d((self.join(x) + x).relu(), 2)
        return self.last(x).mean((2, 3))


def write_trained(task: Task, path: Path, weight_bits: int, activation_bits: int, grid: Grid) -> Program:
    """The program of a model with quantizers as they are before training."""
    torch.manual_seed(0)
    graph = FloatGraph(task.model(), task, "qat")
    bits = {layer.weight: weight_bits for layer in graph.layers()[0]}
    module = add_quantizers(graph, bits, activation_bits, grid, True).eval()
    with torch.no_grad():
        initialise(module, lambda observed: observed(*as_tensors(task.calibration).values()))
    write_program(module, task, 1, path)
    return read_program(path)


def joined_task() -> Task:
    torch.manual_seed(0)
    return task_of(Joined().eval(), x=np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32))


def matched(program: Program) -> tuple[fx.GraphModule, tuple[str, ...]]:
    module = for_xnnpack(standard_program(program))
    notes = match_kernels(module)
    return traced_again(module, program.example), notes


@torch.no_grad()
@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "grid", "notes"),
    [
        (8, 8, Grid((), "uint8", True), ()),
        (6, 6, Grid((), "uint8", True), ("6-bit weights in an int8 container: left, right, join, last",)),
        (4, 4, Grid((), "int8", False), ("4-bit weights in an int8 container: left, right, join, last",)),
    ],
)
def test_patterns_of_kernels_calculate_what_was_trained(
    tmp_path: Path, weight_bits: int, activation_bits: int, grid: Grid, notes: tuple[str, ...]
) -> None:
    program = write_trained(joined_task(), tmp_path / "model.pt2", weight_bits, activation_bits, grid)
    inputs = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32) * 1.5)
    expected = program.module(inputs)[0]
    module, found_notes = matched(program)
    torch.testing.assert_close(module(inputs)[0], expected, rtol=1e-4, atol=1e-5)
    assert found_notes == notes
    nodes = list(module.graph.nodes)
    assert {node.args[3:5] for node in nodes if node.target in (QUANTIZE, DEQUANTIZE) and len(node.args) == 6} <= {
        FULL,
        (-127, 127),
    }
    assert all(len(node.users) == 1 for node in nodes if node.target == DEQUANTIZE)
    cat = next(node for node in nodes if node.target == aten.cat.default)
    grids = {value.args[1:] for value in cat.args[0]} | {reader.args[1:] for reader in cat.users}
    assert len(grids) == 1


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, list[str], tuple[str, ...]]]:
    """Model and bits -> agreement with the trained program on 8 samples, precisions of the layers, notes."""
    found = {}
    for name, weight_bits, activation_bits in (("cnn", 8, 8), ("cnn", 4, 6), ("two_outputs", 6, 8)):
        folder = tmp_path_factory.mktemp("trained")
        task = tiny_task(name)
        grid = Grid((), "uint8", True)
        program = write_trained(task, folder / "model.pt2", weight_bits, activation_bits, grid)
        backend = ExecuTorch()
        compiled = backend.compile(Source(folder / "model.pt2", "int8_static", QAT), folder / "artifact")
        session = backend.load(folder / "artifact", compiled.files, "int8_static", 1)
        rows = [{key: array[row : row + 1] for key, array in task.val.inputs.items()} for row in range(8)]
        with torch.no_grad():
            expected = [program.module(*as_tensors(row).values())[0].numpy() for row in rows]
        results = [session.run(row)[program.outputs[0]] for row in rows]
        assert compiled.audit is not None
        found[f"{name} {weight_bits}/{activation_bits}"] = (
            sqnr_db(np.concatenate(expected), np.concatenate(results)),
            [layer.precision for layer in compiled.audit.layers],
            compiled.audit.notes,
        )
    return found


ROUNDED = "inputs rounded once more, to 8 bits of the range of each row: "


@pytest.mark.parametrize(
    ("case", "precisions", "notes"),
    [
        ("cnn 8/8", ["int8"] * 4, [f"{ROUNDED}head; "]),
        # The linear layer has a 4-bit kernel of its own.
        (
            "cnn 4/6",
            ["int8", "int8", "int8", LOW_BIT_WEIGHTS],
            ["4-bit weights in an int8 container: stem, conv1, conv2", f"{ROUNDED}head; "],
        ),
        (
            "two_outputs 6/8",
            ["int8"] * 5,
            [
                "6-bit weights in an int8 container: conv, side, joint, classify, measure",
                f"{ROUNDED}classify, measure; ",
            ],
        ),
    ],
)
def test_kernels_agree_with_what_was_trained(
    agreed: dict[str, tuple[float, list[str], tuple[str, ...]]], case: str, precisions: list[str], notes: list[str]
) -> None:
    decibel, found, said = agreed[case]
    assert decibel > 35
    assert found == precisions
    assert len(said) == len(notes)
    assert all(one.startswith(other) for one, other in zip(said, notes, strict=True)), said
