"""What a setting explains: known answers, and a second way to the same number."""

from __future__ import annotations

import numpy as np
import pytest

from autoshrink.dashboard.factors import settings, uses
from autoshrink.dashboard.importance import (
    LEAST_TRIALS,
    Importance,
    average_ranks,
    chi_square_95,
    grouped,
    importance_figure,
    importances,
    rank_share,
)
from autoshrink.dashboard.palette import LIGHT
from autoshrink.types import TrialRecord
from tests.fake_study import fake_trial, fake_view


def pruned(number: int, share: float | None, scheme: str = "fp16", **changes: object) -> TrialRecord:
    stages: list[dict[str, object]] = [] if share is None else [{"technique": "prune", "ratio": share}]
    return fake_trial(number, [*stages, {"technique": "quantize", "scheme": scheme}], **changes)


def test_a_setting_that_alone_orders_the_trials_explains_everything() -> None:
    values, groups = np.array([1.0, 1, 1, 5, 5, 5]), np.array([0, 0, 0, 1, 1, 1])
    share = rank_share(values, groups)
    assert share.value == pytest.approx(1)
    assert share.is_sure


def test_groups_of_equal_ranks_explain_nothing() -> None:
    share = rank_share(np.array([1.0, 4, 2, 3]), np.array([0, 0, 1, 1]))
    assert (share.value, share.is_sure) == (0, False)
    assert rank_share(np.ones(6), np.array([0, 0, 0, 1, 1, 1])).value == 0


def test_a_case_by_hand() -> None:
    # Ranks 1 2 4 and 3 5 6: H = 12/42 (7^2/3 + 14^2/3) - 21 = 7/3, so (7/3 - 2 + 1) / (6 - 2) = 1/3.
    share = rank_share(np.array([10.0, 20, 40, 30, 50, 60]), np.array([0, 0, 0, 1, 1, 1]))
    assert share.value == pytest.approx(1 / 3)
    assert not share.is_sure


@pytest.mark.parametrize("seed", range(5))
def test_the_statistic_is_that_of_scipy(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    groups = random.integers(0, 4, 40)
    values = np.round(random.normal(groups * 0.5, 1), 1)
    statistic, chance = stats.kruskal(*(values[groups == group] for group in range(4)))
    share = rank_share(values, groups)
    assert share.value == pytest.approx(max(0.0, (statistic - 3) / 36))
    assert share.is_sure == (chance < 0.05)


def test_values_that_are_not_known_are_left_out() -> None:
    values, groups = np.array([1.0, 1, 1, 5, 5, 5, np.nan]), np.array([0, 0, 0, 1, 1, 1, 1])
    assert rank_share(values, groups).value == pytest.approx(1)


def test_ranks_of_equal_values_are_their_mean() -> None:
    assert average_ranks(np.array([3.0, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]


@pytest.mark.parametrize(("freedom", "point"), [(1, 3.841), (2, 5.991), (5, 11.070), (10, 18.307)])
def test_points_of_the_chi_square_distribution(freedom: int, point: float) -> None:
    assert chi_square_95(freedom) == pytest.approx(point, rel=0.03)


def test_what_recipes_differ_in() -> None:
    records = [pruned(0, None), pruned(1, 0.25), pruned(2, 0.5, "int8_static"), fake_trial(3)]
    factors = {factor.name: factor.values for factor in settings(records)}
    assert factors == {"prune ratio": (None, 0.25, 0.5, None), "precision": ("fp16", "fp16", "int8 static", "fp32")}
    assert [(factor.name, factor.values) for factor in uses(records)] == [("prune or not", ("no", "yes", "yes", "no"))]


def test_numbers_come_by_size_and_before_texts() -> None:
    records = [pruned(number, ratio) for number, ratio in enumerate((0.75, 0.25, 0.5))]
    assert settings(records)[0].distinct == [0.25, 0.5, 0.75]


def test_many_numbers_are_cut_into_four_groups() -> None:
    (factor,) = settings([pruned(number, number / 40) for number in range(40)])
    groups = grouped(factor)
    assert groups is not None
    assert np.bincount([group for group in groups if group is not None]).tolist() == [10, 10, 10, 10]


def test_a_setting_is_judged_among_those_that_have_it() -> None:
    # The size goes with the ratio, the latency with the precision, the accuracy with neither.
    records = [
        pruned(
            number, (0.25, 0.75)[number % 2], ("fp16", "int8_static")[number // 2 % 2],
            size=(4_000_000, 1_000_000)[number % 2], ratio=(1.0, 0.4)[number // 2 % 2],
        )
        for number in range(16)
    ]  # fmt: skip
    records += [pruned(number, None, size=5_000_000, ratio=1.0) for number in range(16, 20)]
    found = {each.name: each for each in importances(fake_view([fake_trial(99), *records]))}
    assert found["prune ratio"].trials == 16
    assert found["prune ratio"].shares["size"].value == pytest.approx(1)
    assert found["prune ratio"].shares["latency"].value == 0
    assert found["precision"].trials == 21
    assert found["precision"].shares["latency"].value > 0.9
    assert found["precision"].shares["accuracy"].value == 0
    assert next(iter(found)) == "prune ratio"


def test_techniques_that_always_go_together_are_one() -> None:
    both = [{"technique": "prune", "ratio": 0.5}, {"technique": "finetune", "epochs": 1}]
    records = [fake_trial(number, both if number % 2 else [], size=1000 * number + 1) for number in range(12)]
    assert [each.name for each in importances(fake_view(records))] == ["prune, fine-tune or not"]


def test_too_few_trials_are_not_judged() -> None:
    records = [pruned(number, (0.25, 0.75)[number % 2]) for number in range(LEAST_TRIALS - 1)]
    assert importances(fake_view(records)) == []
    assert importance_figure([], LIGHT) is None


def test_the_figure_tells_what_may_be_chance_and_escapes_names() -> None:
    shares = {
        "size": rank_share(np.arange(8.0), np.repeat([0, 1], 4)),
        "latency": rank_share(np.ones(8), np.arange(8) // 4),
    }
    figure = importance_figure([Importance("<b>ratio", 8, shares)], LIGHT)
    assert figure is not None
    drawn = [(trace.name, trace.marker.pattern.shape, list(trace.y)) for trace in figure.data if trace.y]
    assert drawn == [("size", None, ["&lt;b&gt;ratio"]), ("latency", "/", ["&lt;b&gt;ratio"])]
