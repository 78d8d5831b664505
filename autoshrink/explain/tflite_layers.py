"""The layers of a `.tflite` file."""

from __future__ import annotations

import numpy as np

from autoshrink.backends.tflite_audit import CONVERSIONS
from autoshrink.backends.tflite_graph import Graph, Operation
from autoshrink.explain.graph import ITEM_BYTES, Bias, FileGraph, GraphLayer, LayerKind, Shape

STORED = {"FLOAT32": "fp32", "FLOAT16": "fp16", "INT8": "int8", "UINT8": "uint8", "INT16": "int16"}
KINDS: dict[str, LayerKind] = {"DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "linear", "BATCH_MATMUL": "linear"}


def graph_of(graph: Graph) -> FileGraph:
    """The layers of a file, by their weights' names as in its audit."""
    layers = tuple(_layer(graph, operation, weight) for operation, weight in graph.layers())
    edges: set[str] = set()
    inner: set[str] = set()
    ends = {*graph.inputs, *graph.outputs}
    for operation in graph.operations:
        if operation.kind in CONVERSIONS and not graph.is_constant(operation.inputs[0]):
            touches = ends & {operation.inputs[0], *operation.outputs}
            (edges if touches else inner).add(graph.name(operation.outputs[0]))
    return FileGraph(layers, frozenset(edges), (), frozenset(inner))


def _layer(graph: Graph, operation: Operation, weight: int) -> GraphLayer:
    shape = graph.shape(weight)
    kind = KINDS.get(operation.kind, "conv")
    stored = STORED.get(graph.dtype(weight), graph.dtype(weight).lower())
    value, output = graph.dtype(operation.value), operation.outputs[0]
    activation = "" if value.startswith("FLOAT") else value.lower()
    if not activation and stored not in ("fp32", "fp16") and operation.inputs[1] == weight:
        activation = "dynamic"
    outputs, inputs = _channels(kind, operation, shape)
    per_output = int(np.prod(shape)) // max(1, outputs)
    item = ITEM_BYTES.get(activation, 4.0)
    read, written = graph.shape(operation.value), graph.shape(output)
    bias: Bias = "none" if operation.bias < 0 else "int32" if graph.dtype(operation.bias) == "INT32" else "float"
    return GraphLayer(
        graph.name(weight).removesuffix(".weight"),
        kind,
        operation.kind,
        stored,
        shape,
        None if operation.kind == "TRANSPOSE_CONV" else int(np.prod(written)) * per_output,
        inputs,
        outputs,
        graph.size_bytes(weight),
        int(item * (np.prod(read) + np.prod(written))),
        activation,
        bias,
        is_first=operation.value in graph.inputs,
        is_last=output in graph.outputs,
    )


def _channels(kind: LayerKind, operation: Operation, shape: Shape) -> tuple[int, int]:
    if kind == "depthwise":
        return shape[-1], shape[-1]
    if operation.kind == "BATCH_MATMUL":
        return shape[-1], shape[-2]
    return shape[0], shape[-1]
