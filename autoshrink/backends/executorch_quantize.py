"""Post-training quantization of a traced program by PT2E, in the grids that XNNPACK computes in."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec

from autoshrink.backends.base import Source
from autoshrink.backends.executorch_graph import aten, put_dynamic, put_integers, tensor_of
from autoshrink.errors import StageError
from autoshrink.onnx_graph import fixed_batches
from autoshrink.program import Node, Program, weight_layers
from autoshrink.techniques.calibrate import BINS, UNBOUNDED, histogram, spread, tail_range
from autoshrink.techniques.onnx_int8 import ends
from autoshrink.types import Settings

LINEAR = aten.linear.default
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input)
OPERATORS = {
    aten.conv1d.default: {"Conv"},
    aten.conv2d.default: {"Conv"},
    aten.conv_transpose1d.default: {"ConvTranspose"},
    aten.conv_transpose2d.input: {"ConvTranspose"},
    LINEAR: {"Gemm", "MatMul"},
    aten.add.Tensor: {"Add"},
    aten.add_.Tensor: {"Add"},
    aten.mul.Tensor: {"Mul"},
    aten.mul_.Tensor: {"Mul"},
    aten.cat.default: {"Concat"},
    aten.adaptive_avg_pool2d.default: {"AveragePool", "GlobalAveragePool"},
}
"""What a profile's `operators` call them."""
CLAMPS = (aten.hardtanh.default, aten.hardtanh_.default)
CLAMPED = (aten.conv1d.default, aten.conv2d.default, LINEAR)
"""Layers whose kernels clamp what they compute."""
LEAST_SHARE = 2.0**-12
"""Of the largest channel's step, the least step of a channel: with far smaller ones XNNPACK's multipliers overflow."""
LEAST_STEP = 2.0**-23
LAYERS = "convolution or linear layer"


@dataclass(frozen=True)
class _Grid:
    operators: frozenset[str]
    per_channel: bool


def quantize_static(module: fx.GraphModule, program: Program, source: Source) -> fx.GraphModule:
    """The module with int8 activations on one calibrated grid each, int8 weights symmetric by channel.

    Grids go where `XNNPACKQuantizer` puts them (Krishnamoorthi 2018, section 3: affine activations, symmetric weights).

    Raises:
        StageError: there is no calibration set, an activation is NaN, or nothing can be quantized.
    """
    names = [name for name, _ in weight_layers(module)]
    kept = set(ends(names, str(source.settings.get("keep_float", "none"))))
    excluded = {node.name for name, node in weight_layers(module) if name in kept}
    grid = _grid(source.settings)
    while True:
        prepared = _prepared(module, grid, excluded)
        unbounded = _calibrate(prepared, program, source)
        if not unbounded:
            break
        # Beyond what 8 bits could span, as a masked attention score is: what reads or makes it stays float.
        excluded |= unbounded
    with _quiet():
        converted: fx.GraphModule = convert_pt2e(prepared)
    weights = [node.args[1] for _, node in weight_layers(module)]
    for (_, node), name, weight in zip(list(weight_layers(converted)), names, weights, strict=True):
        _name_integers(converted, node, name)
        if node.target in TRANSPOSED and node.args[1].op == "call_function" and grid.per_channel:
            # Output channels are its second dimension, which the quantizer does not know.
            put_integers(converted, node, name, *to_integers(tensor_of(module, weight), axis=1), 1, -127, 127)
    return converted


def quantize_dynamic(module: fx.GraphModule, source: Source) -> fx.GraphModule:
    """The module whose layers round what they read to 8 bits in each call; weights are int8, symmetric by channel.

    By hand rather than by `XNNPACKQuantizer`, which leaves a convolution before a rectifier in float without a word.
    """
    operators = _grid(source.settings).operators
    for name, node in list(weight_layers(module)):
        if OPERATORS.get(node.target, set()) & operators and _may_be_dynamic(node):
            integers, scale = to_integers(weight_of(module, node), axis=0)
            put_dynamic(module, node)
            put_integers(module, node, name, integers, scale, 0, -127, 127)
    return module


def to_integers(weight: torch.Tensor, axis: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 integers of a weight, and the scale of each entry of `axis` (or one): largest magnitude / 127."""
    rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
    scale = rows.abs().amax(1) / 127
    scale = scale.clamp_min(max(LEAST_SHARE * float(scale.max()), LEAST_STEP))
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    integers = (weight / scale.reshape(shape)).round().clamp(-127, 127).to(torch.int8)
    return integers, scale


def weight_of(module: fx.GraphModule, layer: Node) -> torch.Tensor:
    """The float weight of a layer, whether it is a parameter or folded from integers."""
    weight = layer.args[1]
    if weight.op == "get_attr":
        return tensor_of(module, weight)
    values = [tensor_of(module, value) if isinstance(value, fx.Node) else value for value in weight.args]
    result: torch.Tensor = weight.target(*values, **weight.kwargs)
    return result


def _may_be_dynamic(node: Node) -> bool:
    """Linear layers, and plain convolutions over two dimensions: XNNPACK has no other kernels of the kind."""
    weight = node.args[1]
    if weight.op != "get_attr":
        return False
    if node.target == LINEAR:
        return True
    with _quiet():
        from executorch.backends.xnnpack.utils.utils import is_depthwise_conv
    groups = node.args[6] if len(node.args) > 6 else 1
    return node.target == aten.conv2d.default and not is_depthwise_conv(weight.meta["val"].shape, groups)


def _grid(settings: Settings) -> _Grid:
    """What the recipe's settings say of the grid; everything that XNNPACK can, when they say nothing."""
    grid: Any = settings.get("grid", {})
    every = frozenset(name for names in OPERATORS.values() for name in names)
    return _Grid(frozenset(grid.get("operators", every)), bool(grid.get("per_channel", True)))


def _prepared(module: fx.GraphModule, grid: _Grid, excluded: Collection[str]) -> fx.GraphModule:
    with _quiet():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer

    def wanted(node: Node) -> bool:
        return node.name not in excluded and (
            node.target not in OPERATORS or bool(OPERATORS[node.target] & grid.operators)
        )

    scheme = torch.per_channel_symmetric if grid.per_channel else torch.per_tensor_symmetric
    weights: Any = ChannelObserver if grid.per_channel else MinMaxObserver
    activation = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=RangeObserver.with_args(eps=LEAST_STEP),
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=scheme,
        ch_axis=0,
        observer_or_fake_quant_ctr=weights.with_args(eps=LEAST_STEP),
    )
    quantizer = XNNPACKQuantizer()
    quantizer.set_global(QuantizationConfig(activation, activation, weight, None, False))
    quantizer.set_filter_function(wanted)
    with _quiet():
        prepared: fx.GraphModule = prepare_pt2e(copy.deepcopy(module), quantizer)
    _join_clamps(prepared)
    return prepared


def _join_clamps(prepared: fx.GraphModule) -> None:
    """Takes the grid from between a layer and the clamp behind it, as the quantizer itself does for rectifiers only.

    It would have to span what the layer computes before the clamp cuts nearly all of it away, and the clamp's own grid
    would be the same: 6 dB of agreement on EfficientNet-Lite0, whose layers reach +-60 before they are cut at 6.
    """
    for node in list(prepared.graph.nodes):
        if node.target not in CLAMPS:
            continue
        observed = node.args[0]
        if observed.op != "call_module" or observed.args[0].target not in CLAMPED or len(observed.users) > 1:
            continue
        if any(user.op == "call_module" for user in node.users) and len(observed.args[0].users) == 1:
            observed.replace_all_uses_with(observed.args[0])
            prepared.graph.erase_node(observed)
    prepared.recompile()


def _calibrate(prepared: fx.GraphModule, program: Program, source: Source) -> set[str]:
    """Sets the ranges of the observers; gives names of nodes whose values, or those that they read, are unbounded."""
    method = str(source.settings.get("calibration", "minmax"))
    rows = calibration_rows(program, source)
    observers = [module for module in prepared.modules() if isinstance(module, RangeObserver)]
    if not observers:
        raise StageError(
            "compile", f"XNNPACK quantizes no {LAYERS} of this model; leave int8_static or keep_float out of the recipe"
        )
    _run(prepared, program, rows, source.batch)
    unbounded: set[str] = set()
    for node in prepared.graph.nodes:
        observer = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(observer, RangeObserver):
            continue
        low, high = float(observer.min_val), float(observer.max_val)
        if np.isnan(low) or np.isnan(high):
            raise StageError(
                "compile",
                f"activation {node.args[0].name!r} is NaN on a calibration sample; float32 outputs must be finite "
                "before quantizing",
            )
        if max(abs(low), abs(high)) > UNBOUNDED:
            unbounded |= {node.args[0].name, *(user.name for user in node.users)}
    if not unbounded and method == "percentile":
        for observer in observers:
            observer.count_tails()
        _run(prepared, program, rows, source.batch)
        for observer in observers:
            observer.cut_tails()
    return unbounded


def calibration_rows(program: Program, source: Source) -> dict[str, np.ndarray[Any, Any]]:
    """As many rows of each input as the recipe asks for.

    Raises:
        StageError: there is no calibration set, or it has no rows.
    """
    folder = source.calibration
    if folder is None:
        raise StageError("compile", "there is no calibration set, which int8_static needs; give the task one")
    count = int(source.settings.get("samples", 256))
    rows = {name: np.load(Path(folder) / f"{name}.npy", allow_pickle=False)[:count] for name in program.inputs}
    if not all(len(array) for array in rows.values()):
        raise StageError("compile", "the calibration set has no rows; quantization needs some hundred")
    return rows


@torch.no_grad()
def _run(module: fx.GraphModule, program: Program, rows: dict[str, Any], batch: int) -> None:
    for arrays in fixed_batches(rows, batch):
        module(*(torch.from_numpy(arrays[name]) for name in program.inputs))


def _name_integers(module: fx.GraphModule, node: Node, name: str) -> None:
    """Names a weight that PT2E folded after its layer."""
    weight = node.args[1]
    if weight.op != "call_function":
        return
    if len(weight.args) == 7:
        integers, scale = (tensor_of(module, value) for value in weight.args[:2])
        put_integers(module, node, name, integers, scale, *weight.args[3:6])
    else:
        integers = tensor_of(module, weight.args[0])
        put_integers(module, node, name, integers, torch.tensor(weight.args[1]), None, *weight.args[3:5])


class RangeObserver(MinMaxObserver):  # type: ignore[misc] # torchao is untyped
    """The range of an activation: its extremes, or with `cut_tails` as `calibrate.collect_ranges` finds percentiles."""

    counts: np.ndarray[Any, Any] | None = None

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Any float tensor; comes back as it is."""
        if self.counts is None:
            return super().forward(value)  # type: ignore[no-any-return]
        self.counts += histogram(spread(value.detach().numpy()), float(self.min_val), float(self.max_val))
        return value

    def count_tails(self) -> None:
        """From now on values are counted, in bins between the extremes that were seen so far."""
        self.counts = np.zeros(BINS, np.int64)

    def cut_tails(self) -> None:
        """Narrows the range to what the counts leave without their tails."""
        if self.counts is None or not self.counts.sum():
            return
        low, high = tail_range(self.counts, float(self.min_val), float(self.max_val))
        self.min_val.fill_(low)
        self.max_val.fill_(high)
        self.counts = None


class ChannelObserver(PerChannelMinMaxObserver):  # type: ignore[misc] # torchao is untyped
    """A symmetric step for each channel, none of them far below the largest."""

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale float32 [C] and zero point [C]."""
        scale, zero_point = super().calculate_qparams()
        return scale.clamp_min(LEAST_SHARE * float(scale.max())), zero_point


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of packages about what their next versions will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
