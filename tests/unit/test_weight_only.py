"""Weights of few bits: the rounding on hand-made cases, the packed form against both runtimes, sizes, refusals."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends import get_backend
from autoshrink.backends.base import Source
from autoshrink.config import load_target
from autoshrink.errors import StageError
from autoshrink.export import export_onnx
from autoshrink.onnx_graph import quiet_session, run
from autoshrink.search.space import reduce_space
from autoshrink.target import Precision, Target
from autoshrink.task import Task
from autoshrink.techniques.base import Context
from autoshrink.techniques.onnx_weight_only import (
    collect_grams,
    find_products,
    fitting_block,
    pack_weights,
    packed_bytes,
)
from autoshrink.techniques.quantize import Quantize
from autoshrink.techniques.weight_rounding import NORM, Rounded, gptq, hqq, nearest
from autoshrink.types import Choice, Space
from tests.model_tasks import task_of
from tests.small_models import tiny_task

PRODUCTS = Precision(operators=("MatMul", "Gemm"))
TARGET = Target("cpu", "onnxruntime", {"fp32": Precision(), "int8_weights": PRODUCTS, "int4_weights": PRODUCTS})
OPERATORS = ("MatMul", "Gemm")


def random_weight(outputs: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(outputs, inputs)).astype(np.float32)


def correlated(rows: int, inputs: int, seed: int = 0) -> np.ndarray:
    """Inputs of a layer that mostly move together."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rows, inputs // 8)) @ random.normal(size=(inputs // 8, inputs))
    return (mixed + 0.3 * random.normal(size=(rows, inputs))).astype(np.float32)


def round_by(rounding: str, weight: np.ndarray, bits: int, block: int) -> Rounded:
    inputs = correlated(64, weight.shape[1])
    return {
        "nearest": lambda: nearest(weight, bits, block),
        "hqq": lambda: hqq(weight, bits, block),
        "gptq": lambda: gptq(weight, bits, block, inputs.T @ inputs),
    }[rounding]()


# Rounding


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rounding", ["nearest", "hqq", "gptq"])
def test_a_weight_on_its_grid_is_reproduced_exactly(rounding, bits):
    random = np.random.default_rng(0)
    codes = random.integers(0, 2**bits, (6, 4, 32))
    codes[..., 0], codes[..., 1] = 0, 2**bits - 1
    zeros = random.integers(1, 2**bits - 1, (6, 4))
    scales = random.choice([2.0**-5, 3 * 2.0**-8, 0.75], (6, 4))
    weight = ((codes - zeros[..., None]) * scales[..., None]).reshape(6, 128).astype(np.float32)
    rounded = round_by(rounding, weight, bits, 32)
    np.testing.assert_array_equal(rounded.restored(128), weight)
    np.testing.assert_array_equal(rounded.codes, codes)
    np.testing.assert_array_equal(rounded.zeros, zeros)
    np.testing.assert_array_equal(rounded.scales, scales)


@pytest.mark.parametrize("levels", [(-1.75, 1.75), (-1.75, 0, 1.75), (0,)])
@pytest.mark.parametrize("rounding", ["nearest", "hqq", "gptq"])
def test_binary_and_ternary_weights_are_on_the_symmetric_grid(rounding, levels):
    weight = np.random.default_rng(0).choice(levels, (3, 64)).astype(np.float32)
    np.testing.assert_array_equal(round_by(rounding, weight, 4, 32).restored(64), weight)


def test_nearest_is_right_to_half_a_step_of_the_range():
    weight = random_weight(8, 64)
    for bits in (4, 8):
        error = np.abs(nearest(weight, bits, 64).restored(64) - weight)
        span = weight.max(1) - weight.min(1)
        # Both ends move with the rounded zero point, by half a step at most.
        assert np.all(error.max(1) <= 1.01 * span / (2**bits - 1))
        assert np.all(error.mean(1) <= 0.3 * span / (2**bits - 1))


def test_a_block_of_one_sign_uses_the_whole_range():
    weight = np.linspace(0, 1.5, 16, dtype=np.float32)[None]
    rounded = nearest(weight, 4, 16)
    np.testing.assert_array_equal(rounded.codes[0, 0], np.arange(16))
    assert rounded.zeros[0, 0] == 0
    assert rounded.scales[0, 0] == np.float16(0.1)


def test_the_last_block_is_filled_up_with_zeros():
    weight = random_weight(3, 40)
    rounded = nearest(weight, 4, 32)
    assert rounded.codes.shape == (3, 2, 32) and rounded.scales.shape == rounded.zeros.shape == (3, 2)
    assert rounded.restored(40).shape == (3, 40)
    assert not rounded.restored(64)[:, 40:].any()
    np.testing.assert_array_equal(rounded.restored(64)[:, :32], nearest(weight[:, :32], 4, 32).restored(32))


@pytest.mark.parametrize(("size", "dtype"), [(1.0, np.float16), (1e-4, np.float32), (1e6, np.float32)])
@pytest.mark.parametrize("rounding", ["nearest", "hqq", "gptq"])
def test_scales_are_float16_where_that_loses_nothing(rounding, size, dtype):
    weight = random_weight(4, 64) * np.float32(size)
    weight[1, :32] = 0
    rounded = round_by(rounding, weight, 4, 32)
    assert rounded.scales.dtype == dtype
    assert sqnr_db(weight, rounded.restored(64)) > 15
    if rounding != "gptq":
        assert not rounded.restored(64)[1, :32].any()


def norms(weight: np.ndarray, rounded: Rounded) -> np.ndarray:
    error = np.abs(weight - rounded.restored(weight.shape[1]))
    return (error**NORM).reshape(len(weight), -1, 32).sum(-1)


@pytest.mark.parametrize("bits", [4, 8])
def test_hqq_lowers_its_norm_on_heavy_tails(bits):
    weight = np.random.default_rng(0).standard_t(3, (64, 256)).astype(np.float32)
    plain, better = norms(weight, nearest(weight, bits, 32)), norms(weight, hqq(weight, bits, 32))
    assert np.all(better <= plain * 1.0001)
    assert np.mean(better < plain) > (0.5 if bits == 4 else 0.25)
    assert better.sum() < (0.97 if bits == 4 else 0.99) * plain.sum()


def test_gptq_puts_an_error_right_in_the_column_that_moves_with_it():
    # The grid is whole numbers. The last two inputs are always equal, so that only the sum of their weights counts.
    weight = np.array([[7, -8, 0.4, 0.4]], np.float32)
    inputs = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], np.float32)
    np.testing.assert_array_equal(nearest(weight, 4, 4).restored(4), [[7, -8, 0, 0]])
    np.testing.assert_array_equal(gptq(weight, 4, 4, inputs.T @ inputs).restored(4), [[7, -8, 0, 1]])


def test_gptq_carries_an_error_over_to_later_blocks():
    weight = np.array([[7, -8, 0, 0.4, 0.4, 7, -8, 0]], np.float32)
    inputs = np.eye(8, dtype=np.float32)
    inputs[3, 4] = inputs[4, 3] = 1
    np.testing.assert_array_equal(nearest(weight, 4, 4).restored(8)[0, 3:5], [0, 0])
    np.testing.assert_array_equal(gptq(weight, 4, 4, inputs.T @ inputs).restored(8)[0, 3:5], [0, 1])


@pytest.mark.parametrize("gram", [np.eye(64), np.zeros((64, 64))], ids=["independent", "never seen"])
def test_gptq_of_inputs_without_correlation_is_nearest(gram):
    weight = random_weight(8, 64)
    np.testing.assert_array_equal(gptq(weight, 4, 32, gram).restored(64), nearest(weight, 4, 32).restored(64))


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_lowers_the_output_error_on_correlated_inputs(bits):
    weight, inputs = random_weight(32, 160), correlated(1000, 160)
    errors = [
        np.mean((inputs[500:] @ (rounded.restored(160) - weight).T) ** 2)
        for rounded in (nearest(weight, bits, 64), gptq(weight, bits, 64, inputs[:500].T @ inputs[:500]))
    ]
    assert errors[1] < 0.3 * errors[0]


# The packed form


def graph_of(*nodes: onnx.NodeProto, x: list[int], y: list[int], **constants: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def linear(outputs: int, inputs: int, rows: tuple[int, ...] = (2, 3)) -> onnx.ModelProto:
    """X [*rows, inputs] -> y [*rows, outputs]."""
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], "layer")
    return graph_of(node, x=[*rows, inputs], y=[*rows, outputs], weight=random_weight(outputs, inputs).T.copy())


def packed(model: onnx.ModelProto, bits: int, block: int) -> onnx.ModelProto:
    products, left = find_products(model.graph, OPERATORS, bits, block)
    assert products and not left
    pack_weights(model, products, bits, block, "nearest", {})
    onnx.checker.check_model(model)
    return model


def in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the 8-bit rounding of activations, so that the result is that of the stored weights."""
    for node in model.graph.node:
        kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return model


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 256), (7, 96), (5, 100), (9, 33), (3, 300), (4, 6)])
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_onnx_runtime_reads_the_stored_weights(bits, block, outputs, inputs):
    x = np.random.default_rng(1).normal(size=(2, 3, inputs)).astype(np.float32)
    weight = nearest(random_weight(outputs, inputs), bits, fitting_block(inputs, block)).restored(inputs)
    if packed_bytes(outputs, inputs, bits, block) >= 4 * outputs * inputs:
        pytest.skip("nothing would be saved")
    model = packed(linear(outputs, inputs), bits, block)
    assert sqnr_db(x @ weight.T, run(quiet_session(in_float(model).SerializeToString()), {"x": x})["y"]) > 100


@pytest.mark.parametrize(("inputs", "block"), [(256, 32), (256, 128), (96, 32), (100, 64), (16, 32)])
@pytest.mark.parametrize("scheme", ["int4_weights", "int8_weights"])
def test_openvino_reads_the_stored_weights_and_keeps_them_small(tmp_path, scheme, inputs, block):
    pytest.importorskip("openvino")
    bits = 4 if scheme == "int4_weights" else 8
    x = np.random.default_rng(1).normal(size=(2, 3, inputs)).astype(np.float32)
    weight = nearest(random_weight(64, inputs), bits, block).restored(inputs)
    onnx.save(packed(linear(64, inputs), bits, block), tmp_path / "m.onnx")
    backend = get_backend("openvino")
    files = backend.compile(Source(tmp_path / "m.onnx", scheme), tmp_path / "artifact").files
    session = backend.load(tmp_path / "artifact", files, scheme, 1)
    assert sqnr_db(x @ weight.T, session.run({"x": x})["y"]) > 40
    # Its own format holds scales as float32, zero points too when they fill no whole bytes, and a little structure.
    blocks = -(-inputs // block)
    allowed = packed_bytes(64, inputs, bits, block) + 64 * blocks * (6 if bits == 4 and blocks % 2 else 2) + 99
    assert (tmp_path / "artifact" / "model.bin").stat().st_size <= allowed
    expected = "fp32" if inputs % fitting_block(inputs, block) else "low-bit weights"
    assert [layer.precision for layer in session.audit().layers] == [expected]


@pytest.mark.parametrize(("block", "bits"), [(32, 4), (64, 4), (128, 8)])
def test_the_size_is_that_of_the_formula(block, bits):
    model = packed(linear(64, 256), bits, block)
    # By weight: its bits, and a share of a float16 scale and of a zero point of as many bits.
    expected = 64 * 256 * (bits + (16 + bits) / block) / 8
    assert packed_bytes(64, 256, bits, block) == expected
    assert sum(numpy_helper.to_array(value).nbytes for value in model.graph.initializer) == expected


def test_a_layer_with_few_inputs_has_a_block_of_its_own():
    assert [fitting_block(inputs, 64) for inputs in (1, 16, 17, 32, 64, 65, 1000)] == [16, 16, 32, 32, 64, 64, 64]
    # One scale and one zero point a row, and no byte of filling.
    assert packed_bytes(10, 32, 8, 128) == 10 * (32 + 2 + 1)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_becomes_a_product_and_its_bias(transposed):
    weight, bias = random_weight(10, 64), np.arange(10, dtype=np.float32)
    stored = weight if transposed else weight.T.copy()
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=transposed)
    model = packed(graph_of(node, x=[2, 64], y=[2, 10], w=stored, b=bias), 8, 32)
    assert [node.op_type for node in model.graph.node] == ["Cast", "MatMulNBits", "Add"]
    assert model.graph.node[1].name == "fc"
    x = random_weight(2, 64, 5)
    expected = x @ nearest(weight, 8, 32).restored(64).T + bias
    assert sqnr_db(expected, run(quiet_session(in_float(model).SerializeToString()), {"x": x})["y"]) > 100


def test_a_weight_of_two_products_is_stored_once():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "one"), helper.make_node("MatMul", ["a", "w"], ["y"], "two")]
    model = graph_of(*nodes, x=[2, 64], y=[2, 64], w=random_weight(64, 64))
    x = random_weight(2, 64, 5)
    before = run(quiet_session(model.SerializeToString()), {"x": x})["y"]
    products, _ = find_products(model.graph, OPERATORS, 8, 32)
    pack_weights(model, products, 8, 32, "gptq", collect_grams(model, products, {"x": x}, 2))
    assert Counter(node.op_type for node in model.graph.node) == {"Cast": 1, "MatMulNBits": 2}
    assert {value.name for value in model.graph.initializer} == {"w/codes", "w/scales/float16", "w/zeros"}
    assert sqnr_db(before, run(quiet_session(model.SerializeToString()), {"x": x})["y"]) > 30


def test_grams_are_of_what_the_layer_reads():
    nodes = [
        helper.make_node("MatMul", ["x", "one"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "two"], ["y"], "second"),
    ]
    one, two = random_weight(40, 64), random_weight(64, 40)
    model = graph_of(*nodes, x=[2, 3, 64], y=[2, 3, 64], one=one.T.copy(), two=two.T.copy())
    products, _ = find_products(model.graph, OPERATORS, 4, 32)
    x = np.random.default_rng(0).normal(size=(4, 3, 64)).astype(np.float32)
    told = []
    grams = collect_grams(model, products, {"x": x}, 2, lambda done, total: told.append((done, total)))
    rows = x.reshape(-1, 64)
    hidden = np.maximum(rows @ one.T, 0)
    assert grams.keys() == {"x", "b"}
    np.testing.assert_allclose(grams["x"], rows.T @ rows, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grams["b"], hidden.T @ hidden, rtol=1e-3, atol=1e-3)
    assert told == [(1, 2), (2, 2)]


# What stays as it is


@pytest.mark.parametrize(
    ("node", "weight", "reason"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["p"], "layer"), random_weight(3, 64), "nothing would be saved"),
        (helper.make_node("MatMul", ["w", "x"], ["p"], "layer"), random_weight(3, 3), "the first factor"),
        (helper.make_node("Gemm", ["x", "w"], ["p"], "layer", alpha=0.5), random_weight(3, 64), "alpha"),
        (helper.make_node("MatMul", ["x", "w"], ["p"], "layer"), np.ones((1, 3, 64), np.float32), "3 dimensions"),
        (helper.make_node("MatMul", ["x", "w"], ["p"], "layer"), np.ones((3, 64)), "is double, not float32"),
    ],
)
def test_a_product_that_cannot_be_packed_keeps_its_float_weight(node, weight, reason):
    model = graph_of(node, x=[3, 3], y=[3, 64], w=weight)
    products, left = find_products(model.graph, OPERATORS, 8, 32)
    assert not products
    assert list(left) == ["layer"] and reason in left["layer"]


def test_a_weight_that_is_read_elsewhere_stays_float():
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["p"], "head", transB=1),
        helper.make_node("Gather", ["w", "row"], ["g"], "embed"),
        helper.make_node("MatMul", ["x", "other"], ["q"], "free"),
    ]
    constants = {"w": random_weight(64, 64), "row": np.array([1]), "other": random_weight(64, 64)}
    products, left = find_products(graph_of(*nodes, x=[2, 64], y=[2, 64], **constants).graph, OPERATORS, 4, 32)
    assert [product.node.name for product in products] == ["free"]
    assert list(left) == ["head"] and "read elsewhere" in left["head"]


def quantize(source: Path, out: Path, task: Task, scheme: str, **settings: str | int) -> Path:
    resolved = Quantize().resolve({"scheme": scheme, **settings}, TARGET)
    Quantize().transform(source, out, resolved, Context(task, task.model))
    return out


def exported(name: str, tmp_path: Path) -> tuple[Path, Task]:
    task = tiny_task(name)
    export_onnx(task.model(), task, 1, tmp_path / "m.onnx")
    return tmp_path / "m.onnx", task


def test_an_encoder_keeps_its_products_of_activations_and_its_embedding(tmp_path):
    source, task = exported("transformer", tmp_path)
    model = onnx.load(quantize(source, tmp_path / "q.onnx", task, "int4_weights"))
    kinds = Counter(node.op_type for node in model.graph.node)
    # Four projections of attention, two layers of the feed-forward part, the head.
    assert kinds["MatMulNBits"] == 7 and kinds["MatMul"] == 2 and "Gemm" not in kinds
    names = {value.name for value in model.graph.initializer}
    assert "embed.weight" in names and "expand.weight" not in names
    audit = get_backend("onnxruntime").load(tmp_path, ("q.onnx",), "int4_weights", 1).audit()
    assert [layer.precision for layer in audit.layers] == ["low-bit weights"] * 7
    assert {"expand/MatMul", "contract/MatMul"} <= {layer.name for layer in audit.layers}


def test_a_convolution_is_left_alone(tmp_path):
    source, task = exported("cnn", tmp_path)
    before, after = onnx.load(source), onnx.load(quantize(source, tmp_path / "q.onnx", task, "int8_weights"))
    stored = [{v.name: v.SerializeToString() for v in m.graph.initializer if "conv" in v.name} for m in (before, after)]
    assert stored[0] and stored[0] == stored[1]


def test_gptq_is_closer_than_nearest_on_a_trained_model(tmp_path):
    source, task = exported("transformer", tmp_path)
    val = {name: array[:64] for name, array in task.val.inputs.items()}

    def outputs(path: Path) -> np.ndarray:
        session = quiet_session(path)
        return np.stack([run(session, {"tokens": row[None]})["logits"] for row in val["tokens"]])

    found = [
        sqnr_db(outputs(source), outputs(quantize(source, tmp_path / f"{r}.onnx", task, "int4_weights", rounding=r)))
        for r in ("nearest", "gptq")
    ]
    assert found[1] > found[0] + 1


# Refusals


@pytest.mark.parametrize("scheme", ["int8_weights", "int4_weights"])
def test_a_graph_without_products_is_refused(tmp_path, scheme):
    source, task = exported("conv_only", tmp_path)
    with pytest.raises(StageError, match=f"no Gemm/MatMul with constant weights .* so {scheme} would change nothing"):
        quantize(source, tmp_path / "q.onnx", task, scheme)
    assert not (tmp_path / "q.onnx").exists()


def saved(model: onnx.ModelProto, tmp_path: Path) -> tuple[Path, Task]:
    onnx.save(model, tmp_path / "m.onnx")
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    return tmp_path / "m.onnx", task_of(nn.Identity(), x=np.zeros((1, *shape[1:]), np.float32))


def test_a_refusal_names_each_layer_and_its_reason(tmp_path):
    source, task = saved(linear(4, 2, (1,)), tmp_path)
    with pytest.raises(StageError, match="layer stays float: its 2 inputs fill so little of a block of 16"):
        quantize(source, tmp_path / "q.onnx", task, "int8_weights")


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    model = linear(4, 64, (1,))
    values = random_weight(64, 4)
    values[3, 1] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "weight"))
    source, task = saved(model, tmp_path)
    with pytest.raises(StageError, match="weight 'weight' of layer is not finite"):
        quantize(source, tmp_path / "q.onnx", task, "int4_weights")


def test_an_activation_that_is_not_finite_is_refused_by_gptq_only(tmp_path):
    model = linear(4, 64, (1,))
    model.graph.node[0].input[0] = "logarithm"
    model.graph.node.insert(0, helper.make_node("Log", ["x"], ["logarithm"], "log"))
    source, task = saved(model, tmp_path)
    task = replace(task, calibration={"x": np.zeros((3, 64), np.float32)})
    quantize(source, tmp_path / "q.onnx", task, "int4_weights")
    with pytest.raises(StageError, match=r"activation 'logarithm' is not finite .* take rounding nearest or hqq"):
        quantize(source, tmp_path / "g.onnx", task, "int4_weights", rounding="gptq")


def test_gptq_wants_a_calibration_set_that_fits(tmp_path):
    source, task = saved(linear(4, 64, (1,)), tmp_path)
    task = replace(task, calibration={"x": np.zeros((3, 32), np.float32)})
    with pytest.raises(StageError, match=r"shape \[3, 32\]; the model takes \[1, 64\]"):
        quantize(source, tmp_path / "q.onnx", task, "int4_weights", rounding="gptq")


def test_settings_of_weights_of_few_bits():
    assert Quantize().resolve({"scheme": "int4_weights", "block": 64}, TARGET) == {
        "scheme": "int4_weights",
        "block": 64,
        "rounding": "nearest",
        "operators": ["Gemm", "MatMul"],
    }
    with pytest.raises(StageError, match="narrow has no int4_weights; it has fp32"):
        Quantize().resolve({"scheme": "int4_weights"}, Target("narrow", "onnxruntime", {"fp32": Precision()}))


@pytest.mark.parametrize("profile", ["onnxruntime-cpu", "openvino-cpu"])
def test_the_search_leaves_it_out_where_there_is_next_to_nothing_to_pack(profile):
    space = Space("s", {"quantize": {"scheme": Choice(("int8_static", "int8_weights", "int4_weights"))}})
    target = load_target(profile)
    _, removed = reduce_space(space, target, frozenset(), tiny_task("cnn"))
    assert [removal.what for removal in removed] == ["quantize.scheme int8_weights", "quantize.scheme int4_weights"]
    assert all("quantizes MatMul and Gemm only, which hold 100 of" in removal.why for removal in removed)
    assert not reduce_space(space, target, frozenset(), tiny_task("transformer"))[1]
