"""Graphs before they are quantized: which layers stay float, and linear layers with their bias in one operator."""

import logging
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoshrink.onnx_graph import quiet_session, run
from autoshrink.onnx_packing import pack_weights, packed_bits
from autoshrink.techniques.calibrate import collect_ranges
from autoshrink.techniques.onnx_int8 import Grid, _quiet, ends, quantize_static, shared_weights
from autoshrink.techniques.onnx_linear import linear_as_gemm


def test_which_layers_are_the_ends():
    layers = ["a", "b", "c"]
    assert [ends(layers, keep) for keep in ("none", "first", "last", "first_last")] == [[], ["a"], ["c"], ["a", "c"]]
    assert ends([], "first_last") == []


def sequence(bias: tuple[int, ...] = (5,), bias_first: bool = False, rows: int | str = 3, shown: bool = False):
    """Input x [2, 3, 4] times a [4, 5] weight, plus a bias, rectified: y [2, 3, 5]."""
    random = np.random.default_rng(0)
    summands = ["b", "product"] if bias_first else ["product", "b"]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if shown:
        outputs.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, None))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"], "fc/MatMul"),
            helper.make_node("Add", summands, ["sum"], "fc/Add"),
            helper.make_node("Relu", ["sum"], ["y"], "rectify"),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, rows, 4])],
        outputs,
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in (("w", (4, 5)), ("b", bias))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("bias_first", [False, True])
def test_a_linear_layer_over_sequences_becomes_a_gemm(bias_first):
    model = sequence(bias_first=bias_first)
    rewritten = linear_as_gemm(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert [node.op_type for node in rewritten.graph.node] == ["Reshape", "Gemm", "Reshape", "Relu"]
    assert [node.name for node in rewritten.graph.node] == ["fc/Flat", "fc/Gemm", "fc/Add", "rectify"]
    x = {"x": np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)}
    expected, found = (run(quiet_session(each.SerializeToString()), x)["y"] for each in (model, rewritten))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert Counter(node.op_type for node in model.graph.node)["MatMul"] == 1


@pytest.mark.parametrize(
    "model",
    [sequence(bias=(3, 5)), sequence(bias=(1,)), sequence(rows="rows"), sequence(shown=True)],
    ids=["sum of activations", "scalar", "free size", "product is an output"],
)
def test_anything_else_is_left_as_it_is(model):
    assert linear_as_gemm(model).graph.node == model.graph.node


def test_what_the_quantizer_logs_is_not_printed_and_leaves_no_handler(monkeypatch, capfd):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    with _quiet():
        logging.warning("advice")
    assert root.handlers == [] and root.level == level
    assert capfd.readouterr() == ("", "")


def three_layers() -> onnx.ModelProto:
    """Convolutions x [1, 16, 6, 6] -> y with weights from a codebook, ternary ones, and any; then a product."""
    random = np.random.default_rng(0)
    shape = (16, 16, 3, 3)
    codebook = random.normal(size=16).astype(np.float32)
    scale = random.uniform(0.1, 1, (16, 1, 1, 1)).astype(np.float32)
    weights = {
        "shared": random.choice(codebook, shape),
        "ternary": random.integers(-1, 2, shape).astype(np.float32) * scale,
        "any": random.normal(size=shape).astype(np.float32),
        # Few elements, few values.
        "small": random.choice(codebook, (16, 4)),
    }
    names = ["x", "a", "b", "c", "d", "e", "y"]
    nodes = [
        helper.make_node("Conv", [source, weight], [out], weight, pads=[1, 1, 1, 1])
        for source, weight, out in zip(names, ("shared", "ternary", "any"), names[1:], strict=False)
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["e"], "flatten"),
        helper.make_node("Gemm", ["e", "small"], ["y"], "gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def test_weights_of_a_codebook_have_one_scale_and_few_integers():
    model = three_layers()
    samples = {"x": np.random.default_rng(1).normal(size=(4, 16, 6, 6)).astype(np.float32)}
    ranges = collect_ranges(model, samples, 1, "minmax")
    quantized = quantize_static(model, ranges, Grid(("Conv", "Gemm")))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    assert tensors["shared_scale"].shape == ()
    assert len(np.unique(tensors["shared_quantized"])) == 16
    assert tensors["ternary_scale"].shape == tensors["any_scale"].shape == (16,)
    assert set(np.unique(tensors["ternary_quantized"])) == {-127, 0, 127}
    pack_weights(quantized)
    assert packed_bits(quantized) == {"shared_quantized": 4, "ternary_quantized": 2}


def test_which_weights_come_from_a_codebook():
    model = three_layers()
    assert shared_weights(model.graph) == ["shared"]


@pytest.mark.parametrize(("transposed", "found"), [(1, []), (0, ["w"])])
def test_the_channels_of_a_gemm_are_seen(transposed, found):
    scale = np.arange(1, 33, dtype=np.float32)[:, None]
    weight = np.where(np.random.default_rng(0).random((32, 64)) < 0.5, -scale, scale)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "gemm", transB=transposed)
    graph = helper.make_graph([node], "graph", [], [], [numpy_helper.from_array(weight, "w")])
    assert shared_weights(graph) == found
