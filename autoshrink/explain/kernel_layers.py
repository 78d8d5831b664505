"""The layers of an artifact whose format is not read here, from the shapes that the runtime's profile lists."""

from __future__ import annotations

import numpy as np

from autoshrink.explain.graph import FileGraph, GraphLayer, kind_of
from autoshrink.types import Profile

STORED = {8: "fp64", 4: "fp32", 2: "fp16", 1: "int8"}


def graph_of(profile: Profile) -> FileGraph:
    """The kernels with weights whose shapes are known, weights second among the inputs."""
    told = [
        each
        for each in profile.kernels
        if each.has_weights and len(each.inputs) > 1 and each.outputs and each.inputs[0]
    ]
    layers = []
    for place, kernel in enumerate(told):
        value, weight, output = kernel.inputs[0], kernel.inputs[1], kernel.outputs[0]
        if min((*value, *weight, *output), default=0) < 1 or len(weight) < 2:
            continue
        is_conv = "conv" in kernel.kind.lower()
        groups = weight[0] if is_conv and len(weight) > len(output) else 1
        flat = (groups * weight[1], *weight[2:]) if groups > 1 else weight
        outputs, inputs = (flat[0], flat[1] * groups) if is_conv else (output[-1], value[-1])
        per_output = int(np.prod(flat[1:])) if is_conv else inputs
        bits = kernel.weight_bytes / int(np.prod(weight)) if kernel.weight_bytes else 4
        stored = STORED.get(round(bits), "int4") if bits >= 1 else "int4"
        item = 1 if kernel.precision in ("int8", "uint8") else 4
        layers.append(
            GraphLayer(
                kernel.name,
                kind_of(is_conv, flat, groups),
                kernel.kind,
                stored,
                weight,
                int(np.prod(output)) * per_output,
                inputs,
                outputs,
                kernel.weight_bytes or 4 * int(np.prod(weight)),
                item * int(np.prod(value) + np.prod(output)),
                is_first=place == 0,
                is_last=place == len(told) - 1,
            )
        )
    return FileGraph(tuple(layers))
