"""A traced program to an ExecuTorch program whose layers run in XNNPACK, as far as XNNPACK takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from autoshrink.backends.base import Source
from autoshrink.backends.executorch_float16 import store_half
from autoshrink.backends.executorch_graph import add_constant, aten, for_xnnpack, layer_of, qd, traced_again
from autoshrink.backends.executorch_linear4 import quantize_linear4
from autoshrink.backends.executorch_quantize import quantize_dynamic, quantize_static, weight_of
from autoshrink.backends.executorch_trained import match_kernels
from autoshrink.errors import StageError
from autoshrink.program import Node, Program, read_program, standard_program, weight_layers
from autoshrink.techniques.onnx_int8 import ends
from autoshrink.tracing import quiet_exporter

WEIGHT_ARGUMENTS = {
    "aten.convolution.default": 1,
    "aten.linear.default": 1,
    "aten.addmm.default": 2,
    "aten.mm.default": 1,
}
THREE_DIMENSIONS = (aten.conv3d.default, aten.conv_transpose3d.input)
QUANTIZED = ("quantized_decomposed", "torchao")
"""Namespaces of operators for which the runtime has no kernels of its own."""


@dataclass(frozen=True)
class Lowered:
    """An ExecuTorch program and what became of the layers.

    Attributes:
        content: of the `.pte` file.
        program: as it was read; its example has the shapes of the inputs.
        layers: names of the layers in the user's model, in the order their kernels run.
        permutations: of dimensions that the model itself asks for.
        notes: what is other than the recipe says.
    """

    content: bytes
    program: Program
    layers: tuple[str, ...]
    permutations: int
    notes: tuple[str, ...]


def lower(source: Source) -> Lowered:
    """The ExecuTorch program of a traced one, quantized as the source says.

    Raises:
        StageError: of stage `compile`: the file is damaged, or the model cannot be quantized or lowered.
    """
    program = read_program(source.model)
    # Strides of dimensions of one entry are arbitrary; they would become another order of the dimensions.
    example = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in program.example)
    program = replace(program, example=example)
    module, notes = _quantized(program, source)
    wanted = len(list(_integer_layers(module)))
    edge = _edge(module, program.example)
    left = set(_left(edge))
    if left:
        # Their weights would be unpacked outside XNNPACK, for which there is no kernel: they become float again.
        _release(module, left)
        module = traced_again(module, program.example)
        edge = _edge(module, program.example)
        notes = (*notes, f"stay float, XNNPACK has no integer kernel for them: {', '.join(sorted(left))}")
        if len(left) == wanted:
            raise StageError("compile", f"XNNPACK takes no layer of this model in {source.precision}; leave it out")
    stray = sorted({_name(node) for node in _outer(edge) if _name(node).startswith(QUANTIZED)})
    if stray:
        raise StageError("compile", f"{', '.join(stray)} stays outside XNNPACK, and the runtime has no kernel for it")
    layers, permutations = _read_layers(edge)
    return Lowered(_written(edge), program, layers, permutations, notes)


def _quantized(program: Program, source: Source) -> tuple[fx.GraphModule, tuple[str, ...]]:
    trained = source.recipe.settings("qat") is not None
    module = for_xnnpack(standard_program(program) if trained else program)
    names = [name for name, _ in weight_layers(module)]
    notes: tuple[str, ...] = ()
    too_many = [name for name, node in weight_layers(module) if node.target in THREE_DIMENSIONS]
    if too_many:
        raise StageError(
            "compile",
            f"layer {too_many[0]!r} is a convolution over 3 dimensions, for which neither XNNPACK nor ExecuTorch's "
            "portable kernels have one; take another target",
        )
    if trained:
        notes = (*match_kernels(module), *_silently_left(module, set()))
    elif source.precision == "int8_static":
        module = quantize_static(module, program, source)
        kept = set(ends(names, str(source.settings.get("keep_float", "none"))))
        notes = _silently_left(module, kept)
    elif source.precision == "int8_dynamic":
        module = quantize_dynamic(module, source)
        notes = _silently_left(module, set())
    elif source.precision == "int4_weights":
        module = quantize_linear4(module, source)
        notes = _silently_left(module, set())
    elif source.precision == "fp16":
        module, notes = store_half(module)
    elif source.precision != "fp32":
        raise StageError("compile", f"ExecuTorch is not given {source.precision}; use fp32, fp16 or an int8 precision")
    if source.precision.startswith("int") and not any(True for _ in _integer_layers(module)):
        raise StageError("compile", f"no layer of this model can be quantized to {source.precision}; leave it out")
    return traced_again(module, program.example), notes


def _silently_left(module: fx.GraphModule, kept: set[str]) -> tuple[str, ...]:
    """Names the layers that no quantizer touched, other than those that were to stay float."""
    integer = {name for name, _ in _integer_layers(module)}
    left = [name for name, _ in weight_layers(module) if name not in integer | kept]
    return (f"stay float, not quantized: {', '.join(left)}",) if left else ()


def _integer_layers(module: fx.GraphModule) -> Iterator[tuple[str, Node]]:
    for name, node in weight_layers(module):
        if node.args[1].op == "call_function":
            yield name, node


def _release(module: fx.GraphModule, names: set[str]) -> None:
    """Gives layers a float weight, of the values that the integers stood for."""
    for name, node in list(_integer_layers(module)):
        if name not in names:
            continue
        node.update_arg(1, add_constant(module, f"model.{name}.weight_unpacked", weight_of(module, node), node))
        value = node.args[0]
        if value.target == qd.dequantize_per_tensor.tensor:
            node.update_arg(0, value.args[0].args[0])


def _edge(module: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with quiet_exporter():
        exported = torch.export.export(module, example, strict=False)
    return to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])


def _written(edge: Any) -> bytes:
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass

    # An input in planned memory would be overwritten by what is computed, and have to be copied in for every call.
    config = ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
    return bytes(edge.to_executorch(config).buffer)


def _outer(edge: Any) -> Iterator[Node]:
    yield from (node for node in edge.exported_program().graph_module.graph.nodes if node.op == "call_function")


def _left(edge: Any) -> Iterator[str]:
    """Layers outside XNNPACK whose weight is made from integers."""
    exported = edge.exported_program()
    for node in _outer(edge):
        weight = _weight(node)
        if weight is not None and any(_name(step).startswith(QUANTIZED) for step in _chain(weight)):
            yield _layer(weight, exported.graph_signature)


def _read_layers(edge: Any) -> tuple[tuple[str, ...], int]:
    """The layers, and how many permutations there are beside them, inside XNNPACK and out of it."""
    exported = edge.exported_program()
    layers: list[str] = []
    permutations = 0
    for node in exported.graph_module.graph.nodes:
        inner = getattr(exported.graph_module, str(node.target), None) if node.op == "get_attr" else None
        program = getattr(inner, "original_module", None)
        if program is None:
            program, nodes = exported, [node]
        else:
            nodes = list(program.graph.nodes)
        for each in nodes:
            weight = _weight(each)
            if weight is not None:
                layers.append(_layer(weight, program.graph_signature))
            permutations += _name(each).startswith("aten.permute_copy")
    return tuple(layers), permutations


def _weight(node: Node) -> Node | None:
    """What a layer takes its weight from, when that is a constant of the program."""
    index = WEIGHT_ARGUMENTS.get(_name(node))
    if index is None:
        return None
    weight: Node = node.args[index]
    *_, source = _chain(weight)
    return weight if source.op == "placeholder" and source.name.startswith(("p_", "b_", "c_")) else None


def _chain(node: Node) -> Iterator[Node]:
    yield node
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        yield node


def _layer(weight: Node, signature: Any) -> str:
    *_, source = _chain(weight)
    names: Mapping[str, str] = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return layer_of(names.get(source.name, source.name))


def _name(node: Node) -> str:
    """An operator as `namespace.name.overload`."""
    if node.op != "call_function":
        return ""
    operator = getattr(node.target, "_op", node.target)
    return str(operator)
