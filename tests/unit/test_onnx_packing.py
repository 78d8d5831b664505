"""Packing of weights with few values: sizes by the formula, equal outputs, and what is left alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoshrink.onnx_graph import quiet_session, run, write_onnx
from autoshrink.onnx_packing import BYTES, distinct, is_packed, pack_weights, packed_bits

OUTPUTS, INPUTS = 32, 24
SHAPE = (OUTPUTS, INPUTS, 3, 3)
COUNT = OUTPUTS * INPUTS * 9
NODES = 1400
"""More bytes than the graph and a decoder of fields of one width ever take."""


def draw(values: int, shape: Sequence[int] = SHAPE, seed: int = 0):
    """A float weight that takes all of so many values."""
    random = np.random.default_rng(seed)
    codebook = random.normal(size=values).astype(np.float32)
    index = random.permutation(np.arange(np.prod(shape)) % values)
    return codebook[index].reshape(shape)


def by_channel(values: Sequence[float], shape: Sequence[int] = SHAPE, axis: int = 0):
    """A float weight whose channels have these values, each times a scale of its own."""
    random = np.random.default_rng(1)
    scale = random.uniform(0.01, 1, [size if i == axis % len(shape) else 1 for i, size in enumerate(shape)])
    return (random.choice(np.array(values, np.float32), shape) * scale.astype(np.float32)).astype(np.float32)


def convolution(weight, more: Sequence[onnx.TensorProto] = ()) -> onnx.ModelProto:
    """From x [1, inputs, 6, 6] to y, the weight being the initializer `conv.weight`."""
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["y"], "conv", pads=[1, 1, 1, 1])]
    if weight.dtype == np.float16:
        nodes[0].input[1] = "wide"
        nodes.insert(0, helper.make_node("Cast", ["conv.weight"], ["wide"], "conv/Cast", to=TensorProto.FLOAT))
    return graph_of(nodes, {"conv.weight": weight}, [1, weight.shape[1], 6, 6], [1, weight.shape[0], 6, 6], more)


def convolution_int8(weight) -> onnx.ModelProto:
    """The same with x in uint8 and an int8 weight, one scale a channel."""
    channels = weight.shape[0]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x.scale", "x.zero"], ["x.q"]),
        helper.make_node("DequantizeLinear", ["x.q", "x.scale", "x.zero"], ["x.dq"]),
        helper.make_node("DequantizeLinear", ["conv.weight", "w.scale", "w.zero"], ["w.dq"], axis=0),
        helper.make_node("Conv", ["x.dq", "w.dq"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "y.scale", "x.zero"], ["y.q"]),
        helper.make_node("DequantizeLinear", ["y.q", "y.scale", "x.zero"], ["y"]),
    ]
    tensors = {
        "conv.weight": weight,
        "w.scale": np.full(channels, 0.01, np.float32),
        "w.zero": np.zeros(channels, np.int8),
        "x.scale": np.array(0.03, np.float32),
        "y.scale": np.array(0.2, np.float32),
        "x.zero": np.array(128, np.uint8),
    }
    return graph_of(nodes, tensors, [1, weight.shape[1], 6, 6], [1, channels, 6, 6])


def product(weight) -> onnx.ModelProto:
    """From x [5, inputs] to y [5, outputs], the weight being `fc.weight` [inputs, outputs]."""
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], "fc")]
    return graph_of(nodes, {"fc.weight": weight}, [5, weight.shape[0]], [5, weight.shape[1]])


def graph_of(nodes, tensors, takes, gives, more: Sequence[onnx.TensorProto] = ()) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, takes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, gives)],
        [*initializers, *more],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def packed_and_equal(model: onnx.ModelProto) -> onnx.ModelProto:
    """The packed model, once it is known to compute exactly what `model` does, and that the saving is the real one."""
    packed = onnx.ModelProto()
    packed.CopyFrom(model)
    saved = pack_weights(packed)
    assert saved == model.ByteSize() - packed.ByteSize() > 0
    onnx.checker.check_model(packed, full_check=True)
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    inputs = {"x": np.random.default_rng(2).normal(size=shape).astype(np.float32)}
    before, after = (run(quiet_session(m.SerializeToString()), inputs)["y"] for m in (model, packed))
    np.testing.assert_array_equal(before, after)
    return packed


@pytest.mark.parametrize(
    ("values", "bits"),
    [(2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (33, 6), (65, 7), (200, 8), (256, 8)],
)
def test_a_codebook_takes_the_bits_of_its_index(values, bits):
    packed = packed_and_equal(convolution(draw(values)))
    assert packed_bits(packed) == {"conv.weight": bits}
    formula = COUNT * bits / 8 + 4 * values
    assert formula < packed.ByteSize() < formula + NODES * bits.bit_count()


@pytest.mark.parametrize(("values", "bits"), [((-1, 1), 1), ((-1, 0, 1), 2), ((-1, -0.5, 0.5, 1), 2)])
def test_scales_of_channels_leave_few_values(values, bits):
    packed = packed_and_equal(convolution(by_channel(values)))
    assert packed_bits(packed) == {"conv.weight": bits}
    formula = COUNT * bits / 8 + 4 * len(values) + 4 * OUTPUTS
    assert formula < packed.ByteSize() < formula + NODES


def test_channels_of_a_product_are_its_last_axis():
    packed = packed_and_equal(product(by_channel((-1, 1), (64, 40), axis=-1)))
    assert packed_bits(packed) == {"fc.weight": 1}
    scale = next(tensor for tensor in packed.graph.initializer if tensor.name == "fc.weight/scale")
    assert list(scale.dims) == [1, 40]


def test_a_number_of_weights_that_fills_no_byte():
    packed = packed_and_equal(product(draw(7, (33, 37))))
    assert packed_bits(packed) == {"fc.weight": 3}
    assert [node.op_type for node in packed.graph.node].count("Slice") == 2


@pytest.mark.parametrize(("values", "bits"), [((-127, 127), 1), ((-127, 0, 127), 2), (range(-32, 32), 6)])
def test_integers_stay_integers_and_their_kernel(values, bits, tmp_path):
    weight = np.resize(np.array(values, np.int8), (48, 32, 3, 3))
    packed = packed_and_equal(convolution_int8(weight))
    assert packed_bits(packed) == {"conv.weight": bits}
    session = optimized(packed, tmp_path)
    assert "QLinearConv" in session and "Gather" not in session


def test_what_decodes_a_float_weight_is_calculated_at_load(tmp_path):
    packed = packed_and_equal(convolution(by_channel((-1, 0, 1))))
    assert set(optimized(packed, tmp_path)) <= {"Conv", "ReorderInput", "ReorderOutput"}


def optimized(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that ONNX Runtime runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


@pytest.mark.parametrize(("weight", "bits"), [(draw(16), 4), (by_channel((-1, 1)), 1)], ids=["codebook", "scales"])
def test_weights_that_are_stored_in_16_bits(weight, bits):
    packed = packed_and_equal(convolution(weight.astype(np.float16)))
    assert packed_bits(packed) == {"conv.weight": bits}


def test_the_sign_of_zero_is_no_value_of_its_own():
    weight = by_channel((-1, 0, 1))
    weight[::2] *= -1
    assert np.signbit(weight[weight == 0]).any()
    assert packed_bits(packed_and_equal(convolution(weight))) == {"conv.weight": 2}


@pytest.mark.parametrize(
    "weight",
    [
        draw(COUNT),
        draw(257),
        draw(2, (4, 4, 3, 3)),
        np.where(draw(2) > draw(2).mean(), np.inf, 1).astype(np.float32),
        draw(2).astype(np.float64),
    ],
    ids=["any", "257 values", "small", "infinite", "float64"],
)
def test_what_does_not_fit_is_left_as_it_is(weight):
    model = convolution(weight)
    before = model.SerializeToString()
    assert pack_weights(model) == 0
    assert model.SerializeToString() == before
    assert packed_bits(model) == {} and not is_packed(model)


def test_integers_of_more_than_64_values_are_left_as_they_are():
    assert pack_weights(convolution_int8(np.resize(np.arange(65, dtype=np.int8), SHAPE))) == 0


def test_scales_that_do_not_give_the_weights_back_are_not_used():
    weight = by_channel((-1, 1))
    scale = np.abs(weight).max((1, 2, 3), keepdims=True)
    weight[:, 0] = np.nextafter(scale[:, 0] * np.float32(0.7), np.float32(0))
    assert len(np.unique(weight / scale)) <= 8 and (weight / scale * scale != weight).any()
    packed = packed_and_equal(convolution(weight))
    assert packed_bits(packed) == {"conv.weight": 7} and len(np.unique(weight)) > 64
    assert "conv.weight/scale" not in {tensor.name for tensor in packed.graph.initializer}


def test_weights_of_4_bits_stay_what_they_are():
    tensor = helper.make_tensor("w4", TensorProto.INT4, [32, 64], [1, -1] * 1024)
    nodes = [
        helper.make_node("Cast", ["w4"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = graph_of(nodes, {}, [5, 32], [5, 64], [tensor])
    assert pack_weights(model) == 0


def test_a_weight_that_nothing_reads_or_that_is_an_input_stays():
    spare = numpy_helper.from_array(draw(2, seed=3), "spare")
    model = convolution(draw(COUNT), [spare])
    assert pack_weights(model) == 0
    model = convolution(draw(2))
    model.graph.input.append(helper.make_tensor_value_info("conv.weight", TensorProto.FLOAT, SHAPE))
    assert pack_weights(model) == 0


def test_packing_twice_changes_nothing():
    model = packed_and_equal(convolution(draw(4)))
    before = model.SerializeToString(deterministic=True)
    assert pack_weights(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_equal_models_give_equal_bytes(tmp_path):
    for name in ("first", "second"):
        model = convolution(by_channel((-1, 0, 1)))
        pack_weights(model)
        write_onnx(model, tmp_path / name, "test")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_two_weights_share_the_constants():
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "b.weight"], ["y"], pads=[1, 1, 1, 1]),
    ]
    tensors = {"a.weight": draw(4, (16, 16, 3, 3)), "b.weight": by_channel((-1, 1), (16, 16, 3, 3))}
    packed = packed_and_equal(graph_of(nodes, tensors, [1, 16, 6, 6], [1, 16, 6, 6]))
    assert packed_bits(packed) == {"a.weight": 2, "b.weight": 1}
    assert [tensor.name for tensor in packed.graph.initializer].count(BYTES) == 1
    assert packed.graph.node[0].name == "packed/bytes/wide"


def test_a_file_says_whether_it_is_packed(tmp_path):
    model = convolution(draw(4))
    onnx.save(model, tmp_path / "plain.onnx")
    pack_weights(model)
    onnx.save(model, tmp_path / "packed.onnx")
    assert is_packed(tmp_path / "packed.onnx") and is_packed(model)
    assert not is_packed(tmp_path / "plain.onnx")


def test_distinct_values_are_ascending_and_indexed():
    values = np.array([[2, -1], [-0.0, 2]], np.float32)
    codebook, index = distinct(values, 3)
    assert codebook.tolist() == [-1, 0, 2] and not np.signbit(codebook[1])
    assert index.tolist() == [[2, 0], [1, 2]]
    assert distinct(values, 2) is None
