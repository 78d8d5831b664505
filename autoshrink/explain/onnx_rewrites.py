"""Rewrites of an ONNX file that let a runtime use its integer kernels; each says what it does to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoshrink.explain.onnx_layers import DQ, FUSED, LOW_BITS, STORED, OnnxIndex, attribute
from autoshrink.explain.onnx_padding import pad_channels
from autoshrink.onnx_graph import drop_unused

SHIFT = 128


def unsigned_activations(model: onnx.ModelProto) -> int:
    """Activations int8 -> uint8 with the zero point shifted by 128, which is the same function; gives how many.

    Behind a ReLU a zero point of 0 stays 0 with the same scale: there are no negative values, and ReLU then vanishes
    into the range. Values above 127 steps, which were clipped, no longer are.
    """
    index = OnnxIndex(model)
    zeros: dict[str, int] = {}
    for node in index.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in index.constants and index.grid(node) == "int8":
            zero = index.array(node.input[2])
            if zero.ndim == 0 or zero.size == 1:
                before = index.made.get(node.input[0])
                stays = before is not None and before.op_type in FUSED and not int(zero.reshape(-1)[0])
                zeros[node.output[0]] = 0 if stays else int(zero.reshape(-1)[0]) + SHIFT
    changed = [node for node in index.graph.node if node.output[0] in zeros]
    for node in index.graph.node:
        if node.op_type != DQ or node.input[0] in index.constants or index.grid(node) != "int8":
            continue
        source = _quantized(index, node.input[0])
        if source in zeros:
            zeros[node.output[0]] = zeros[source]
            changed.append(node)
    for node in changed:
        name = f"{node.output[0]}/zero_point"
        shape = tuple(index.constants[node.input[2]].dims)
        model.graph.initializer.append(numpy_helper.from_array(np.full(shape, zeros[node.output[0]], np.uint8), name))
        node.input[2] = name
    drop_unused(model.graph)
    return sum(node.op_type != DQ for node in changed)


def _quantized(index: OnnxIndex, value: str) -> str:
    """The output of the QuantizeLinear that made the integers `value`, through what only moves them."""
    while value in index.made and index.made[value].op_type in (
        "Reshape",
        "Flatten",
        "Transpose",
        "MaxPool",
        "Squeeze",
    ):
        value = index.made[value].input[0]
    return value


def integer_bias(model: onnx.ModelProto) -> int:
    """Float bias of a Gemm on integers -> int32 in the scale of the product; zero points of 0 where none is named.

    The bias is rounded to a step of input scale x weight scale. Gives how many layers were changed.
    """
    index = OnnxIndex(model)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in index.graph.node:
        pair = [index.made.get(name) for name in node.input[:2]] if node.op_type == "Gemm" else []
        if len(pair) == 2 and all(each is not None and each.op_type == DQ for each in pair):
            value, weight = pair
            assert value is not None and weight is not None  # noqa: S101 - said again for the type checker
            if {value.input[1], weight.input[1]} <= index.constants.keys() and _is_plain(node):
                changed = _name_zero_point(index, weight)
                if len(node.input) > 2 and node.input[2] in index.constants:
                    nodes.append(_rounded_bias(index, node, value, weight))
                    changed = True
                count += changed
        nodes.append(node)
    del index.graph.node[:]
    index.graph.node.extend(nodes)
    drop_unused(model.graph)
    return count


def _is_plain(gemm: onnx.NodeProto) -> bool:
    return all(each.f == 1.0 for each in gemm.attribute if each.name in ("alpha", "beta"))


def _name_zero_point(index: OnnxIndex, weight: onnx.NodeProto) -> bool:
    if len(weight.input) > 2 or weight.input[0] not in index.constants:
        return False
    dtype = index.array(weight.input[0]).dtype
    name = f"{weight.input[0]}/zero_point"
    index.graph.initializer.append(numpy_helper.from_array(np.zeros(index.array(weight.input[1]).shape, dtype), name))
    weight.input.append(name)
    return True


def _rounded_bias(
    index: OnnxIndex, node: onnx.NodeProto, value: onnx.NodeProto, weight: onnx.NodeProto
) -> onnx.NodeProto:
    bias = index.array(node.input[2])
    scale = (index.array(value.input[1]) * index.array(weight.input[1])).astype(np.float32)
    scale = np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), bias.shape)) if bias.ndim == 1 else scale
    name = f"{node.input[2]}/{node.output[0]}"
    most = np.iinfo(np.int32).max
    integers = np.clip(np.rint(bias.astype(np.float64) / scale), -most, most).astype(np.int32)
    index.graph.initializer.append(numpy_helper.from_array(integers, f"{name}/integers"))
    index.graph.initializer.append(numpy_helper.from_array(scale, f"{name}/scale"))
    index.graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int32), f"{name}/zero_point"))
    node.input[2] = name
    operands = [f"{name}/integers", f"{name}/scale", f"{name}/zero_point"]
    return helper.make_node(DQ, operands, [name], f"{name}/Dequantize", axis=0)


def int8_weights(model: onnx.ModelProto) -> int:
    """4-bit weights are cast to 8 bits when the file is loaded: the same values, in a file as small. Gives how many."""
    index = OnnxIndex(model)
    casts: list[onnx.NodeProto] = []
    for node in index.graph.node:
        stored = (
            STORED.get(index.constants[node.input[0]].data_type)
            if node.input and node.input[0] in index.constants
            else None
        )
        if node.op_type != DQ or stored not in LOW_BITS or attribute(node, "block_size", 0):
            continue
        wide, dtype = (np.int8, TensorProto.INT8) if stored == "int4" else (np.uint8, TensorProto.UINT8)
        name = f"{node.input[0]}/widened"
        casts.append(helper.make_node("Cast", [node.input[0]], [name], f"{node.input[0]}/Widen", to=dtype))
        node.input[0] = name
        scale = index.array(node.input[1])
        named = len(node.input) > 2 and bool(node.input[2])
        zero = index.array(node.input[2]).astype(wide) if named else np.zeros(scale.shape, wide)
        index.graph.initializer.append(numpy_helper.from_array(zero, f"{name}/zero_point"))
        del node.input[2:]
        node.input.append(f"{name}/zero_point")
    nodes = list(index.graph.node)
    del index.graph.node[:]
    index.graph.node.extend([*casts, *nodes])
    drop_unused(model.graph)
    return len(casts)


def float_form(model: onnx.ModelProto) -> int:
    """The same weights in float32 and no Q/DQ pairs; values are no longer rounded in between. Gives how many pairs."""
    index = OnnxIndex(model)
    renamed: dict[str, str] = {}
    dropped: list[onnx.NodeProto] = []
    for node in index.graph.node:
        if node.op_type != DQ:
            continue
        source = index.made.get(node.input[0])
        if node.input[0] in index.constants and {*node.input[1:]} <= index.constants.keys():
            values = _dequantized(index, node)
            index.graph.initializer.append(numpy_helper.from_array(values, f"{node.output[0]}/float"))
            renamed[node.output[0]] = f"{node.output[0]}/float"
            dropped.append(node)
        elif source is not None and source.op_type == "QuantizeLinear" and source.input[0] not in index.constants:
            renamed[node.output[0]] = source.input[0]
            dropped.append(node)
    return _bypass(model, index, renamed, dropped)


def _bypass(model: onnx.ModelProto, index: OnnxIndex, renamed: dict[str, str], dropped: list[onnx.NodeProto]) -> int:
    """Has readers of `renamed` read what stands for it; an output of the model keeps its name by an Identity."""

    def final(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    gone = {id(node) for node in dropped}
    kept = [node for node in index.graph.node if id(node) not in gone]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = final(name)
    kept += [
        helper.make_node("Identity", [final(name)], [name], f"{name}/Identity")
        for name in renamed
        if name in index.outputs
    ]
    read = {name for node in kept for name in node.input} | index.outputs
    kept = [node for node in kept if node.op_type != "QuantizeLinear" or node.output[0] in read]
    del index.graph.node[:]
    index.graph.node.extend(kept)
    drop_unused(model.graph)
    return len(dropped)


def _dequantized(index: OnnxIndex, node: onnx.NodeProto) -> np.ndarray:
    values, scale = index.array(node.input[0]).astype(np.float32), index.array(node.input[1]).astype(np.float32)
    zero = index.array(node.input[2]).astype(np.float32) if len(node.input) > 2 else np.zeros(scale.shape, np.float32)
    if scale.ndim:
        along = [1] * values.ndim
        along[attribute(node, "axis", 1)] = -1
        scale, zero = scale.reshape(along), zero.reshape(along)
    return (values - zero) * scale


REWRITES: Mapping[str, Callable[[onnx.ModelProto], int]] = {
    "unsigned_activations": unsigned_activations,
    "integer_bias": integer_bias,
    "int8_weights": int8_weights,
    "float_form": float_form,
    "pad_channels": pad_channels,
}
"""Name -> what changes a model in place and gives how many places it changed."""
