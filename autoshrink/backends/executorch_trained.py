"""A program that quantization-aware training made, put into the patterns that XNNPACK's integer kernels match.

Nothing is calibrated: grids stay those that were trained. What is rewritten calculates the same integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from autoshrink.backends.executorch_graph import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    QUANTIZE,
    aten,
    put_dynamic,
    put_integers,
    qd,
    tensor_of,
)
from autoshrink.program import Node, weight_layers

FULL = (-128, 127)
RELU = (aten.relu.default, aten.relu_.default)
HARDTANH = (aten.hardtanh.default, aten.hardtanh_.default)
MOVES = (
    *(aten.max_pool2d.default, aten.max_pool1d.default, aten.flatten.using_ints, aten.reshape.default),
    *(aten.view.default, aten.permute.default, aten.transpose.int, aten.unflatten.int, aten.squeeze.dim),
    *(aten.unsqueeze.default, aten.contiguous.default, aten.clone.default, aten.dropout.default),
)
"""Their outputs hold values of their input only."""
LINEAR = aten.linear.default
FOUR_BITS = (-8, 7)


def match_kernels(module: fx.GraphModule) -> tuple[str, ...]:
    """Rewrites the graph of `program.standard_program` in place; gives notes on what is not as it was trained."""
    layers = list(weight_layers(module))
    widths: dict[int, list[str]] = {}
    rounded: list[str] = []
    for name, node in layers:
        if node.args[1].target not in (DEQUANTIZE, DEQUANTIZE_CHANNELS):
            continue
        dynamic = node.target == LINEAR and not _gives_integers(node)
        bits = _store_integers(module, node, name, dynamic)
        if dynamic:
            put_dynamic(module, node)
            rounded.append(name)
        if bits < 8 and not (dynamic and bits == 4):
            widths.setdefault(bits, []).append(name)
    _widen_activations(module, {node for _, node in layers})
    _align_concatenations(module)
    _give_each_reader_its_own(module)
    module.recompile()
    notes = [f"{bits}-bit weights in an int8 container: {', '.join(names)}" for bits, names in sorted(widths.items())]
    if rounded:
        notes.append(
            f"inputs rounded once more, to 8 bits of the range of each row: {', '.join(rounded)}; XNNPACK's static "
            "linear kernel would round the results as well"
        )
    return tuple(notes)


def _gives_integers(node: Node) -> bool:
    """Whether the one reader of a layer, behind a rectifier that fuses, quantizes what it gives."""
    if len(node.users) == 1:
        reader = next(iter(node.users))
        if reader.target in RELU + HARDTANH and len(reader.users) == 1:
            reader = next(iter(reader.users))
        return bool(reader.target == QUANTIZE)
    return False


def _store_integers(module: fx.GraphModule, node: Node, name: str, dynamic: bool) -> int:
    """Replaces a float weight and its quantizer by integers; gives their bits."""
    back = node.args[1]
    quantize = back.args[0]
    parameter, *at = quantize.args
    values = [tensor_of(module, value) if isinstance(value, fx.Node) else value for value in at]
    integers = quantize.target(tensor_of(module, parameter), *values)
    low, high = values[-3:-1]
    axis = values[2] if back.target == DEQUANTIZE_CHANNELS else None
    scale: Any = values[0] if axis is not None else torch.tensor(values[0])
    bits = int(high - low).bit_length()
    if dynamic and axis is None:
        # Its kernel knows steps by channel only.
        axis, scale = 0, scale.repeat(len(integers))
    # -8 to 7 by channel is how XNNPACK is asked for its 4-bit kernel, which only dynamic linear layers have.
    limits = FOUR_BITS if dynamic and (low, high) == FOUR_BITS else (-127, 127)
    put_integers(module, node, name, integers, scale, axis, *limits)
    return bits


def _widen_activations(module: fx.GraphModule, layers: set[Node]) -> None:
    """Lets every grid reach from -128 to 127, as kernels have it, with a clamp to where the trained one ended."""
    for node in list(module.graph.nodes):
        if node.target not in (QUANTIZE, DEQUANTIZE) or node.args[3:5] == FULL:
            continue
        value, scale, zero_point, low, high, dtype = node.args
        node.args = (value, scale, zero_point, *FULL, dtype)
        if node.target == QUANTIZE and not _is_on_grid(value, scale, zero_point, low, high):
            _clamp(module, node, layers, (low - zero_point) * scale, (high - zero_point) * scale)


def _is_on_grid(value: Node, scale: float, zero_point: int, low: int, high: int) -> bool:
    """Whether a value was quantized to the same grid before it was moved; the grid before may be widened by now."""
    while value.target in MOVES:
        value = value.args[0]
    return bool(value.target == DEQUANTIZE and value.args[1:3] == (scale, zero_point) and low <= high)


def _clamp(module: fx.GraphModule, quantize: Node, layers: set[Node], low: float, high: float) -> None:
    value = quantize.args[0]
    graph = module.graph
    rectifier = value if value.target in RELU + HARDTANH and len(value.users) == 1 else None
    maker = rectifier.args[0] if rectifier is not None else value
    if maker in layers and len(maker.users) == 1:
        if rectifier is not None:
            floor, ceiling = (0.0, high) if rectifier.target in RELU else (*rectifier.args[1:3], -1.0, 1.0)[:2]
            low, high = max(low, float(floor)), min(high, float(ceiling))
        with graph.inserting_before(quantize):
            quantize.update_arg(0, graph.call_function(aten.hardtanh.default, (maker, low, high)))
        return
    # Not a kernel that clamps its result: the clamp is one of its own, between equal grids.
    readers = list(quantize.users)
    at = quantize.args[1:]
    with graph.inserting_after(quantize):
        back = graph.call_function(DEQUANTIZE, (quantize, *at))
    with graph.inserting_after(back):
        clamped = graph.call_function(aten.hardtanh.default, (back, low, high))
    with graph.inserting_after(clamped):
        again = graph.call_function(QUANTIZE, (clamped, *at))
    for reader in readers:
        reader.replace_input_with(quantize, again)


def _align_concatenations(module: fx.GraphModule) -> None:
    """Puts what is concatenated on the grid of the result beforehand; XNNPACK only joins tensors of equal grids."""
    graph = module.graph
    for node in list(graph.nodes):
        reader = next(iter(node.users), None)
        if node.target != aten.cat.default or reader is None or len(node.users) > 1 or reader.target != QUANTIZE:
            continue
        at = reader.args[1:]
        aligned = []
        for value in node.args[0]:
            if value.target == DEQUANTIZE and value.args[1:] != at:
                with graph.inserting_before(node):
                    value = graph.call_function(DEQUANTIZE, (graph.call_function(QUANTIZE, (value, *at)), *at))
            aligned.append(value)
        node.args = (aligned, *node.args[1:])


def _give_each_reader_its_own(module: fx.GraphModule) -> None:
    """A dequantization for each of its readers: one that two kernels share belongs to neither."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in (DEQUANTIZE, qd.dequantize_per_tensor.tensor):
            continue
        for reader in list(node.users)[1:]:
            with graph.inserting_after(node):
                own = graph.call_function(node.target, node.args)
            own.meta = dict(node.meta)
            reader.replace_input_with(node, own)
