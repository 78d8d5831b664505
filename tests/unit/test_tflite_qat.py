"""Programs with quantizers as integer `.tflite` files: the grids of training to the last bit, and what else is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoshrink.backends.base import Source
from autoshrink.backends.tflite_graph import Graph
from autoshrink.backends.tflite_model import write_tflite
from autoshrink.errors import StageError
from autoshrink.program import Quantized, float_program, read_program
from autoshrink.techniques.onnx_int8 import Grid
from autoshrink.types import Audit
from tests.small_models import tiny_task
from tests.tflite_models import agreement, float_source, trained_source

NAMES = ("cnn", "grouped", "transformer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def compiled(folder: Path) -> dict[str, tuple[Source, torch.nn.Module, Path, Audit]]:
    """By name: source, torch model with quantizers of 4 bits, file, audit."""
    found = {}
    for name in NAMES:
        (folder / name).mkdir()
        source, module = trained_source(tiny_task(name), folder / name, 4)
        out = folder / name / "out.tflite"
        found[name] = (source, module, out, write_tflite(source, out))
    return found


Compiled = dict[str, tuple[Source, torch.nn.Module, Path, Audit]]


def trained(source: Source) -> tuple[dict[str, torch.Tensor], Quantized]:
    """Rounded parameters by name and the grids."""
    program, quantized = float_program(read_program(source.model))
    return {name.removeprefix("model."): value for name, value in program.module.named_parameters()}, quantized


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_of_training(name: str, compiled: Compiled) -> None:
    source, _, out, _ = compiled[name]
    graph = Graph(out.read_bytes())
    parameters, quantized = trained(source)
    found = {graph.name(weight): (operation.kind, weight) for operation, weight in graph.layers()}
    assert set(found) == set(quantized.weights)
    for weight, grid in quantized.weights.items():
        kind, index = found[weight]
        in_file = graph.grid(index)
        assert in_file is not None
        np.testing.assert_array_equal(in_file[0], np.float32(grid.scale))
        values = graph.values(index)
        order = {2: (0, 1), 4: (3, 0, 1, 2) if kind == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)}[values.ndim]
        expected = parameters[weight].detach().numpy()
        np.testing.assert_array_equal(values.transpose(order).reshape(expected.shape), expected)


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_on_the_grids_of_training(name: str, compiled: Compiled) -> None:
    source, _, out, audit = compiled[name]
    graph = Graph(out.read_bytes())
    found = set()
    for index in graph.tensors:
        grid = graph.grid(index)
        if graph.dtype(index) == "INT8" and not graph.is_constant(index):
            assert grid is not None
            found.add((float(grid[0][0]), int(grid[1][0]) + 128))
    expected = {
        (float(np.float32(grid.scale[0])), grid.zero_point[0]) for grid in trained(source)[1].activations.values()
    }
    assert expected <= found
    calibrated = next(note for note in audit.notes if note.startswith("range from the calibration set"))
    assert len(found - expected) == len(calibrated.split("the output of ")[1].split(", "))
    assert not any("chosen by the converter" in note for note in audit.notes)


@pytest.mark.parametrize("name", NAMES)
def test_computes_what_was_trained(name: str, compiled: Compiled) -> None:
    _, module, out, audit = compiled[name]
    assert agreement(out, tiny_task(name), module) > 38
    assert audit.int8_layers == len(audit.layers)


def test_linear_layers_of_4_bits_are_packed_and_others_are_not(compiled: Compiled) -> None:
    _, _, out, audit = compiled["grouped"]
    graph = Graph(out.read_bytes())
    assert {graph.name(weight): graph.dtype(weight) for _, weight in graph.layers()} == {
        "stem.weight": "INT8",
        "depthwise.weight": "INT8",
        "pointwise.weight": "INT8",
        "grouped.weight": "INT8",
        "head.weight": "INT4",
    }
    assert "4-bit weights in int8: depthwise, pointwise, grouped" in audit.notes


def test_fewer_bits_lie_in_the_next_container_and_activations_in_finer_steps(folder: Path, tmp_path: Path) -> None:
    task = tiny_task("cnn")
    source, module = trained_source(task, tmp_path, 3, activation_bits=6)
    audit = write_tflite(source, tmp_path / "model.tflite")
    assert {"3-bit weights in int4: head", "3-bit weights in int8: conv1, conv2"} <= set(audit.notes)
    assert "6 activations of 6 bits are in int8, in finer steps of the same range" in audit.notes
    assert agreement(tmp_path / "model.tflite", task, module) > 30
    graph = Graph((tmp_path / "model.tflite").read_bytes())
    image = graph.grid(next(op for op in graph.operations if op.kind == "QUANTIZE").outputs[0])
    grid = trained(source)[1].activations["arrays_0"]
    assert image is not None
    assert float(image[0][0]) == float(np.float32(grid.scale[0] / 4))
    assert int(image[1][0]) == 4 * grid.zero_point[0] - 128


def test_integers_at_the_ends_where_asked_for(compiled: Compiled, tmp_path: Path) -> None:
    source, _, out, _ = compiled["cnn"]
    plain = Graph(out.read_bytes())
    assert [plain.dtype(index) for ports in plain.ports() for index in ports.values()] == ["FLOAT32", "FLOAT32"]
    write_tflite(source, tmp_path / "model.tflite", integer_ports=True)
    graph = Graph((tmp_path / "model.tflite").read_bytes())
    assert [graph.dtype(index) for ports in graph.ports() for index in ports.values()] == ["INT8", "INT8"]
    assert not {"QUANTIZE", "DEQUANTIZE"} & {operation.kind for operation in graph.operations}


def test_an_untrained_range_needs_the_calibration_set(compiled: Compiled, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="outputs of head have no trained range") as caught:
        write_tflite(replace(compiled["cnn"][0], calibration=None), tmp_path / "model.tflite")
    assert caught.value.stage == "compile"


def test_a_program_without_quantizers_needs_settings(tmp_path: Path) -> None:
    source = float_source(tiny_task("conv_only"), tmp_path, "int8_static")
    with pytest.raises(StageError, match=r"model\.pt2 has none"):
        write_tflite(source, tmp_path / "model.tflite")


def test_signed_grids_by_tensor(tmp_path: Path) -> None:
    task = tiny_task("cnn")
    source, module = trained_source(task, tmp_path, 8, grid=Grid((), "int8", per_channel=False))
    audit = write_tflite(source, tmp_path / "model.tflite")
    assert audit.int8_layers == 4
    assert agreement(tmp_path / "model.tflite", task, module) > 38
    graph = Graph((tmp_path / "model.tflite").read_bytes())
    parameters, _ = trained(source)
    weight = next(weight for _, weight in graph.layers() if graph.name(weight) == "conv2.weight")
    np.testing.assert_array_equal(
        graph.values(weight).transpose(0, 3, 1, 2), parameters["conv2.weight"].detach().numpy()
    )
