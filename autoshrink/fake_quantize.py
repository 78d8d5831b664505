"""Fake quantization for training, and its way into ONNX: real QuantizeLinear / DequantizeLinear pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

EPSILON = 1e-8
"""Least range of an activation: a constant zero has a grid too."""
LEAST_CHANNEL = 1e-4
"""Least range of a channel, of that of its tensor: in the step of a smaller one a bias would not fit into 32 bits."""
MOST_CHANGE = 2.0
"""How far training may carry a step from where it was calibrated, as a factor: few weights make a noisy gradient."""
CANDIDATES = 40
"""Clipping thresholds that are tried for the step of least squared error."""
CHANNEL_AXIS = 0


@torch.library.custom_op("autoshrink::quantize_dequantize", mutates_args=())
def quantize_dequantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int, low: int, high: int
) -> torch.Tensor:
    """`(clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale`, rounded half to even.

    Args:
        x: float32, any shape.
        scale: float32, scalar, or [channels] of dimension `axis`.
        zero_point: of the integer dtype that stores the values, shaped as `scale`.
        axis: -1 when `scale` is a scalar.
        low: least integer.
        high: largest integer.
    """
    shape = [1] * x.ndim
    if axis >= 0:
        shape[axis] = -1
    step, zero = (value.reshape(shape) if axis >= 0 else value for value in (scale, zero_point.to(x.dtype)))
    return (torch.clamp(torch.round(x / step) + zero, low, high) - zero) * step


@quantize_dequantize.register_fake
def _(
    x: torch.Tensor,
    scale: torch.Tensor,  # noqa: ARG001
    zero_point: torch.Tensor,  # noqa: ARG001
    axis: int,  # noqa: ARG001
    low: int,  # noqa: ARG001
    high: int,  # noqa: ARG001
) -> torch.Tensor:
    return torch.empty_like(x)


def translation_table() -> dict[Any, Callable[..., Any]]:
    """How `torch.onnx.export` writes the operator: a Q/DQ pair, between them a bound where the grid is narrower.

    QuantizeLinear saturates at the ends of its 8-bit type only; without the bound 6-bit activations would come out as
    8-bit ones.
    """
    from onnxscript import opset20 as op

    def pair(x: Any, scale: Any, zero_point: Any, axis: int, low: int, high: int) -> Any:
        signed = low < 0
        along = {"axis": axis} if axis >= 0 else {}
        quantized = op.QuantizeLinear(x, scale, zero_point, **along)
        if axis < 0 and high < (127 if signed else 255):
            quantized = op.Min(quantized, op.CastLike(op.Constant(value_int=high), zero_point))
            if signed:
                quantized = op.Max(quantized, op.CastLike(op.Constant(value_int=low), zero_point))
        return op.DequantizeLinear(quantized, scale, zero_point, **along)

    return {torch.ops.autoshrink.quantize_dequantize.default: pair}


class _WeightGrid(torch.autograd.Function):
    """Learned step size quantization (Esser et al. 2020, equations 1 to 3), symmetric, one step a channel."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
        step = scale.view(-1, *[1] * (weight.ndim - 1)) if scale.ndim else scale
        ratio = weight / step
        rounded = ratio.round().clamp_(low, high)
        ctx.save_for_backward(ratio, rounded)
        ctx.bounds, ctx.channels = (low, high), scale.ndim
        return rounded * step

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        ratio, rounded = ctx.saved_tensors
        low, high = ctx.bounds
        inside = (ratio >= low) & (ratio <= high)
        by_step = gradient * torch.where(inside, rounded - ratio, rounded)
        if not ctx.channels:
            return gradient * inside, by_step.sum() / math.sqrt(ratio.numel() * high), None, None
        return gradient * inside, by_step.flatten(1).sum(1) / math.sqrt(ratio[0].numel() * high), None, None


class _ActivationGrid(torch.autograd.Function):
    """The same for a whole activation with a fixed zero point; one native pass forward, few passes back."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
    ) -> torch.Tensor:
        out, inside = torch.ops.aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
            x, scale, zero_point, torch.ones(1, device=x.device), low, high
        )
        learned = scale.requires_grad
        ctx.save_for_backward(inside, *((x, out, scale) if learned else ()))
        ctx.learned, ctx.high = learned, high
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None, None]:
        inside = ctx.saved_tensors[0]
        straight = gradient * inside
        if not ctx.learned:
            return straight, None, None, None, None
        _, x, out, scale = ctx.saved_tensors
        # Inside the range the step's gradient is (out - x) / scale, outside it is out / scale. The difference of two
        # near values is exact in bf16; that of two sums would be noise.
        total = (gradient * torch.where(inside, out - x, out)).sum(dtype=torch.float32)
        share = 1 / math.sqrt(x[0].numel() * ctx.high)
        return straight, (total / scale * share).reshape(scale.shape), None, None, None


def weight_range(bits: int) -> tuple[int, int]:
    """Least and largest integer of a weight of `bits`; 8 bits leave out -128, for which some kernels overflow."""
    high = 2 ** (bits - 1) - 1
    return -high - (bits < 8), high


class WeightQuantizer(nn.Module):
    """Rounds a weight to a symmetric grid of `bits`, one learned step for each output channel or for the tensor.

    Args:
        bits: 2 to 8; see `weight_range`.
        channels: of dimension 0; None is one step for the tensor.
        learned: whether the step is trained; else it stays as it was initialised.
    """

    calibrated: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, bits: int, channels: int | None, learned: bool = True) -> None:
        super().__init__()
        self.bits = bits
        self.low, self.high = weight_range(bits)
        shape = () if channels is None else (channels,)
        self.scale = nn.Parameter(torch.ones(shape))
        self.learned = learned
        self.register_buffer("calibrated", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int8))

    @torch.no_grad()
    def initialise(self, weight: torch.Tensor) -> None:
        """Sets the step of least squared error among thresholds from 0.3 to 1 times the largest magnitude."""
        rows = weight.detach().reshape(self.scale.numel(), -1).float()
        largest = rows.abs().amax(1)
        largest = largest.clamp_min(LEAST_CHANNEL * float(largest.max()) or 1.0)
        best_error = torch.full_like(largest, math.inf)
        best = largest / self.high
        for share in torch.linspace(1.0, 0.3, CANDIDATES).tolist():
            step = (largest * share / self.high)[:, None]
            error = ((rows / step).round().clamp_(self.low, self.high) * step - rows).square_().sum(1)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best = torch.where(better, step[:, 0], best)
        self.scale.copy_(best.reshape(self.scale.shape))
        self.calibrated.copy_(self.scale)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Float32, any shape with the channels first -> the same shape on the grid."""
        if torch.compiler.is_exporting():
            axis = CHANNEL_AXIS if self.scale.ndim else -1
            return torch.ops.autoshrink.quantize_dequantize(  # type: ignore[no-any-return]
                weight, self.scale, self.zero_point, axis, self.low, self.high
            )
        scale = self.scale if self.learned else self.scale.detach()
        return _WeightGrid.apply(weight, scale, self.low, self.high)  # type: ignore[no-any-return, no-untyped-call]


class ActivationQuantizer(nn.Module):
    """Rounds an activation to one grid of `bits`, unsigned with a zero point or signed and symmetric.

    Args:
        bits: 2 to 8.
        signed: symmetric integers -2^(bits-1) to 2^(bits-1) - 1 with a zero point of 0; else 0 to 2^bits - 1.
        learned: whether the step is trained; else it stays as it was calibrated.

    Until `calibrate` was called it observes: it lets everything pass and keeps some values of each call.
    """

    calibrated: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, bits: int, signed: bool, learned: bool = True) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.low = -self.high - 1 if signed else 0
        self.scale = nn.Parameter(torch.ones(()))
        self.learned = learned
        self.register_buffer("calibrated", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int8 if signed else torch.uint8))
        self._observed: list[torch.Tensor] | None = None

    def observe(self) -> None:
        """Until `calibrate` everything passes, and some values of each call are kept."""
        self._observed = []

    @torch.no_grad()
    def calibrate(self) -> None:
        """Sets range and zero point from what was observed: of least squared error among ever tighter ranges."""
        values = torch.cat(self._observed or [torch.zeros(1)])
        self._observed = None
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        best_error, best = math.inf, (1.0, 0)
        for share in torch.linspace(1.0, 0.3, CANDIDATES).tolist():
            step, zero = self._grid(low * share, high * share)
            on_grid = ((values / step).round() + zero).clamp_(self.low, self.high).sub_(zero).mul_(step)
            error = float((on_grid - values).square_().mean())
            if error < best_error:
                best_error, best = error, (step, zero)
        self.scale.fill_(best[0])
        self.calibrated.fill_(best[0])
        self.zero_point.fill_(best[1])

    def _grid(self, low: float, high: float) -> tuple[float, int]:
        if self.signed:
            return max(abs(low), abs(high), EPSILON) / self.high, 0
        step = max(high - low, EPSILON) / self.high
        return step, min(max(round(-low / step), 0), self.high)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float, any shape -> the same shape on the grid."""
        if self._observed is not None:
            flat = x.detach().float().reshape(-1)
            stride = max(1, flat.numel() // 8192)
            stride += 1 - stride % 2
            self._observed += [flat[::stride].cpu(), torch.stack((flat.amin(), flat.amax())).cpu()]
            return x
        if torch.compiler.is_exporting():
            return torch.ops.autoshrink.quantize_dequantize(  # type: ignore[no-any-return]
                x, self.scale, self.zero_point, -1, self.low, self.high
            )
        scale = self.scale if self.learned else self.scale.detach()
        zero_point = self.zero_point.to(torch.int32)
        return _ActivationGrid.apply(x, scale, zero_point, self.low, self.high)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def keep_steps_near(model: nn.Module, *_: object) -> None:
    """Puts learned steps back that went further from the calibrated ones than a factor of 2, or below zero.

    Called before each step of training and at its end.
    """
    for module in model.modules():
        if isinstance(module, WeightQuantizer | ActivationQuantizer):
            bounds = module.calibrated / MOST_CHANGE, module.calibrated * MOST_CHANGE
            module.scale.copy_(module.scale.clamp(*bounds))


def weight_quantizers(model: nn.Module) -> Iterator[tuple[str, WeightQuantizer, nn.Parameter]]:
    """(weight's qualified name, its quantizer, the weight) of a graph with quantizers; nothing of any other model."""
    for node in model.graph.nodes if isinstance(model, fx.GraphModule) else ():
        quantizer = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(quantizer, WeightQuantizer):
            name = str(node.args[0].target)
            yield name, quantizer, model.get_parameter(name)
