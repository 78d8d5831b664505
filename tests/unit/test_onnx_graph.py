"""ONNX graphs: clean files, spatial means as pools, batches of a fixed size."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoshrink import onnx_graph
from autoshrink.errors import StageError
from autoshrink.onnx_graph import (
    drop_unused,
    fixed_batches,
    pool_spatial_means,
    quiet_session,
    run,
    weight_nodes,
    write_onnx,
)


def mean_model(axes: list[int], keepdims: int, shape: tuple[int, ...] = (2, 3, 4, 5)) -> onnx.ModelProto:
    reduced = np.zeros(shape).mean(tuple(axes), keepdims=bool(keepdims)).shape
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], "pool/ReduceMean", keepdims=keepdims)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, reduced)],
        [numpy_helper.from_array(np.array(axes, np.int64), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("axes", "keepdims"), [([2, 3], 0), ([2, 3], 1), ([-1, -2], 0), ([3, 2], 1)])
def test_a_mean_over_all_spatial_axes_becomes_a_pool(axes, keepdims):
    model = mean_model(axes, keepdims)
    x = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)}
    expected = run(quiet_session(model.SerializeToString()), x)["y"]
    assert pool_spatial_means(model) == 1
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == (["GlobalAveragePool"] if keepdims else ["GlobalAveragePool", "Flatten"])
    assert model.graph.node[0].name == "pool/GlobalAveragePool"
    assert not model.graph.initializer
    found = run(quiet_session(model.SerializeToString()), x)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("axes", "shape"), [([1], (2, 3, 4)), ([1, 2], (2, 3, 4, 5)), ([3], (2, 3, 4, 5)), ([0, 1], (2, 3))]
)
def test_other_means_stay(axes, shape):
    model = mean_model(axes, 0, shape)
    before = model.SerializeToString(deterministic=True)
    assert pool_spatial_means(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_a_file_tells_nothing_of_its_making(tmp_path):
    model = mean_model([2, 3], 0)
    model.producer_name, model.producer_version, model.doc_string = "who", "when", "/home/me"
    model.metadata_props.add(key="path", value="/home/me")
    for part in (model.graph, model.graph.node[0], model.graph.input[0], model.graph.initializer[0]):
        part.doc_string = "/home/me"
        part.metadata_props.add(key="stack_trace", value="/home/me/model.py")
    branch = helper.make_graph([], "/home/me", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    branch.doc_string = "/home/me"
    model.graph.node[0].attribute.append(helper.make_attribute("branch", branch))
    model.graph.node[0].attribute[-1].doc_string = "/home/me"
    onnx_graph._strip(model)
    content = model.SerializeToString()
    assert b"/home/me" not in content and b"when" not in content
    assert model.producer_name == "autoshrink"


def test_what_is_no_onnx_is_not_written(tmp_path):
    model = mean_model([2, 3], 0)
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(StageError, match="quantize: the graph is no valid ONNX"):
        write_onnx(model, tmp_path / "m.onnx", "quantize")
    assert not (tmp_path / "m.onnx").exists()


def test_a_file_over_the_limit_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "PROTOBUF_LIMIT", 10)
    with pytest.raises(StageError, match="at most 2 GB"):
        write_onnx(mean_model([2, 3], 0), tmp_path / "m.onnx", "export")
    assert not (tmp_path / "m.onnx").exists()


def test_what_only_a_branch_reads_is_kept():
    inner = helper.make_graph(
        [helper.make_node("Identity", ["kept"], ["a"])], "b", [], [helper.make_tensor_value_info("a", 1, [1])]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)],
        "g",
        [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, [1])],
        [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in ("kept", "unread")],
    )
    drop_unused(graph)
    assert [initializer.name for initializer in graph.initializer] == ["kept"]


def test_layers_with_weights_are_found_in_order():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("MatMul", ["a", "x"], ["b"], "attention"),
        helper.make_node("Add", ["b", "w"], ["c"], "add"),
        helper.make_node("MatMul", ["c", "w"], ["d"], "linear"),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [numpy_helper.from_array(np.zeros(1, np.float32), "w")])
    assert weight_nodes(graph) == ["conv", "linear"]
    assert weight_nodes(graph, ("MatMul", "Gemm")) == ["linear"]


def test_the_last_batch_is_filled_up_with_the_first_rows():
    rows = list(fixed_batches({"x": np.arange(5), "y": np.arange(5) * 10}, 3))
    assert [batch["x"].tolist() for batch in rows] == [[0, 1, 2], [3, 4, 0]]
    assert [batch["y"].tolist() for batch in rows] == [[0, 10, 20], [30, 40, 0]]


def test_one_row_is_repeated():
    assert [batch["x"].tolist() for batch in fixed_batches({"x": np.array([7])}, 3)] == [[7, 7, 7]]
