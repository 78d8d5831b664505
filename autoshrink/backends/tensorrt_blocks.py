"""Weights of 4 or 8 bits in blocks, as TensorRT reads them: DequantizeLinear by blocks, with no zero points.

TensorRT takes only symmetric grids. So with codes q, zero points z and scales s of each block b the product is split:

    x W = x [s (q - c)] + sum_b (sum of x over b) [s (c - z)]_b      c: the middle of the codes, 8 or 128

The second term is a product with one row a block: the weights stay integers in the engine, and nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoshrink.backends.tensorrt_lint import constants_of
from autoshrink.backends.tensorrt_network import SHIFT
from autoshrink.errors import StageError
from autoshrink.onnx_graph import drop_unused

OPERATOR = "MatMulNBits"
OPSET = 21
"""The first whose DequantizeLinear has blocks."""
IR_VERSION = 10

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Blocks:
    """A weight of a MatMulNBits: codes int8 [K, N] around 0, scales and shifts [K / block, N]; K is filled up."""

    codes: Array
    scales: Array
    shifts: Array
    inputs: int
    bits: int
    block: int


def blocks_as_dequantize(model: onnx.ModelProto) -> int:
    """Rewrites, in place, each MatMulNBits with standard operators; gives how many needed a second product.

    Raises:
        StageError: the rank of what such a layer reads is not known.
    """
    graph = model.graph
    constants = constants_of(graph)
    layers: dict[str, _Blocks] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != OPERATOR:
            nodes.append(node)
            continue
        blocks = _blocks(node, constants)
        layers[node.output[0]] = blocks
        nodes += _product(graph, node, blocks)
    if not layers:
        return 0
    _set_nodes(graph, nodes)
    _raise_opset(model)
    drop_unused(graph)
    ranks = _ranks(model)
    corrected = 0
    nodes = []
    for node in graph.node:
        layer = layers.get(node.output[0])
        if layer is None or not layer.shifts.any():
            nodes.append(node)
            continue
        if node.input[0] not in ranks:
            raise StageError(
                "compile",
                f"{node.name}: the rank of its input is not known, so its blocks cannot be summed; "
                "leave int8_weights and int4_weights out of the space",
            )
        nodes += _corrected(graph, node, layer, ranks[node.input[0]])
        corrected += 1
    _set_nodes(graph, nodes)
    return corrected


def _blocks(node: onnx.NodeProto, constants: dict[str, Array]) -> _Blocks:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs, outputs, bits, block = (int(given[name]) for name in ("K", "N", "bits", "block_size"))
    count = -(-inputs // block)
    middle = 2 ** (bits - 1)
    codes = _unpacked(constants[node.input[1]].reshape(outputs, -1), bits)[:, : count * block]
    scales = constants[node.input[2]].reshape(outputs, count).astype(np.float32)
    zeros = np.full((outputs, count), middle, np.float32)
    if len(node.input) > 3 and node.input[3]:
        packed = constants[node.input[3]].reshape(outputs, -1)
        # As integers they are packed like the codes; as floats they are plain.
        zeros = (_unpacked(packed, bits) if packed.dtype == np.uint8 else packed)[:, :count].astype(np.float32)
    return _Blocks(
        np.ascontiguousarray((codes.astype(np.int16) - middle).astype(np.int8).T),
        np.ascontiguousarray(scales.T),
        np.ascontiguousarray((scales * (middle - zeros)).T),
        inputs,
        bits,
        block,
    )


def _unpacked(packed: Array, bits: int) -> Array:
    """Codes of 4 bits [..., n] from bytes [..., n / 2], the low half first."""
    if bits == 8:
        return packed
    return np.stack([packed & 0xF, packed >> 4], -1).reshape(*packed.shape[:-1], -1)


def _product(graph: onnx.GraphProto, node: onnx.NodeProto, blocks: _Blocks) -> list[onnx.NodeProto]:
    name, source = node.name or node.output[0], node.input[0]
    nodes = []
    missing = len(blocks.codes) - blocks.inputs
    if missing:
        # The last block is filled up with codes that must not count, so it meets zeros.
        _add(graph, f"{name}/pads", np.array([0, missing], np.int64))
        _add(graph, f"{name}/axis", np.array([-1], np.int64))
        nodes.append(
            helper.make_node("Pad", [source, f"{name}/pads", "", f"{name}/axis"], [f"{name}/padded"], f"{name}/Pad")
        )
        source = f"{name}/padded"
    shape = blocks.codes.shape
    if blocks.bits == 4:
        raw = blocks.codes.reshape(-1).astype(np.uint8) & 0xF
        packed = (raw[0::2] | raw[1::2] << 4).tobytes()
        graph.initializer.append(helper.make_tensor(f"{name}/codes", TensorProto.INT4, shape, packed, raw=True))
    else:
        _add(graph, f"{name}/codes", blocks.codes)
    _add(graph, f"{name}/scales", blocks.scales)
    nodes.append(
        helper.make_node(
            "DequantizeLinear",
            [f"{name}/codes", f"{name}/scales"],
            [f"{name}/weight"],
            f"{name}/Dequantize",
            axis=0,
            block_size=blocks.block,
        )
    )
    nodes.append(helper.make_node("MatMul", [source, f"{name}/weight"], [node.output[0]], name))
    return nodes


def _corrected(graph: onnx.GraphProto, node: onnx.NodeProto, blocks: _Blocks, rank: int) -> list[onnx.NodeProto]:
    name, result = node.name, node.output[0]
    shape = [0] * (rank - 1) + [len(blocks.shifts), blocks.block]
    _add(graph, f"{name}/blocks", np.array(shape, np.int64))
    _add(graph, f"{name}/last", np.array([-1], np.int64))
    _add(graph, f"{name}/shifts", blocks.shifts)
    product = onnx.NodeProto()
    product.CopyFrom(node)
    product.output[0] = f"{name}/symmetric"
    return [
        product,
        helper.make_node("Reshape", [node.input[0], f"{name}/blocks"], [f"{name}/split"], f"{name}/Split"),
        helper.make_node("ReduceSum", [f"{name}/split", f"{name}/last"], [f"{name}/sums"], f"{name}/Sums", keepdims=0),
        helper.make_node("MatMul", [f"{name}/sums", f"{name}/shifts"], [f"{name}/shift"], f"{name}{SHIFT}"),
        helper.make_node("Add", [f"{name}/symmetric", f"{name}/shift"], [result], f"{name}/Sum"),
    ]


def _add(graph: onnx.GraphProto, name: str, array: Array) -> None:
    graph.initializer.append(numpy_helper.from_array(array, name))


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    # Copies: clearing the field ends the life of what it holds.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _raise_opset(model: onnx.ModelProto) -> None:
    kept = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    for entry in kept:
        entry.version = max(entry.version, OPSET)
    others = [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    used = {node.domain for node in model.graph.node}
    opsets = [helper.make_opsetid(e.domain, e.version) for e in (*kept, *(e for e in others if e.domain in used))]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.ir_version = max(model.ir_version, IR_VERSION)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
