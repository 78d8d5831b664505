"""Each rule of the lint, and that the real parser or builder refuses just that graph and takes the mended one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autoshrink.backends.tensorrt_graph import prepare
from autoshrink.backends.tensorrt_lint import RULES, lint
from tests import onnx_files, tensorrt_files
from tests.tensorrt_files import (
    INNER,
    OUTER,
    ROWS,
    ends,
    integers,
    low_bit_product,
    model_of,
    quantized_product,
    random,
    real_verdicts,
)

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu12 is not installed: its parser cannot be asked")

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
SYMMETRIC = quantized_product(np.int8(0))


def product(kind: int = FLOAT) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], "product")
    return model_of([node], {"weight": random(INNER, OUTER).astype(helper.tensor_dtype_to_np_dtype(kind))}, *ends(kind))


def bias(is_float: bool) -> onnx.ModelProto:
    nodes = [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], "product")]
    tensors = {"weight": random(INNER, OUTER), "bias": random(OUTER)}
    if not is_float:
        nodes.insert(0, helper.make_node("DequantizeLinear", ["b", "scale"], ["bias"], "dequantize"))
        tensors = {"weight": random(INNER, OUTER), "b": np.arange(OUTER, dtype=np.int32), "scale": np.float32(0.1)}
    return model_of(nodes, tensors, *ends())


def sum_of(kind: str) -> onnx.ModelProto:
    node = helper.make_node("Add", ["x", "constant"], ["y"], "sum")
    port = [ROWS, INNER]
    return model_of([node], {"constant": random(INNER).astype(kind)}, [("x", FLOAT, port)], [("y", FLOAT, port)])


def integer(operator: str) -> onnx.ModelProto:
    """One integer operator, named `integer`, between inputs and outputs of its own types."""
    int8, uint8, int32 = TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32
    grid = {"s": np.float32(0.1), "z": np.int8(0)}
    quantized = ["q", "s", "z", "w", "s", "z", "s", "z"]
    image, map_ = [ROWS, 4, 8, 8], [ROWS, 8, 6, 6]
    kernel, weight = integers(8, 4, 3, 3), integers(INNER, OUTER)
    inputs, tensors, source, result = {
        "QLinearConv": (quantized, {**grid, "w": kernel}, (int8, image), (int8, map_)),
        "QLinearMatMul": (quantized, {**grid, "w": weight}, (int8, [ROWS, INNER]), (int8, [ROWS, OUTER])),
        "ConvInteger": (["q", "w"], {"w": integers(8, 4, 3, 3, kind="uint8")}, (uint8, image), (int32, map_)),
        "MatMulInteger": (["q", "w"], {"w": weight}, (int8, [ROWS, INNER]), (int32, [ROWS, OUTER])),
    }[operator]
    node = helper.make_node(operator, inputs, ["y"], "integer")
    return model_of([node], dict(tensors), [("q", *source)], [("y", *result)])


def dynamic() -> onnx.ModelProto:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"], "integer")
    outputs = [("y", TensorProto.UINT8, [ROWS, INNER]), ("s", FLOAT, []), ("z", TensorProto.UINT8, [])]
    return model_of([node], {}, [("x", FLOAT, [ROWS, INNER])], outputs)


def fp8() -> onnx.ModelProto:
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
    nodes = [
        helper.make_node(operator, [value, "scale", "zero"], [result], f"{operator}/{value}")
        for operator, value, result in (
            ("QuantizeLinear", "x", "x.q"),
            ("DequantizeLinear", "x.q", "x.dq"),
            ("QuantizeLinear", "weight", "weight.q"),
            ("DequantizeLinear", "weight.q", "weight.dq"),
        )
    ]
    nodes.append(helper.make_node("MatMul", ["x.dq", "weight.dq"], ["y"], "product"))
    return model_of(nodes, {"scale": np.float32(0.1), "zero": zero, "weight": random(INNER, OUTER)}, *ends())


def int4() -> onnx.ModelProto:
    model, _ = prepare(low_bit_product(4, False), "fp16")
    return model


def uint8_weights() -> onnx.ModelProto:
    return quantized_product(np.int8(0), weight=integers(INNER, OUTER, kind="uint8"))


def blocks() -> onnx.ModelProto:
    return prepare(low_bit_product(4, True), "int4_weights")[0]


@dataclass(frozen=True)
class Case:
    """A faulty graph and the mended one; `says` is of TensorRT, `node` of the lint."""

    code: str
    node: str
    says: str
    faulty: Callable[[], onnx.ModelProto]
    mended: Callable[[], onnx.ModelProto]
    capability: str = "SM89"
    mended_capability: str = ""


CASES = {
    "int32_bias": Case(
        "int32-dequantize", "dequantize", "input has type Int32", lambda: bias(False), lambda: bias(True)
    ),
    "int8_zero_point": Case(
        "zero-point", "quantize", "Non-zero zero point", lambda: quantized_product(np.int8(3)), lambda: SYMMETRIC
    ),
    "uint8_zero_point": Case(
        "zero-point", "quantize", "Non-zero zero point", lambda: quantized_product(np.uint8(128)), lambda: SYMMETRIC
    ),
    "uint8_weights": Case("uint8-grid", "weights", "UINT8", uint8_weights, lambda: SYMMETRIC),
    "int16": Case(
        "integer-width", "quantize", "Failed to import", lambda: quantized_product(np.int16(0)), lambda: SYMMETRIC
    ),
    "scale": Case(
        "scale", "quantize", "must all be positive", lambda: quantized_product(np.int8(0), 0.0), lambda: SYMMETRIC
    ),
    "mixed": Case(
        "mixed-types", "sum", "must have same input types", lambda: sum_of("float16"), lambda: sum_of("float32")
    ),
    **{
        operator: Case("integer-operator", "integer", operator, lambda name=operator: integer(name), lambda: SYMMETRIC)
        for operator in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
    },
    "DynamicQuantizeLinear": Case("integer-operator", "integer", "DynamicQuantizeLinear", dynamic, lambda: SYMMETRIC),
    "MatMulNBits": Case("foreign-operator", "product", "product", lambda: low_bit_product(4, True), blocks),
    "fp8": Case("hardware-type", "DequantizeLinear/x.q", "fp8_e4m3", fp8, fp8, "SM86", "SM89"),
    "int4": Case("hardware-type", "product/Dequantize", "int4", int4, int4, "SM75", "SM80"),
    "bf16": Case(
        "hardware-type",
        "product",
        "b16",
        lambda: prepare(product(), "bf16")[0],
        lambda: prepare(product(), "bf16")[0],
        "SM75",
        "SM80",
    ),
    "fp32_on_turing": Case(
        "turing-product", "product", "FP32 GEMM is not supported", product, lambda: product(HALF), "SM75"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_lint_finds_the_real_one_refuses(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    faulty, mended = case.faulty(), case.mended()
    mended_for = case.mended_capability or case.capability
    found = lint(faulty, case.capability)
    assert {finding.code for finding in found} == {case.code}
    assert case.node in [finding.node for finding in found]
    assert all(finding.reason and finding.way_out for finding in found)
    assert lint(mended, mended_for) == []
    if mended_for == case.capability:
        (taken, _), (refused, _) = real_verdicts(tmp_path, case.capability, mended, faulty)
    else:
        ((taken, _),) = real_verdicts(tmp_path, mended_for, mended)
        ((refused, _),) = real_verdicts(tmp_path, case.capability, faulty)
    assert taken == ""
    assert case.says in refused
    assert "\n" not in refused


def test_uint8_from_zero_is_read_as_int8_with_a_warning_only(tmp_path: Path) -> None:
    faulty = quantized_product(np.uint8(0))
    found = lint(faulty, "SM89")
    assert [(finding.code, finding.node) for finding in found] == [("uint8-grid", "quantize")]
    (taken, quiet), (misread, warnings) = real_verdicts(tmp_path, "SM89", prepare(faulty, "int8_static")[0], faulty)
    assert taken == misread == ""
    assert quiet == []
    assert any("Defaulting to INT8" in warning for warning in warnings)


def test_every_rule_has_a_case() -> None:
    assert {case.code for case in CASES.values()} == set(RULES)


def test_every_fault_is_named_at_once() -> None:
    model = quantized_product(np.int8(3), 0.0)
    assert [finding.code for finding in lint(model)] == ["zero-point", "scale"]
    assert str(lint(model)[0]).startswith("quantize: its zero point is 3, ")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8_static"])
def test_polygraphy_finds_nothing_in_what_is_parsed(precision: str, tmp_path: Path) -> None:
    """Its type checks, by ONNX Runtime and onnx-graphsurgeon, are not ours."""
    polygraphy = Path(sys.executable).with_name("polygraphy")
    if not polygraphy.exists():
        pytest.skip("polygraphy is not installed: its lint cannot be asked")
    write = tensorrt_files.cnn_int8 if precision == "int8_static" else onnx_files.cnn
    write(tmp_path / "model.onnx")
    prepared, _ = prepare(onnx.load(str(tmp_path / "model.onnx")), precision)
    onnx.save(prepared, str(tmp_path / "prepared.onnx"))
    asked = [str(polygraphy), "check", "lint", str(tmp_path / "prepared.onnx"), "-o", str(tmp_path / "report.json")]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "PASSED" in done.stdout
