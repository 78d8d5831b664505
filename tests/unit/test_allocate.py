"""Sharing out a budget: against all combinations, and at its edges."""

from __future__ import annotations

import itertools
import math
import random
import time

import pytest

from autoshrink.techniques.allocate import Option, allocate


def totals(layers: list[list[Option]], chosen: tuple[int, ...] | list[int]) -> tuple[float, float]:
    options = [layer[index] for layer, index in zip(layers, chosen, strict=True)]
    return math.fsum(option.cost for option in options), math.fsum(option.loss for option in options)


def least_loss(layers: list[list[Option]], budget: float) -> float:
    every = (totals(layers, chosen) for chosen in itertools.product(*(range(len(layer)) for layer in layers)))
    return min(loss for cost, loss in every if cost <= budget)


def random_layers(seed: int, count: int, options: int, whole: bool) -> list[list[Option]]:
    draw = random.Random(seed)
    return [
        [Option(float(draw.randint(0, 400)) if whole else draw.random(), draw.random()) for _ in range(options)]
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_whole_costs_give_the_best_of_all_combinations(seed: int) -> None:
    layers = random_layers(seed, 5, 4, whole=True)
    low, high = (sum(pick(o.cost for o in layer) for layer in layers) for pick in (min, max))
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        budget = low + share * (high - low)
        cost, loss = totals(layers, allocate(layers, budget))
        assert cost <= budget
        assert loss == pytest.approx(least_loss(layers, budget), abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_other_costs_are_as_good_as_with_a_budget_a_little_smaller(seed: int) -> None:
    layers = random_layers(seed, 5, 4, whole=False)
    low, high = (sum(pick(o.cost for o in layer) for layer in layers) for pick in (min, max))
    for share in (0.1, 0.5, 0.9):
        budget = low + share * (high - low)
        cost, loss = totals(layers, allocate(layers, budget))
        assert cost <= budget
        assert loss <= least_loss(layers, budget - 5 * share * (high - low) / 4096) + 1e-12


def test_known_case() -> None:
    """A greedy choice by loss per cost would take the first layer's middle option and have nothing left to use."""
    layers = [[Option(0, 10), Option(6, 3), Option(10, 0)], [Option(0, 4), Option(5, 0)]]
    assert allocate(layers, 10) == [2, 0]
    assert allocate(layers, 11) == [1, 1]
    assert allocate(layers, 9) == [1, 0]
    assert allocate(layers, 15) == [2, 1]


def test_whole_budget_is_spent_exactly() -> None:
    thirds = [[Option(0.0, 1.0), Option(1 / 3, 0.0)] for _ in range(3)]
    assert allocate(thirds, 1.001) == [1, 1, 1]
    assert allocate([[Option(0, 1), Option(1, 0)]] * 3, 3) == [1, 1, 1]


def test_budget_that_holds_only_the_cheapest_options() -> None:
    assert allocate([[Option(3, 0), Option(1, 9)], [Option(2, 1), Option(0.5, 2)]], 1.5) == [1, 1]


def test_of_equal_losses_the_cheaper_and_of_equal_options_the_first_is_taken() -> None:
    assert allocate([[Option(5, 1), Option(2, 1), Option(2, 1)]], 100) == [1]
    assert allocate([[Option(2, 0)], [Option(5, 0), Option(1, 0)]], 100) == [0, 1]


def test_huge_whole_costs() -> None:
    layers = [[Option(1e9 * k, (4 - k) * (i + 1)) for k in range(5)] for i in range(4)]
    assert allocate(layers, 8e9) == [0, 0, 4, 4]


def test_too_small_a_budget_names_the_least_cost() -> None:
    with pytest.raises(ValueError, match=r"the budget is 2; the cheapest options cost 2.5 together"):
        allocate([[Option(2, 0), Option(1, 5)], [Option(1.5, 0)]], 2)


def test_nothing_to_choose_from() -> None:
    assert allocate([], 0) == []
    with pytest.raises(ValueError, match="layer 1 has no option"):
        allocate([[Option(0, 0)], []], 1)


@pytest.mark.parametrize(("cost", "loss"), [(-1, 0), (0, -1), (math.nan, 0), (0, math.inf)])
def test_costs_and_losses_must_be_finite_and_not_negative(cost: float, loss: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number of at least 0"):
        Option(cost, loss)


def test_a_hundred_layers_are_shared_out_quickly_and_always_alike() -> None:
    layers = random_layers(0, 100, 8, whole=False)
    begin = time.perf_counter()
    chosen = allocate(layers, 30.0)
    assert time.perf_counter() - begin < 0.5
    assert allocate(layers, 30.0) == chosen
    assert totals(layers, chosen)[0] <= 30.0
