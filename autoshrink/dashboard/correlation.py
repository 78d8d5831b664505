"""Whether one figure puts trials into the same order as another: Spearman's rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoshrink.dashboard.importance import average_ranks

LEAST_PAIRS = 5
"""With fewer even the same order may be chance."""
FEW = 40
"""Pairs up to which it is shuffled what belongs to what; over more the correlation of chance is normal enough."""
SHUFFLES = 9999


@dataclass(frozen=True)
class Correlation:
    """Of two figures.

    Attributes:
        value: -1 (the opposite order) to 1 (the same order).
        pairs: so many trials have both figures.
        is_sure: whether chance alone would hardly give that much: the two-sided test rejects at 5 %.
    """

    value: float
    pairs: int
    is_sure: bool

    def __str__(self) -> str:
        chance = "" if self.is_sure else ", which may be chance"
        return f"rank correlation {self.value:.2f} over {self.pairs} trials{chance}"


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Correlation | None:
    """Spearman's coefficient (Spearman 1904): the correlation of the ranks, where equal values share their mean rank.

    It is tested by shuffling the pairs (the same draws each time), over `FEW` pairs by its normal approximation.

    Args:
        first: finite values.
        second: finite values, as many.

    Returns:
        None with fewer than `LEAST_PAIRS` pairs, or where all values of one are equal.
    """
    ranks = [average_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    count = len(ranks[0])
    if count < LEAST_PAIRS:
        return None
    ours, theirs = (each - each.mean() for each in ranks)
    spread = math.sqrt(float(ours @ ours) * float(theirs @ theirs))
    if not spread:
        return None
    value = float(ours @ theirs) / spread
    if count > FEW:
        return Correlation(value, count, abs(value) * math.sqrt(count - 1) > 1.96)
    shuffled = np.random.default_rng(0).permuted(np.tile(theirs, (SHUFFLES, 1)), axis=1)
    by_chance = np.abs(shuffled @ ours) / spread >= abs(value) - 1e-9
    return Correlation(value, count, (1 + int(by_chance.sum())) / (1 + SHUFFLES) <= 0.05)
