"""Weights of 7 bits: exact where 8-bit sums overflow, asked for by what the runtime reports, said to the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoshrink.backends import get_backend
from autoshrink.backends.base import INT8_SATURATES, Source
from autoshrink.cache import StageCache
from autoshrink.config import load_target
from autoshrink.errors import ConfigError
from autoshrink.measure.environment import int8_sums_saturate
from autoshrink.onnx_graph import quiet_session
from autoshrink.pipeline import Pipeline
from autoshrink.search.weight_range import narrowed, with_exact_sums
from autoshrink.target import Precision, Target
from autoshrink.techniques.base import Context
from autoshrink.techniques.onnx_int8 import Grid, quantize_dynamic
from autoshrink.techniques.qat import Qat
from autoshrink.types import Choice, Recipe, Space, StageSpec
from tests.processors import SATURATES
from tests.small_models import tiny_task

Array = npt.NDArray[np.generic]

MILAN = "fpu sse2 ssse3 sse4_1 avx avx2 fma"
CASES = [
    ("x86_64", MILAN, True),
    ("x86_64", "fpu sse2 ssse3", True),
    ("x86_64", f"{MILAN} avx512f avx512bw avx512vl", True),
    ("x86_64", f"{MILAN} avx512f avx512_vnni", False),
    ("x86_64", f"{MILAN} avx_vnni", False),
    ("AMD64", f"{MILAN} avx_vnni_int8", True),
    ("aarch64", "", False),
    ("riscv64", MILAN, False),
]
ROWS, DEPTH, COLUMNS = 4, 64, 16
TARGET = Target(
    "t",
    "onnxruntime",
    {
        "fp32": Precision(),
        "fp16": Precision(kernels="storage"),
        "int8_static": Precision(operators=("Conv", "Gemm", "MatMul")),
        "int8_dynamic": Precision(operators=("Gemm", "MatMul"), weight_bits=8),
        "int8_weights": Precision(operators=("Gemm", "MatMul")),
    },
)
LACKING = frozenset({INT8_SATURATES})


@pytest.mark.parametrize(("architecture", "flags", "expected"), CASES)
def test_capability_from_cpuinfo(architecture: str, flags: str, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: One\nflags\t\t: {flags}\nbugs\t\t: avx_vnni\n")
    assert int8_sums_saturate(cpuinfo, architecture) is expected


def test_x86_without_flags_is_taken_to_overflow(tmp_path: Path) -> None:
    assert int8_sums_saturate(tmp_path / "none", "x86_64")
    assert not int8_sums_saturate(tmp_path / "none", "arm64")


def samples(largest: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """uint8 [rows, depth], int8 [depth, columns] up to `largest` with both extremes, and their exact product."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (ROWS, DEPTH))
    w = random.integers(-largest, largest + 1, (DEPTH, COLUMNS))
    x[0], w[:, 0], w[:, 1] = 255, largest, -largest
    return x.astype(np.uint8), w.astype(np.int8), x @ w


def integer_product(w: Array) -> bytes:
    """Y int32 = x uint8 times `w`."""
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [ROWS, DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [ROWS, COLUMNS])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()  # type: ignore[no-any-return]


def test_7_bits_are_exact_on_this_processor_and_8_as_it_says() -> None:
    for largest in (64, 127):
        x, w, expected = samples(largest)
        (found,) = quiet_session(integer_product(w)).run(None, {"x": x})
        is_exact = np.array_equal(found, expected)
        assert is_exact == (largest == 64 or not SATURATES), largest


def dequantized(x: Array, w: Array, convolution: bool) -> onnx.ModelProto:
    """A layer between Q and DQ whose steps are 1: x float32 [rows, depth, ...], whole numbers of a uint8."""
    arrays = {"one": np.float32(1), "zero": np.uint8(0), "steps": np.ones(COLUMNS, np.float32), "w": w}
    arrays["zeros"] = np.zeros(COLUMNS, np.int8)
    operator, axis = ("Conv", 0) if convolution else ("MatMul", 1)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "steps", "zeros"], ["v"], axis=axis),
        helper.make_node(operator, ["d", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, COLUMNS, *x.shape[2:]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("convolution", [True, False])
def test_openvino_is_exact_with_7_bits_and_with_8_as_it_says(convolution: bool, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    backend = get_backend("openvino")
    assert (INT8_SATURATES in backend.capabilities()) == SATURATES
    for largest in (64, 127):
        x, w, expected = samples(largest)
        rows = x.astype(np.float32)
        if convolution:
            rows, w = rows[:, :, None, None], np.ascontiguousarray(w.T)[:, :, None, None]
        onnx.save(dequantized(rows, w, convolution), tmp_path / "m.onnx")
        folder = tmp_path / str(largest)
        files = backend.compile(Source(tmp_path / "m.onnx", "int8_static"), folder).files
        session = backend.load(folder, files, "int8_static", 1)
        assert session.audit().int8_layers == 1
        is_exact = np.array_equal(session.run({"x": rows})["y"].reshape(ROWS, COLUMNS), expected)
        assert is_exact == (largest == 64 or not SATURATES), largest


def test_dynamic_weights_of_7_bits_lie_within_64(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(DEPTH, COLUMNS)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, COLUMNS])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    for bits, end in ((7, 64), (8, 127)):
        found = quantize_dynamic(model, Grid(("MatMul",), weight_bits=bits), tmp_path)
        integers = next(numpy_helper.to_array(each) for each in found.graph.initializer if "quantized" in each.name)
        assert integers.dtype == np.int8
        assert np.abs(integers.astype(int)).max() == end


def test_a_target_is_changed_where_its_runtime_says_so() -> None:
    assert with_exact_sums(TARGET, frozenset({"INT8"})) is TARGET
    adapted = with_exact_sums(TARGET, LACKING)
    bits = {str(name): precision.weight_bits for name, precision in adapted.precisions.items()}
    # What a profile says stays.
    assert bits == {"fp32": None, "fp16": None, "int8_static": 7, "int8_dynamic": 8, "int8_weights": None}
    assert replace(adapted, precisions=TARGET.precisions) == TARGET


def test_a_user_is_told_where_the_space_has_it() -> None:
    given = replace(TARGET, precisions={**TARGET.precisions, "int8_dynamic": Precision(operators=("MatMul",))})
    adapted = with_exact_sums(given, LACKING)

    def told(**techniques: dict[str, Choice]) -> str:
        return narrowed(given, adapted, Space("s", techniques))

    assert told(quantize={"scheme": Choice(("fp32", "int8_static", "int8_dynamic"))}) == "int8_static, int8_dynamic"
    assert told(quantize={"scheme": Choice(("int8_dynamic",))}) == "int8_dynamic"
    assert told(quantize={"samples": Choice((64,))}) == told(qat={}) == "int8_static"
    assert told(quantize={"scheme": Choice(("fp16", "int8_weights"))}) == told(prune={}) == ""
    assert narrowed(given, given, Space("s", {"qat": {}})) == ""


def test_stages_of_two_weight_ranges_are_apart_and_others_are_shared(tmp_path: Path) -> None:
    task = tiny_task("conv_only")
    pipeline = Pipeline(task, StageCache(tmp_path), 0)
    adapted = with_exact_sums(TARGET, LACKING)
    for scheme, is_shared in (("int8_static", False), ("fp16", True)):
        recipe = Recipe((StageSpec.of("quantize", {"scheme": scheme}),))
        keys = {pipeline.run(recipe, target, lambda *_: None).key for target in (TARGET, adapted)}
        assert (len(keys) == 1) == is_shared


def test_qat_trains_no_more_than_7_bits() -> None:
    task, technique = tiny_task("conv_only"), Qat()
    adapted = with_exact_sums(TARGET, LACKING)
    for settings, expected in (({"weight_bits": 8}, {7}), ({"allocation": "mixed", "average_bits": 8.0}, {7})):
        resolved = technique.resolve({**settings, "epochs": 0.05}, adapted)
        model, structure = technique.apply(task.model(), resolved, Context(task, task.model))
        assert set(structure["bits"].values()) == expected
        assert {part.high for part in model.modules() if hasattr(part, "calibrated") and part.bits == 7} == {63}


def test_only_x86_runtimes_report_it() -> None:
    for name in ("litert", "executorch", "coreml", "microcontroller"):
        assert INT8_SATURATES not in get_backend(name).capabilities()


def test_weight_bits_of_a_backend_that_quantizes_by_itself_are_refused(tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text(
        "name: p\nbackend: litert\nprecisions: {fp32: {}, int8_static: {operators: [Conv], weight_bits: 7}}\n"
    )
    with pytest.raises(ConfigError, match=r"p.yaml:precisions.int8_static.weight_bits: litert quantizes by itself"):
        load_target(str(profile))
