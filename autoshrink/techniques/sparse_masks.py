"""Which weights of a sparse model stay: masks from scores, and the scores themselves. True stays, False becomes zero.

Equal scores lose the first weight first, in the order of the tensors, so that every count is met exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from autoshrink.task import Arrays, call
from autoshrink.techniques.layer_calls import CONVOLUTIONS, removed
from autoshrink.tensors import as_tensors

GROUP = 4
"""Neighbouring input channels of which an N:M pattern keeps N."""
CALIBRATION_ROWS = 256
"""Samples over which the norms of input features are taken; Sun et al. 2023 find 128 sequences to be enough."""
ROWS = 64
"""Samples of one call."""


def global_masks(scores: Sequence[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Over all tensors together, the `count` weights with the lowest scores go.

    Args:
        scores: comparable between tensors, of any shapes.
        count: 0 to the number of all weights.

    Returns:
        A bool tensor for each, of its shape.
    """
    flat = torch.cat([score.flatten() for score in scores])
    if count == 0:
        stays = torch.ones_like(flat, dtype=torch.bool)
    else:
        threshold = flat.kthvalue(count).values
        ties = flat == threshold
        missing = count - (flat < threshold).sum()
        stays = (flat > threshold) | (ties & (ties.cumsum(0) > missing))
    pieces = torch.split(stays, [score.numel() for score in scores])
    return [piece.view(score.shape) for piece, score in zip(pieces, scores, strict=True)]


def row_mask(score: torch.Tensor, ratio: float) -> torch.Tensor:
    """Of each row of [out, ...] the share `ratio` with the lowest scores goes, to the nearest whole weight."""
    rows = score.flatten(1)
    return _lowest_go(rows, round(ratio * rows.shape[1])).view(score.shape)


def group_mask(score: torch.Tensor, zeros: int) -> torch.Tensor:
    """Of every four consecutive input channels of [out, in, ...] the `zeros` with the lowest scores go.

    For a convolution at each position of the kernel by itself, as the sparse kernels of NVIDIA's GPUs want it.
    `in` is a multiple of 4.
    """
    last = score.movedim(1, -1)
    return _lowest_go(last.reshape(*last.shape[:-1], -1, GROUP), zeros).flatten(-2).movedim(-1, 1).contiguous()


def cubic_ramp(step: int, end: int) -> float:
    """The share of the final sparsity at a step: 0 at step 0, 1 from `end` on (Zhu & Gupta 2017, equation 1)."""
    return 1.0 if step >= end else 1.0 - (1.0 - step / end) ** 3


def magnitude_scores(weight: torch.Tensor) -> torch.Tensor:
    """Magnitudes in units of the tensor's root mean square, so that layers of different scales can be compared."""
    size = weight.detach().abs()
    return size / size.square().mean().sqrt().clamp(min=torch.finfo(size.dtype).tiny)


def wanda_scores(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """The magnitude of each weight times the norm of what it multiplies (Sun et al. 2023, equation 1).

    Args:
        weight: [out, in, ...]; for a grouped convolution `in` counts the channels of a group.
        norms: of the input channels [in times groups].
    """
    groups = norms.numel() // weight.shape[1]
    rows = norms.view(groups, weight.shape[1]).repeat_interleave(weight.shape[0] // groups, 0)
    return weight.detach().abs() * rows.view(*rows.shape, *[1] * (weight.ndim - 2)).to(weight)


def input_norms(
    model: nn.Module, layers: Iterable[nn.Module], samples: Arrays, outputs: tuple[str, ...]
) -> dict[int, torch.Tensor]:
    """`id` of a layer's weight -> L2 norm of each of its input features or channels, float64 [in].

    Over samples and positions; for a convolution a channel has one norm for all positions of the kernel.

    Args:
        model: in eval mode; is left without hooks.
        layers: linear and convolution layers of it; such that are not called get no entry.
        samples: input name -> [N, ...]; the first 256 are run.
        outputs: names of the model's outputs.
    """
    sums: dict[int, torch.Tensor] = {}

    def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        weight, x = layer.get_parameter("weight"), next(iter((*inputs, *named.values())))
        axis = 1 - weight.ndim if isinstance(layer, CONVOLUTIONS) else -1
        squares = x.double().square().movedim(axis, -1).flatten(0, -2).sum(0)
        sums[id(weight)] = sums.get(id(weight), 0) + squares

    handles = [layer.register_forward_pre_hook(add, with_kwargs=True) for layer in layers]
    count = min(CALIBRATION_ROWS, len(next(iter(samples.values()))))
    with removed(handles), torch.no_grad():
        for start in range(0, count, ROWS):
            rows = {name: array[start : min(start + ROWS, count)] for name, array in samples.items()}
            call(model, as_tensors(rows), outputs)
    return {key: value.sqrt() for key, value in sums.items()}


def _lowest_go(score: torch.Tensor, count: int) -> torch.Tensor:
    """Along the last dimension the `count` lowest go."""
    stays = torch.ones_like(score, dtype=torch.bool)
    order = score.argsort(dim=-1, stable=True)
    return stays.scatter_(-1, order[..., :count], False)
