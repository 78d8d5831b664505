"""Intervals against published values, closed forms and simulated coverage."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from autoshrink.errors import StageError
from autoshrink.measure.stats import (
    METRIC_RESAMPLES,
    NORMAL_95,
    bootstrap_interval,
    difference_interval,
    mean_interval,
    paired_difference,
    score_of,
    wilson,
)
from autoshrink.types import Interval

Array = np.ndarray
Arrays = Mapping[str, Array]


def accuracy(outputs: Arrays, targets: Arrays) -> Array:
    return outputs["logits"].argmax(-1) == targets["label"]


def negative_squared_error(outputs: Arrays, targets: Arrays) -> Array:
    return -((outputs["y"] - targets["y"]) ** 2)


def correlation(outputs: Arrays, targets: Arrays) -> float:
    return float(np.corrcoef(outputs["y"], targets["y"])[0, 1])


def covers(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high


def width(interval: Interval) -> float:
    return interval.high - interval.low


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_interval(successes: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    interval = wilson(successes, count)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilson_is_symmetric_and_within_zero_and_one() -> None:
    for count in (1, 2, 7, 100):
        for successes in range(count + 1):
            interval, mirrored = wilson(successes, count), wilson(count - successes, count)
            assert 0 <= interval.low <= successes / count <= interval.high <= 1
            assert interval.low == pytest.approx(1 - mirrored.high)
    assert wilson(5, 5).high == 1


@pytest.mark.parametrize(("successes", "count"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {count} is no proportion"):
        wilson(successes, count)


@pytest.mark.parametrize(
    ("count", "point"),
    [(2, 12.7062), (3, 4.3027), (4, 3.1824), (6, 2.5706), (11, 2.2281), (31, 2.0423), (1001, 1.9623)],
)
def test_student_interval_of_a_mean(count: int, point: float) -> None:
    """The points are those of the printed tables of Student's distribution, 97.5 %."""
    scores = np.arange(count) + 0.5
    half = point * math.sqrt(scores.var(ddof=1) / count)
    interval = mean_interval(scores)
    assert interval.low == pytest.approx(scores.mean() - half, abs=0.0015 * half)
    assert interval.high == pytest.approx(scores.mean() + half, abs=0.0015 * half)


def test_mean_of_zeros_and_ones_has_wilsons_interval() -> None:
    assert mean_interval(np.array([True, False, True, True])) == wilson(3, 4)
    assert mean_interval(np.ones(50, np.float32)) == wilson(50, 50)


def test_degenerate_means() -> None:
    assert mean_interval(np.full(8, 0.5)) == Interval(0.5, 0.5)
    assert mean_interval(np.array([1.0])) == wilson(1, 1)
    with pytest.raises(ValueError, match="1 score has no interval"):
        mean_interval(np.array([0.3]))
    with pytest.raises(ValueError, match=r"shape \[0\]"):
        mean_interval(np.array([]))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_wilson_covers_the_truth_about_95_times_in_100(share: float) -> None:
    counts = np.random.default_rng(0).binomial(200, share, 4000)
    assert np.mean([covers(wilson(int(k), 200), share) for k in counts]) == pytest.approx(0.95, abs=0.02)


def test_student_covers_the_truth_about_95_times_in_100() -> None:
    samples = np.random.default_rng(1).normal(3, 2, (4000, 6))
    assert np.mean([covers(mean_interval(sample), 3) for sample in samples]) == pytest.approx(0.95, abs=0.012)


def test_bootstrap_covers_the_truth_about_95_times_in_100() -> None:
    samples = np.random.default_rng(2).normal(3, 2, (500, 60))
    intervals = [bootstrap_interval(sample, lambda x: x.mean(-1), seed, 400) for seed, sample in enumerate(samples)]
    assert np.mean([covers(interval, 3) for interval in intervals]) == pytest.approx(0.94, abs=0.03)


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(0, 1, 400)
    interval, closed_form = bootstrap_interval(values, lambda x: x.mean(-1)), mean_interval(values)
    assert interval.low == pytest.approx(closed_form.low, abs=0.01)
    assert interval.high == pytest.approx(closed_form.high, abs=0.01)


def test_bootstrap_is_fixed_by_its_seed_and_bounded_by_its_values() -> None:
    values = np.array([1.0, 2.0, 4.0])
    median = lambda x: np.median(x, -1)  # noqa: E731
    assert bootstrap_interval(values, median, 5) == bootstrap_interval(values, median, 5)
    # The median of three resampled values is the least one with probability 7/27, far over 2.5 %.
    assert bootstrap_interval(values, median) == Interval(1.0, 4.0)
    assert bootstrap_interval(np.array([7.0]), median) == Interval(7.0, 7.0)
    with pytest.raises(ValueError, match=r"shape \[0\]"):
        bootstrap_interval(np.array([]), median)


def test_bootstrap_in_several_chunks_makes_all_resamples() -> None:
    values = np.random.default_rng(4).normal(0, 1, 5000)
    seen: list[int] = []

    def mean(resamples: Array) -> Array:
        seen.append(len(resamples))
        return resamples.mean(-1)

    interval = bootstrap_interval(values, mean, resamples=1000)
    assert sum(seen) == 1000
    assert len(seen) > 1
    assert covers(interval, float(values.mean()))


def test_score_of_samples_that_are_right_or_wrong() -> None:
    logits = np.eye(10, dtype=np.float32)[np.arange(50) % 10]
    labels = np.where(np.arange(50) < 40, np.arange(50) % 10, -1)
    score = score_of(accuracy, {"logits": logits}, {"label": labels})
    assert (score.value, score.count, score.method) == (0.8, 50, "wilson")
    assert score.ci == wilson(40, 50)


def test_score_of_real_valued_samples_is_their_mean() -> None:
    outputs, targets = {"y": np.array([1.0, 2.0, 3.0])}, {"y": np.array([1.0, 1.0, 1.0])}
    score = score_of(negative_squared_error, outputs, targets)
    assert (score.value, score.count, score.method) == (pytest.approx(-5 / 3), 3, "student")
    assert score.ci == mean_interval(np.array([0.0, -1.0, -4.0]))


def test_score_of_the_whole_set_is_bootstrapped_over_samples() -> None:
    """Fisher's transformation gives the interval of a correlation of normal values in closed form."""
    random = np.random.default_rng(5)
    x, noise = random.normal(size=(2, 800))
    score = score_of(correlation, {"y": x}, {"y": x + noise}, seed=1)
    assert (score.count, score.method) == (800, "bootstrap")
    assert score.value == pytest.approx(np.corrcoef(x, x + noise)[0, 1])
    low, high = (math.tanh(math.atanh(score.value) + sign * 1.96 / math.sqrt(797)) for sign in (-1, 1))
    assert score.ci.low == pytest.approx(low, abs=0.012)
    assert score.ci.high == pytest.approx(high, abs=0.012)
    assert score_of(correlation, {"y": x}, {"y": x + noise}, seed=1) == score
    assert score_of(correlation, {"y": x}, {"y": x + noise}, seed=2).ci != score.ci


def test_outputs_and_targets_are_resampled_together() -> None:
    y = np.arange(30.0)
    score = score_of(correlation, {"y": y}, {"y": y})
    assert (score.value, score.ci.low, score.ci.high) == pytest.approx((1, 1, 1))


def test_pairing_is_narrower_for_correlated_scores() -> None:
    random = np.random.default_rng(6)
    targets = {"y": random.normal(size=300)}
    outputs_a = {"y": targets["y"] + random.normal(0, 1, 300)}
    outputs_b = {"y": outputs_a["y"] + random.normal(0, 0.05, 300)}
    difference, interval = paired_difference(negative_squared_error, outputs_a, outputs_b, targets)
    a, b = (score_of(negative_squared_error, outputs, targets) for outputs in (outputs_a, outputs_b))
    assert difference == pytest.approx(b.value - a.value)
    assert covers(interval, difference)
    assert width(interval) < 0.3 * math.hypot(width(a.ci), width(b.ci))


def test_difference_of_the_whole_set_is_paired() -> None:
    random = np.random.default_rng(7)
    targets = {"y": random.normal(size=300)}
    outputs_a = {"y": targets["y"] + random.normal(0, 1, 300)}
    outputs_b = {"y": outputs_a["y"] + random.normal(0, 0.05, 300)}
    difference, interval = paired_difference(correlation, outputs_a, outputs_b, targets)
    a, b = (score_of(correlation, outputs, targets) for outputs in (outputs_a, outputs_b))
    assert difference == pytest.approx(b.value - a.value)
    assert width(interval) < 0.3 * math.hypot(width(a.ci), width(b.ci))
    assert covers(interval, difference)
    worse, interval = paired_difference(correlation, targets, outputs_a, targets)
    assert interval.low < worse < interval.high < -0.1
    assert paired_difference(correlation, outputs_a, outputs_a, targets) == (0.0, Interval(0.0, 0.0))


def right_or_wrong(outputs: Arrays, targets: Arrays) -> Array:
    return outputs["right"]


def test_difference_is_b_minus_a() -> None:
    a, b = {"right": np.zeros(50)}, {"right": np.ones(50)}
    targets = {"label": np.zeros(50)}
    difference, interval = paired_difference(right_or_wrong, a, b, targets)
    assert difference == 1
    assert interval.high == 1
    assert 0.85 < interval.low < 1
    assert paired_difference(right_or_wrong, b, a, targets)[0] == -1


def test_matched_proportions_by_hand() -> None:
    """100 samples: A alone right on 5, B alone on 15. Agresti and Min: 5.5 and 15.5 of 102."""
    a = np.array([1] * 60 + [1] * 5 + [0] * 15 + [0] * 20)
    b = np.array([1] * 60 + [0] * 5 + [1] * 15 + [0] * 20)
    difference, interval = paired_difference(right_or_wrong, {"right": a}, {"right": b}, {"label": a})
    assert difference == pytest.approx(0.10)
    half = 1.959964 * math.sqrt(21 - 100 / 102) / 102
    assert interval.low == pytest.approx(10 / 102 - half)
    assert interval.high == pytest.approx(10 / 102 + half)


def test_equal_answers_do_not_prove_equal_accuracy() -> None:
    right = np.ones(500)
    difference, interval = paired_difference(right_or_wrong, {"right": right}, {"right": right}, {"label": right})
    assert difference == 0
    assert -0.005 < interval.low < 0 < interval.high < 0.005


@pytest.mark.parametrize("only_b", [0.02, 0.1])
def test_difference_of_proportions_covers_the_truth_about_95_times_in_100(only_b: float) -> None:
    random = np.random.default_rng(8)
    hits = []
    for _ in range(1500):
        draw = random.random(300)
        a, b = draw < 0.8, (draw > 0.02) & (draw < 0.8 + only_b)
        _, interval = paired_difference(right_or_wrong, {"right": a}, {"right": b}, {"label": draw})
        hits.append(covers(interval, only_b - 0.02))
    assert np.mean(hits) == pytest.approx(0.95, abs=0.025)


def test_resamples_without_a_value_are_left_out_while_few() -> None:
    def mean_where_known(outputs: Arrays, targets: Arrays) -> float:
        known = targets["known"]
        return float(outputs["y"][known].mean()) if known.any() else math.nan

    y = {"y": np.arange(40.0)}
    few = np.arange(40) < 4
    score = score_of(mean_where_known, y, {"known": few})
    assert score.value == 1.5
    assert math.isfinite(score.ci.low)
    assert math.isfinite(score.ci.high)
    with pytest.raises(StageError, match=rf"evaluate: .* on \d+ of {METRIC_RESAMPLES} resamples"):
        score_of(mean_where_known, y, {"known": np.arange(40) < 1})


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (math.nan, "gave nan; scores must be finite"),
        (np.array([1.0, math.inf, 1.0, math.nan]), r"gave inf for sample 1 \(2 of 4 in all\)"),
        (np.ones((4, 1)), r"shape \[4, 1\]; it must be a number or one score a sample, \[4\]"),
        (np.ones(3), r"shape \[3\]"),
        (None, "gave a NoneType; it must be a number"),
        ("0.9", "gave a str"),
        ([[1.0], [1.0, 2.0]], "gave a list"),
        (1j, "gave a complex"),
    ],
)
def test_bad_results_of_a_metric_are_named(result: object, message: str) -> None:
    y = {"y": np.ones(4)}
    with pytest.raises(StageError, match=message) as caught:
        score_of(lambda outputs, targets: result, y, y)  # type: ignore[arg-type, return-value]
    assert caught.value.stage == "evaluate"
    with pytest.raises(StageError, match=message):
        paired_difference(lambda outputs, targets: result, y, y, y)  # type: ignore[arg-type, return-value]


def test_a_metric_that_changes_its_mind_is_named() -> None:
    results = iter([np.ones(4), 1.0])
    y = {"y": np.ones(4)}
    with pytest.raises(StageError, match=r"shape \[\]; it must be one score a sample, \[4\]"):
        paired_difference(lambda outputs, targets: next(results), y, y, y)


def test_too_few_samples_and_different_numbers_are_refused() -> None:
    one, four = {"y": np.array([0.3])}, {"y": np.ones(4)}
    for metric in (negative_squared_error, lambda outputs, targets: 0.5):
        with pytest.raises(StageError, match="1 s"):
            score_of(metric, one, {"y": np.array([0.1])})
        with pytest.raises(StageError, match="1 s"):
            paired_difference(metric, one, one, {"y": np.array([0.1])})
        with pytest.raises(StageError, match="equally many"):
            score_of(metric, one, four)
        with pytest.raises(StageError, match="equally many"):
            paired_difference(metric, four, one, four)


def test_one_sample_that_is_right_has_wilsons_interval() -> None:
    score = score_of(right_or_wrong, {"right": np.array([1])}, {"label": np.array([3])})
    assert (score.value, score.count, score.ci) == (1.0, 1, wilson(1, 1))


def test_the_interval_of_a_difference_has_a_known_answer() -> None:
    found = difference_interval(5.0, Interval(4.0, 7.0), 2.0, Interval(1.0, 4.0))
    assert found.low == pytest.approx(3 - math.sqrt(1 + 4))
    assert found.high == pytest.approx(3 + math.sqrt(4 + 1))


def test_the_interval_of_a_difference_of_equal_errors_is_the_normal_one() -> None:
    half = NORMAL_95 * 0.1
    found = difference_interval(1.0, Interval(1 - half, 1 + half), 0.5, Interval(0.5 - half, 0.5 + half))
    assert (found.low, found.high) == pytest.approx((0.5 - half * math.sqrt(2), 0.5 + half * math.sqrt(2)))
