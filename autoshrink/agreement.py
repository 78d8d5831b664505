"""How well two results agree, in decibel. Numpy only, so that every room may import it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BOUND_DB = 200.0


def bounded_db(decibel: float) -> float:
    """An agreement as JSON can hold it: equal outputs agree at infinity, which is written as 200 dB."""
    return round(max(-BOUND_DB, min(BOUND_DB, decibel)), 2)


def sqnr_db(reference: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    """Signal to quantization noise ratio, 10 log10(sum r^2 / sum (r - o)^2), over all elements, in float64.

    60 dB is an error of a thousandth of the reference's amplitude; each bit of a uniform quantizer adds 6.02 dB
    (Bennett 1948). Elements where both are the same infinity, or both NaN, agree and are left out.

    Args:
        reference: any shape, any numeric or boolean dtype.
        other: of the same shape.

    Returns:
        Decibel; `inf` when they are equal, `-inf` when one is finite where the other is not, or the reference is zero
        and the other is not.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"shapes {reference.shape} and {other.shape} differ; agreement is of equal shapes only")
    r, o = reference.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(r)
    if not (np.array_equal(r[~finite], o[~finite], equal_nan=True) and np.isfinite(o[finite]).all()):
        return -math.inf
    signal, noise = float(np.sum(r[finite] ** 2)), float(np.sum((r[finite] - o[finite]) ** 2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
