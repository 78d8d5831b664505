"""What a `.tflite` file makes a runtime do, read from its graph, and what of it XNNPACK takes over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoshrink.backends.tflite_graph import Graph, Operation
from autoshrink.errors import StageError
from autoshrink.types import LOW_BIT_WEIGHTS, Audit, Kernel, Layer

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST", "TRANSPOSE")
FLOATS = {"FLOAT32": "fp32", "FLOAT16": "fp16"}
INTEGERS = {"INT8": "int8", "UINT8": "uint8", "INT16": "int16"}
LOW_BITS = ("INT4", "INT2")


def audit_of(graph: Graph, notes: Sequence[str] = ()) -> Audit:
    """The layers by their weights' names, without `.weight`; what unpacks a constant once, at load, is no kernel."""
    operations = [operation for operation in graph.operations if not _unpacks(graph, operation)]
    layers = tuple(
        Layer(graph.name(weight).removesuffix(".weight"), operation.kind, precision(graph, operation))
        for operation, weight in graph.layers()
    )
    conversions = sum(operation.kind in CONVERSIONS for operation in operations)
    return Audit(layers, conversions, len(operations), tuple(notes))


def kernels_of(graph: Graph) -> tuple[Kernel, ...]:
    """The operators of a file as kernels without times; what unpacks a constant once, at load, is none."""
    weights = {operation.outputs: weight for operation, weight in graph.layers()}
    found = []
    for operation in graph.operations:
        if _unpacks(graph, operation):
            continue
        weight = weights.get(operation.outputs)
        name = graph.name(operation.outputs[0]) if weight is None else graph.name(weight).removesuffix(".weight")
        found.append(
            Kernel(
                name,
                operation.kind,
                "" if weight is None else precision(graph, operation),
                None,
                tuple(graph.shape(index) for index in operation.inputs if index >= 0),
                tuple(graph.shape(index) for index in operation.outputs),
                None if weight is None else graph.size_bytes(weight),
                weight is not None,
                operation.kind in CONVERSIONS,
            )
        )
    return tuple(found)


def precision(graph: Graph, operation: Operation) -> str:
    """What an operator with weights multiplies in.

    With a float input and weights of 8 bits the kernel rounds the input to 8 bits by itself, row by row.
    """
    value, weight = graph.dtype(operation.value), graph.dtype(operation.inputs[1])
    if weight in FLOATS:
        return FLOATS[value] if value in FLOATS else INTEGERS.get(value, value.lower())
    if weight in LOW_BITS and value in FLOATS:
        return LOW_BIT_WEIGHTS
    return INTEGERS.get(weight if value in FLOATS else value, value.lower())


def fallbacks(path: Path) -> list[str]:
    """The kinds of the operators that XNNPACK leaves to LiteRT's own kernels on this machine, most frequent first.

    An operator is XNNPACK's when it lies between the inputs and the outputs of one of its partitions. None is, where
    the runtime applies no delegate.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    partitions = [node for node in nodes if node["op_name"] == "DELEGATE"]
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    maker = {int(output): number for number, node in enumerate(own) for output in node["outputs"]}
    taken: set[int] = set()
    for partition in partitions:
        known = {int(index) for index in partition["inputs"]}
        wanted = [int(index) for index in partition["outputs"]]
        while wanted:
            tensor = wanted.pop()
            if tensor in maker and tensor not in known:
                known.add(tensor)
                taken.add(maker[tensor])
                wanted += [int(index) for index in own[maker[tensor]]["inputs"] if index >= 0]
    left = Counter(node["op_name"] for number, node in enumerate(own) if number not in taken)
    return [kind if count == 1 else f"{count} {kind}" for kind, count in left.most_common()]


def with_acceleration(audit: Audit, path: Path, stage: str) -> Audit:
    """`audit` with a note on what XNNPACK takes of the file.

    Raises:
        StageError: of `stage`; the runtime cannot load the file.
    """
    try:
        left = fallbacks(path)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StageError(stage, f"LiteRT cannot load {path.name}: {lines[0]}") from error
    note = "fully accelerated by XNNPACK"
    if left:
        note = f"not fully accelerated by XNNPACK: {', '.join(left)} run in LiteRT's own kernels"
    return replace(audit, notes=(*audit.notes, note))


def _unpacks(graph: Graph, operation: Operation) -> bool:
    return operation.kind == "DEQUANTIZE" and graph.is_constant(operation.inputs[0])
