"""Quantization of `.tflite` files: what each precision makes of which operator, and what it says of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshrink.backends.base import Source
from autoshrink.backends.litert import LiteRt, LiteRtSession
from autoshrink.backends.tflite_calibrate import collect_ranges
from autoshrink.backends.tflite_convert import float_tflite
from autoshrink.backends.tflite_graph import Graph
from autoshrink.backends.tflite_model import write_tflite
from autoshrink.errors import StageError
from autoshrink.target import Precision, Target
from autoshrink.techniques.calibrate import METHODS
from autoshrink.types import LOW_BIT_WEIGHTS, Audit, Recipe, StageSpec
from tests.small_models import tiny_task
from tests.tflite_models import GRID, OPERATORS, STATIC, agreement, float_source

DYNAMIC = {"grid": {**GRID, "operators": ["Conv", "Gemm", "MatMul"]}}
PACKED = {"operators": ["Conv", "Gemm", "MatMul"], "block": 32, "rounding": "nearest"}
NO_ARRAYS: dict[str, np.ndarray[Any, Any]] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


def source_of(name: str, folder: Path, precision: str, **settings: Any) -> Source:
    (folder / name).mkdir(exist_ok=True)
    return float_source(tiny_task(name), folder / name, precision, settings)


def made(name: str, folder: Path, out: Path, precision: str, **settings: Any) -> tuple[Graph, Audit]:
    audit = write_tflite(source_of(name, folder, precision, **settings), out)
    return Graph(out.read_bytes()), audit


def weight_dtypes(graph: Graph) -> dict[str, str]:
    return {graph.name(weight).removesuffix(".weight"): graph.dtype(weight) for _, weight in graph.layers()}


@pytest.mark.parametrize(("name", "least"), [("cnn", 40), ("grouped", 40), ("transformer", 36), ("two_outputs", 30)])
def test_static_agrees_with_torch(name: str, least: float, folder: Path, tmp_path: Path) -> None:
    graph, audit = made(name, folder, tmp_path / "model.tflite", "int8_static", **STATIC)
    assert audit.int8_layers == len(audit.layers) == len(list(graph.layers()))
    task = tiny_task(name)
    assert agreement(tmp_path / "model.tflite", task, task.model()) > least
    inputs, outputs = graph.ports()
    assert {graph.dtype(index) for index in outputs.values()} == {"FLOAT32"}
    assert {graph.dtype(index) for index in inputs.values()} <= {"FLOAT32", "INT64"}


def test_static_is_symmetric_by_channel_in_weights_and_affine_in_activations(folder: Path, tmp_path: Path) -> None:
    graph, _ = made("cnn", folder, tmp_path / "model.tflite", "int8_static", **STATIC)
    for operation, weight in graph.layers():
        grid = graph.grid(weight)
        assert grid is not None
        channels = graph.shape(weight)[grid[2]]
        assert len(grid[0]) == channels and not grid[1].any()
        assert channels == (graph.shape(operation.outputs[0])[-1])
        assert np.abs(graph.array(weight)).max() == 127
    image = next(operation for operation in graph.operations if operation.kind == "QUANTIZE").outputs[0]
    grid = graph.grid(image)
    assert grid is not None
    low = (-128 - int(grid[1][0])) * float(grid[0][0])
    # Extremes of the whole calibration set, not a moving average of them.
    assert low == pytest.approx(float(tiny_task("cnn").calibration["image"].min()), abs=2 * float(grid[0][0]))


def test_one_scale_by_tensor_when_the_profile_says_so(folder: Path, tmp_path: Path) -> None:
    settings = {**STATIC, "grid": {**GRID, "per_channel": False, "activations": "int8"}}
    graph, _ = made("conv_only", folder, tmp_path / "model.tflite", "int8_static", **settings)
    for operation, weight in graph.layers():
        grids = [graph.grid(index) for index in (weight, operation.inputs[0])]
        assert all(grid is not None and len(grid[0]) == 1 and not grid[1].any() for grid in grids)


def test_between_float_neighbours_nothing_is_rounded(folder: Path, tmp_path: Path) -> None:
    # The residual stream of a transformer is read by a normalisation, which stays float.
    graph, _ = made("transformer", folder, tmp_path / "model.tflite", "int8_static", **STATIC)
    kinds = {op.kind for op in graph.operations if op.outputs and graph.dtype(op.outputs[0]) == "INT8"}
    assert {"FULLY_CONNECTED", "QUANTIZE"} <= kinds <= {"FULLY_CONNECTED", "QUANTIZE", "RESHAPE", "TRANSPOSE", "MEAN"}
    assert not any(op.kind == "ADD" and graph.dtype(op.outputs[0]) == "INT8" for op in graph.operations)


def test_layers_that_are_to_stay_float_do(folder: Path, tmp_path: Path) -> None:
    graph, audit = made("cnn", folder, tmp_path / "a", "int8_static", **{**STATIC, "keep_float": "first_last"})
    assert weight_dtypes(graph) == {"stem": "FLOAT32", "conv1": "INT8", "conv2": "INT8", "head": "FLOAT32"}
    assert [layer.precision for layer in audit.layers] == ["fp32", "int8", "int8", "fp32"]
    assert "float32, since keep_float asks for it: stem, head" in audit.notes
    only = {**STATIC, "grid": {**GRID, "operators": ["Gemm"]}}
    graph, _ = made("cnn", folder, tmp_path / "b", "int8_static", **only)
    assert weight_dtypes(graph) == {"stem": "FLOAT32", "conv1": "FLOAT32", "conv2": "FLOAT32", "head": "INT8"}


def test_integers_at_the_ends(folder: Path, tmp_path: Path) -> None:
    source = source_of("cnn", folder, "int8_static", **{**STATIC, "grid": {**GRID, "operators": OPERATORS}})
    write_tflite(source, tmp_path / "model.tflite", integer_ports=True)
    graph = Graph((tmp_path / "model.tflite").read_bytes())
    inputs, outputs = graph.ports()
    assert [graph.dtype(index) for index in (inputs["image"], outputs["logits"])] == ["INT8", "INT8"]
    assert not {"QUANTIZE", "DEQUANTIZE"} & {operation.kind for operation in graph.operations}


def test_half_precision_is_storage(folder: Path, tmp_path: Path) -> None:
    graph, audit = made("cnn", folder, tmp_path / "model.tflite", "fp16")
    assert set(weight_dtypes(graph).values()) == {"FLOAT16"}
    assert {layer.precision for layer in audit.layers} == {"fp32"}
    task = tiny_task("cnn")
    assert 60 < agreement(tmp_path / "model.tflite", task, task.model()) < 119


def test_dynamic_leaves_depthwise_convolutions_in_float(folder: Path, tmp_path: Path) -> None:
    graph, audit = made("grouped", folder, tmp_path / "model.tflite", "int8_dynamic", **DYNAMIC)
    assert weight_dtypes(graph) == {
        **{"stem": "FLOAT32", "depthwise": "FLOAT32", "pointwise": "INT8", "grouped": "INT8", "head": "INT8"}
    }
    assert [layer.name for layer in audit.layers if layer.is_int8] == ["pointwise", "grouped", "head"]
    assert any("stem, depthwise" in note for note in audit.notes)
    task = tiny_task("grouped")
    assert agreement(tmp_path / "model.tflite", task, task.model()) > 40


def test_weights_of_8_bits_are_expanded_at_load(folder: Path, tmp_path: Path) -> None:
    graph, audit = made("transformer", folder, tmp_path / "model.tflite", "int8_weights", **PACKED)
    assert set(weight_dtypes(graph).values()) == {"INT8"}
    assert {layer.precision for layer in audit.layers} == {"fp32"}
    assert "a scale for each output channel, not for each block of 32 weights" in audit.notes
    task = tiny_task("transformer")
    assert agreement(tmp_path / "model.tflite", task, task.model()) > 40


def test_weights_of_4_bits_are_of_linear_layers_with_whole_bytes(folder: Path, tmp_path: Path) -> None:
    graph, audit = made("two_outputs", folder, tmp_path / "model.tflite", "int4_weights", **PACKED)
    found = weight_dtypes(graph)
    assert found == {"conv": "FLOAT32", "side": "FLOAT32", "joint": "INT4", "classify": "INT4", "measure": "INT4"}
    assert {layer.precision for layer in audit.layers} == {"fp32", LOW_BIT_WEIGHTS}
    assert any("no multiple of 32" in note and note.startswith("joint") for note in audit.notes)
    assert any("even number of inputs" in note and note.endswith("side") for note in audit.notes)


def test_nothing_to_quantize_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no layer can be quantized \(conv1: .*; use fp32") as caught:
        made("conv_only", folder, tmp_path / "model.tflite", "int4_weights", **PACKED)
    assert caught.value.stage == "compile"


@pytest.mark.parametrize("precision", ["bf16", "int3"])
def test_unknown_precisions_are_refused(precision: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=precision):
        made("conv_only", folder, tmp_path / "model.tflite", precision)


def test_calibration_problems_are_named(folder: Path, tmp_path: Path) -> None:
    source = source_of("conv_only", folder, "int8_static", **STATIC)
    with pytest.raises(StageError, match="needs a calibration set"):
        write_tflite(replace(source, calibration=None), tmp_path / "model.tflite")
    for name, rows, words in (
        ("picture", np.zeros((4, 1, 8, 8), np.float32), "picture"),
        ("image", np.zeros((0, 1, 8, 8), np.float32), "no rows"),
        ("image", np.full((4, 1, 8, 8), np.nan, np.float32), "NaN"),
    ):
        other = tmp_path / words
        other.mkdir()
        np.save(other / f"{name}.npy", rows)
        with pytest.raises(StageError, match=words):
            write_tflite(replace(source, calibration=other), tmp_path / "model.tflite")


def test_ranges_are_those_of_all_rows(folder: Path) -> None:
    content = float_tflite(source_of("conv_only", folder, "fp32").model, "nchw")
    random = np.random.default_rng(1)
    rows = random.normal(size=(5, 1, 8, 8)).astype(np.float32)
    # The last call is half of it filled up.
    found = collect_ranges(content, {"image": rows}, 2, "minmax")
    assert found["image"] == (float(rows.min()), float(rows.max()))
    many = random.normal(size=(512, 1, 8, 8)).astype(np.float32)
    many[7, 0, 0, 0] = 1000.0
    low, high = collect_ranges(content, {"image": many}, 2, "percentile")["image"]
    # The one outlier is less than 0.01 % of the values, and the range is of whole bins.
    assert low < -3 and high < 10
    assert METHODS == ("minmax", "percentile")
    with pytest.raises(StageError, match="entropy"):
        collect_ranges(content, {"image": rows}, 2, "entropy")


def test_gptq_is_refused_before_any_work() -> None:
    target = Target("t", "litert", {"fp32": Precision(), "int4_weights": Precision()})

    def refused(**settings: Any) -> str:
        return LiteRt().refuses(Recipe((StageSpec.of("quantize", settings),)), target)

    assert "gptq" in refused(scheme="int4_weights", rounding="gptq")
    assert not refused(scheme="int4_weights", rounding="nearest")
    assert not LiteRt().refuses(Recipe(), target)


def test_channels_last_takes_the_tasks_arrays(folder: Path, tmp_path: Path) -> None:
    source = replace(source_of("cnn", folder, "int8_static", **STATIC), options={"layout": "nhwc"})
    write_tflite(source, tmp_path / "last.tflite")
    task = tiny_task("cnn")
    assert agreement(tmp_path / "last.tflite", task, task.model(), "nhwc") > 40
    session = LiteRtSession(tmp_path / "last.tflite", 1, "nhwc")
    with pytest.raises(ValueError, match=r"\[2, 8, 8, 1\]; the model takes \[2, 1, 8, 8\]"):
        session.run({"image": np.zeros((2, 8, 8, 1), np.float32)})
    session.timed({"image": task.val.inputs["image"][:2]})()
