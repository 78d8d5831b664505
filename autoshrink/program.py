"""A model as a traced torch program in one file: what those backends compile that do not read ONNX.

The file is torch's archive of an exported program: its graph as JSON, its weights as raw bytes. Reading it needs none
of the user's code, and nothing in it is unpickled: a file that would need that is refused.
"""

from __future__ import annotations

import json
import operator
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from autoshrink.errors import StageError

# The operator must be known before a program that holds it is read.
from autoshrink.fake_quantize import quantize_dequantize  # noqa: F401
from autoshrink.onnx_graph import fixed_batches
from autoshrink.tracing import evaluating, quiet_exporter, trace, try_torch

if TYPE_CHECKING:
    from autoshrink.task import Task

STAGE = "export"
NAMES = "names.json"
WRAPPER = "model."
"""What tracing puts before every name of the user's model."""

Node = Any
"""A `torch.fx.Node`, whose arguments are typed as unions of everything."""

OPERATOR = torch.ops.autoshrink.quantize_dequantize.default


@dataclass(frozen=True)
class Grid:
    """The integers of a tensor: `value = (integer - zero_point) * scale`, `low <= integer <= high`.

    `axis` is the dimension that has a scale and a zero point for each of its entries, -1 when the tensor has one.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Of one integer."""
        return (self.high - self.low).bit_length()

    @property
    def range(self) -> tuple[float, float]:
        """Least and largest value of a tensor with one scale."""
        return (self.low - self.zero_point[0]) * self.scale[0], (self.high - self.zero_point[0]) * self.scale[0]


@dataclass(frozen=True)
class Program:
    """A traced model in evaluation mode.

    Attributes:
        module: takes the inputs by position, with the batch of the trace, and returns a tuple of the outputs.
        inputs: their names.
        outputs: their names.
        example: what it was traced with.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Quantized:
    """What was known of the integers in a program that quantization-aware training made.

    Attributes:
        weights: qualified name of a parameter -> its grid; the parameter holds values of the grid.
        activations: name of the node of `Program.module.graph` that makes a value -> the grid of that value.
    """

    weights: Mapping[str, Grid]
    activations: Mapping[str, Grid]


def write_program(model: nn.Module, task: Task, batch: int, out: Path) -> dict[str, Any]:
    """Writes `model` in evaluation mode as a program with `batch` rows a call.

    Args:
        model: takes the task's inputs by position; float32. Not changed.
        task: gives names and example.
        batch: rows of each call, fixed in the file.
        out: the file that is written; its name ends in `.pt2`.

    Returns:
        What `autoshrink.export.export_onnx` returns, as far as it applies: `weight_bits`, of a model with quantizers.

    Raises:
        StageError: the model fails on its example, or cannot be traced or written.
        ConfigError: it returns other outputs than the task names.
    """
    example = next(fixed_batches(task.example_inputs, batch))
    with evaluating(model), torch.no_grad():
        try_torch(model, task, example)
        program = trace(model, task, example)
    names = {"inputs": list(task.example_inputs), "outputs": list(task.outputs)}
    try:
        with quiet_exporter():
            torch.export.save(program, out, extra_files={NAMES: json.dumps(names)})
    except Exception as error:
        raise StageError(STAGE, f"the traced model cannot be written: {error}") from error
    bits = {name: grid.bits for name, grid in float_program(read_program(out))[1].weights.items()}
    return {"weight_bits": {name.removesuffix(".weight"): width for name, width in bits.items()}} if bits else {}


def read_program(path: Path) -> Program:
    """The program of `write_program`.

    Raises:
        StageError: of stage `compile`; the file is damaged, or would have to be unpickled.
    """
    try:
        _refuse_pickles(path)
        extra = {NAMES: ""}
        with quiet_exporter():
            exported = torch.export.load(path, extra_files=extra)
            module = exported.module()
        names = json.loads(extra[NAMES])
        example = tuple(exported.example_inputs[0])
        return Program(plain_module(module), tuple(names["inputs"]), tuple(names["outputs"]), example)
    except StageError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageError("compile", f"{path.name} cannot be read as a traced program: {first}") from error


def _refuse_pickles(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("_config.json") and '"use_pickle": true' in archive.read(name).decode():
                raise StageError("compile", f"{path.name}: {name} refers to pickled tensors, which are not read")


def plain_module(traced: Any) -> fx.GraphModule:
    """A module of the same graph that takes and returns plain tuples, without the checks that torch puts before it."""
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            traced.graph.erase_node(node)
    traced.graph.set_codegen(fx.graph.CodeGen())
    # torch's own module of an exported program refuses train() and eval(); a plain one of the same graph does not.
    module = fx.GraphModule(traced, traced.graph)
    module.recompile()
    return module


def float_program(program: Program) -> tuple[Program, Quantized]:
    """The program without its quantizers, weights rounded as they were, and what the quantizers knew.

    A program without quantizers comes back as it is. The given one is not to be used afterwards: its graph is changed.
    """
    module = program.module
    weights: dict[str, Grid] = {}
    activations: dict[str, Grid] = {}
    for node in list(module.graph.nodes):
        if node.target != OPERATOR:
            continue
        value = node.args[0]
        grid = _grid(module, node)
        if value.op == "get_attr":
            weights[parameter_name(value)] = grid
            _set_rounded(module, value, node)
        else:
            activations[value.name] = grid
        node.replace_all_uses_with(value)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return program, Quantized(weights, activations)


def standard_program(program: Program) -> Program:
    """The program with its quantizers as `quantized_decomposed` operators, which PT2E backends know.

    Activations become int8 (an unsigned grid is shifted by 128), weights int8 or what fits. The given program is not
    to be used afterwards.
    """
    # Registers the operators.
    import torch.ao.quantization.fx._decomposed

    module, ops = program.module, torch.ops.quantized_decomposed
    for node in list(module.graph.nodes):
        if node.target != OPERATOR:
            continue
        grid = _grid(module, node)
        shift = 128 if grid.low >= 0 else 0
        low, high = grid.low - shift, grid.high - shift
        with module.graph.inserting_before(node):
            if grid.axis < 0:
                at = (grid.scale[0], grid.zero_point[0] - shift, low, high, torch.int8)
                integers = module.graph.call_function(ops.quantize_per_tensor.default, (node.args[0], *at))
                back = module.graph.call_function(ops.dequantize_per_tensor.default, (integers, *at))
            else:
                zeros = node.args[2]
                along = (node.args[1], zeros, grid.axis, low, high, torch.int8)
                integers = module.graph.call_function(ops.quantize_per_channel.default, (node.args[0], *along))
                back = module.graph.call_function(ops.dequantize_per_channel.default, (integers, *along))
        back.meta = dict(node.meta)
        node.replace_all_uses_with(back)
        module.graph.erase_node(node)
    module.recompile()
    return program


def parameter_name(node: Node) -> str:
    """The name of a parameter or buffer of the graph in the user's model."""
    return str(node.target).removeprefix(WRAPPER)


def weight_layers(module: fx.GraphModule) -> Iterator[tuple[str, Node]]:
    """(name of the layer in the user's model, its node) of convolutions and linear layers, in the order they run."""
    aten = torch.ops.aten
    kinds = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default}
    kinds |= {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
    for node in module.graph.nodes:
        if node.target not in kinds:
            continue
        weight = node.args[1]
        while weight.op == "call_function" and weight.args:
            weight = weight.args[0]
        yield (parameter_name(weight).rpartition(".")[0] if weight.op == "get_attr" else node.name), node


def _grid(module: fx.GraphModule, node: Node) -> Grid:
    scale, zero_point = (operator.attrgetter(str(at.target))(module) for at in node.args[1:3])
    steps = tuple(float(value) for value in scale.detach().reshape(-1))
    zeros = tuple(int(value) for value in zero_point.reshape(-1))
    return Grid(steps, zeros, *(int(value) for value in node.args[3:6]))


@torch.no_grad()
def _set_rounded(module: fx.GraphModule, value: Node, node: Node) -> None:
    """Puts what the quantizer makes of a parameter in the parameter's place."""
    parameter = operator.attrgetter(str(value.target))(module)
    scale, zero_point = (operator.attrgetter(str(at.target))(module) for at in node.args[1:3])
    parameter.copy_(OPERATOR(parameter, scale, zero_point, *node.args[3:6]))
