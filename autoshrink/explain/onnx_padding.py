"""Channels of convolutions padded with zeros to a multiple of the vector: the same outputs, in whole vectors."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from autoshrink.explain.onnx_layers import DQ, OnnxIndex, attribute
from autoshrink.onnx_graph import drop_unused

MULTIPLE = 8
PASSED = ("Relu", "Clip", "QuantizeLinear", DQ, "Identity", "MaxPool", "LeakyRelu", "HardSwish", "Sigmoid")
"""Nodes that compute each channel by itself, in the same way for all."""


def pad_channels(model: onnx.ModelProto, multiple: int = MULTIPLE) -> int:
    """Pads the channels between convolutions; gives how many layers' outputs were padded.

    A layer is padded when all that reads its output, through nodes that work on each channel alike, are convolutions
    of one group. The new channels' weights are zeros, and so is what reads them, so that no output changes, whatever
    the nodes between make of a zero.
    """
    index = OnnxIndex(model)
    count = 0
    for node in list(index.graph.node):
        if node.op_type != "Conv" or attribute(node, "group", 1) != 1 or not _is_editable(index, node):
            continue
        outputs = index.shapes[node.input[1]][0]
        readers = _convolutions(index, node.output[0])
        more = -outputs % multiple
        if not more or outputs < multiple or not readers or not all(_is_editable(index, each) for each in readers):
            continue
        _pad(index, node.input[1], 0, more)
        if len(node.input) > 2 and node.input[2]:
            _pad(index, node.input[2], 0, more)
        for reader in readers:
            _pad(index, reader.input[1], 1, more)
        count += 1
        # Shapes have changed.
        index = OnnxIndex(model)
    del model.graph.value_info[:]
    drop_unused(model.graph)
    return count


def _is_editable(index: OnnxIndex, node: onnx.NodeProto) -> bool:
    """Whether weights and bias are constants of this node alone, as they are or behind one DequantizeLinear."""
    for name in node.input[1:3]:
        if not name:
            continue
        chain = index.weight_chain(name)
        if chain is None or len(chain) > 1 or len(index.readers[name]) != 1:
            return False
        if chain and (
            chain[0].op_type != DQ
            or not {*chain[0].input} <= index.constants.keys()
            or len(index.readers[chain[0].input[0]]) != 1
            or attribute(chain[0], "block_size", 0)
            or (len(chain[0].input) > 2 and index.array(chain[0].input[2]).any())
        ):
            return False
    return True


def _convolutions(index: OnnxIndex, value: str) -> list[onnx.NodeProto]:
    """The convolutions of one group that read a value; empty when anything else does, at whatever place."""
    found: list[onnx.NodeProto] = []
    waiting = [value]
    while waiting:
        name = waiting.pop()
        if name in index.outputs:
            return []
        for reader in index.readers[name]:
            if reader.op_type == "Conv" and reader.input[0] == name and attribute(reader, "group", 1) == 1:
                found.append(reader)
            elif reader.op_type in PASSED and reader.input[0] == name and _is_uniform(index, reader):
                waiting += list(reader.output)
            else:
                return []
    return found


def _is_uniform(index: OnnxIndex, node: onnx.NodeProto) -> bool:
    """Whether its other operands are single numbers."""
    return all(
        not name or (name in index.constants and int(np.prod(index.constants[name].dims)) == 1)
        for name in node.input[1:]
    )


def _pad(index: OnnxIndex, name: str, axis: int, more: int) -> None:
    """Zeros behind the end of a constant's axis; a grid along that axis repeats that of the first channel."""
    chain = index.weight_chain(name) or []
    if not chain:
        _extend(index, name, axis, more, 0)
        return
    dequantize = chain[0]
    _extend(index, dequantize.input[0], axis, more, 0)
    along = attribute(dequantize, "axis", 1) % max(1, len(index.constants[dequantize.input[0]].dims))
    for place, operand in enumerate(dequantize.input[1:], 1):
        if index.constants[operand].dims and along == axis:
            own = operand
            if len(index.readers[operand]) > 1:
                own = f"{dequantize.output[0]}/{place}"
                tensor = numpy_helper.from_array(index.array(operand), own)
                index.graph.initializer.append(tensor)
                index.constants[own] = index.graph.initializer[-1]
                dequantize.input[place] = own
            _extend(index, own, 0, more, None)


def _extend(index: OnnxIndex, name: str, axis: int, more: int, fill: int | None) -> None:
    array = index.array(name)
    shape = [more if place == axis else size for place, size in enumerate(array.shape)]
    first = np.take(array, [0], axis)
    end = np.broadcast_to(first, shape) if fill is None else np.full(shape, fill, array.dtype)
    index.constants[name].CopyFrom(numpy_helper.from_array(np.concatenate((array, end), axis), name))
