"""The graph of a model with quantizers as runtimes want it: integer weights, 32-bit biases, Gemm for Linear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoshrink.fake_quantize import weight_range
from autoshrink.onnx_graph import drop_unused
from autoshrink.techniques.onnx_linear import linear_as_gemm

INT4_OPSET = 21
"""The first in which DequantizeLinear's neighbours take 4-bit integers."""

MOVES = ("Reshape", "Flatten")

Arrays = dict[str, npt.NDArray[Any]]


def store_integers(model: onnx.ModelProto, bits: Mapping[str, int]) -> onnx.ModelProto:
    """`model` with its quantized weights and biases as integers; its function is the same up to float rounding.

    A weight is an int8 initializer behind DequantizeLinear; one of 4 bits an INT4 initializer, cast to int8 when the
    model is loaded, so that 8-bit kernels compute with it. A bias gets 32 bits in the scale of the product.

    Args:
        model: each quantized weight is an initializer behind QuantizeLinear and DequantizeLinear; not modified.
        bits: initializer -> bits of its integers.
    """
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    del stored.graph.value_info[:]
    _round_weights(stored.graph, bits)
    _turn_weights(stored.graph)
    stored = linear_as_gemm(stored)
    _move_integers(stored.graph)
    _round_biases(stored.graph)
    _name_layers(stored.graph)
    if any(width == 4 for width in bits.values()) and not _has_signed_activations(stored.graph):
        _pack_int4(stored, bits)
    drop_unused(stored.graph)
    return stored


def _constants(graph: onnx.GraphProto) -> Arrays:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _round_weights(graph: onnx.GraphProto, bits: Mapping[str, int]) -> None:
    """QuantizeLinear of an initializer becomes the initializer of its result, under the initializer's name."""
    constants = _constants(graph)
    weights = {tensor.name for tensor in graph.initializer}
    integers: Arrays = {}
    nodes = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in weights:
            nodes.append(node)
            continue
        weight, scale, zero = (constants[name] for name in node.input)
        shape = [1] * weight.ndim
        if scale.ndim:
            shape[_axis(node)] = -1
        rounded = np.rint(weight / scale.reshape(shape)) + zero.astype(np.float32).reshape(shape)
        name = f"{node.input[0]}/integers"
        integers[name] = np.clip(rounded, *weight_range(bits[node.input[0]])).astype(zero.dtype)
        renamed[node.output[0]] = name
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in integers.items())
    drop_unused(graph)
    # Under the weight's own name, unless the float weight is still read (an embedding that shares it).
    left = {tensor.name for tensor in graph.initializer}
    own = {name: name.removesuffix("/integers") for name in integers if name.removesuffix("/integers") not in left}
    _rename(graph, own)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def _turn_weights(graph: onnx.GraphProto) -> None:
    """Transpose of a dequantized initializer becomes the transposed initializer."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {
        node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors
    }
    nodes = []
    for node in graph.node:
        source = dequantized.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None:
            nodes.append(node)
            continue
        array = numpy_helper.to_array(tensors[source.input[0]])
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(array.ndim))[::-1])
        turned = np.ascontiguousarray(array.transpose(order))
        tensors[source.input[0]].CopyFrom(numpy_helper.from_array(turned, source.input[0]))
        for attribute in source.attribute:
            if attribute.name == "axis":
                attribute.i = order.index(attribute.i)
        source.output[0] = node.output[0]
    del graph.node[:]
    graph.node.extend(nodes)


def _move_integers(graph: onnx.GraphProto) -> None:
    """Reshapes work on integers: a kernel wants the pair right before it, and right behind it."""
    constants = _constants(graph)
    made = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}

    def by_tensor(node: onnx.NodeProto | None, kind: str) -> bool:
        return node is not None and node.op_type == kind and constants[node.input[1]].ndim == 0

    nodes: list[onnx.NodeProto] = []
    early: set[str] = set()
    for node in graph.node:
        if node.output[0] in early:
            continue
        nodes.append(node)
        if node.op_type not in MOVES:
            continue
        before, after = made.get(node.input[0]), readers.get(node.output[0], [])
        name = node.output[0]
        if by_tensor(before, "DequantizeLinear"):
            assert before is not None  # noqa: S101 - said again for the type checker
            pair = [f"{name}/integers", *before.input[1:]]
            nodes.append(helper.make_node("DequantizeLinear", pair, [name], f"{node.name}/Dequantize"))
            node.input[0], node.output[0] = before.input[0], pair[0]
        elif name not in outputs and len(after) == 1 and by_tensor(after[0], "QuantizeLinear"):
            quantize = onnx.NodeProto()
            quantize.CopyFrom(after[0])
            quantize.input[0], quantize.output[0] = node.input[0], f"{name}/integers"
            early.add(after[0].output[0])
            node.input[0], node.output[0] = quantize.output[0], after[0].output[0]
            nodes.insert(-1, quantize)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Removes the DequantizeLinear nodes that nothing reads any more."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in graph.node if node.op_type != "DequantizeLinear" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)


def _round_biases(graph: onnx.GraphProto) -> None:
    constants = _constants(graph)
    made = {name: node for node in graph.node for name in node.output}
    initializers = {tensor.name for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        pair = [made.get(name) for name in node.input[:2]]
        biased = node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in initializers
        if biased and all(part is not None and part.op_type == "DequantizeLinear" for part in pair):
            product: npt.NDArray[np.float32] = np.ones((), np.float32)
            for part in pair:
                assert part is not None  # noqa: S101 - said again for the type checker
                product = product * constants[part.input[1]]
            bias = constants[node.input[2]]
            scale = np.broadcast_to(product, bias.shape).astype(np.float32)
            integers = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
            name = f"{node.input[2]}/{node.name}"
            graph.initializer.append(numpy_helper.from_array(integers, f"{name}/integers"))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}/scale"))
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", [f"{name}/integers", f"{name}/scale"], [name], f"{name}/Dequantize", axis=0
                )
            )
            node.input[2] = name
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _name_layers(graph: onnx.GraphProto) -> None:
    """Names each layer after its weight, as in a float graph."""
    weights = {
        node.output[0]: node.input[0].removesuffix(".weight")
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0].endswith(".weight")
    }
    taken = {node.name for node in graph.node}
    for node in graph.node:
        layer = weights.get(node.input[1]) if len(node.input) > 1 else None
        if layer is not None and f"{layer}/{node.op_type}" not in taken:
            node.name = f"{layer}/{node.op_type}"
            taken.add(node.name)


def _has_signed_activations(graph: onnx.GraphProto) -> bool:
    """Whether activations are int8, for which ONNX Runtime 1.31 refuses some products of opset 21."""
    constants = _constants(graph)
    return any(
        constants[node.input[2]].dtype == np.int8
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[2] in constants
    )


def _pack_int4(model: onnx.ModelProto, bits: Mapping[str, int]) -> None:
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        if bits.get(tensor.name) != 4 or tensor.data_type != TensorProto.INT8:
            continue
        array = numpy_helper.to_array(tensor)
        flat = (array.reshape(-1) & 0xF).astype(np.uint8)
        if flat.size % 2:
            flat = np.append(flat, np.uint8(0))
        packed = (flat[0::2] | (flat[1::2] << 4)).tobytes()
        graph.initializer.remove(tensor)
        graph.initializer.append(
            helper.make_tensor(f"{tensor.name}/packed.4bit", TensorProto.INT4, array.shape, packed, raw=True)
        )
        casts.append(
            helper.make_node(
                "Cast", [f"{tensor.name}/packed.4bit"], [tensor.name], f"{tensor.name}/Widen", to=TensorProto.INT8
            )
        )
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, INT4_OPSET)
    model.ir_version = max(model.ir_version, 10)
