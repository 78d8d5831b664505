"""A traced program in half precision between float32 inputs and outputs."""

from __future__ import annotations

import torch
from torch import fx

from autoshrink.backends.executorch_graph import aten
from autoshrink.program import Node, weight_layers


def store_half(module: fx.GraphModule) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """The module with float16 parameters and arithmetic, and what to know of it; inputs and outputs stay float32."""
    graph = module.graph
    for node in graph.nodes:
        _ask_for_half(node)
    outputs = graph.output_node()
    floats = {value for value in outputs.all_input_nodes if _is_float32(value)}
    for node in list(graph.nodes):
        if node.op == "placeholder" and _is_float32(node):
            with graph.inserting_after(node):
                half = graph.call_function(aten.to.dtype, (node, torch.float16))
            node.replace_all_uses_with(half, delete_user_cb=lambda user, half=half: user is not half)
    for value in floats:
        with graph.inserting_before(outputs):
            outputs.replace_input_with(value, graph.call_function(aten.to.dtype, (value, torch.float32)))
    module.half()
    module.recompile()
    if all(node.target == aten.linear.default for _, node in weight_layers(module)):
        return module, ()
    notes = ("weights of convolutions are stored in float32: XNNPACK rounds them when it loads the file",)
    return module, notes


def _ask_for_half(node: Node) -> None:
    """Lets a node that names float32, or makes a tensor of it out of nothing, make one of float16."""
    if node.op != "call_function" or not _is_float32(node):
        return
    swap = {torch.float32: torch.float16}
    node.args = tuple(swap.get(value, value) if isinstance(value, torch.dtype) else value for value in node.args)
    named = {name: torch.float16 if value == torch.float32 else value for name, value in node.kwargs.items()}
    made = not node.all_input_nodes and any(argument.name == "dtype" for argument in node.target._schema.arguments)
    node.kwargs = {**named, "dtype": torch.float16} if made else named


def _is_float32(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32
