"""The layers of an ONNX file, and where its Q/DQ pairs stand."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from autoshrink.explain.graph import ITEM_BYTES, Bias, FileGraph, GraphLayer, Shape, kind_of
from autoshrink.onnx_graph import PROTOBUF_LIMIT

WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1}
CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger")
DYNAMIC = ("ConvInteger", "MatMulInteger")
NBITS = "MatMulNBits"
Q, DQ = "QuantizeLinear", "DequantizeLinear"
CONVERSIONS = (Q, DQ, "DynamicQuantizeLinear", "Cast")
FUSED = ("Relu", "Clip")
FOLLOWED = (*FUSED, "Add", "Sigmoid", "Mul", "HardSwish", Q, DQ, "Reshape", "Flatten", "Softmax")
"""Nodes that may stand between the last layer and an output."""
STORED = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "uint16",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
    TensorProto.INT32: "int32",
}
LOW_BITS = ("int4", "uint4")


class OnnxIndex:
    """Who makes and who reads each value of a graph, its constants, and shapes as far as they can be inferred."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.made = {value: node for node in self.graph.node for value in node.output if value}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for value in node.input:
                if value:
                    self.readers[value].append(node)
        self.inputs = {value.name for value in self.graph.input} - self.constants.keys()
        self.outputs = {value.name for value in self.graph.output}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Value -> its shape, free dimensions as 1; those that cannot be inferred are absent."""
        fixed = onnx.ModelProto()
        fixed.CopyFrom(self.model)
        for value in (*fixed.graph.input, *fixed.graph.output):
            for size in value.type.tensor_type.shape.dim:
                if not size.HasField("dim_value") and value.name in self.inputs:
                    size.dim_value = 1
        if fixed.ByteSize() < PROTOBUF_LIMIT:
            fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
        found = {name: tuple(tensor.dims) for name, tensor in self.constants.items()}
        for value in (*fixed.graph.input, *fixed.graph.value_info, *fixed.graph.output):
            sizes = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
                found[value.name] = tuple(size.dim_value for size in sizes)
        return found

    def only_reader(self, value: str) -> onnx.NodeProto | None:
        """The node that alone reads a value which is no output."""
        readers = self.readers[value]
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def array(self, name: str) -> np.ndarray:
        """A constant's values."""
        found: np.ndarray = numpy_helper.to_array(self.constants[name])
        return found

    def weight_chain(self, value: str) -> list[onnx.NodeProto] | None:
        """The nodes between a constant and `value`, the last first; None when it is no constant in that sense."""
        chain: list[onnx.NodeProto] = []
        while value not in self.constants:
            node = self.made.get(value)
            if node is None or node.op_type not in (DQ, "Cast", "Transpose", "Reshape", "Identity"):
                return None
            chain.append(node)
            value = node.input[0]
        return chain

    def grid(self, node: onnx.NodeProto) -> str:
        """The integers of a Q or DQ node."""
        if len(node.input) > 2 and node.input[2] in self.constants:
            return STORED.get(self.constants[node.input[2]].data_type, "integers")
        return "uint8"


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((each.i for each in node.attribute if each.name == name), default)


def graph_of(model: onnx.ModelProto) -> FileGraph:
    """The layers of a model. Layers inside the bodies of control flow are left out."""
    index = OnnxIndex(model)
    layers = [layer for node in index.graph.node if (layer := _layer(index, node))]
    unpacks: list[tuple[str, str]] = []
    for layer, node in ((layer, node) for layer in layers for node in index.graph.node if node.name == layer.name):
        place = WEIGHT_INPUT.get(node.op_type, 1)
        for value in node.input[place:3]:
            unpacks += [(each.name, layer.name) for each in index.weight_chain(value) or ()]
    weights = {name for name, _ in unpacks}
    edges: set[str] = set()
    inner: set[str] = set()
    for node in index.graph.node:
        if node.op_type not in CONVERSIONS or node.name in weights or node.input[0] in index.constants:
            continue
        (edges if _is_edge(index, node) else inner).add(node.name)
    return FileGraph(tuple(layers), frozenset(edges), tuple(unpacks), frozenset(inner))


def _is_edge(index: OnnxIndex, node: onnx.NodeProto) -> bool:
    """Whether it is the first conversion of an input or the last one of an output."""
    source = node
    while source.op_type in (DQ, "Cast") and source.input[0] in index.made:
        source = index.made[source.input[0]]
    if source.input[0] in index.inputs:
        return True
    value = node.output[0]
    while value not in index.outputs:
        reader = index.only_reader(value)
        if reader is None or reader.op_type not in (*FOLLOWED, "Cast"):
            return False
        value = reader.output[0]
    return True


def _layer(index: OnnxIndex, node: onnx.NodeProto) -> GraphLayer | None:
    if node.op_type == NBITS:
        return _packed_layer(index, node)
    place = WEIGHT_INPUT.get(node.op_type)
    chain = index.weight_chain(node.input[place]) if place is not None and len(node.input) > place else None
    if place is None or chain is None:
        return None
    tensor = index.constants[chain[-1].input[0] if chain else node.input[place]]
    weight = index.shapes.get(node.input[place]) or tuple(tensor.dims)
    if len(weight) < 2:
        return None
    stored = STORED.get(tensor.data_type, "unknown")
    source = index.made.get(node.input[0])
    activation = ""
    if node.op_type in DYNAMIC:
        activation = "dynamic"
    elif source is not None and source.op_type == DQ:
        activation = index.grid(source)
    is_conv = node.op_type in CONVOLUTIONS
    groups = attribute(node, "group", 1) if is_conv else 1
    outputs, inputs = _channels(node, weight, groups)
    output = index.shapes.get(node.output[0])
    value = index.shapes.get(node.input[0])
    macs = None
    if output:
        macs = int(np.prod(output)) * (int(np.prod(weight[1:])) if is_conv else inputs)
        if node.op_type == "ConvTranspose":
            macs = int(np.prod(value)) * int(np.prod(weight[1:])) if value else None
    reader = index.only_reader(node.output[0])
    then_adds = (
        node.op_type == "MatMul"
        and reader is not None
        and reader.op_type == "Add"
        and any(
            name in index.constants or index.weight_chain(name) is not None
            for name in reader.input
            if name != node.output[0]
        )
    )
    relu = reader if reader is not None and reader.op_type in FUSED else None
    behind = index.only_reader(relu.output[0]) if relu is not None else reader
    item = ITEM_BYTES.get(activation, 1.0 if activation else 4.0)
    dequantize = next((each for each in chain if each.op_type == DQ), None)
    return GraphLayer(
        node.name,
        kind_of(is_conv, weight, groups),
        node.op_type,
        stored,
        tuple(weight),
        macs,
        inputs,
        outputs,
        int(np.prod(weight) * _bits(stored)) // 8,
        int(item * (np.prod(value) + np.prod(output))) if value and output else None,
        activation,
        _bias(index, node),
        dequantize is None or len(dequantize.input) > 2,
        behind is not None and behind.op_type == Q,
        then_adds,
        relu.name if relu is not None else "",
        _is_input(index, node.input[0]),
        _is_output(index, node.output[0]),
        stored in LOW_BITS and (dequantize is not None and chain[-1] is dequantize),
        tuple(_values(index, node)),
        _largest(tensor) if stored == "int8" else None,
    )


def _largest(weight: onnx.TensorProto) -> int | None:
    integers = numpy_helper.to_array(weight)
    return int(np.abs(integers.astype(np.int16)).max()) if integers.size else None


def _packed_layer(index: OnnxIndex, node: onnx.NodeProto) -> GraphLayer:
    inputs, outputs, bits = (attribute(node, name, 0) for name in ("K", "N", "bits"))
    value = index.shapes.get(node.input[0])
    rows = int(np.prod(value[:-1])) if value else None
    return GraphLayer(
        node.name,
        "linear",
        NBITS,
        f"int{bits or 4}",
        (inputs, outputs),
        rows * inputs * outputs if rows else None,
        inputs,
        outputs,
        inputs * outputs * (bits or 4) // 8,
        4 * rows * (inputs + outputs) if rows else None,
        "",
        "none",
        is_first=_is_input(index, node.input[0]),
        is_last=_is_output(index, node.output[0]),
        values=tuple(_values(index, node)),
    )


def _channels(node: onnx.NodeProto, weight: Shape, groups: int) -> tuple[int, int]:
    """Output channels and input channels."""
    if node.op_type == "ConvTranspose":
        return weight[1] * groups, weight[0]
    if node.op_type in CONVOLUTIONS:
        return weight[0], weight[1] * groups
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return weight[0], weight[1]
    return weight[-1], weight[-2]


def _bits(stored: str) -> int:
    return 4 if stored in LOW_BITS else int(8 * ITEM_BYTES.get(stored, 4.0))


def _bias(index: OnnxIndex, node: onnx.NodeProto) -> Bias:
    if len(node.input) < 3 or not node.input[2] or node.op_type in DYNAMIC:
        return "none"
    chain = index.weight_chain(node.input[2])
    return "int32" if chain and chain[0].op_type == DQ else "float"


def _is_input(index: OnnxIndex, value: str) -> bool:
    while value in index.made and index.made[value].op_type in (*CONVERSIONS, "Reshape", "Flatten", "Transpose"):
        value = index.made[value].input[0]
    return value in index.inputs


def _is_output(index: OnnxIndex, value: str) -> bool:
    while value not in index.outputs:
        reader = index.only_reader(value)
        if reader is None or reader.op_type not in FOLLOWED:
            return False
        value = reader.output[0]
    return True


def _values(index: OnnxIndex, node: onnx.NodeProto) -> list[str]:
    """Names a runtime may give the kernel: its outputs and nodes, and those of element-wise nodes behind it."""
    names = [node.output[0]]
    reader = index.only_reader(node.output[0])
    while reader is not None and reader.op_type in (*FUSED, "Add", Q):
        names += [reader.output[0], reader.name]
        reader = index.only_reader(reader.output[0])
    return names
