"""Shares a budget out among layers: one option for each, the summed loss least (multiple-choice knapsack)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 1 << 15
"""Into as many units what the cheapest options leave of the budget is cut: 100 layers are 0.3 % of it off at most."""


@dataclass(frozen=True)
class Option:
    """One way to treat a layer.

    Attributes:
        cost: what it takes of the budget, in any unit, at least 0.
        loss: what it does to the model, in any unit that adds up over layers, at least 0.

    Raises:
        ValueError: one of them is negative or not finite.
    """

    cost: float
    loss: float

    def __post_init__(self) -> None:
        for name, value in (("cost", self.cost), ("loss", self.loss)):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"the {name} of an option is {value}; it must be a finite number of at least 0")


def allocate(layers: Sequence[Sequence[Option]], budget: float) -> list[int]:
    """The index of one option for each layer: the summed cost is at most `budget`, the summed loss the least.

    The multiple-choice knapsack problem (Sinha & Zoltners 1979), as mixed precision is chosen in HAWQ-V3 (Yao et al.
    2021, section 3.4). Solved by dynamic programming over costs above those of the cheapest options, each rounded up
    to a 32,768th of what these leave of the budget: it is never broken, and the result is exact for costs that are
    whole multiples of that. Whole costs are counted in their largest common divisor, where that is the larger unit.
    Of equal losses the cheaper one is taken, of equal options the first; equal inputs give equal results.

    Raises:
        ValueError: a layer has no option, or the cheapest options together break the budget; says what they cost.
    """
    for index, options in enumerate(layers):
        if not options:
            raise ValueError(f"layer {index} has no option")
    fronts = [_undominated(options) for options in layers]
    least = math.fsum(options[front[0]].cost for options, front in zip(layers, fronts, strict=True))
    if not least <= budget:
        raise ValueError(f"the budget is {budget:g}; the cheapest options cost {least:g} together")
    extras = [
        [options[index].cost - options[front[0]].cost for index in front]
        for options, front in zip(layers, fronts, strict=True)
    ]
    unit, capacity = _unit(extras, budget - least)
    best = np.zeros(capacity + 1)
    picks = []
    for options, front, extra in zip(layers, fronts, extras, strict=True):
        total = best + options[front[0]].loss
        pick = np.zeros(capacity + 1, np.int32)
        for position in range(1, len(front)):
            units = math.ceil(extra[position] / unit)
            if units <= capacity:
                other = best[: capacity + 1 - units] + options[front[position]].loss
                better = other < total[units:]
                total[units:][better] = other[better]
                pick[units:][better] = position
        best = total
        picks.append((pick, extra))
    # Rounding errors of the sum itself: then a little less of the budget is spent.
    for limit in range(capacity, -1, -1):
        chosen = _follow(picks, int(best[: limit + 1].argmin()), unit)
        indices = [front[position] for front, position in zip(fronts, chosen, strict=True)]
        if math.fsum(options[index].cost for options, index in zip(layers, indices, strict=True)) <= budget:
            return indices
    raise AssertionError("the cheapest options fit")


def _undominated(options: Sequence[Option]) -> list[int]:
    """Those for which no other one is as cheap and as good, the cheapest first."""
    kept: list[int] = []
    for index in sorted(range(len(options)), key=lambda index: (options[index].cost, options[index].loss, index)):
        if not kept or options[index].loss < options[kept[-1]].loss:
            kept.append(index)
    return kept


def _unit(extras: Sequence[Sequence[float]], budget: float) -> tuple[float, int]:
    """The unit in which extra costs are counted, and how many of them the budget holds."""
    costs = [cost for extra in extras for cost in extra if 0 < cost <= budget]
    if not costs:
        return 1.0, 0
    if all(float(cost).is_integer() for cost in costs):
        divisor = math.gcd(*(int(cost) for cost in costs))
        if divisor * STEPS >= budget:
            return float(divisor), int(budget // divisor)
    return budget / STEPS, STEPS


def _follow(
    picks: Sequence[tuple[np.ndarray[tuple[int], np.dtype[np.int32]], list[float]]], spent: int, unit: float
) -> list[int]:
    """The options behind an entry of the last table, one a layer."""
    chosen = []
    for pick, extra in reversed(picks):
        position = int(pick[spent])
        chosen.append(position)
        spent -= math.ceil(extra[position] / unit)
    return chosen[::-1]
