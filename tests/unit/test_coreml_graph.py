"""Programs on their way into Core ML: grids that training left, calibration, rounding, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends.base import Compiled, Source
from autoshrink.backends.coreml import CoreMl
from autoshrink.backends.coreml_calibrate import Watch
from autoshrink.backends.coreml_graph import Prepared, fitting_block
from autoshrink.backends.coreml_package import PACKAGE, identifiers, read_program, signature_of
from autoshrink.config import load_target
from autoshrink.errors import StageError
from autoshrink.program import write_program
from autoshrink.task import Task, call
from autoshrink.techniques.cluster import codebook_of
from autoshrink.techniques.fold_norms import fold_norms
from autoshrink.techniques.onnx_int8 import Grid
from autoshrink.techniques.quantized_graph import FloatGraph, add_quantizers, initialise, round_biases
from autoshrink.tensors import as_tensors
from autoshrink.types import LOW_BIT_WEIGHTS, Recipe, StageSpec
from tests.mil_reference import run_package
from tests.model_tasks import task_of
from tests.small_models import tiny_task

BATCH = 2
GRID = {"operators": ["Conv", "Gemm", "MatMul", "Add"], "activations": "uint8", "per_channel": True}
STATIC: Mapping[str, Any] = {"grid": GRID, "samples": 64, "calibration": "minmax", "keep_float": "none"}
WEIGHTS: Mapping[str, Any] = {"operators": ["Conv", "Gemm", "MatMul"], "block": 32, "rounding": "nearest"}


def source_of(
    model: nn.Module, task: Task, folder: Path, precision: str, settings: Mapping[str, Any], **options: Any
) -> Source:
    folder.mkdir(parents=True, exist_ok=True)
    write_program(model, task, BATCH, folder / "model.pt2")
    for name, array in task.calibration.items():
        np.save(folder / f"{name}.npy", array)
    return Source(folder / "model.pt2", precision, settings=settings, calibration=folder, batch=BATCH, options=options)


def compiled(source: Source, folder: Path) -> Compiled:
    return CoreMl().compile(source, folder)


def agreement(model: nn.Module, task: Task, folder: Path) -> float:
    """Least agreement of an output of the package with the torch model, decibel."""
    inputs = {name: array[:BATCH] for name, array in task.val.inputs.items()}
    with torch.no_grad():
        expected = call(model, as_tensors(inputs), tuple(task.outputs))
    found = run_package(folder / PACKAGE, inputs)
    return min(sqnr_db(value.numpy(), found[name]) for name, value in expected.items())


def trained(bits: int, activation_bits: int = 8) -> nn.Module:
    """The small CNN with quantizers, as quantization-aware training begins: 8 bits at both ends."""
    task = tiny_task("cnn")
    graph = FloatGraph(task.model(), task, "qat")
    layers = [layer.weight for layer in graph.layers()[0]]
    widths = dict.fromkeys(layers, bits) | {layers[0]: 8, layers[-1]: 8}
    module = add_quantizers(graph, widths, activation_bits, Grid((), "uint8", True), True)
    with torch.no_grad():
        initialise(module, lambda observed: call(observed, as_tensors(task.calibration), ("logits",)))
    round_biases(module)
    return module.eval()


@pytest.mark.parametrize(
    ("bits", "words", "precision"),
    [
        (8, "int8", "int8"),
        (6, "table of 2^6 values", "fp16"),
        (5, "table of 2^6 values", "fp16"),
        (4, "int4", LOW_BIT_WEIGHTS),
        (3, "table of 2^3 values", "fp16"),
        (2, "table of 2^2 values", "fp16"),
    ],
)
def test_trained_grids_are_stored_exactly(bits: int, words: str, precision: str, tmp_path: Path) -> None:
    model = trained(bits)
    made = compiled(source_of(model, tiny_task("cnn"), tmp_path, "int8_static", {}), tmp_path / "out")
    audit = made.audit
    assert audit is not None
    found = {layer.name: layer.precision for layer in audit.layers}
    assert found == {"stem": "int8", "conv1": precision, "conv2": precision, "head": "int8"}
    assert any(f"stored as {words}: " in note and "conv1, conv2" in note for note in audit.notes)
    assert any("5-bit weights lie in 6 bits: conv1, conv2" in note for note in audit.notes) == (bits == 5)
    assert any("low_bit_weights" in note for note in audit.notes) == (bits < 8)
    assert made.figures["weight_agreement"].value == 200
    assert agreement(model, tiny_task("cnn"), tmp_path / "out") > 30


def test_low_bit_weights_may_keep_a_byte_each_for_8_bit_arithmetic(tmp_path: Path) -> None:
    source = source_of(trained(4), tiny_task("cnn"), tmp_path, "int8_static", {}, low_bit_weights="int8")
    audit = compiled(source, tmp_path / "out").audit
    assert audit is not None
    assert {layer.precision for layer in audit.layers} == {"int8"}
    assert "4-bit weights lie in 8 bits: conv1, conv2" in audit.notes


def test_activations_of_fewer_bits_are_clipped(tmp_path: Path) -> None:
    model = trained(8, 4)
    audit = compiled(source_of(model, tiny_task("cnn"), tmp_path, "int8_static", {}), tmp_path / "out").audit
    assert audit is not None
    assert any("activations of 4 bits are clipped" in note for note in audit.notes)
    assert agreement(model, tiny_task("cnn"), tmp_path / "out") > 30


def changed(task: Task, change: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """The model with other weights in its inner layers, norms folded as the techniques do."""
    model = fold_norms(task.model(), task)[0].eval()
    with torch.no_grad():
        for name in ("conv1", "conv2"):
            weight = model.get_submodule(name).get_parameter("weight")
            weight.copy_(change(weight))
    return model


def few(weight: torch.Tensor) -> torch.Tensor:
    values, indices = codebook_of(weight.numpy().reshape(-1), 16)
    return torch.from_numpy(values[indices].reshape(weight.shape))


def sparse(weight: torch.Tensor) -> torch.Tensor:
    return torch.where(weight.abs() < weight.abs().quantile(0.8), 0.0, weight)


@pytest.mark.parametrize(
    ("change", "precision", "words"),
    [
        (few, "fp32", "table of 2^4 values"),
        (few, "fp16", "table of 2^4 values"),
        (few, "int8_static", "table of 2^4 values"),
        (sparse, "fp16", "sparse float"),
        (sparse, "int8_static", "sparse int8"),
        (lambda weight: few(sparse(weight)), "fp16", "sparse table of 2^4 values"),
    ],
)
def test_few_values_and_zeros_are_stored_as_such(
    change: Callable[[torch.Tensor], torch.Tensor], precision: str, words: str, tmp_path: Path
) -> None:
    task = tiny_task("cnn")
    model = changed(task, change)
    settings = STATIC if precision == "int8_static" else {}
    made = compiled(source_of(model, task, tmp_path, precision, settings), tmp_path / "out")
    assert made.audit is not None
    assert any(f"stored as {words}: conv1, conv2" in note for note in made.audit.notes)
    assert agreement(model, task, tmp_path / "out") > {"fp32": 120, "fp16": 55, "int8_static": 30}[precision]


@pytest.mark.parametrize("name", ["transformer", "two_outputs", "grouped", "tied"])
@pytest.mark.parametrize("precision", ["fp16", "int8_static"])
def test_models_agree_with_torch(name: str, precision: str, tmp_path: Path) -> None:
    task = tiny_task(name)
    settings = STATIC if precision == "int8_static" else {}
    compiled(source_of(task.model(), task, tmp_path, precision, settings), tmp_path / "out")
    assert agreement(task.model(), task, tmp_path / "out") > (55 if precision == "fp16" else 30)


def test_weights_alone_are_rounded_by_block_and_gptq_is_nearer_than_nearest(tmp_path: Path) -> None:
    task = tiny_task("cnn")
    found = {}
    for rounding in ("nearest", "gptq"):
        source = source_of(task.model(), task, tmp_path / rounding, "int4_weights", {**WEIGHTS, "rounding": rounding})
        made = compiled(source, tmp_path / rounding / "out")
        assert made.audit is not None
        # What is too small to gain stays float.
        kinds = {layer.name: layer.precision for layer in made.audit.layers}
        assert kinds == {"stem": "fp16", "conv1": LOW_BIT_WEIGHTS, "conv2": LOW_BIT_WEIGHTS, "head": "fp16"}
        found[rounding] = agreement(task.model(), task, tmp_path / rounding / "out")
    assert 15 < found["nearest"] < found["gptq"]


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    task = tiny_task("cnn")
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        made = compiled(source_of(task.model(), task, tmp_path, "int8_static", STATIC), folder)
    assert made.files[0] == f"{PACKAGE}/Manifest.json"
    assert len(made.files) == 3
    for name in made.files:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_names_that_are_no_identifiers_come_back(tmp_path: Path) -> None:
    assert identifiers(["a.b", "a b", "1st", "ä"]) == {"a.b": "a_b", "a b": "a_b_", "1st": "port_1st", "ä": "port__"}
    task = task_of(nn.Linear(4, 3), ("out put.1",), **{"in.put": np.zeros((1, 4), np.float32)})
    compiled(source_of(task.model(), task, tmp_path, "fp32", {}), tmp_path / "out")
    signature = signature_of(read_program(tmp_path / "out" / PACKAGE))
    assert [(port.name, port.port) for port in (*signature.inputs, *signature.outputs)] == [
        ("in.put", "in_put"),
        ("out put.1", "out_put_1"),
    ]
    assert agreement(task.model(), task, tmp_path / "out") > 120


def test_a_weight_that_float16_cannot_hold_is_named(tmp_path: Path) -> None:
    layer = nn.Linear(4, 3)
    nn.init.constant_(layer.weight, 1e5)
    task = task_of(nn.Sequential(layer), x=np.zeros((1, 4), np.float32))
    with pytest.raises(StageError, match="a weight of 0 is 100000 at the most; float16 ends at 65504") as caught:
        compiled(source_of(task.model(), task, tmp_path, "fp16", {}), tmp_path / "out")
    assert caught.value.stage == "compile"
    compiled(source_of(task.model(), task, tmp_path, "fp32", {}), tmp_path / "out")


def test_outputs_that_core_ml_cannot_give_are_named(tmp_path: Path) -> None:
    class Sign(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x > 0

    task = task_of(Sign(), x=np.zeros((1, 4), np.float32))
    with pytest.raises(StageError, match="'y' is bool; Core ML takes and gives float32 and int32"):
        compiled(source_of(task.model(), task, tmp_path, "fp32", {}), tmp_path / "out")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "image.npy").unlink(), r"image\.npy of the calibration set cannot be read"),
        (lambda folder: np.save(folder / "image.npy", np.zeros((3, 5), np.float32)), r"shape \[3, 5\]; it must be"),
        (
            lambda folder: np.save(folder / "image.npy", np.full((4, 1, 8, 8), np.nan, np.float32)),
            "nan on the calibration set; 8 bits cannot span it",
        ),
    ],
)
def test_a_calibration_set_that_does_not_fit_is_named(
    spoil: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    task = tiny_task("cnn")
    source = source_of(task.model(), task, tmp_path, "int8_static", STATIC)
    spoil(tmp_path)
    with pytest.raises(StageError, match=words):
        Prepared(source)


def test_nothing_to_quantize_is_an_error(tmp_path: Path) -> None:
    task = tiny_task("conv_only")
    source = source_of(task.model(), task, tmp_path, "int8_static", {**STATIC, "grid": {**GRID, "operators": ["Gemm"]}})
    with pytest.raises(StageError, match="no Gemm that could be quantized"):
        Prepared(source)


def test_ranges() -> None:
    watch = Watch("x", signed=False)
    for values in ([0.5, 1.0], [-1.0, 3.0]):
        np.testing.assert_array_equal(watch(torch.tensor(values)), values)
    # -1 to 3 in 255 steps; 0 lies on step 63.75, so on 64.
    assert watch.grid().scale == (4 / 255,)
    assert (watch.grid().zero_point, watch.grid().low, watch.grid().high) == ((64,), 0, 255)
    watch.signed = True
    assert (watch.grid().scale, watch.grid().zero_point, watch.grid().low) == ((3 / 127,), (0,), -128)


@pytest.mark.parametrize(
    ("inputs", "block", "expected"), [(64, 32, 32), (24, 32, 24), (272, 32, 17), (37, 32, 37), (5, 32, 5), (80, 64, 40)]
)
def test_a_block_divides_the_inputs(inputs: int, block: int, expected: int) -> None:
    assert fitting_block(inputs, block) == expected


def test_the_profile_and_what_is_refused() -> None:
    target = load_target("coreml-iphone")
    backend = CoreMl()
    assert set(target.options) == set(backend.options)

    def recipe(scheme: str) -> Recipe:
        return Recipe((StageSpec.of("quantize", {"scheme": scheme}),))

    assert not any(backend.refuses(recipe(str(name)), target) for name in target.precisions)
    assert "Core ML has no int8_dynamic" in backend.refuses(recipe("int8_dynamic"), target)
    older = replace(target, options={**target.options, "minimum_ios": 17})
    assert "minimum_ios" in backend.refuses(recipe("int4_weights"), older)
    assert not backend.refuses(recipe("int8_weights"), older)
