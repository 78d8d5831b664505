"""From a traced torch program to a float `.tflite` whose tensors have the names of the user's model.

Converting takes seconds and depends on nothing that a recipe's precision says, so the file is kept beside the program
for every recipe over it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoshrink.backends.base import installed_version
from autoshrink.backends.tflite_graph import WEIGHT_KINDS, Graph
from autoshrink.errors import StageError

CONVERTER = "litert-torch"
LAYOUTS = ("nchw", "nhwc")
MARK = re.compile(r"#([^#]+)#")
"""How the names of the traced program's nodes stand in the names that the converter makes."""


def float_tflite(model: Path, layout: str) -> bytes:
    """The float model of a program without quantizers, as a `.tflite` file.

    Args:
        model: of `autoshrink.program.write_program`. The result is kept beside it where that can be written, by layout
            and version of the converter, and used again while it is not older than the program.
        layout: `nchw`, or `nhwc` for inputs of 4 dimensions with their channels last.

    Raises:
        StageError: of stage `compile`; the program cannot be read or converted.
    """
    kept = model.with_suffix(f".{layout}.{installed_version(CONVERTER)}.tflite")
    with contextlib.suppress(OSError):
        if kept.stat().st_mtime_ns >= model.stat().st_mtime_ns:
            return kept.read_bytes()
    from autoshrink.program import float_program, read_program

    program, quantized = float_program(read_program(model))
    if quantized.activations:
        raise StageError(
            "compile",
            f"{model.name} holds trained quantizers, which precision int8_static without settings compiles; this "
            "recipe asks for something else",
        )
    content = convert(program, layout)
    with contextlib.suppress(OSError):
        partial = kept.with_suffix(f".{uuid.uuid4().hex}")
        partial.write_bytes(content)
        partial.replace(kept)
    return content


def convert(program: Any, layout: str, static: bool = False) -> bytes:
    """A program (see `autoshrink.program.Program`) as a `.tflite` file with clean names.

    Args:
        program: its graph is changed.
        layout: of inputs with 4 dimensions.
        static: whether `quantized_decomposed` operators in it become integer kernels.

    Raises:
        StageError: the converter refuses it; with its own reason in one line.
    """
    layers = _marked(program)
    example = _channels_last(program) if layout == "nhwc" else program.example
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    try:
        with quiet():
            import litert_torch

            module = program.module.eval()
            content = litert_torch.convert(
                module, example, enable_x64=True, quant_config=_static() if static else None
            ).model_content()
        graph = Graph(content)
        graph.name_ports(program.inputs, program.outputs)
    except Exception as error:
        raise StageError("compile", f"{CONVERTER} cannot convert the model: {reason(error)}") from error
    name_tensors(graph, layers)
    graph.clear_metadata()
    return graph.content()


def name_tensors(graph: Graph, layers: Mapping[str, tuple[str, int]]) -> None:
    """Names weights after the layers of the user's model, ports after the task's, and the rest after what made it.

    Args:
        graph: as converted, its tensors named after marked nodes.
        layers: node -> (the layer's name, elements of its weight), in the order they run.
    """
    marks = {index: MARK.findall(graph.name(index)) for index in graph.tensors}
    named: dict[int, str] = {}
    for ports in graph.ports():
        for name, index in ports.items():
            named.setdefault(index, name)
    for operation, weight, layer in _matched(graph, marks, layers):
        named.setdefault(weight, f"{layer}.weight")
        if graph.is_constant(operation.bias):
            named.setdefault(operation.bias, f"{layer}.bias")
        named.setdefault(operation.outputs[0], layer)
    for index in graph.tensors:
        named.setdefault(index, "constant" if graph.is_constant(index) else (marks[index] or ["value"])[0])
    taken: set[str] = set()
    for index, wanted in named.items():
        name, number = wanted, 1
        plain, dot, kind = wanted.rpartition(".") if wanted.endswith((".weight", ".bias")) else (wanted, "", "")
        while name in taken:
            number += 1
            name = f"{plain}_{number}{dot}{kind}"
        taken.add(name)
        graph.rename(index, name)


def _matched(
    graph: Graph, marks: Mapping[int, list[str]], layers: Mapping[str, tuple[str, int]]
) -> Iterator[tuple[Any, int, str]]:
    """(operator, weight, layer) of the operators with weights.

    The converter fuses operators and their names with them, so one may bear the names of several layers: those that
    only one layer can be go first.
    """
    found = [(operation, weight) for operation, weight in graph.layers() if operation.kind in WEIGHT_KINDS]
    counts = {node: count for node, (_, count) in layers.items()}
    sizes = [graph.array(weight).size for _, weight in found]
    candidates: list[list[str]] = []
    for (operation, weight), size in zip(found, sizes, strict=True):
        own = [mark for index in (*operation.outputs, weight) for mark in marks[index] if mark in layers]
        candidates.append([node for node in (own or layers) if counts[node] == size])
    open_ones = set(range(len(found)))
    shared: dict[int, str] = {}
    while open_ones:
        at = min(open_ones, key=lambda number: (len(set(candidates[number])) or len(layers) + 1, number))
        open_ones.discard(at)
        operation, weight = found[at]
        if candidates[at]:
            node = candidates[at][0]
            shared.setdefault(weight, layers[node][0])
            for other in open_ones:
                candidates[other] = [name for name in candidates[other] if name != node]
        # Of a layer that is no convolution or linear one, such as a recurrent one, only the node is known.
        own = [mark for index in (weight, *operation.outputs) for mark in marks[index]]
        yield operation, weight, shared.setdefault(weight, own[0] if own else "layer")


def _marked(program: Any) -> dict[str, tuple[str, int]]:
    """Marks every node of the program's graph with its name; the layers with weights, see `name_tensors`."""
    import operator

    from autoshrink.program import weight_layers

    for node in program.module.graph.nodes:
        if node.op == "call_function":
            node.meta["nn_module_stack"] = {"node": ("node", f"#{node.name}#")}
    layers = {}
    for name, node in weight_layers(program.module):
        weight = node.args[1]
        while weight.op == "call_function" and weight.args:
            weight = weight.args[0]
        if weight.op == "get_attr":
            layers[node.name] = (name, operator.attrgetter(str(weight.target))(program.module).numel())
    program.module.recompile()
    return layers


def _channels_last(program: Any) -> tuple[Any, ...]:
    """Lets the graph take inputs of 4 dimensions as [N, H, W, C]; the example for that."""
    import torch

    graph, example = program.module.graph, []
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, tensor in zip(placeholders, program.example, strict=True):
        if tensor.ndim == 4:
            with graph.inserting_after(placeholders[-1]):
                first = graph.call_function(torch.ops.aten.permute.default, (node, [0, 3, 1, 2]))
            node.replace_all_uses_with(first, delete_user_cb=lambda user, first=first: user is not first)
            first.meta = {"nn_module_stack": {"node": ("node", f"#{node.name}#")}}
            tensor = tensor.permute(0, 2, 3, 1).contiguous()
        example.append(tensor)
    program.module.recompile()
    return tuple(example)


def _static() -> Any:
    """The converter's setting that turns Q/DQ pairs into integer kernels; which grids, the graph says."""
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    return QuantConfig(PT2EQuantizer().set_global(get_symmetric_quantization_config(is_dynamic=False)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what converter and quantizer have to say beside errors, which are still raised."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def reason(error: Exception) -> str:
    """The first telling line of a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
