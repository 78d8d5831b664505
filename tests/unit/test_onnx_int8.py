"""Graphs before they are quantized: which layers stay float, and linear layers with their bias in one operator."""

import logging
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoshrink.onnx_graph import quiet_session, run
from autoshrink.techniques.onnx_int8 import _quiet, ends
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
