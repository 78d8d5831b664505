"""Rewrites of a `.tflite` file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoshrink.backends.tflite_graph import Graph


def int8_weights(graph: Graph) -> int:
    """4-bit weights of convolutions -> the same values in 8 bits. Gives how many."""
    found = [
        weight for operation, weight in graph.layers() if "CONV" in operation.kind and graph.dtype(weight) == "INT4"
    ]
    for weight in found:
        graph.set_array(weight, graph.array(weight), "INT8")
    return len(found)


def float_depthwise(graph: Graph) -> int:
    """Integer weights of depthwise convolutions with a float input -> their values in float32. Gives how many."""
    found = [
        weight
        for operation, weight in graph.layers()
        if operation.kind == "DEPTHWISE_CONV_2D"
        and graph.dtype(operation.value) == "FLOAT32"
        and graph.dtype(weight) in ("INT8", "INT4")
        and operation.inputs[1] == weight
    ]
    for weight in found:
        graph.set_array(weight, graph.values(weight), "FLOAT32")
        graph.forget_grid(weight)
    return len(found)


REWRITES: Mapping[str, Callable[[Graph], int]] = {"int8_weights": int8_weights, "float_depthwise": float_depthwise}
"""Name -> what changes a file in place and gives how many places it changed."""
