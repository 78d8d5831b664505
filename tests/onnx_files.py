"""Hand-built ONNX files with known layers, for what works on files: no torch, no exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

BATCH = 2
SIDE = 12
WIDTH = 32
CLASSES = 5
TOKENS = 3
FEATURES = 6

Array = npt.NDArray[np.generic]


def cnn(out: Path) -> None:
    """conv1 - ReLU - conv2 - ReLU - mean - fc. image float32 [2, 3, 12, 12] -> logits float32 [2, 5]."""
    _write_cnn(out, TensorProto.FLOAT)


def cnn_half_inside(out: Path) -> None:
    """The same with weights and arithmetic in float16 between a cast at each end, as fp16 converters write it."""
    _write_cnn(out, TensorProto.FLOAT16)


def cnn_int8(out: Path) -> None:
    """The same, quantized statically by ONNX Runtime: Q/DQ pairs, uint8 activations, int8 weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([image(seed) for seed in range(4)])

        def get_next(self) -> dict[str, Array] | None:
            return next(({"image": batch} for batch in self.batches), None)

    source = out.with_suffix(".float.onnx")
    cnn(source)
    quantize_static(
        source,
        out,
        Images(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def two_by_two(out: Path, rows: int | str = BATCH) -> None:
    """In order: features float32 [2, 6], token_ids int64 [2, 3] -> scores float32 [2, 4], total int64 [2]."""
    nodes = [
        helper.make_node("Gather", ["table", "token_ids"], ["embedded"], "embed"),
        helper.make_node("ReduceMean", ["embedded"], ["mean"], "mean", axes=[1], keepdims=0),
        helper.make_node("Add", ["mean", "features"], ["sum"], "add"),
        helper.make_node("MatMul", ["sum", "weight"], ["product"], "project"),
        helper.make_node("Add", ["product", "bias"], ["scores"], "bias"),
        helper.make_node("ReduceSum", ["token_ids", "axes"], ["total"], "total", keepdims=0),
    ]
    weights: dict[str, Array] = {**two_by_two_weights(), "axes": np.array([1], np.int64)}
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [rows, FEATURES]),
        helper.make_tensor_value_info("token_ids", TensorProto.INT64, [rows, TOKENS]),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [rows, 4]),
        helper.make_tensor_value_info("total", TensorProto.INT64, [rows]),
    ]
    _write(out, nodes, weights, inputs, outputs)


def two_by_two_weights() -> dict[str, npt.NDArray[np.float32]]:
    """Of `two_by_two`: table [10, 6], weight [6, 4], bias [4]."""
    return {"table": _random(10, FEATURES), "weight": _random(FEATURES, 4), "bias": _random(4)}


def free_batch(out: Path) -> None:
    """`two_by_two` with any number of rows."""
    two_by_two(out, "N")


def attention(out: Path) -> None:
    """Two projections with weights, and a product of activations. x float32 [2, 4, 16] -> scores float32 [2, 4, 4]."""
    nodes = [
        helper.make_node("MatMul", ["x", "query.weight"], ["q"], "query"),
        helper.make_node("MatMul", ["x", "key.weight"], ["k"], "key"),
        helper.make_node("Transpose", ["k"], ["turned"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"], "product"),
    ]
    # Different ones: of equal projections OpenVINO keeps one.
    weights = {"query.weight": _random(16, 16), "key.weight": _random(16, 16).T.copy()}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, 4, 16])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [BATCH, 4, 4])
    _write(out, nodes, weights, [x], [scores])


def linear_float_bias(out: Path) -> None:
    """One Linear as MatMul + Add, uint8 in and int8 weights, its bias and output float. x [2, 64] -> y [2, 64]."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x.q"], "quantize"),
        helper.make_node("DequantizeLinear", ["x.q", "scale", "zero"], ["x.dq"], "dequantize"),
        helper.make_node("DequantizeLinear", ["weight", "weight.scale"], ["weight.dq"], "dequantize_weight", axis=1),
        helper.make_node("MatMul", ["x.dq", "weight.dq"], ["product"], "linear"),
        helper.make_node("Add", ["product", "bias"], ["y"], "bias"),
    ]
    weights = {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(128, np.uint8),
        "weight": np.random.default_rng(2).integers(-127, 128, (64, 64)).astype(np.int8),
        "weight.scale": np.full(64, 0.01, np.float32),
        "bias": _random(64),
    }
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, 64])
    _write(out, nodes, weights, [x], [y])


def product_16_bit(out: Path) -> None:
    """A MatMul of uint16 activations and int8 weights, which falls back to float. x [2, 3, 64] -> y the same."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x.q"], "quantize"),
        helper.make_node("DequantizeLinear", ["x.q", "scale", "zero"], ["x.dq"], "dequantize"),
        helper.make_node("DequantizeLinear", ["weight", "weight.scale"], ["weight.dq"], "dequantize_weight", axis=1),
        helper.make_node("MatMul", ["x.dq", "weight.dq"], ["y"], "linear"),
    ]
    weights = {
        "scale": np.array(1e-4, np.float32),
        "zero": np.array(2**15, np.uint16),
        "weight": np.random.default_rng(2).integers(-127, 128, (64, 64)).astype(np.int8),
        "weight.scale": np.full(64, 0.01, np.float32),
    }
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, 3, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, 3, 64])
    _write(out, nodes, weights, [x], [y], opset=21)


def unknown_operator(out: Path) -> None:
    """A valid file with an operator that no runtime has."""
    node = helper.make_node("Nonsense", ["x"], ["y"], "nonsense", domain="example")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    _write(out, [node], {}, [x], [y])


def few_values(is_int8: bool) -> onnx.ModelProto:
    """One convolution with ternary weights, float or between uint8 activations. x [1, 32, 8, 8] -> y the same."""
    ternary = np.random.default_rng(0).integers(-1, 2, (WIDTH, WIDTH, 3, 3))
    scale = np.random.default_rng(1).uniform(0.01, 0.1, WIDTH).astype(np.float32)
    conv = helper.make_node("Conv", ["x", "weight"], ["y"], "conv", pads=[1, 1, 1, 1])
    nodes, weights = [conv], {"weight": (ternary * scale.reshape(-1, 1, 1, 1)).astype(np.float32)}
    if is_int8:
        conv.input[:], conv.output[:] = ["x.dq", "weight.dq"], ["c"]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x.q"], "quantize"),
            helper.make_node("DequantizeLinear", ["x.q", "scale", "zero"], ["x.dq"], "dequantize"),
            helper.make_node("DequantizeLinear", ["weight", "weight.scale"], ["weight.dq"], "weights", axis=0),
            conv,
            helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["y.q"], "requantize"),
            helper.make_node("DequantizeLinear", ["y.q", "scale", "zero"], ["y"], "out"),
        ]
        weights = {
            "weight": (127 * ternary).astype(np.int8),
            "weight.scale": scale / np.float32(127),
            "scale": np.array(0.03, np.float32),
            "zero": np.array(128, np.uint8),
        }
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH, 8, 8]) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


BUILDERS: Mapping[str, Callable[[Path], None]] = {
    builder.__name__: builder
    for builder in (
        *(cnn, cnn_half_inside, cnn_int8, two_by_two, free_batch),
        *(attention, linear_float_bias, product_16_bit, unknown_operator),
    )
}


def image(seed: int, rows: int = BATCH) -> npt.NDArray[np.float32]:
    """An input of the convolutional files."""
    return np.random.default_rng(seed).normal(size=(rows, 3, SIDE, SIDE)).astype(np.float32)


def pair(seed: int, rows: int = BATCH) -> dict[str, Array]:
    """Inputs of `two_by_two`, not in the file's order."""
    random = np.random.default_rng(seed)
    return {
        "token_ids": random.integers(0, 10, (rows, TOKENS)),
        "features": random.normal(size=(rows, FEATURES)).astype(np.float32),
    }


def expected(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the standard's reference implementation says, by output name."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))


def _write_cnn(out: Path, inside: int) -> None:
    is_half = inside == TensorProto.FLOAT16
    first, last = ("cast_image", "cast_logits") if is_half else ("image", "logits")
    nodes = [
        helper.make_node("Conv", [first, "conv1.weight", "conv1.bias"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b", "conv2.weight", "conv2.bias"], ["c"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], "relu2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Flatten", ["e"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], [last], "fc", transB=1),
    ]
    if is_half:
        nodes.insert(0, helper.make_node("Cast", ["image"], [first], "cast_in", to=TensorProto.FLOAT16))
        nodes.append(helper.make_node("Cast", [last], ["logits"], "cast_out", to=TensorProto.FLOAT))
    weights = cnn_weights()
    stored: dict[str, Array] = {
        name: array.astype(np.float16 if is_half else np.float32) for name, array in weights.items()
    }
    image_info = helper.make_tensor_value_info("image", TensorProto.FLOAT, [BATCH, 3, SIDE, SIDE])
    logits_info = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH, CLASSES])
    _write(out, nodes, stored, [image_info], [logits_info])


def cnn_weights() -> dict[str, npt.NDArray[np.float32]]:
    """Of the convolutional files, by name."""
    return {
        "conv1.weight": _random(WIDTH, 3, 3, 3),
        "conv1.bias": _random(WIDTH),
        "conv2.weight": _random(WIDTH, WIDTH, 3, 3),
        "conv2.bias": _random(WIDTH),
        "fc.weight": _random(CLASSES, WIDTH),
        "fc.bias": _random(CLASSES),
    }


def _random(*shape: int) -> npt.NDArray[np.float32]:
    fan_in = int(np.prod(shape[1:])) or 1
    return (np.random.default_rng(shape).normal(size=shape) / fan_in**0.5).astype(np.float32)


def _write(
    out: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opset: int = 17,
) -> None:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, str(out))
