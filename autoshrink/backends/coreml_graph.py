"""A traced torch program as Core ML's converter takes it: norms folded, ranges known, weights named by layer."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends.base import Source
from autoshrink.backends.coreml_calibrate import GPTQ_ROWS, Watch, calibration_of, collect_grams, watch
from autoshrink.backends.coreml_weights import (
    BLOCKWISE,
    SMALLEST,
    Array,
    Stored,
    store_floats,
    store_integers,
)
from autoshrink.errors import StageError
from autoshrink.fake_quantize import ActivationQuantizer, WeightQuantizer
from autoshrink.program import OPERATOR, Grid, parameter_name, read_program, weight_layers
from autoshrink.techniques.onnx_int8 import Grid as TargetGrid
from autoshrink.techniques.onnx_int8 import ends
from autoshrink.techniques.quantized_graph import FloatGraph, add_quantizers
from autoshrink.techniques.weight_rounding import gptq, hqq, nearest

STAGE = "compile"
FLOAT16_MAX = float(np.finfo(np.float16).max)
WEIGHT_BITS = {"int8_weights": 8, "int4_weights": 4}
TOKEN = re.compile(r"layer(\d+)_weight")
"""What the converter makes the names of its constants of."""
aten = torch.ops.aten
ALL = ("Conv", "Gemm", "MatMul")
"""Operators that are quantized where the settings name none."""
OPERATORS = {
    aten.linear.default: {"Gemm", "MatMul"},
    aten.conv1d.default: {"Conv"},
    aten.conv2d.default: {"Conv"},
    aten.conv3d.default: {"Conv"},
}

Node = Any
"""A `torch.fx.Node`, whose arguments are typed as unions of everything."""


@dataclass(frozen=True)
class LayerWeight:
    """A weight of the model and what is to become of it.

    Attributes:
        layers: names of the layers that read it.
        operators: what ONNX would call them.
        values: float32, as torch has them.
        grid: its integers; None when it has none.
    """

    layers: tuple[str, ...]
    operators: frozenset[str]
    values: npt.NDArray[np.float32]
    grid: Grid | None


class ProgramGraph(FloatGraph):
    """A program's graph with batch normalisation folded, for what works on graphs of models."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self._fold_norms()
        module.recompile()


class Prepared:
    """A program that is ready to be converted, and the form that each of its weights is to have.

    Args:
        source: what is compiled; its file is read.

    Raises:
        StageError: the file is damaged, the calibration set does not fit, a weight is not finite or, for arithmetic in
            float16, too large; or the precision is none of those that Core ML has.
    """

    def __init__(self, source: Source) -> None:
        self.program = read_program(source.model)
        self.system = int(source.options.get("minimum_ios", BLOCKWISE))
        self._notes: list[str] = []
        self._wider: dict[tuple[int, int], list[str]] = {}
        self._source = source
        # Those of a quantize stage hold lists and a grid beside plain values.
        self._settings: Mapping[str, Any] = source.settings
        self._packs = source.options.get("low_bit_weights", "packed") == "packed"
        self._grids: dict[str, Grid] = {}
        module = self.program.module
        if any(node.target == OPERATOR for node in module.graph.nodes):
            self._take_grids(module)
        else:
            graph = ProgramGraph(module)
            if source.precision == "int8_static":
                self._calibrate(graph)
        module.graph.eliminate_dead_code()
        module.recompile()
        self.weights = _named_weights(module, self._grids)
        self._check_values()
        self._grams = self._collect_grams()

    @property
    def width(self) -> int:
        """Bytes of a float in the program: the arithmetic is float32 where that is asked for, else float16."""
        return 4 if self._source.precision == "fp32" else 2

    @property
    def notes(self) -> list[str]:
        """Where the program does other than the recipe says; complete once every weight was chosen."""
        wider = [
            f"{asked}-bit weights lie in {has} bits: {', '.join(layers)}"
            for (asked, has), layers in sorted(self._wider.items())
        ]
        return [*wider, *self._notes]

    def layers_of(self, constant: str) -> tuple[str, ...]:
        """Names of the layers that read the constant of this name; none when it is of no layer's weight."""
        found = TOKEN.search(constant)
        return self.weights[int(found[1])].layers if found else ()

    def rounding_db(self, constant: str, stored: Stored) -> float:
        """Signal to noise of a weight as it is stored against torch's, decibel; infinite for other constants."""
        found = TOKEN.search(constant)
        values = self.weights[int(found[1])].values if found else None
        return sqnr_db(values, stored.restored()) if values is not None and values.shape == stored.data.shape else inf

    def choose(self, constant: str, values: Array) -> Stored:
        """How the weight in the constant of this name, [outputs, ...] as the converter left it, is to be stored."""
        found = TOKEN.search(constant)
        weight = self.weights[int(found[1])] if found else None
        if weight is None or not _is_same(values, weight.values):
            # Another constant of the model, or one that the converter fused with what follows.
            return store_floats(values, self.width, self.system)
        if weight.grid is not None:
            return self._on_grid(weight, weight.grid)
        bits = WEIGHT_BITS.get(self._source.precision)
        wanted = set(self._settings.get("operators", ALL))
        if bits is None or not weight.operators & wanted or values.size < SMALLEST:
            return store_floats(values, self.width, self.system)
        return self._rounded(weight, bits)

    def _on_grid(self, weight: LayerWeight, grid: Grid) -> Stored:
        shape = [1] * weight.values.ndim
        if grid.axis >= 0:
            shape[grid.axis] = -1
        scale = np.asarray(grid.scale, np.float32).reshape(shape)
        codes = np.clip(np.rint(weight.values / scale), grid.low, grid.high).astype(np.int8)
        few = store_floats(weight.values, self.width, self.system)
        # A trained grid of 8 bits stays int8 even where a table would be a little smaller: only that runs in 8 bits.
        packed = self._packs and (grid.bits < 8 or few.form == "palette" or few.mask is not None)
        stored = store_integers(codes, scale, None, self.width, self.system, packed)
        if grid.bits < 8 and stored.bits > grid.bits:
            self._wider.setdefault((grid.bits, stored.bits), []).extend(weight.layers)
        return stored

    def _rounded(self, weight: LayerWeight, bits: int) -> Stored:
        settings = self._settings
        values = weight.values
        inputs = values.shape[1]
        block = fitting_block(inputs, int(settings.get("block", 32))) if self.system >= BLOCKWISE else inputs
        rows = np.ascontiguousarray(values.reshape(len(values), -1))
        at_once = block * (rows.shape[1] // inputs)
        rounding = str(settings.get("rounding", "nearest"))
        gram = self._grams.get(weight.layers[0])
        if rounding == "gptq" and gram is not None:
            rounded = gptq(rows, bits, at_once, gram)
        else:
            if rounding == "gptq":
                self._notes.append(f"{', '.join(weight.layers)}: rounded to nearest, gptq is for plain layers")
            rounded = (hqq if rounding == "hqq" else nearest)(rows, bits, at_once)
        shape = (len(values), inputs // block, *[1] * (values.ndim - 2))
        codes = rounded.codes.reshape(values.shape)
        scale, zeros = (np.asarray(part).reshape(shape) for part in (rounded.scales, rounded.zeros))
        middle = 2 ** (bits - 1)
        if (zeros == middle).all():
            signed = (codes.astype(np.int16) - middle).astype(np.int8)
            return store_integers(signed, scale.astype(np.float32), None, self.width, self.system)
        return store_integers(codes, scale.astype(np.float32), zeros, self.width, self.system)

    def _collect_grams(self) -> dict[str, npt.NDArray[np.float32]]:
        if self._source.precision not in WEIGHT_BITS or self._settings.get("rounding") != "gptq":
            return {}
        layers = {node.name: name for name, node in _layers(self.program.module, self.weights)}
        samples = calibration_of(self._source.calibration, self.program, GPTQ_ROWS)
        return collect_grams(self.program, layers, samples)

    def _take_grids(self, module: fx.GraphModule) -> None:
        """Replaces the quantizers that training left by what Core ML knows, and keeps the grids of the weights."""
        for node in list(module.graph.nodes):
            if node.target != OPERATOR:
                continue
            value = node.args[0]
            scale, zero = (operator.attrgetter(str(at.target))(module) for at in node.args[1:3])
            steps = tuple(float(step) for step in scale.detach().reshape(-1))
            grid = Grid(steps, tuple(int(each) for each in zero.reshape(-1)), *node.args[3:6])
            if value.op == "get_attr":
                self._grids[str(value.target)] = grid
                parameter = operator.attrgetter(str(value.target))(module)
                with torch.no_grad():
                    parameter.copy_(OPERATOR(parameter, scale, zero, *node.args[3:6]))
                node.replace_all_uses_with(value)
            else:
                self._quantize(module, node, grid)
            module.graph.erase_node(node)

    def _quantize(self, module: fx.GraphModule, node: Node, grid: Grid) -> None:
        """Puts a quantize and dequantize pair in the place of `node`."""
        # Registers the operators.
        import torch.ao.quantization.fx._decomposed

        ops, value = torch.ops.quantized_decomposed, node.args[0]
        signed = grid.low < 0
        least, most, dtype = (-128, 127, torch.int8) if signed else (0, 255, torch.uint8)
        with module.graph.inserting_before(node):
            if (grid.low, grid.high) != (least, most):
                # Core ML saturates at the ends of its 8-bit type only.
                low, high = grid.range
                value = module.graph.call_function(aten.clamp.default, (value, low, high))
                note = f"activations of {grid.bits} bits are clipped by an operation of their own and lie in 8 bits"
                self._notes += [] if note in self._notes else [note]
            at = (grid.scale[0], grid.zero_point[0], least, most, dtype)
            integers = module.graph.call_function(ops.quantize_per_tensor.default, (value, *at))
            back = module.graph.call_function(ops.dequantize_per_tensor.default, (integers, *at))
        node.replace_all_uses_with(back)

    def _calibrate(self, graph: ProgramGraph) -> None:
        """Quantizes activations by the calibration set, and gives weights the grid of their largest magnitude."""
        settings, module = self._settings, graph.module
        target = TargetGrid.from_json(settings["grid"]) if "grid" in settings else TargetGrid(ALL)
        layers, _ = graph.layers()
        kept = ends([layer.weight for layer in layers], str(settings.get("keep_float", "none")))
        chosen = {
            layer.weight: 8
            for layer in layers
            if layer.weight not in kept and OPERATORS[layer.node.target] & set(target.operators)
        }
        if not chosen:
            raise StageError(
                STAGE,
                f"no {'/'.join(target.operators)} that could be quantized is in the model; leave int8_static out of "
                "the space, or keep_float out of the recipe",
            )
        add_quantizers(graph, chosen, 8, target, learned=False)
        weights: dict[str, str] = {}
        for name, part in list(module.named_modules()):
            if isinstance(part, ActivationQuantizer):
                module.set_submodule(name, Watch(name.rpartition(".")[2], part.signed))
            elif isinstance(part, WeightQuantizer):
                weights[name] = ""
        for node in list(module.graph.nodes):
            if node.op == "call_module" and str(node.target) in weights:
                name = str(node.args[0].target)
                self._grids[name] = self._weight_grid(module.get_parameter(name), target.per_channel)
                node.replace_all_uses_with(node.args[0])
                module.graph.erase_node(node)
        module.recompile()
        samples = calibration_of(self._source.calibration, self.program, int(settings.get("samples", 256)))
        watch(self.program, samples, str(settings.get("calibration", "minmax")))
        for node in list(module.graph.nodes):
            if node.op == "call_module":
                part = module.get_submodule(str(node.target))
                if isinstance(part, Watch):
                    self._quantize(module, node, part.grid())
                    module.graph.erase_node(node)

    def _weight_grid(self, parameter: nn.Parameter, per_channel: bool) -> Grid:
        values = parameter.detach().float().numpy()
        largest = np.abs(values.reshape(len(values), -1)).max(1)
        few = store_floats(values, 4, self.system)
        # The integers of a codebook are as few only with one scale for all channels.
        shared = few.form == "palette" and few.scale is None
        axis = 0 if per_channel and not shared else -1
        scales = (largest if axis == 0 else largest.max(keepdims=True)) / 127
        scales = np.where(scales > 0, scales, 1)
        return Grid(tuple(float(step) for step in scales), (0,) * len(scales), axis, -127, 127)

    def _check_values(self) -> None:
        most = FLOAT16_MAX if self.width == 2 else np.inf
        named = [("a weight of " + ", ".join(weight.layers), weight.values) for weight in self.weights]
        named += [(parameter_name(node), value) for node, value in _constants(self.program.module)]
        for name, values in named:
            largest = float(np.abs(values).max(initial=0))
            if not largest <= most or not np.isfinite(largest):
                raise StageError(
                    STAGE,
                    f"{name} is {largest:g} at the most; float16 ends at {FLOAT16_MAX:g} and cannot hold it: use fp32"
                    if np.isfinite(largest)
                    else f"{name} is not finite; train it again, or mend it",
                )


def fitting_block(inputs: int, block: int) -> int:
    """The largest divisor of `inputs` that is no more than `block`, or all inputs where that is under half of it."""
    best = max(size for size in range(1, min(inputs, block) + 1) if inputs % size == 0)
    return best if 2 * best >= min(inputs, block) else inputs


def _is_same(constant: Array, values: npt.NDArray[np.float32]) -> bool:
    return constant.shape == values.shape and np.array_equal(constant, values.astype(constant.dtype))


def _layers(module: fx.GraphModule, weights: Sequence[LayerWeight]) -> list[tuple[str, Node]]:
    found = []
    for _, node in weight_layers(module):
        token = TOKEN.fullmatch(str(node.args[1].target)) if node.args[1].op == "get_attr" else None
        if token:
            found.append((weights[int(token[1])].layers[0], node))
    return found


def _named_weights(module: fx.GraphModule, grids: Mapping[str, Grid]) -> list[LayerWeight]:
    """Registers the weight of each layer as `layer<index>_weight`, which the converter's names keep."""
    found: dict[str, list[tuple[str, Node]]] = {}
    for name, node in weight_layers(module):
        if node.args[1].op == "get_attr":
            found.setdefault(str(node.args[1].target), []).append((name, node))
    weights: list[LayerWeight] = []
    for target, readers in found.items():
        parameter = operator.attrgetter(target)(module)
        token = f"layer{len(weights)}_weight"
        module.register_parameter(token, nn.Parameter(parameter.detach(), requires_grad=False))
        for each in [node for node in module.graph.nodes if node.op == "get_attr" and str(node.target) == target]:
            each.target = token
        operators = frozenset[str]().union(*(OPERATORS.get(node.target, set()) for _, node in readers))
        values = parameter.detach().float().numpy().copy()
        weights.append(LayerWeight(tuple(name for name, _ in readers), operators, values, grids.get(target)))
    module.delete_all_unused_submodules()
    module.recompile()
    return weights


def _constants(module: fx.GraphModule) -> list[tuple[Node, npt.NDArray[np.float32]]]:
    """Parameters of the graph that are no layer's weight."""
    found = []
    for node in module.graph.nodes:
        if node.op == "get_attr" and not TOKEN.fullmatch(str(node.target)) and node.users:
            value = operator.attrgetter(str(node.target))(module)
            if isinstance(value, nn.Parameter):
                found.append((node, value.detach().float().numpy()))
    return found
