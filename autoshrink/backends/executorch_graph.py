"""A traced program put into the operators that the XNNPACK delegate takes; what it calculates stays the same."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

# Registers the operators of quantized graphs.
import torch.ao.quantization.fx._decomposed
from torch import fx

from autoshrink.program import WRAPPER, Node, Program, plain_module
from autoshrink.tracing import quiet_exporter

aten = torch.ops.aten
qd = torch.ops.quantized_decomposed
QUANTIZE = qd.quantize_per_tensor.default
DEQUANTIZE = qd.dequantize_per_tensor.default
DEQUANTIZE_CHANNELS = qd.dequantize_per_channel.default
LEAST_SCALE = 2.0**-23
CHANNEL_AXES = {
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.conv3d.default: 0,
    aten.linear.default: 0,
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 1,
    aten.conv_transpose3d.input: 1,
}
"""Layers with weights -> the dimension of the weight that is the output channels (with one group)."""
INTEGERS = "_integers"
"""What follows the name of a weight in the name of its integers."""


def for_xnnpack(program: Program) -> fx.GraphModule:
    """The program's module, traced again after its rewriting; names of parameters stay.

    The given program is not to be used afterwards. A mean over space keeps its dimensions and is reshaped, a clamp
    becomes the rectifier that kernels fuse, attention becomes two batched products and a softmax, an entry of a
    dimension a slice: the delegate takes those and no other forms, and what it leaves runs in the portable kernels.
    """
    module = program.module
    rewrites: Mapping[Any, Callable[[fx.GraphModule, Node], None]] = {
        aten.mean.dim: _keep_dimensions,
        aten.clamp.default: _as_rectifier,
        aten.clamp_.default: _as_rectifier,
        aten.relu6.default: _as_rectifier,
        aten.relu6_.default: _as_rectifier,
        aten.scaled_dot_product_attention.default: _as_products,
        aten.select.int: _as_slice,
        aten.unbind.int: _as_slices,
    }
    for node in list(module.graph.nodes):
        if node.target == aten.batch_norm.default:
            _fold(module, node)
        elif node.target in rewrites:
            rewrites[node.target](module, node)
    return traced_again(module, program.example)


def traced_again(module: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """The module with every node's shape and dtype known again, and nothing in it that no output needs."""
    module.graph.eliminate_dead_code()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        # A parameter that nothing reads would be written into the artifact all the same.
        if name not in used:
            owner, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(owner), attribute)
    module.recompile()
    with quiet_exporter(), torch.no_grad():
        traced = torch.export.export(module, example, strict=False).module()
    return plain_module(traced)


def tensor_of(module: fx.GraphModule, node: Node) -> torch.Tensor:
    """The parameter or buffer that a `get_attr` node gives."""
    tensor: torch.Tensor = operator.attrgetter(str(node.target))(module)
    return tensor.detach()


def add_constant(module: fx.GraphModule, name: str, tensor: torch.Tensor, before: Node) -> Any:
    """A `get_attr` node, before another one, of a new buffer with a dotted name."""
    owner, _, attribute = name.rpartition(".")
    module.get_submodule(owner).register_buffer(attribute, tensor)
    with module.graph.inserting_before(before):
        return module.graph.get_attr(name)


def put_integers(module: fx.GraphModule, layer: Node, owner: str, integers: torch.Tensor, *grid: Any) -> None:
    """Lets a layer read its weight from int8 `integers` [C, ...] of the same shape.

    Args:
        module: whose graph is changed.
        layer: node of a convolution or linear layer.
        owner: name of the layer in the user's model.
        integers: what is stored.
        grid: scale, float32 [C] or a number; axis of the channels, None with one scale; lowest and highest integer.
    """
    scale, axis, low, high = grid
    name = _free_name(module, f"{WRAPPER}{owner}.weight{INTEGERS}")
    stored = add_constant(module, name, integers, layer)
    at: tuple[Any, ...] = (float(scale), 0) if axis is None else ()
    if axis is not None:
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        steps = add_constant(module, f"{name}_scale", scale.float(), layer)
        at = (steps, add_constant(module, f"{name}_zero_point", zeros, layer), axis)
    with module.graph.inserting_before(layer):
        target = DEQUANTIZE if axis is None else DEQUANTIZE_CHANNELS
        weight = module.graph.call_function(target, (stored, *at, low, high, torch.int8))
    layer.update_arg(1, weight)


def put_dynamic(module: fx.GraphModule, layer: Node) -> None:
    """Lets a layer round what it reads to 8 bits of a range found in each call."""
    value = layer.args[0]
    graph = module.graph
    with graph.inserting_before(layer):
        chosen = graph.call_function(qd.choose_qparams.tensor, (value, -128, 127, LEAST_SCALE, torch.int8))
        at = tuple(graph.call_function(operator.getitem, (chosen, index)) for index in range(2))
        integers = graph.call_function(qd.quantize_per_tensor.tensor, (value, *at, -128, 127, torch.int8))
        back = graph.call_function(qd.dequantize_per_tensor.tensor, (integers, *at, -128, 127, torch.int8))
    layer.update_arg(0, back)


def layer_of(parameter: str) -> str:
    """The layer whose weight, or the integers of it, has this name in a program."""
    name = parameter.removeprefix(WRAPPER)
    return name.rpartition(".")[0] or name


def _free_name(module: fx.GraphModule, name: str) -> str:
    """The name, or a longer one that nothing in the module has."""
    owner, _, attribute = name.rpartition(".")
    place = module.get_submodule(owner)
    while hasattr(place, attribute):
        attribute += "_"
    return f"{owner}.{attribute}" if owner else attribute


@torch.no_grad()
def _fold(module: fx.GraphModule, norm: Node) -> None:
    """Folds a batch normalisation, with its statistics as they are, into the layer that alone feeds it."""
    layer = norm.args[0]
    if norm.args[5] or layer.target not in CHANNEL_AXES or len(layer.users) > 1:
        return
    weight_node = layer.args[1]
    bias_node = layer.args[2] if len(layer.args) > 2 else None
    if weight_node.op != "get_attr" or len(weight_node.users) > 1:
        return
    gamma, beta, mean, variance = (None if node is None else tensor_of(module, node) for node in norm.args[1:5])
    if mean is None or variance is None:
        return
    scale = torch.rsqrt(variance + norm.args[7])
    scale = scale if gamma is None else scale * gamma
    weight = tensor_of(module, weight_node)
    axis = CHANNEL_AXES[layer.target]
    if weight.shape[axis] != len(scale):
        return
    shape = [1] * weight.ndim
    shape[axis] = -1
    bias = (tensor_of(module, bias_node) if bias_node is not None else 0.0) - mean
    bias = bias * scale + (0.0 if beta is None else beta)
    owner = str(weight_node.target)
    layer.update_arg(1, add_constant(module, _free_name(module, owner), weight * scale.reshape(shape), layer))
    folded = add_constant(module, _free_name(module, f"{owner.rpartition('.')[0]}.bias"), bias, layer)
    layer.args = (*layer.args[:2], folded, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)


def _keep_dimensions(module: fx.GraphModule, node: Node) -> None:
    """mean([2, 3]) -> mean([2, 3], keepdim) and a reshape; a quantizer behind it is put between both as well."""
    value, axes = node.args[:2]
    keeps = len(node.args) > 2 and node.args[2]
    rank = value.meta["val"].ndim
    if keeps or rank != 4 or node.kwargs or sorted(axis % rank for axis in axes) != [2, 3]:
        return
    graph = module.graph
    shape = list(node.meta["val"].shape)
    readers = list(node.users)
    with graph.inserting_before(node):
        kept = graph.call_function(aten.mean.dim, (value, list(axes), True))
        if len(readers) == 1 and readers[0].target == QUANTIZE:
            at = readers[0].args[1:]
            kept = graph.call_function(DEQUANTIZE, (graph.call_function(QUANTIZE, (kept, *at)), *at))
        flat = graph.call_function(aten.reshape.default, (kept, shape))
    flat.meta = dict(node.meta)
    node.replace_all_uses_with(flat)
    graph.erase_node(node)


def _as_rectifier(module: fx.GraphModule, node: Node) -> None:
    low, high = (0.0, 6.0) if "relu6" in str(node.target) else (*node.args[1:], None, None)[:2]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    with module.graph.inserting_before(node):
        if low == 0 and high is None:
            other = module.graph.call_function(aten.relu.default, (node.args[0],))
        elif isinstance(low, int | float) and isinstance(high, int | float):
            other = module.graph.call_function(aten.hardtanh.default, (node.args[0], low, high))
        else:
            return
    other.meta = dict(node.meta)
    node.replace_all_uses_with(other)
    module.graph.erase_node(node)


def _as_products(module: fx.GraphModule, node: Node) -> None:
    """softmax(q k^T / c) v; only without a mask, for one would have to be added in a form of its own."""
    query, key, value = node.args[:3]
    shapes = [list(operand.meta["val"].shape) for operand in (query, key, value)]
    plain = len(node.args) < 4 and not set(node.kwargs) - {"scale"}
    if not plain or len({tuple(shape[:-2]) for shape in shapes}) > 1:
        return
    scale = node.kwargs.get("scale")
    divisor = math.sqrt(shapes[0][-1]) if scale is None else 1 / scale
    if not math.isfinite(divisor):
        return
    name = f"attention_divisor_{node.name}"
    constant = add_constant(module, name, torch.full((1, 1, 1), divisor, dtype=query.meta["val"].dtype), node)
    graph = module.graph
    rows = math.prod(shapes[0][:-2])
    with graph.inserting_before(node):
        q, k, v = (
            graph.call_function(aten.reshape.default, (operand, [rows, *shape[-2:]]))
            for operand, shape in zip((query, key, value), shapes, strict=True)
        )
        # Of the smaller operand. A division: a product would be put on a grid of 8 bits.
        q = graph.call_function(aten.div.Tensor, (q, constant))
        scores = graph.call_function(aten.bmm.default, (q, graph.call_function(aten.permute.default, (k, [0, 2, 1]))))
        mixed = graph.call_function(aten.bmm.default, (graph.call_function(aten.softmax.int, (scores, -1)), v))
        whole = graph.call_function(aten.reshape.default, (mixed, list(node.meta["val"].shape)))
    whole.meta = dict(node.meta)
    node.replace_all_uses_with(whole)
    graph.erase_node(node)


def _as_slice(module: fx.GraphModule, node: Node) -> None:
    """One entry of a dimension as a slice and a reshape."""
    _slice(module, node, *node.args[:3])


def _as_slices(module: fx.GraphModule, node: Node) -> None:
    """All entries of a dimension."""
    value, axis = (*node.args, 0)[:2]
    for entry in list(node.users):
        _slice(module, entry, value, axis, entry.args[1])
    module.graph.erase_node(node)


def _slice(module: fx.GraphModule, entry: Node, value: Node, axis: int, index: int) -> None:
    shape = value.meta["val"].shape
    start = index % shape[axis]
    graph = module.graph
    with graph.inserting_before(entry):
        part = graph.call_function(aten.slice.Tensor, (value, axis, start, start + 1))
        flat = graph.call_function(aten.reshape.default, (part, list(entry.meta["val"].shape)))
    flat.meta = dict(entry.meta)
    entry.replace_all_uses_with(flat)
    graph.erase_node(entry)
