"""Hand-built files with one known cause of lost time each, and the same without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 28
IN_SCALE, WEIGHT_SCALE = 0.03, 0.002

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A cause, and where it shows.

    Attributes:
        name: of the case.
        rule: that must find it.
        target: on which it is explained.
        ending: of the file.
        layers: that the finding must name.
        write: makes the file.
        healthy: makes one in which the rule finds nothing.
    """

    name: str
    rule: str
    target: str
    ending: str
    layers: tuple[str, ...]
    write: Callable[[Path], None]
    healthy: Callable[[Path], None]


def convolutions(
    out: Path, activations: npt.DTypeLike | None = np.uint8, width: int = 32, layers: int = 3, bits: int = 8
) -> None:
    """Convolutions 3 x 3 with ReLU between them, `conv0` and so on. x float32 [1, width, 28, 28] -> y alike.

    Args:
        out: the file.
        activations: integer grid between them; None is a float file. Unsigned behind a ReLU begins at 0.
        width: channels.
        layers: how many.
        bits: of the weights, 8 or 4; those of 4 are stored as INT4 and unpacked where they are used.
    """
    from onnx import TensorProto, helper

    nodes, values = [], dict[str, Any]()
    value = "x"
    for number in range(layers):
        random = np.random.default_rng(number)
        weight, last = f"conv{number}.weight", number == layers - 1
        operands = [value, weight, f"conv{number}.bias"]
        if activations is None:
            values[weight] = (random.normal(size=(width, width, 3, 3)) / (9 * width) ** 0.5).astype(np.float32)
            values[operands[2]] = random.normal(size=width).astype(np.float32)
        else:
            nodes += _pair(value, f"in{number}", values, activations, behind_relu=number > 0)
            most = 127 if bits == 8 else 7
            integers = _weights(random, (width, width, 3, 3), most)
            scale = np.full(width, 1.6 / most / width**0.5, np.float32)
            values[weight] = (
                integers
                if bits == 8
                else helper.make_tensor(weight, TensorProto.INT4, integers.shape, integers.reshape(-1))
            )
            values[f"{weight}.scale"] = scale
            values[operands[2]] = random.integers(-99, 99, width).astype(np.int32)
            values[f"{operands[2]}.scale"] = np.float32(IN_SCALE) * scale
            for name in operands[1:]:
                pair = [name, f"{name}.scale"]
                nodes.append(helper.make_node("DequantizeLinear", pair, [f"{name}.float"], f"{name}.unpack", axis=0))
            operands = [f"in{number}.dq", *(f"{name}.float" for name in operands[1:])]
        value = "y" if last and activations is None else f"conv{number}.out"
        nodes.append(helper.make_node("Conv", operands, [value], f"conv{number}", pads=[1, 1, 1, 1]))
        if not last:
            nodes.append(helper.make_node("Relu", [value], [f"relu{number}.out"], f"relu{number}"))
            value = f"relu{number}.out"
    if activations is not None:
        nodes += _pair(value, "out", values, activations, output="y")
    write_onnx_file(out, nodes, values, [1, width, SIDE, SIDE])


def linears(out: Path, operator: str = "Gemm", integer_bias: bool = False, side: int = 256) -> None:
    """One layer `fc` of 8-bit weights and a float output. x float32 [8, side] -> y alike.

    Args:
        out: the file.
        operator: `Gemm`, or `MatMul` with an Add behind it.
        integer_bias: int32 in the scale of the product, and weights with a zero point; else float, and without.
        side: inputs and outputs.
    """
    from onnx import helper

    random = np.random.default_rng(2)
    values: dict[str, Any] = {
        "fc.weight": _weights(random, (side, side), 127),
        "fc.weight.scale": np.full(side, WEIGHT_SCALE, np.float32),
        "fc.bias": random.normal(size=side).astype(np.float32),
    }
    nodes = _pair("x", "in", values, np.uint8)
    weight = ["fc.weight", "fc.weight.scale"]
    bias = "fc.bias"
    if integer_bias or operator == "MatMul":
        values["fc.weight.zero"] = np.zeros(side, np.int8)
        weight.append("fc.weight.zero")
    if integer_bias:
        scale = np.full(side, np.float32(IN_SCALE) * np.float32(WEIGHT_SCALE))
        values["fc.bias"] = np.rint(values["fc.bias"] / scale).astype(np.int32)
        values |= {"fc.bias.scale": scale, "fc.bias.zero": np.zeros(side, np.int32)}
        operands = ["fc.bias", "fc.bias.scale", "fc.bias.zero"]
        nodes.append(helper.make_node("DequantizeLinear", operands, ["fc.bias.float"], "fc.bias.unpack", axis=0))
        bias = "fc.bias.float"
    nodes.append(helper.make_node("DequantizeLinear", weight, ["fc.weight.float"], "fc.weight.unpack", axis=1))
    if operator == "Gemm":
        nodes.append(helper.make_node("Gemm", ["in.dq", "fc.weight.float", bias], ["y"], "fc"))
    else:
        nodes.append(helper.make_node("MatMul", ["in.dq", "fc.weight.float"], ["fc.out"], "fc"))
        nodes.append(helper.make_node("Add", ["fc.out", bias], ["y"], "fc.add"))
    write_onnx_file(out, nodes, values, [8, side])


def _weights(random: np.random.Generator, shape: tuple[int, ...], most: int) -> npt.NDArray[np.int8]:
    """Normal, with `most` at four standard deviations.

    Weights that use the whole range evenly are none that a model has, and overflow the 16 bits in which processors
    without VNNI add two products of 8-bit numbers.
    """
    return np.clip(np.rint(random.normal(0, most / 4, shape)), -most, most).astype(np.int8)


def _pair(
    value: str,
    name: str,
    values: dict[str, Any],
    dtype: npt.DTypeLike,
    behind_relu: bool = False,
    output: str = "",
) -> list[Any]:
    """Q and DQ of `value`; gives `{name}.dq`, or `output`."""
    from onnx import helper

    unsigned = np.dtype(dtype) == np.uint8
    values[f"{name}.zero"] = np.array(128 if unsigned and not behind_relu else 0, dtype)
    values[f"{name}.scale"] = np.array(IN_SCALE, np.float32)
    grid = [f"{name}.scale", f"{name}.zero"]
    return [
        helper.make_node("QuantizeLinear", [value, *grid], [f"{name}.q"], f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [f"{name}.q", *grid], [output or f"{name}.dq"], f"{name}.dequantize"),
    ]


def write_onnx_file(out: Path, nodes: Sequence[Any], values: Mapping[str, Any], shape: Sequence[int]) -> None:
    """A file with an input x and an output y of one shape."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    tensors = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value, name)
        for name, value in values.items()
    ]
    graph = helper.make_graph(nodes, "case", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(out))


def separable(out: Path, depthwise: str = "INT8", pointwise: str = "FLOAT32", width: int = 32) -> None:
    """A `.tflite` file: `depthwise`, 3 x 3, then `pointwise`, 3 x 3. x float32 [1, 28, 28, width] -> y alike.

    Args:
        out: the file.
        depthwise: type of its weights, FLOAT32 or INT8.
        pointwise: of its weights, FLOAT32, INT8 or INT4; integers are beside a float input, which the kernel rounds.
        width: channels.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version = 3
    model.description = "autoshrink"
    model.buffers = [schema.BufferT()]
    main = schema.SubGraphT()
    main.tensors, main.operators = [], []

    def tensor(name: str, shape: Sequence[int], kind: str, values: Array | None = None, axis: int = 0) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), getattr(schema.TensorType, kind)
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = list(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
            if kind.startswith("INT"):
                grid = schema.QuantizationParametersT()
                count = shape[axis]
                grid.scale, grid.zeroPoint = [0.01] * count, [0] * count
                grid.quantizedDimension = axis
                made.quantization = grid
        main.tensors.append(made)
        return len(main.tensors) - 1

    def weight(name: str, shape: Sequence[int], kind: str, axis: int) -> int:
        random = np.random.default_rng(len(name))
        if kind == "FLOAT32":
            return tensor(name, shape, kind, random.normal(0, 0.1, shape).astype(np.float32))
        integers = random.integers(-7, 8, shape).astype(np.int8)
        if kind == "INT4":
            flat = integers.reshape(-1).view(np.uint8)
            return tensor(name, shape, kind, (flat[0::2] & 0xF) | (flat[1::2] << 4), axis)
        return tensor(name, shape, kind, integers, axis)

    image = [1, SIDE, SIDE, width]
    x = tensor("x", image, "FLOAT32")
    middle, y = tensor("middle", image, "FLOAT32"), tensor("y", image, "FLOAT32")
    zeros = np.zeros(width, np.float32)
    model.operatorCodes = []
    for place, (kind, options, weights, ends) in enumerate(
        (
            (
                "DEPTHWISE_CONV_2D",
                "DepthwiseConv2DOptions",
                weight("depthwise.weight", [1, 3, 3, width], depthwise, 3),
                (x, middle),
            ),
            ("CONV_2D", "Conv2DOptions", weight("pointwise.weight", [width, 3, 3, width], pointwise, 0), (middle, y)),
        )
    ):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 6
        model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = place
        operator.inputs = [ends[0], weights, tensor(f"{kind.lower()}.bias", [width], "FLOAT32", zeros)]
        operator.outputs = [ends[1]]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        own = getattr(schema, f"{options}T")()
        own.strideH = own.strideW = own.dilationHFactor = own.dilationWFactor = 1
        if hasattr(own, "depthMultiplier"):
            own.depthMultiplier = 1
        operator.builtinOptions = own
        main.operators.append(operator)
    main.inputs, main.outputs = [x], [y]
    model.subgraphs = [main]
    model.signatureDefs = [_signature(schema, x, y)]
    from ai_edge_litert.tools import flatbuffer_utils

    out.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))


def _signature(schema: Any, x: int, y: int) -> Any:
    def ends(name: str, index: int) -> list[Any]:
        made = schema.TensorMapT()
        made.name, made.tensorIndex = name, index
        return [made]

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = ends("x", x), ends("y", y)
    return signature


CASES: tuple[Case, ...] = (
    Case(
        "signed activations",
        "signed_activations",
        "onnxruntime-cpu",
        ".onnx",
        ("conv0", "conv1", "conv2"),
        lambda out: convolutions(out, np.int8),
        convolutions,
    ),
    Case(
        "linear without int32 bias",
        "float_bias",
        "onnxruntime-cpu",
        ".onnx",
        ("fc",),
        linears,
        lambda out: linears(out, integer_bias=True),
    ),
    Case(
        "MatMul + Add fusion",
        "matmul_add_fusion",
        "onnxruntime-cpu",
        ".onnx",
        ("fc",),
        lambda out: linears(out, "MatMul"),
        lambda out: linears(out, integer_bias=True),
    ),
    Case(
        "channels 36 against 40",
        "misaligned_channels",
        "onnxruntime-cpu",
        ".onnx",
        ("conv0", "conv1", "conv2"),
        lambda out: convolutions(out, None, 36),
        lambda out: convolutions(out, None, 40),
    ),
    Case(
        "channels 62 against 64",
        "misaligned_channels",
        "onnxruntime-cpu",
        ".onnx",
        ("conv0", "conv1", "conv2"),
        lambda out: convolutions(out, None, 62),
        lambda out: convolutions(out, None, 64),
    ),
    Case(
        "depthwise in dynamic int8",
        "dynamic_depthwise",
        "tflite-mobile",
        ".tflite",
        ("depthwise",),
        separable,
        lambda out: separable(out, "FLOAT32"),
    ),
    Case(
        "int4 convolution",
        "int4_convolution",
        "onnxruntime-cpu",
        ".onnx",
        ("conv0", "conv1", "conv2"),
        lambda out: convolutions(out, np.uint8, bits=4),
        convolutions,
    ),
    Case(
        "int4 convolution in LiteRT",
        "int4_convolution",
        "tflite-mobile",
        ".tflite",
        ("pointwise",),
        lambda out: separable(out, "FLOAT32", "INT4"),
        lambda out: separable(out, "FLOAT32", "INT8"),
    ),
    Case(
        "under 0.05 ms",
        "small_model",
        "onnxruntime-cpu",
        ".onnx",
        (),
        lambda out: linears(out, integer_bias=True, side=16),
        lambda out: convolutions(out, None, 64),
    ),
)
"""The known cases. That of channels has the padded layers in the middle: the last one's are the model's own output."""
