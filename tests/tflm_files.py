"""Small `.tflite` files built by hand, in integers whose scales are 1, so that one can tell what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from autoshrink.backends.tflm_runtime import schema

Ints = npt.NDArray[np.int8]
BITS = {8: "INT8", 4: "INT4"}


def dense(weights: Ints, bits: int = 8, scales: int = 1, outside: bool = False) -> bytes:
    """`y = weights @ x`: int8 x [1, columns] -> int8 y [1, rows], saturated.

    Args:
        weights: [rows, columns].
        bits: of a stored weight, 8 or 4.
        scales: how many; 1, or one for each row. Each is 1.0.
        outside: whether the weights lie behind the flatbuffer.
    """
    options, shape = schema().FullyConnectedOptionsT(), [1, weights.shape[1]]
    return _layer("FULLY_CONNECTED", "FullyConnectedOptions", options, shape, weights, bits, scales, outside)


def float_dense(weights: npt.NDArray[np.float32]) -> bytes:
    """`y = weights @ x`: float32 x [1, columns] -> float32 y [1, rows], without a bias."""
    found = schema()
    rows, columns = weights.shape
    tensors = [
        _tensor("x", "FLOAT32", [1, columns], 0),
        _tensor("layer.weight", "FLOAT32", [rows, columns], 1),
        _tensor("y", "FLOAT32", [1, rows], 0),
    ]
    node = found.OperatorT(
        opcodeIndex=0,
        inputs=[0, 1, -1],
        outputs=[2],
        builtinOptionsType=found.BuiltinOptions.FullyConnectedOptions,
        builtinOptions=found.FullyConnectedOptionsT(),
    )
    data = np.ascontiguousarray(weights, np.float32).reshape(-1).view(np.uint8)
    return _file("FULLY_CONNECTED", tensors, node, [found.BufferT(), found.BufferT(data=data)])


def pointwise(weights: Ints, bits: int = 8, scales: int = 0) -> bytes:
    """The same as a convolution of 1 x 1 on one pixel: int8 x [1, 1, 1, columns] -> int8 y [1, 1, 1, rows]."""
    options = schema().Conv2DOptionsT(strideW=1, strideH=1)
    rows, columns = weights.shape
    kernel = weights.reshape(rows, 1, 1, columns)
    return _layer("CONV_2D", "Conv2DOptions", options, [1, 1, 1, columns], kernel, bits, scales or rows, False)


def depthwise(weights: Ints) -> bytes:
    """`y = weights * x` as a depthwise convolution of 1 x 1 on one pixel: int8 [1, 1, 1, channels] in and out."""
    options = schema().DepthwiseConv2DOptionsT(strideW=1, strideH=1, depthMultiplier=1)
    shape = [1, 1, 1, weights.size]
    return _layer("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", options, shape, weights.reshape(shape), 8, -1, False)


def elementwise(operator: str, shape: list[int]) -> bytes:
    """One operator without options on float32 `shape`."""
    found = schema()
    tensors = [_tensor("x", "FLOAT32", shape, 0), _tensor("y", "FLOAT32", shape, 0)]
    node = found.OperatorT(opcodeIndex=0, inputs=[0], outputs=[1])
    return _file(operator, tensors, node, [found.BufferT()])


def _layer(
    operator: str,
    options_type: str,
    options: Any,
    shape: list[int],
    weights: Ints,
    bits: int,
    scales: int,
    outside: bool,
) -> bytes:
    """`scales` of -1 is one for each entry of the weights' last dimension."""
    found = schema()
    axis = 3 if scales < 0 else 0
    rows = weights.shape[axis]
    scales = rows if scales < 0 else scales
    tensors = [
        _tensor("image", "INT8", shape, 0, 1),
        _tensor("layer.weight", BITS[bits], list(weights.shape), 1, scales, axis),
        _tensor("layer.bias", "INT32", [rows], 2, scales),
        _tensor("a long name that nobody reads on the device", "INT8", [*shape[:-1], rows], 0, 1),
    ]
    flat = weights.reshape(-1).view(np.uint8)
    data = flat if bits == 8 else (flat[0::2] & 0xF) | (flat[1::2] << 4)
    bias = np.zeros(rows, np.int32).view(np.uint8)
    buffers = [found.BufferT(), found.BufferT(data=data), found.BufferT(data=bias)]
    if outside:
        buffers[1] = found.BufferT(offset=2, size=data.size)
    node = found.OperatorT(
        opcodeIndex=0,
        inputs=[0, 1, 2],
        outputs=[3],
        builtinOptionsType=getattr(found.BuiltinOptions, options_type),
        builtinOptions=options,
    )
    content = _file(operator, tensors, node, buffers)
    if not outside:
        return content
    # Once more, now that it is known where the flatbuffer ends; the size of the number does not change it.
    buffers[1].offset = len(content) + -len(content) % 16
    content = _file(operator, tensors, node, buffers)
    return content.ljust(buffers[1].offset, b"\0") + data.tobytes()


def _tensor(name: str, kind: str, shape: list[int], buffer: int, scales: int = 0, axis: int = 0) -> Any:
    found = schema()
    grid = None
    if scales:
        grid = found.QuantizationParametersT(
            scale=np.ones(scales, np.float32), zeroPoint=np.zeros(scales, np.int64), quantizedDimension=axis
        )
    return found.TensorT(
        shape=shape, type=getattr(found.TensorType, kind), buffer=buffer, name=name.encode(), quantization=grid
    )


def _file(operator: str, tensors: list[Any], node: Any, buffers: list[Any]) -> bytes:
    from ai_edge_litert.tools.flatbuffer_utils import convert_object_to_bytearray

    found = schema()
    code = getattr(found.BuiltinOperator, operator)
    ends = ([0], [len(tensors) - 1])
    ports = [
        [found.TensorMapT(name=name.encode(), tensorIndex=indices[0])]
        for name, indices in zip(("image", "logits"), ends, strict=True)
    ]
    graph = found.SubGraphT(tensors=tensors, inputs=ends[0], outputs=ends[1], operators=[node], name=b"main")
    signature = found.SignatureDefT(inputs=ports[0], outputs=ports[1], signatureKey=b"serving_default")
    model = found.ModelT(
        version=3,
        operatorCodes=[found.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=1)],
        subgraphs=[graph],
        buffers=buffers,
        signatureDefs=[signature],
        description=b"made by hand",
    )
    return bytes(convert_object_to_bytearray(model))
