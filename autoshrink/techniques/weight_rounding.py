"""Rounding a weight to integers of few bits with a scale and a zero point for each block of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Matrix = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

ROUNDINGS = ("nearest", "hqq", "gptq")

NORM = 0.7
"""The exponent p of the norm that `hqq` lowers; it, the next two and the iterations as in Badri & Shaji 2023."""
PENALTY = 10.0
PENALTY_GROWTH = 1.01
ITERATIONS = 20

DAMP = 0.01
"""Share of the mean diagonal that `gptq` adds to the diagonal of the Hessian (Frantar et al. 2023, section 3.3)."""


@dataclass(frozen=True)
class Rounded:
    """A weight [N, K] in blocks along K, the last one filled up with zeros.

    A value is scale * (code - zero). Code and zero point are from 0 to 2^bits - 1.

    Attributes:
        codes: uint8 [N, G, block].
        scales: [N, G]; float16 where each of the layer's is a normal number of it, else float32.
        zeros: zero points, uint8 [N, G].
    """

    codes: Codes
    scales: Floats
    zeros: Codes

    def restored(self, inputs: int) -> Matrix:
        """The weight that is computed with, float32 [N, `inputs`]."""
        values = _values(self.codes, self.scales.astype(np.float32), self.zeros)
        return values.reshape(len(values), -1)[:, :inputs]


def nearest(weight: Matrix, bits: int, block: int) -> Rounded:
    """Each value to the nearest step of its block's grid, without data.

    The grid is the better one, by the squared error of the block, of two: from the least to the largest value, 0
    included; or symmetric, which holds 0 and both extremes of weights that are as far below 0 as above.

    Args:
        weight: float32 [N, K].
        bits: of a code, 2 to 8.
        block: values of K that share a scale and a zero point.
    """
    blocks = _in_blocks(weight, block)
    dtype = _scale_type(blocks, bits)
    scales, zeros = _fit(blocks, bits, dtype)
    return _rounded(blocks, scales, zeros, bits, dtype)


def hqq(weight: Matrix, bits: int, block: int) -> Rounded:
    """Scales and zero points that lower the l_p norm of the weight's error, p = 0.7, without data.

    Half-quadratic optimisation (Badri & Shaji 2023, "Half-Quadratic Quantization"): the error is split in a sparse
    part, by the proximal step of the norm (a generalised soft threshold), and a rest, whose squares the zero point and
    the scale minimise in closed form. Errors are counted in steps of the block's first grid, that of `nearest`. Unlike
    the paper's, the zero point is an integer, since kernels want one, so the scale moves as well. A block keeps the
    best grid it ever had: no block is worse in that norm than by `nearest`.

    Args:
        weight: float32 [N, K].
        bits: of a code, 2 to 8.
        block: values of K that share a scale and a zero point.
    """
    blocks = _in_blocks(weight, block)
    dtype = _scale_type(blocks, bits)
    scales, zeros = _fit(blocks, bits, dtype)
    unit = scales[..., None]
    best: tuple[npt.NDArray[Any], ...] = scales.copy(), zeros.copy(), np.full(scales.shape, np.inf, np.float32)
    penalty = PENALTY
    for _ in range(ITERATIONS + 1):
        codes = _round(blocks, scales, zeros, bits)
        error = (blocks - _values(codes, scales, zeros)) / unit
        norm = np.sum(np.abs(error) ** NORM, -1)
        better = norm < best[2]
        for kept, found in zip(best, (scales, zeros, norm), strict=True):
            kept[better] = found[better]
        dense = blocks - _shrink(error, penalty) * unit
        scales, zeros = _least_squares(dense, codes, scales, zeros, bits, dtype)
        penalty *= PENALTY_GROWTH
    return _rounded(blocks, best[0], best[1], bits, dtype)


def gptq(weight: Matrix, bits: int, block: int, gram: Floats) -> Rounded:
    """Column by column, the error of each put right by those that follow (Frantar et al. 2023, algorithm 1).

    The grid of a block is that of `nearest` for the weights as they are when its turn comes; columns go in their
    order. The Hessian of the layer's squared output error is `gram`, and 1 % of its mean diagonal is added to it.

    Args:
        weight: float32 [N, K].
        bits: of a code, 2 to 8.
        block: values of K that share a scale and a zero point.
        gram: X^T X of the layer's inputs X [samples, K], [K, K].
    """
    blocks = _in_blocks(weight, block)
    dtype = _scale_type(blocks, bits)
    outputs, groups, _ = blocks.shape
    inverse = _inverse_factor(gram, groups * block)
    left = blocks.reshape(outputs, -1).astype(np.float64)
    codes = np.empty(blocks.shape, np.uint8)
    scales, zeros = np.empty((outputs, groups), np.float32), np.empty((outputs, groups), np.uint8)
    for group in range(groups):
        start, end = group * block, (group + 1) * block
        current = left[:, start:end]
        scale, zero = _fit(current, bits, dtype)
        errors = np.empty_like(current)
        for column in range(block):
            place = start + column
            code = _round(current[:, column, None], scale, zero, bits)
            error = (current[:, column] - _values(code, scale, zero)[:, 0]) / inverse[place, place]
            current[:, column + 1 :] -= np.outer(error, inverse[place, place + 1 : end])
            codes[:, group, column], errors[:, column] = code[:, 0], error
        left[:, end:] -= errors @ inverse[start:end, end:]
        scales[:, group], zeros[:, group] = scale, zero
    return Rounded(codes, scales.astype(dtype), zeros)


def _inverse_factor(gram: Floats, size: int) -> npt.NDArray[np.float64]:
    """The upper Cholesky factor of the inverse of the damped Hessian, whose rows give the corrections."""
    inputs = len(gram)
    hessian = np.zeros((size, size))
    hessian[:inputs, :inputs] = gram
    # Of inputs that are all 0 nothing is known: every column counts alike.
    hessian[np.diag_indices(size)] += DAMP * float(np.trace(gram)) / inputs or 1.0
    return np.asarray(np.linalg.cholesky(np.linalg.inv(hessian)).T)


def _in_blocks(weight: Matrix, block: int) -> Matrix:
    """[N, K] as [N, G, block]."""
    outputs, inputs = weight.shape
    return np.pad(weight, ((0, 0), (0, -inputs % block))).reshape(outputs, -1, block)


def _rounded(blocks: Matrix, scales: Matrix, zeros: Codes, bits: int, dtype: type[np.floating[Any]]) -> Rounded:
    return Rounded(_round(blocks, scales, zeros, bits), scales.astype(dtype), zeros)


def _values(codes: Codes, scales: Matrix, zeros: Codes) -> Matrix:
    return (codes.astype(np.float32) - zeros[..., None]) * scales[..., None]


def _round(blocks: Floats, scales: Matrix, zeros: Codes, bits: int) -> Codes:
    """Codes of [..., block] on the grids [...]."""
    codes = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, 2**bits - 1)
    return np.asarray(codes, np.uint8)


def _ends(blocks: Floats) -> tuple[Floats, Floats]:
    return np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)


def _fit(blocks: Floats, bits: int, dtype: type[np.floating[Any]]) -> tuple[Matrix, Codes]:
    """The better of the grid over the range and the symmetric one, for each of the blocks [..., block]."""
    low, high = _ends(blocks)
    most, middle = 2**bits - 1, 2 ** (bits - 1)
    scale = _stored((high - low) / most, dtype)
    zero = np.clip(np.rint(-low / scale), 0, most).astype(np.uint8)
    symmetric = _stored(np.maximum(-low, high) / (middle - 1), dtype)
    central = np.full_like(zero, middle)
    wins = _squares(blocks, symmetric, central, bits) < _squares(blocks, scale, zero, bits)
    return np.where(wins, symmetric, scale), np.where(wins, central, zero)


def _squares(blocks: Floats, scales: Matrix, zeros: Codes, bits: int) -> Floats:
    error = blocks - _values(_round(blocks, scales, zeros, bits), scales, zeros)
    return np.asarray(np.sum(error**2, -1))


def _scale_type(blocks: Matrix, bits: int) -> type[np.floating[Any]]:
    """float16, half the bytes, unless a scale of the layer would leave its normal range and lose digits."""
    low, high = _ends(blocks)
    span = (high - low)[high > low] / (2**bits - 1)
    # A symmetric scale is up to 2^bits / (2^(bits - 1) - 1) times as large, and optimisation moves either.
    if span.size and (span.min() < 2 * np.finfo(np.float16).tiny or span.max() * 4 > np.finfo(np.float16).max):
        return np.float32
    return np.float16


def _stored(scales: Floats, dtype: type[np.floating[Any]]) -> Matrix:
    """The scales as they will be read from the file; a block of zeros gets the smallest one."""
    limits = np.finfo(dtype)
    return np.clip(scales, limits.tiny, limits.max).astype(dtype).astype(np.float32)


def _shrink(error: Matrix, penalty: float) -> Matrix:
    """The proximal step of |x|^p: sign(x) max(|x| - |x|^(p - 1) / penalty, 0)."""
    size = np.abs(error)
    with np.errstate(divide="ignore"):
        rest = np.maximum(size - size ** np.float32(NORM - 1) / np.float32(penalty), 0)
    return np.asarray(np.sign(error) * rest)


def _least_squares(
    blocks: Matrix, codes: Codes, scales: Matrix, zeros: Codes, bits: int, dtype: type[np.floating[Any]]
) -> tuple[Matrix, Codes]:
    """The zero point, then the scale, that bring these codes closest to `blocks`."""
    shifted = np.mean(codes - blocks / scales[..., None], -1)
    zeros = np.clip(np.rint(shifted), 0, 2**bits - 1).astype(np.uint8)
    steps = codes.astype(np.float32) - zeros[..., None]
    product, square = np.sum(steps * blocks, -1), np.sum(steps**2, -1)
    fits = product > 0
    return np.where(fits, _stored(product / np.where(fits, square, 1), dtype), scales), zeros
