"""What the rewrites for TensorRT keep, by ONNX Runtime and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoshrink.backends import tensorrt_graph
from autoshrink.backends.tensorrt_graph import prepare, weight_bytes
from autoshrink.backends.tensorrt_half import compute_in
from autoshrink.backends.tensorrt_lint import constants_of, lint, types_of
from autoshrink.errors import StageError
from autoshrink.onnx_packing import is_packed, pack_weights
from tests import onnx_files, tensorrt_files
from tests.onnx_files import BATCH
from tests.tensorrt_files import (
    INNER,
    OUTER,
    ROWS,
    Array,
    ends,
    low_bit_product,
    model_of,
    quantized_product,
    random,
)

FLOAT = TensorProto.FLOAT


def outputs(model: onnx.ModelProto, **inputs: Array) -> list[Array]:
    """Node by node, as the file says: nothing is fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    tensorrt_files.cnn_int8(path)
    return onnx.load(str(path))


def test_our_int8_file_becomes_one_without_faults(int8: onnx.ModelProto) -> None:
    before = int8.SerializeToString()
    assert {finding.code for finding in lint(int8)} == {"int32-dequantize"}
    prepared, notes = prepare(int8, "int8_static")
    assert int8.SerializeToString() == before
    assert lint(prepared) == []
    assert notes == ()
    assert [value.name for value in prepared.graph.output] == ["logits"]
    onnx.checker.check_model(prepared, full_check=True)


def test_only_roundings_between_a_sum_and_its_rectifier_or_the_end_go(int8: onnx.ModelProto) -> None:
    graph = prepare(int8, "int8_static")[0].graph
    made = {name: node for node in graph.node for name in node.output}
    assert [made[node.input[0]].op_type for node in graph.node if node.op_type == "Relu"] == ["Conv", "Conv"]
    assert made["logits"].op_type == "Gemm"
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 3
    assert all(made[name].op_type == "DequantizeLinear" for node in layers for name in node.input[:2])


def test_int8_computes_the_same_but_for_the_roundings(int8: onnx.ModelProto) -> None:
    image = onnx_files.image(1)
    (before,), (after,) = outputs(int8, image=image), outputs(prepare(int8, "int8_static")[0], image=image)
    error = np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))
    assert 0 < error < 0.02


def test_a_rounding_that_another_layer_reads_stays() -> None:
    pair = [
        helper.make_node("MatMul", ["x", "weight"], ["sum"], "product"),
        helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantize"),
        helper.make_node("Relu", ["d"], ["r"], "relu"),
    ]
    tensors = {"weight": random(INNER, OUTER), "scale": np.float32(0.1), "zero": np.int8(0)}
    alone = model_of([*pair, helper.make_node("Neg", ["r"], ["y"])], dict(tensors), *ends())
    shared = model_of([*pair, helper.make_node("Add", ["r", "d"], ["y"])], dict(tensors), *ends())
    assert operators(prepare(alone, "int8_static")[0]) == ["MatMul", "Relu", "Neg"]
    assert operators(prepare(shared, "int8_static")[0]) == operators(shared)


def test_an_output_keeps_its_name_when_its_rounding_goes() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["sum"], "product"),
        helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "dequantize"),
        helper.make_node("Relu", ["sum"], ["z"], "relu"),
    ]
    tensors = {"weight": random(INNER, OUTER), "scale": np.float32(0.1), "zero": np.int8(0)}
    inputs, results = ends()
    model = model_of(nodes, dict(tensors), inputs, [*results, ("z", FLOAT, [ROWS, OUTER])])
    prepared, _ = prepare(model, "int8_static")
    assert operators(prepared) == ["MatMul", "Relu"]
    x = random(ROWS, INNER, seed=3)
    y, z = outputs(prepared, x=x)
    np.testing.assert_allclose(y, x @ random(INNER, OUTER), atol=1e-4)
    np.testing.assert_array_equal(z, np.maximum(y, 0))


def test_int32_biases_become_the_floats_they_stand_for() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["b", "scale"], ["bias"], "dequantize", axis=0),
        helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], "product"),
    ]
    tensors = {
        "weight": random(INNER, OUTER),
        "b": np.arange(OUTER, dtype=np.int32) - 7,
        "scale": np.linspace(0.1, 1, OUTER, dtype=np.float32),
    }
    prepared, _ = prepare(model_of(nodes, dict(tensors), *ends()), "int8_static")
    assert operators(prepared) == ["Gemm"]
    expected = (tensors["b"] * tensors["scale"]).astype(np.float32)
    np.testing.assert_array_equal(constants_of(prepared.graph)["bias"], expected)


def test_a_uint8_grid_around_128_is_the_same_grid_in_int8() -> None:
    model = quantized_product(np.uint8(128))
    x = random(ROWS, INNER, seed=3)
    prepared, notes = prepare(model, "int8_static")
    assert lint(prepared) == [] and notes == ()
    np.testing.assert_array_equal(outputs(prepared, x=x), outputs(model, x=x))


def test_a_uint8_grid_from_zero_keeps_its_range_with_half_the_steps() -> None:
    model = quantized_product(np.uint8(0))
    prepared, notes = prepare(model, "int8_static")
    assert lint(prepared) == []
    assert len(notes) == 1 and notes[0].startswith("1 uint8 activations")
    quantize = prepared.graph.node[0]
    constants = constants_of(prepared.graph)
    np.testing.assert_allclose(constants[quantize.input[1]] * 127, 0.05 * 255, rtol=1e-6)
    x = np.full((ROWS, INNER), 0.05 * 255, np.float32)
    np.testing.assert_allclose(outputs(prepared, x=x)[0], outputs(model, x=x)[0], rtol=1e-5)


def test_an_asymmetric_grid_is_left_for_the_lint() -> None:
    prepared, _ = prepare(quantized_product(np.uint8(7)), "int8_static")
    assert [finding.code for finding in lint(prepared)] == ["zero-point"]


@pytest.mark.parametrize("is_int8", [False, True])
def test_packed_weights_are_unpacked_exactly(is_int8: bool) -> None:
    plain = onnx_files.few_values(is_int8)
    packed = onnx.ModelProto()
    packed.CopyFrom(plain)
    assert pack_weights(packed) > 0
    prepared, _ = prepare(packed, "int8_static" if is_int8 else "fp32")
    assert not is_packed(prepared)
    assert not {"Gather", "Reshape", "Slice", "Mod"} & set(operators(prepared))
    np.testing.assert_array_equal(constants_of(prepared.graph)["weight"], constants_of(plain.graph)["weight"])


def test_int4_weights_that_are_cast_at_load_become_int8() -> None:
    model = quantized_product(np.int8(0))
    values = np.random.default_rng(4).integers(-8, 8, (INNER, OUTER)).astype(np.int8)
    raw = values.reshape(-1).astype(np.uint8) & 0xF
    tensor = helper.make_tensor("w4", TensorProto.INT4, values.shape, (raw[::2] | raw[1::2] << 4).tobytes(), raw=True)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    weight.CopyFrom(tensor)
    model.graph.node.insert(0, helper.make_node("Cast", ["w4"], ["weight"], "widen", to=TensorProto.INT8))
    assert weight_bytes(model.graph) == INNER * OUTER // 2 + 4 + 1 + 4 * OUTER
    prepared, _ = prepare(model, "int8_static")
    np.testing.assert_array_equal(constants_of(prepared.graph)["weight"], values)
    assert weight_bytes(prepared.graph) == INNER * OUTER + 4 + 1 + 4 * OUTER


@pytest.mark.parametrize(
    ("bits", "with_zeros", "inputs", "rank"),
    [(4, True, INNER, 2), (4, False, INNER, 2), (8, True, INNER, 3), (4, True, 72, 3), (8, True, 40, 2)],
)
def test_low_bit_weights_multiply_as_their_codes_say(bits: int, with_zeros: bool, inputs: int, rank: int) -> None:
    model = low_bit_product(bits, with_zeros, inputs, rank)
    x = random(*[ROWS, 3, inputs][3 - rank :], seed=3)
    prepared, notes = prepare(model, f"int{bits}_weights")
    assert lint(prepared) == []
    assert bool(notes) == with_zeros
    constants = constants_of(model.graph)
    codes = constants["weight/codes"].reshape(OUTER, -1)
    if bits == 4:
        codes = np.stack([codes & 0xF, codes >> 4], -1).reshape(OUTER, -1)
    blocks = -(-inputs // 32)
    # The file holds them in float16, where that is exact, and widens them.
    stored = constants.get("weight/scales", constants.get("weight/scales/float16"))
    assert stored is not None
    zeros = np.full((OUTER, blocks), 2 ** (bits - 1))
    if with_zeros:
        zeros = constants["weight/zeros"].reshape(OUTER, -1)
        if bits == 4:
            zeros = np.stack([zeros & 0xF, zeros >> 4], -1).reshape(OUTER, -1)[:, :blocks]
    steps = codes.reshape(OUTER, blocks, 32).astype(np.float64) - zeros[..., None]
    weight = (steps * stored.reshape(OUTER, blocks, 1)).reshape(OUTER, -1)[:, :inputs]
    np.testing.assert_allclose(outputs(prepared, x=x)[0], x @ weight.T + constants["bias"], atol=2e-4)
    kinds = {tensor.name: tensor.data_type for tensor in prepared.graph.initializer}
    assert kinds["product/codes"] == (TensorProto.INT4 if bits == 4 else TensorProto.INT8)


def test_a_low_bit_layer_of_unknown_rank_is_refused() -> None:
    model = low_bit_product(4, True)
    model.graph.node.insert(0, helper.make_node("Nonsense", ["x"], ["unknown"], domain="example"))
    model.opset_import.append(helper.make_opsetid("example", 1))
    next(node for node in model.graph.node if node.op_type == "MatMulNBits").input[0] = "unknown"
    with pytest.raises(StageError, match="product: the rank of its input"):
        prepare(model, "int4_weights")


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_halves_from_end_to_end(precision: str, kind: int, tmp_path: Path) -> None:
    onnx_files.cnn(tmp_path / "cnn.onnx")
    model = onnx.load(str(tmp_path / "cnn.onnx"))
    prepared, _ = prepare(model, precision)
    # Of bfloat16 convolutions the standard knows since opset 22; TensorRT takes them in any.
    onnx.checker.check_model(prepared, full_check=precision == "fp16")
    types = types_of(prepared)
    assert {name for name, found in types.items() if found == FLOAT} == {"image", "logits"}
    assert {found for name, found in types.items() if name not in ("image", "logits")} == {kind}
    assert weight_bytes(prepared.graph) == weight_bytes(model.graph) / 2
    assert operators(prepared).count("Cast") == 2
    if precision == "fp16":
        image = onnx_files.image(1, BATCH)
        np.testing.assert_allclose(outputs(prepared, image=image)[0], outputs(model, image=image)[0], atol=0.02)


def test_half_storage_becomes_half_arithmetic(tmp_path: Path) -> None:
    from autoshrink.techniques.onnx_float16 import store_float16

    onnx_files.cnn(tmp_path / "cnn.onnx")
    model = onnx.load(str(tmp_path / "cnn.onnx"))
    store_float16(model)
    prepared, _ = prepare(model, "fp16")
    assert operators(prepared).count("Cast") == 2
    weight = next(tensor for tensor in prepared.graph.initializer if tensor.name == "conv2.weight")
    assert weight.data_type == TensorProto.FLOAT16
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "conv2.weight/float16")
    np.testing.assert_array_equal(numpy_helper.to_array(weight), numpy_helper.to_array(stored))


def test_single_numbers_stay_over_zero_and_large_ones_finite() -> None:
    nodes = [
        helper.make_node("Add", ["x", "epsilon"], ["a"]),
        helper.make_node("Add", ["a", "mask"], ["b"]),
        helper.make_node("ConstantOfShape", ["shape"], ["c"], value=numpy_helper.from_array(np.float32([1.5]))),
        helper.make_node("Constant", [], ["d"], value_float=2.5),
        helper.make_node("Mul", ["b", "c"], ["e"]),
        helper.make_node("Mul", ["e", "d"], ["y"]),
    ]
    tensors = {
        "epsilon": np.float32(1e-12),
        "mask": np.array([-np.inf, -1e9, 0.0, 1e-12], np.float32),
        "shape": np.array([4], np.int64),
    }
    model = model_of(nodes, dict(tensors), [("x", FLOAT, [4])], [("y", FLOAT, [4])])
    compute_in(model, TensorProto.FLOAT16)
    constants = constants_of(model.graph)
    assert constants["epsilon"] == np.float16(2**-24)
    np.testing.assert_array_equal(constants["mask"], np.array([-np.inf, -65504, 0, 0], np.float16))
    onnx.checker.check_model(model, full_check=True)
    assert lint(model) == []


def test_control_flow_is_not_made_half() -> None:
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "branch", [], [])
    node = helper.make_node("If", ["flag"], ["y"], "choice", then_branch=branch, else_branch=branch)
    model = model_of([node], {"flag": np.array(True)}, [("x", FLOAT, [2])], [("y", FLOAT, [2])])
    with pytest.raises(StageError, match="If 'choice' holds a graph of its own"):
        prepare(model, "fp16")


def test_a_float_model_stays_as_it_is(tmp_path: Path) -> None:
    onnx_files.two_by_two(tmp_path / "model.onnx")
    model = onnx.load(str(tmp_path / "model.onnx"))
    prepared, notes = prepare(model, "fp32")
    assert (prepared.SerializeToString(), notes) == (model.SerializeToString(), ())
    assert tensorrt_graph.fold_constants(prepared) == 0
