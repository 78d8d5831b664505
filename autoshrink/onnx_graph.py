"""ONNX files as autoshrink writes, reads and runs them: clean, deterministic, a fixed batch, quiet sessions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoshrink.errors import StageError

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from autoshrink.task import Array, Arrays

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes of the largest protobuf message; a model above it cannot be one ONNX file."""

SPATIAL_MEAN = "ReduceMean"
WEIGHT_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def write_onnx(model: onnx.ModelProto, out: Path, stage: str) -> None:
    """Checks `model` and writes it to `out` without anything that tells where or when it was made.

    Equal models give equal bytes: documentation strings, metadata (the exporter keeps stack traces with file paths
    there), the producer's version and the shapes of intermediate values, which each runtime infers again, are dropped.

    Raises:
        StageError: of `stage`; the model is over 2 GB, or is no valid ONNX.
    """
    import onnx

    _strip(model)
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise StageError(stage, too_large(model.ByteSize()))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise StageError(stage, f"the graph is no valid ONNX: {str(error).splitlines()[0]}") from error
    out.write_bytes(model.SerializeToString(deterministic=True))


def too_large(size: int) -> str:
    """Why a model of `size` bytes cannot be one ONNX file, and the way out."""
    return (
        f"the model holds {size / 1e9:.1f} GB of weights; a single ONNX file holds at most 2 GB (protobuf), "
        f"so bring a smaller model"
    )


def _strip(model: onnx.ModelProto) -> None:
    for field in ("metadata_props", "producer_version", "doc_string", "domain", "model_version"):
        model.ClearField(field)
    model.producer_name = "autoshrink"
    for function in model.functions:
        _strip_nodes(function)
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.name = "model"
    graph.ClearField("value_info")
    for part in (*graph.input, *graph.output, *graph.initializer):
        _clear(part)
    _strip_nodes(graph)


def _strip_nodes(holder: onnx.GraphProto | onnx.FunctionProto) -> None:
    _clear(holder)
    for node in holder.node:
        _clear(node)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for graph in _subgraphs(attribute):
                _strip_graph(graph)


def _clear(part: Any) -> None:
    part.ClearField("metadata_props")
    part.ClearField("doc_string")


def _subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def weight_nodes(graph: onnx.GraphProto, operators: Collection[str] = WEIGHT_OPERATORS) -> list[str]:
    """Names of the nodes of these types with constant weights, in the order they are computed."""
    constant = {initializer.name for initializer in graph.initializer}
    return [node.name for node in graph.node if node.op_type in operators and constant & {*node.input[:2]}]


def pool_spatial_means(model: onnx.ModelProto) -> int:
    """Rewrites means over all spatial axes of [N, C, ...] as GlobalAveragePool (and Flatten); gives how many.

    The result is the same sum in another order; runtimes have 8-bit kernels for the pool and none for the mean, so a
    quantized network would leave its integers there.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        rank = ranks.get(node.input[0], 0) if node.op_type == SPATIAL_MEAN else 0
        if rank < 3 or len(node.input) < 2 or node.input[1] not in constants:
            nodes.append(node)
            continue
        axes = {int(axis) % rank for axis in numpy_helper.to_array(constants[node.input[1]])}
        keeps = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        if axes != set(range(2, rank)):
            nodes.append(node)
            continue
        count += 1
        layer = node.name.removesuffix(SPATIAL_MEAN)
        pool = f"{layer}GlobalAveragePool"
        pooled = node.output[0] if keeps else f"{node.output[0]}/{pool}"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], pool))
        if not keeps:
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], f"{layer}Flatten", axis=1))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused(model.graph)
    return count


def drop_unused(graph: onnx.GraphProto) -> None:
    """Removes the initializers that nothing reads any more, subgraphs included."""
    used = {value.name for value in graph.output} | set(_reads(graph))
    kept = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in _subgraphs(attribute):
                yield from _reads(inner)
                yield from (value.name for value in inner.output)


def fixed_batches(inputs: Arrays, batch: int) -> Iterator[dict[str, Array]]:
    """`inputs` [N, ...] in calls of exactly `batch` rows; the last one is filled up with the first rows again."""
    count = len(next(iter(inputs.values())))
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch) % count
        yield {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()}


def quiet_session(model: Path | bytes, threads: int = 1, in_float: bool = False) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU that prints nothing below errors.

    Args:
        model: a file, or what is in it.
        threads: for one call.
        in_float: layers between QuantizeLinear and DequantizeLinear are computed as the file says it, in float32 on
            the values of the integers, and not by integer kernels.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if in_float:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Array]:
    """One call; outputs by name."""
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
