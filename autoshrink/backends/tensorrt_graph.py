"""An exported ONNX graph as TensorRT wants it: plain constants, float biases, symmetric grids, nothing before a Relu.

What these rewrites change: a sum before a rectifier or at an output is no longer rounded, and a uint8 grid from zero
becomes an int8 grid over the same range with half as many steps. Everything else computes the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoshrink.backends.tensorrt_blocks import blocks_as_dequantize
from autoshrink.backends.tensorrt_half import compute_in
from autoshrink.backends.tensorrt_lint import QUANTIZERS, constants_of, types_of
from autoshrink.onnx_graph import drop_unused

if TYPE_CHECKING:
    from collections.abc import Mapping

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization")
RECTIFIERS = ("Relu", "Clip", "LeakyRelu")
"""What TensorRT computes in the kernel of the layer before, unless a rounding stands between."""
DECODING = (
    *("Cast", "Gather", "Mul", "Add", "Div", "Mod", "Reshape", "Slice", "Transpose", "Squeeze", "Unsqueeze"),
    "Constant",
)
"""Operators that our files make weights of when they are loaded; see `onnx_packing` and `onnx_float16`."""
UINT8_MIDDLE = 128
UINT8_STEPS, INT8_STEPS = 255, 127


def prepare(model: onnx.ModelProto, precision: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph that is parsed, and notes on where it computes other than `model` does.

    Args:
        model: as exported for `precision`; not modified.
        precision: of the recipe; with fp16 and bf16 all floats become that, between a cast at each input and output.

    Raises:
        StageError: the graph has control flow, where halves are wanted; a layer of low-bit weights has no known rank.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    graph = prepared.graph
    del graph.value_info[:]
    notes = []
    fold_constants(prepared)
    float_biases(graph)
    rescaled = signed_grids(prepared)
    if rescaled:
        notes.append(f"{rescaled} uint8 activations from 0 to 255 steps are int8 from 0 to 127 in the engine")
    drop_roundings(graph)
    corrected = blocks_as_dequantize(prepared)
    if corrected:
        notes.append(
            f"TensorRT's grids are symmetric: the zero points of {corrected} layers are a product of their own, with "
            "the sums of the input's blocks"
        )
    if precision in HALF:
        compute_in(prepared, HALF[precision])
    _drop_unread(graph)
    return prepared, tuple(notes)


def fold_constants(model: onnx.ModelProto) -> int:
    """Replaces what decodes weights at load by the weights; gives how many nodes are gone.

    Only nodes of `DECODING` are calculated: others, such as Expand, may make large tensors of small ones.
    """
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    constant = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    folded: list[onnx.NodeProto] = []
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        inputs = {name for name in node.input if name}
        if node.op_type in DECODING and inputs <= constant and not outputs & {*node.output} and not node.domain:
            folded.append(node)
            constant |= {*node.output}
        else:
            kept.append(node)
    if not folded:
        return 0
    read = {name for node in kept for name in node.input}
    wanted = [name for node in folded for name in node.output if name in read]
    needed = {name for node in folded for name in node.input}
    values = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in wanted]
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    part = helper.make_model(helper.make_graph(folded, "weights", [], values, weights))
    del part.opset_import[:]
    part.opset_import.extend(model.opset_import)
    part.ir_version = model.ir_version
    results = ReferenceEvaluator(part).run(None, {})
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name)
        for name, array in zip(wanted, results, strict=True)
    )
    _set_nodes(graph, kept)
    drop_unused(graph)
    return len(folded)


def float_biases(graph: onnx.GraphProto) -> int:
    """Replaces each dequantized int32 initializer by its float values; gives how many."""
    constants = constants_of(graph)
    kept = []
    made = []
    for node in graph.node:
        integers = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if integers is None or integers.dtype != np.int32 or node.input[1] not in constants:
            kept.append(node)
            continue
        scale = constants[node.input[1]]
        values = (integers.astype(np.float64) * _along(scale, integers.ndim, _axis(node))).astype(scale.dtype)
        made.append(numpy_helper.from_array(values, node.output[0]))
    _set_nodes(graph, kept)
    graph.initializer.extend(made)
    drop_unused(graph)
    return len(made)


def signed_grids(model: onnx.ModelProto) -> int:
    """Makes uint8 grids int8 where that can be; gives how many activations have fewer steps by it.

    A zero point of 128 becomes 0 and every integer 128 less, which is the same grid. One of 0 becomes int8 of the same
    range: scale x 255 / 127. Others stay, for `lint` to name.
    """
    graph = model.graph
    constants, types = constants_of(graph), types_of(model)
    added: dict[str, npt.NDArray[Any]] = {}
    rescaled = 0
    for node in graph.node:
        if node.op_type not in QUANTIZERS or node.domain:
            continue
        is_quantize = node.op_type == "QuantizeLinear"
        has_zero = len(node.input) > 2 and bool(node.input[2])
        zero = constants.get(node.input[2]) if has_zero else np.zeros((), np.uint8)
        scale, integers = constants.get(node.input[1]), constants.get(node.input[0])
        if types.get(node.output[0] if is_quantize else node.input[0]) != TensorProto.UINT8:
            continue
        if zero is None or scale is None or not ((zero == UINT8_MIDDLE).all() or (zero == 0).all()):
            continue
        if not is_quantize and integers is not None:
            if (zero == 0).all() and integers.max(initial=0) > INT8_STEPS:
                continue
            name = f"{node.input[0]}/int8"
            added[name] = (integers.astype(np.int16) - int(zero.flat[0])).astype(np.int8)
            node.input[0] = name
        elif (zero == 0).all():
            name = f"{node.input[1]}/int8"
            added[name] = (scale.astype(np.float64) * UINT8_STEPS / INT8_STEPS).astype(scale.dtype)
            node.input[1] = name
            rescaled += is_quantize
        name = f"{node.input[2] if has_zero else node.output[0] + '/zero'}/int8"
        added[name] = np.zeros(scale.shape, np.int8)
        _set_zero(node, name)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in added.items())
    drop_unused(graph)
    return rescaled


def drop_roundings(graph: onnx.GraphProto) -> int:
    """Removes the pairs of QuantizeLinear and DequantizeLinear behind a sum that only rectifiers or outputs read.

    There TensorRT would end a kernel, to round, and begin another one. Gives how many are gone.
    """
    made, readers = _made(graph), _readers(graph)
    outputs = {value.name for value in graph.output}
    gone: list[onnx.NodeProto] = []
    for quantize in graph.node:
        source = made.get(quantize.input[0]) if quantize.op_type == "QuantizeLinear" else None
        pair = readers.get(quantize.output[0], [])
        if source is None or source.op_type not in SUMS or len(pair) != 1 or pair[0].op_type != "DequantizeLinear":
            continue
        rounded, plain = pair[0].output[0], quantize.input[0]
        after = readers.get(rounded, [])
        if not all(node.op_type in RECTIFIERS for node in after) or quantize.output[0] in outputs:
            continue
        if rounded not in outputs:
            _replace(after, rounded, plain)
        elif plain not in outputs:
            # The output keeps its name.
            source.output[0] = rounded
            _replace([node for node in readers[plain] if node is not quantize], plain, rounded)
        else:
            continue
        gone += [quantize, pair[0]]
    _set_nodes(graph, [node for node in graph.node if not any(node is other for other in gone)])
    drop_unused(graph)
    return len(gone) // 2


def weight_bytes(graph: onnx.GraphProto) -> int:
    """Bytes of all initializers, as the engine holds them before it lays them out for its kernels; 4 bits are half."""
    total = 0
    for tensor in graph.initializer:
        count = int(np.prod(tensor.dims, dtype=np.int64))
        if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):
            total += -(-count // 2)
        else:
            total += count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return total


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _along(scale: npt.NDArray[Any], ndim: int, axis: int) -> npt.NDArray[np.float64]:
    """The scale, one value or one a channel, in a shape that broadcasts."""
    shape = [1] * ndim
    if scale.size > 1:
        shape[axis] = -1
    return scale.astype(np.float64).reshape(shape)


def _set_zero(node: onnx.NodeProto, name: str) -> None:
    inputs = [*node.input[:2], name]
    del node.input[:]
    node.input.extend(inputs)
    kept = [attribute for attribute in node.attribute if attribute.name != "output_dtype"]
    del node.attribute[:]
    node.attribute.extend(kept)


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    # Copies: clearing the field ends the life of what it holds.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _made(graph: onnx.GraphProto) -> Mapping[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _replace(nodes: list[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _drop_unread(graph: onnx.GraphProto) -> None:
    drop_unused(graph)
    # A name that two nodes share is two layers of one name in the engine's report.
    _each_own_name(graph, lambda node: node.name or node.op_type)


def _each_own_name(graph: onnx.GraphProto, name_of: Callable[[onnx.NodeProto], str]) -> None:
    taken: set[str] = set()
    for node in graph.node:
        name, count = name_of(node), 1
        while name in taken:
            count += 1
            name = f"{name_of(node)}_{count}"
        taken.add(name)
        node.name = name
