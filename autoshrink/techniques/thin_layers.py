"""A layer as two or three thinner ones: which decomposition suits it, what that would cost, and the layers themselves.

`svd` for linear layers and 1x1 convolutions: down to rank r, up again. `tucker` for other convolutions: 1x1 down to
r_in channels, the kernel from r_in to r_out, 1x1 up again; a side at its full width needs no 1x1. `spatial` for
two-dimensional ones: a column kernel to r channels, then a row kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from autoshrink.techniques.layer_calls import CONVOLUTIONS, Shapes
from autoshrink.techniques.low_rank import (
    Spectrum,
    spatial_factors,
    spatial_matrix,
    spectrum,
    svd_factors,
    tucker_factors,
    tucker_spectra,
)

Ranks = tuple[int, ...]
"""One rank, or those of the input and of the output channels (`tucker`)."""


@dataclass(frozen=True)
class Thinned:
    """What a choice of ranks makes of a layer.

    Attributes:
        ranks: of the decomposition.
        macs: multiply-accumulates of one run.
        parameters: of the weights, biases left out.
        lost: share of the squared Frobenius norm that is lost, 0 to 1; exact for `svd` and `spatial`, for `tucker` the
            bound of HOSVD, the sum over both sides.
    """

    ranks: Ranks
    macs: int
    parameters: int
    lost: float


class Candidate:
    """A layer that could be replaced, with what is known of it."""

    def __init__(self, name: str, layer: nn.Module, calls: Shapes, convolutions: str) -> None:
        self.name = name
        self.layer = layer
        self.kind = _kind(layer, convolutions)
        self.parameters = _weight(layer).numel()
        self.macs = layer_macs(layer, calls)
        self.spectra: tuple[Spectrum, ...] = _DECOMPOSITIONS[self.kind].spectra(_weight(layer))
        self._positions = _positions(layer, calls)

    def by_energy(self, share: float, round_to: int) -> Thinned:
        """With the least rank that holds `share` of the energy of each side, rounded up to multiples of `round_to`."""
        return self._thinned(tuple(_round_up(s, s.least_rank(share), round_to) for s in self.spectra))

    def all(self, round_to: int) -> list[Thinned]:
        """With every rank that is a multiple of `round_to` and makes the layer cheaper, ascending.

        Both ranks of `tucker` go together: to each one belongs the least other one that holds as much energy.
        """
        found: set[Ranks] = set()
        for side in self.spectra:
            for rank in range(round_to, len(side.energies) + 1, round_to):
                share = 1 - side.lost(rank)
                found.add(
                    tuple(rank if s is side else _round_up(s, s.least_rank(share), round_to) for s in self.spectra)
                )
        return [thinned for ranks in sorted(found) if self.gains(thinned := self._thinned(ranks))]

    def gains(self, thinned: Thinned) -> bool:
        """Whether it takes fewer multiply-accumulates and fewer parameters than the layer."""
        return thinned.macs < self.macs and thinned.parameters < self.parameters

    def replacement(self, ranks: Ranks) -> nn.Sequential:
        """The thin layers, with their weights."""
        thin = empty_layers(self.layer, self.kind, ranks)
        factors = _DECOMPOSITIONS[self.kind].factors(_weight(self.layer), ranks, self.spectra)
        with torch.no_grad():
            for layer, factor in zip(thin, factors, strict=True):
                _weight(layer).copy_(factor.view_as(_weight(layer)))
            if isinstance(self.layer.bias, nn.Parameter):
                thin[-1].bias.copy_(self.layer.bias)  # type: ignore[operator]
        return thin

    def _thinned(self, ranks: Ranks) -> Thinned:
        sizes = _sizes(self.layer, self.kind, ranks)
        places = self._positions[self.kind]
        # A side of `tucker` at full width has no 1x1.
        macs = sum(size * place for size, place in zip(sizes, places, strict=True))
        lost = sum(s.lost(rank) for s, rank in zip(self.spectra, ranks, strict=True))
        return Thinned(ranks, macs, sum(sizes), min(1.0, lost))


def layer_macs(layer: nn.Module, calls: Shapes) -> int:
    """Multiply-accumulates of a linear or (transposed) convolution layer over its calls, biases left out."""
    weights = _weight(layer).numel()
    if isinstance(layer, nn.Linear):
        return weights * sum(math.prod(after[:-1]) for _, after in calls)
    dims = _weight(layer).ndim - 2
    # Each weight meets each position once: of the output, or of the input where the layer is transposed.
    side = int(not layer.transposed)
    return weights * sum(_samples(call[side], dims) * math.prod(call[side][-dims:]) for call in calls)


def empty_layers(layer: nn.Module, kind: str, ranks: Ranks) -> nn.Sequential:
    """The thin layers in place of `layer`, their weights not set; only its shape and options are looked at."""
    weight = _weight(layer)
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = _empty(nn.Linear, weight, layer.in_features, ranks[0], bias=False)
        return _sequence(layer, first, _empty(nn.Linear, weight, ranks[0], layer.out_features, bias=bias))
    if not isinstance(layer, CONVOLUTIONS):
        raise TypeError(f"{type(layer).__name__} has no low-rank form")
    make = next(cls for cls in CONVOLUTIONS if isinstance(layer, cls))
    into, out, mode = layer.in_channels, layer.out_channels, layer.padding_mode
    if kind == "svd":
        options = {"stride": layer.stride, "padding": layer.padding, "padding_mode": mode}
        first = _empty(make, weight, into, ranks[0], 1, bias=False, **options)
        return _sequence(layer, first, _empty(make, weight, ranks[0], out, 1, bias=bias))
    if kind == "spatial":
        column, row = (
            {
                "stride": _along(axis, layer.stride, 1),
                "padding": layer.padding if isinstance(layer.padding, str) else _along(axis, layer.padding, 0),
                "dilation": _along(axis, layer.dilation, 1),
                "padding_mode": mode,
            }
            for axis in (0, 1)
        )
        first = _empty(make, weight, into, ranks[0], _along(0, layer.kernel_size, 1), bias=False, **column)
        last = _empty(make, weight, ranks[0], out, _along(1, layer.kernel_size, 1), bias=bias, **row)
        return _sequence(layer, first, last)
    narrow_in, narrow_out = ranks[0] < into, ranks[1] < out
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "padding_mode": mode}
    core_bias = bias and not narrow_out
    layers = [_empty(make, weight, ranks[0], ranks[1], layer.kernel_size, bias=core_bias, **options)]
    if narrow_in:
        layers.insert(0, _empty(make, weight, into, ranks[0], 1, bias=False))
    if narrow_out:
        layers.append(_empty(make, weight, ranks[1], out, 1, bias=bias))
    return _sequence(layer, *layers)


@dataclass(frozen=True)
class _Decomposition:
    spectra: Callable[[torch.Tensor], tuple[Spectrum, ...]]
    factors: Callable[[torch.Tensor, Ranks, tuple[Spectrum, ...]], tuple[torch.Tensor, ...]]
    """The weights of the thin layers, in their order."""


def _svd(weight: torch.Tensor, ranks: Ranks, spectra: tuple[Spectrum, ...]) -> tuple[torch.Tensor, ...]:
    up, down = svd_factors(weight.flatten(1), ranks[0], spectra[0])
    return down, up


def _tucker(weight: torch.Tensor, ranks: Ranks, spectra: tuple[Spectrum, ...]) -> tuple[torch.Tensor, ...]:
    factors = tucker_factors(weight, (ranks[0], ranks[1]), (spectra[0], spectra[1]))
    return tuple(factor for factor in factors if factor is not None)


_DECOMPOSITIONS = {
    "svd": _Decomposition(lambda weight: (spectrum(weight.flatten(1)),), _svd),
    "tucker": _Decomposition(tucker_spectra, _tucker),
    "spatial": _Decomposition(
        lambda weight: (spectrum(spatial_matrix(weight)),),
        lambda weight, ranks, spectra: spatial_factors(weight, ranks[0], spectra[0]),
    ),
}


def _kind(layer: nn.Module, convolutions: str) -> str:
    if math.prod(_weight(layer).shape[2:]) == 1:
        return "svd"
    return "spatial" if convolutions == "spatial" and isinstance(layer, nn.Conv2d) else "tucker"


def _sizes(layer: nn.Module, kind: str, ranks: Ranks) -> tuple[int, ...]:
    """Weights of each thin layer; 0 for one that is not needed."""
    out, into, *kernel = _weight(layer).shape
    if kind == "svd":
        return into * ranks[0], ranks[0] * out
    if kind == "spatial":
        return into * ranks[0] * kernel[0], ranks[0] * out * kernel[1]
    first = into * ranks[0] if ranks[0] < into else 0
    last = ranks[1] * out if ranks[1] < out else 0
    return first, ranks[0] * ranks[1] * math.prod(kernel), last


def _positions(layer: nn.Module, calls: Shapes) -> dict[str, tuple[int, ...]]:
    """Kind -> the positions at which each thin layer computes, over all calls."""
    if isinstance(layer, nn.Linear):
        rows = sum(math.prod(after[:-1]) for _, after in calls)
        return {"svd": (rows, rows)}
    dims = _weight(layer).ndim - 2
    before, between, after = 0, 0, 0
    for entering, leaving in calls:
        samples = _samples(leaving, dims)
        before += samples * math.prod(entering[-dims:])
        after += samples * math.prod(leaving[-dims:])
        # The column kernel is through with the height and has the whole width before it.
        between += samples * leaving[-dims] * entering[-1]
    return {"svd": (after, after), "tucker": (before, after, after), "spatial": (between, after)}


def _samples(shape: tuple[int, ...], dims: int) -> int:
    """A convolution takes [N, channels, ...] and [channels, ...]."""
    return math.prod(shape[: -dims - 1])


def _round_up(side: Spectrum, rank: int, round_to: int) -> int:
    return min(-(-rank // round_to) * round_to, len(side.energies))


def _along(axis: int, values: Any, other: int) -> tuple[int, int]:
    """One of a pair of options in its place, and `other` in the other one."""
    return (values[0], other) if axis == 0 else (other, values[1])


def _empty(make: type[nn.Module], like: torch.Tensor, *args: Any, **options: Any) -> nn.Module:
    # Without initialisation, which would draw random numbers.
    layer: nn.Module = skip_init(make, *args, device=like.device, dtype=like.dtype, **options)  # type: ignore[no-untyped-call]
    return layer


def _sequence(layer: nn.Module, *thin: nn.Module) -> nn.Sequential:
    for each in thin:
        _weight(each).requires_grad_(_weight(layer).requires_grad)
    if isinstance(layer.bias, nn.Parameter):
        thin[-1].bias.requires_grad_(layer.bias.requires_grad)
    return nn.Sequential(*thin).train(layer.training)


def _weight(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight
