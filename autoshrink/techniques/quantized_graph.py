"""A model as a graph with quantizers where a target's integer kernels want them; batch normalisation folded."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim

from autoshrink.errors import StageError
from autoshrink.fake_quantize import ActivationQuantizer, WeightQuantizer, weight_quantizers
from autoshrink.task import Task
from autoshrink.techniques.onnx_int8 import Grid
from autoshrink.tensors import as_tensors

Node = Any
"""A `torch.fx.Node`, whose arguments are typed as unions of everything."""

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
LINEAR = {aten.linear.default}
RECTIFIERS = {
    *(aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default),
    *(aten.clamp.default, aten.clamp_.default),
}
"""They vanish into the lower and upper end of the range that follows them."""
SAME_VALUES = {
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.flatten.using_ints, aten.reshape.default),
    *(aten.view.default, aten.permute.default, aten.transpose.int, aten.unflatten.int, aten.squeeze.dim),
    *(aten.unsqueeze.default, aten.contiguous.default, aten.clone.default, aten.dropout.default),
}
"""Their outputs hold values of their input only, so the input's grid is theirs."""
SUMS = {aten.add.Tensor, aten.add_.Tensor}
POOLS = {aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default}
QUANTIZERS = "quantizers"
LARGEST_BIAS = 2**30
"""In steps of its product; it is stored in 32 bits."""


@dataclass(frozen=True)
class WeightLayer:
    """A convolution or linear layer of the graph: its weight's qualified name, its node, elements of the weight."""

    weight: str
    node: Node
    count: int

    @property
    def name(self) -> str:
        """Qualified name of the layer."""
        return self.weight.rpartition(".")[0] or self.weight


class FloatGraph:
    """A copy of a model as a graph of operators, in eval mode, with batch normalisation folded where it can be.

    Args:
        model: not touched.
        task: its example is traced, with any number of rows.

    Raises:
        StageError: the model cannot be traced, or not with a free number of rows.
    """

    def __init__(self, model: nn.Module, task: Task, stage: str) -> None:
        copied = copy.deepcopy(model).eval()
        example = tuple(torch.cat([tensor, tensor]) for tensor in as_tensors(task.example_inputs).values())
        try:
            with _quiet():
                program = torch.export.export(
                    copied, example, dynamic_shapes=tuple({0: Dim.DYNAMIC} for _ in example), strict=False
                )
                traced = program.module()
                result = copied(*example)
        except Exception as error:
            # Whatever an unusual forward does to the tracer ends here; the trial fails with the reason.
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise StageError(
                stage, f"the model cannot be traced with any number of rows: {type(error).__name__}: {first}"
            ) from error
        for node in list(traced.graph.nodes):
            if node.op == "call_module" and node.target == "_guards_fn":
                traced.graph.erase_node(node)
        # Plain arguments and a plain tuple: torch's description of nested ones cannot be copied without a warning.
        traced.graph.set_codegen(fx.graph.CodeGen())
        flat: Any = traced.graph.output_node().args[0]
        if isinstance(result, Mapping):
            flat = [flat[list(result).index(name)] for name in task.outputs]
        traced.graph.output_node().args = (tuple(flat),)
        # torch's own module of an exported program refuses train() and eval(); a plain one of the same graph does not.
        self.module = fx.GraphModule(traced, traced.graph)
        self._fold_norms()
        self.module.recompile()

    @property
    def graph(self) -> fx.Graph:
        """Its graph."""
        return self.module.graph

    def layers(self) -> tuple[list[WeightLayer], dict[str, str]]:
        """The layers whose weight can be quantized, in the order they run; and the others, each with the reason."""
        found: list[WeightLayer] = []
        left: dict[str, str] = {}
        for node in self.graph.nodes:
            if node.target not in CONVOLUTIONS | LINEAR:
                continue
            weight = node.args[1]
            if not _is_parameter(weight, self.module):
                left[node.name] = "its weight is computed"
            elif len(self._readers(weight)) > 1:
                left[weight.target.rpartition(".")[0]] = "its weight is shared with another layer"
            else:
                found.append(WeightLayer(weight.target, node, self.module.get_parameter(weight.target).numel()))
        return found, left

    def _readers(self, weight: Node) -> list[Node]:
        """Nodes that read the tensor of `weight`, under whatever name."""
        tensor = self._tensor(weight)
        same = [n for n in self.graph.nodes if n.op == "get_attr" and self._tensor(n) is tensor]
        return [user for node in same for user in node.users]

    def _tensor(self, node: Node) -> Any:
        return operator.attrgetter(str(node.target))(self.module)

    def _fold_norms(self) -> None:
        for norm in list(self.graph.nodes):
            if norm.target != aten.batch_norm.default or norm.args[5]:
                continue
            layer = norm.args[0]
            if layer.target not in CONVOLUTIONS | LINEAR or len(layer.users) > 1:
                continue
            weight = layer.args[1]
            if not _is_parameter(weight, self.module) or len(self._readers(weight)) > 1:
                continue
            self._fold(layer, norm)
        self.graph.eliminate_dead_code()
        self.module.delete_all_unused_submodules()

    def _fold(self, layer: Node, norm: Node) -> None:
        gamma, beta = (None if node is None else self._tensor(node) for node in norm.args[1:3])
        mean, variance = (self._tensor(node) for node in norm.args[3:5])
        scale = torch.rsqrt(variance + norm.args[7])
        scale = scale if gamma is None else scale * gamma
        weight_node = layer.args[1]
        owner_name, _, attribute = str(weight_node.target).rpartition(".")
        owner = self.module.get_submodule(owner_name)
        weight = self._tensor(weight_node)
        old_bias = self._tensor(layer.args[2]) if len(layer.args) > 2 and layer.args[2] is not None else 0.0
        with torch.no_grad():
            folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
            bias = (old_bias - mean) * scale + (0.0 if beta is None else beta)
        setattr(owner, attribute, nn.Parameter(folded.detach().clone()))
        owner.bias = nn.Parameter(bias.detach().clone())
        with self.graph.inserting_before(layer):
            bias_node = self.graph.get_attr(f"{owner_name}.bias" if owner_name else "bias")
        layer.args = (*layer.args[:2], bias_node, *layer.args[3:])
        norm.replace_all_uses_with(layer)
        self.graph.erase_node(norm)


def add_quantizers(
    graph: FloatGraph, bits: Mapping[str, int], activation_bits: int, grid: Grid, learned: bool
) -> nn.Module:
    """The graph's module with quantizers on weights and activations, as integer kernels of `grid` want them.

    Both inputs of a layer in `bits` are quantized, and the output of a convolution, behind a rectifier that follows it
    alone. A sum, a pool or a mean over space is computed in integers when all that reads it is.

    Args:
        graph: changed in place.
        bits: weight's qualified name -> bits, for the layers that are quantized; the others stay float.
        activation_bits: of every activation.
        grid: signed or unsigned activations, steps by channel or by tensor.
        learned: whether steps are trained.
    """
    placement = _Placement(graph, frozenset(bits), activation_bits, grid, learned)
    for layer in graph.layers()[0]:
        if layer.weight in bits:
            placement.quantize_layer(layer, bits[layer.weight])
    placement.quantize_sums()
    graph.graph.lint()
    graph.module.recompile()
    return graph.module


class _Placement:
    """Where quantizers go; each value gets at most one."""

    def __init__(
        self, graph: FloatGraph, weights: frozenset[str], activation_bits: int, grid: Grid, learned: bool
    ) -> None:
        self._graph, self._module = graph.graph, graph.module
        self._bits, self._grid, self._learned = activation_bits, grid, learned
        self._layers = {layer.node for layer in graph.layers()[0] if layer.weight in weights}
        self._integer = self._integer_nodes()
        self._quantizers = nn.ModuleDict()
        self._module.add_module(QUANTIZERS, self._quantizers)
        self._on_grid: dict[Node, Node] = {}

    def _integer_nodes(self) -> set[Node]:
        """Layers that are quantized, and the sums, pools and moves all of whose readers compute in integers."""
        found = set(self._layers)
        for node in reversed(self._graph.nodes):
            passes = SAME_VALUES | RECTIFIERS
            able = node.target in SUMS | POOLS | passes or node.target == aten.cat.default or _is_spatial_mean(node)
            if able and node.users and all(user in found for user in node.users) and _floats(node):
                found.add(node)
        return found

    def quantize_layer(self, layer: WeightLayer, bits: int) -> None:
        node = layer.node
        weight = node.args[1]
        channels = self._module.get_parameter(layer.weight).shape[0] if self._grid.per_channel else None
        name = "weight_" + layer.weight.replace(".", "_")
        self._quantizers[name] = WeightQuantizer(bits, channels, self._learned)
        with self._graph.inserting_before(node):
            quantized = self._graph.call_module(f"{QUANTIZERS}.{name}", (weight,))
        node.replace_input_with(weight, quantized)
        if node.target in LINEAR and (len(node.args) < 3 or node.args[2] is None):
            self._give_bias(layer)
        self._quantize_input(node, node.args[0])
        if node.target in CONVOLUTIONS:
            self._quantize_output(node)

    def _give_bias(self, layer: WeightLayer) -> None:
        """Integer kernels of runtimes want a product to have a bias; without one it stays float."""
        owner = self._module.get_submodule(layer.name) if "." in layer.weight else self._module
        owner.bias = nn.Parameter(torch.zeros(self._module.get_parameter(layer.weight).shape[0]))
        with self._graph.inserting_before(layer.node):
            bias = self._graph.get_attr(f"{layer.name}.bias" if "." in layer.weight else "bias")
        layer.node.args = (*layer.node.args[:2], bias)

    def quantize_sums(self) -> None:
        for node in list(self._graph.nodes):
            if node not in self._integer or node in self._layers or node.target in SAME_VALUES | RECTIFIERS:
                continue
            for value in node.all_input_nodes:
                self._quantize_input(node, value)
            self._quantize_output(node)

    def _quantize_output(self, node: Node) -> None:
        """Quantizes what `node` gives, behind the rectifiers that alone read it; whoever reads it reads that."""
        value = node
        while len(value.users) == 1 and next(iter(value.users)).target in RECTIFIERS:
            value = next(iter(value.users))
        if value not in self._on_grid:
            self._reroute(list(value.users), value)

    def _quantize_input(self, node: Node, value: Node) -> None:
        """Lets `node` read `value` on a grid: that of where it comes from when it is only moved on the way."""
        if self._is_quantizer(value):
            return
        moves = [value]
        while moves[-1].target in SAME_VALUES:
            moves.append(moves[-1].args[0])
        origin = moves[-1]
        if not self._is_quantizer(origin) and origin is not value:
            self._reroute([moves[-2]], origin)
            origin = self._on_grid[origin]
        if origin is value:
            self._reroute([node], value)
        else:
            # On the origin's grid already, and once more the same, so that the move is one of integers.
            if value not in self._on_grid:
                self._on_grid[value] = self._call(str(origin.target), value)
            node.replace_input_with(value, self._on_grid[value])

    def _reroute(self, readers: Sequence[Node], value: Node) -> None:
        """Lets `readers` read `value` through its quantizer."""
        if value not in self._on_grid:
            name = f"activation_{len(self._quantizers)}_{value.name}"
            self._quantizers[name] = ActivationQuantizer(self._bits, self._grid.activations == "int8", self._learned)
            self._on_grid[value] = self._call(f"{QUANTIZERS}.{name}", value)
        for reader in readers:
            if reader is not self._on_grid[value]:
                reader.replace_input_with(value, self._on_grid[value])

    def _is_quantizer(self, node: Node) -> bool:
        return node.op == "call_module" and str(node.target).startswith(f"{QUANTIZERS}.")

    def _call(self, target: str, value: Node) -> Node:
        with self._graph.inserting_after(value):
            return self._graph.call_module(target, (value,))


def _is_parameter(node: Any, module: nn.Module) -> bool:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return False
    return isinstance(operator.attrgetter(str(node.target))(module), nn.Parameter)


def _is_spatial_mean(node: Node) -> bool:
    if node.target != aten.mean.dim or not isinstance(node.args[0], fx.Node):
        return False
    rank = _rank(node.args[0])
    return rank > 2 and {axis % rank for axis in node.args[1]} == set(range(2, rank))


def _rank(node: Node) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, torch.Tensor) else 0


def _floats(node: Node) -> bool:
    """Whether all inputs are computed floating-point tensors; a constant operand is not worth a grid."""
    inputs = node.all_input_nodes
    if node.target in SUMS and len(inputs) != 2:
        return False
    return bool(inputs) and all(
        value.op != "get_attr"
        and isinstance(value.meta.get("val"), torch.Tensor)
        and value.meta["val"].is_floating_point()
        for value in inputs
    )


def initialise(module: nn.Module, run: Callable[[nn.Module], object]) -> None:
    """Sets every step and zero point from the weights and from what `run` sends through the module."""
    for _, quantizer, weight in weight_quantizers(module):
        quantizer.initialise(weight)
    activations = [part for part in module.modules() if isinstance(part, ActivationQuantizer)]
    for part in activations:
        part.observe()
    run(module)
    for part in activations:
        part.calibrate()


@torch.no_grad()
def round_biases(module: nn.Module) -> None:
    """Rounds each bias to the grid of its product, as the exported file stores it, so that both compute the same.

    Where that grid is so fine that the bias would not fit into 32 bits (an activation that is all but zero), the
    weight's step grows until it does: what is lost is a billionth of the bias.
    """
    assert isinstance(module, fx.GraphModule)  # noqa: S101 - made by add_quantizers
    for node in module.graph.nodes:
        if node.target not in CONVOLUTIONS | LINEAR or len(node.args) < 3 or not _is_parameter(node.args[2], module):
            continue
        inputs, weights = (
            module.get_submodule(str(value.target)) if value.op == "call_module" else None for value in node.args[:2]
        )
        if isinstance(inputs, ActivationQuantizer) and isinstance(weights, WeightQuantizer):
            bias = module.get_parameter(str(node.args[2].target))
            least = bias.abs() / (inputs.scale * LARGEST_BIAS)
            weights.scale.copy_(torch.maximum(weights.scale, least if weights.scale.ndim else least.max()))
            step = inputs.scale * weights.scale
            bias.copy_((bias / step).round() * step)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.|contextlib")
        yield
