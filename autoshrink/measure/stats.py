"""Scores with their 95 % confidence intervals, and differences of scores over the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoshrink.errors import StageError
from autoshrink.types import Interval, Score

if TYPE_CHECKING:
    from autoshrink.task import Arrays, Metric

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

NORMAL_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: two-sided 95 %."""
RESAMPLES = 1000
METRIC_RESAMPLES = 200
"""Fewer than `RESAMPLES`, since each calls the user's metric on the whole set."""
LEAST_FINITE = 0.9
"""Least share of the resamples on which a metric of the whole set must have a value."""
CHUNK = 1 << 21
"""Numbers that are resampled at a time: 16 MiB of them."""


def wilson(successes: int, count: int) -> Interval:
    """The score interval of a proportion (Wilson 1927; Newcombe 1998, method 3).

    Raises:
        ValueError: not 0 <= successes <= count, or no trial at all.
    """
    if not 0 <= successes <= count or count < 1:
        raise ValueError(f"{successes} of {count} is no proportion; it must be 0 <= successes <= count, count over 0")
    z2 = NORMAL_95**2
    share = successes / count
    centre = share + z2 / (2 * count)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    scale = 1 + z2 / count
    # Rounding would otherwise leave 1e-17 where the formula gives exactly 0 or 1.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == count else (centre + half) / scale
    return Interval(low, high)


def mean_interval(scores: npt.NDArray[np.generic]) -> Interval:
    """The interval of the mean of per-sample `scores` [N]: Wilson's when all are 0 or 1, else Student's.

    Student's interval of scores that are all equal has no width: it says nothing of values that were not seen.

    Raises:
        ValueError: no score, or a single one that is neither 0 nor 1.
    """
    return _mean_interval(np.asarray(scores, np.float64))[0]


def bootstrap_interval(
    values: npt.NDArray[np.generic],
    statistic: Callable[[Floats], Floats],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """The percentile bootstrap interval of a statistic of `values` [N] (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: the sample.
        statistic: float64 [R, N] -> [R]: of the last dimension, for R resamples at once.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: no value.
    """
    sample: Floats = np.asarray(values, np.float64)
    count = sample.size
    if sample.ndim != 1 or not count:
        raise ValueError(f"values have the shape {list(sample.shape)}; the bootstrap needs [N] with N over 0")
    random = np.random.default_rng(seed)
    at_once = max(1, CHUNK // count)
    parts = [
        statistic(sample[random.integers(0, count, (min(at_once, resamples - done), count))])
        for done in range(0, resamples, at_once)
    ]
    return _percentiles(np.concatenate(parts))


def score_of(metric: Metric, outputs: Arrays, targets: Arrays, seed: int = 0) -> Score:
    """The task's metric with its interval.

    An array [N] holds one score a sample: the metric is its mean, the interval Wilson's (all scores 0 or 1) or
    Student's. A number is a metric of the whole set: the interval is of a percentile bootstrap over the samples,
    drawn with their outputs and targets. Resamples on which the metric is not finite (a class that was not drawn, say)
    are left out while they are at most one in ten.

    Args:
        metric: `(outputs, targets) -> score`, of the task.
        outputs: output name -> array [N, ...].
        targets: target name -> array [N, ...].
        seed: of the bootstrap.

    Raises:
        StageError: (stage `evaluate`) the metric gave NaN, infinity, a wrong shape or something that is no number, or
            there are too few samples for an interval.
    """
    count = _count(outputs, targets)
    result = _checked(metric(outputs, targets), ((), (count,)))
    if result.ndim == 1:
        try:
            interval, method = _mean_interval(result)
        except ValueError as error:
            raise StageError("evaluate", str(error)) from error
        return Score(float(result.mean()), interval, count, method)
    _require_two(count)
    values = [
        _checked(metric(_rows(outputs, rows), _rows(targets, rows)), ((),), finite=False)
        for rows in _resampled_rows(count, seed)
    ]
    return Score(float(result), _percentiles(_finite(np.array(values))), count, "bootstrap")


def paired_difference(
    metric: Metric, outputs_a: Arrays, outputs_b: Arrays, targets: Arrays, seed: int = 0
) -> tuple[float, Interval]:
    """The metric of B minus that of A on the same samples, with its interval.

    Per-sample scores: the interval of the mean of the differences, Student's, or, when all scores are 0 or 1, the
    adjusted one for matched proportions (Agresti and Min 2005, Statistics in Medicine 24: half a sample is added to
    each of the four cells), which stays honest where few or no samples differ. A metric of the whole set: percentile
    bootstrap, the same rows drawn for A and B.

    Args:
        metric: `(outputs, targets) -> score`, of the task.
        outputs_a: output name -> array [N, ...].
        outputs_b: the same of the other artifact, row by row of the same samples.
        targets: target name -> array [N, ...].
        seed: of the bootstrap.

    Raises:
        StageError: (stage `evaluate`) as `score_of`, and when A and B have different numbers of samples.
    """
    count = _count({f"a {name}": array for name, array in outputs_a.items()}, targets)
    _count({f"b {name}": array for name, array in outputs_b.items()}, targets)
    _require_two(count)
    a = _checked(metric(outputs_a, targets), ((), (count,)))
    b = _checked(metric(outputs_b, targets), (a.shape,))
    difference = float(b.mean() - a.mean())
    if a.ndim == 1:
        interval = _matched_proportions(a, b) if _is_binary(a) and _is_binary(b) else _student(b - a)
        return difference, interval
    values = []
    for rows in _resampled_rows(count, seed):
        of_rows = _rows(targets, rows)
        pair = [
            _checked(metric(_rows(outputs, rows), of_rows), ((),), finite=False) for outputs in (outputs_a, outputs_b)
        ]
        values.append(pair[1] - pair[0])
    return difference, _percentiles(_finite(np.array(values)))


def difference_interval(a: float, a_ci: Interval, b: float, b_ci: Interval) -> Interval:
    """The interval of `a` minus `b` from the intervals of the two (Zou and Donner 2008, equation 8).

    For independent estimates. Where both are of the same samples the true interval is narrower, so this rather sees a
    tie than a difference. Of logarithms it is the interval of a ratio.
    """
    difference = a - b
    return Interval(
        difference - math.hypot(a - a_ci.low, b_ci.high - b), difference + math.hypot(a_ci.high - a, b - b_ci.low)
    )


def _count(outputs: Arrays, targets: Arrays) -> int:
    counts = {name: len(array) for name, array in {**outputs, **{f"target {n}": a for n, a in targets.items()}}.items()}
    if len(set(counts.values())) != 1:
        raise StageError("evaluate", f"numbers of samples are {counts}; outputs and targets must have equally many")
    return next(iter(counts.values()))


def _require_two(count: int) -> None:
    if count < 2:
        raise StageError(
            "evaluate", f"{count} samples have no interval; the split needs 2 at least, better some hundred"
        )


def _checked(value: object, shapes: Sequence[tuple[int, ...]], finite: bool = True) -> Floats:
    """What a metric returned as float64 of one of `shapes`: () for the whole set, (N,) for one score a sample."""
    try:
        raw = np.asarray(value)
    except ValueError:
        raw = np.empty(0, object)
    if raw.dtype.kind not in "biuf":
        raise StageError(
            "evaluate", f"the metric gave a {type(value).__name__}; it must be a number or an array of numbers [N]"
        )
    scores: Floats = raw.astype(np.float64)
    if scores.shape not in shapes:
        allowed = " or ".join(f"one score a sample, {list(shape)}" if shape else "a number" for shape in shapes)
        raise StageError("evaluate", f"the metric gave the shape {list(scores.shape)}; it must be {allowed}")
    if finite and not np.isfinite(scores).all():
        wrong = np.flatnonzero(~np.isfinite(scores))
        where = f" for sample {wrong[0]} ({len(wrong)} of {len(scores)} in all)" if scores.ndim else ""
        raise StageError(
            "evaluate",
            f"the metric gave {scores.reshape(-1)[wrong[0]]}{where}; scores must be finite: "
            "look for NaN in the outputs, or for a division by zero in the metric",
        )
    return scores


def _finite(values: Floats) -> Floats:
    """The finite ones of a metric's values over the resamples, as long as nearly all are."""
    finite: Floats = values[np.isfinite(values)]
    if len(finite) < LEAST_FINITE * len(values):
        raise StageError(
            "evaluate",
            f"the metric is not finite on {len(values) - len(finite)} of {len(values)} resamples of the split; "
            f"it must be on {LEAST_FINITE:.0%}: give it more samples, or a value for such cases",
        )
    return finite


def _resampled_rows(count: int, seed: int) -> Iterator[Rows]:
    random = np.random.default_rng(seed)
    for _ in range(METRIC_RESAMPLES):
        yield random.integers(0, count, count)


def _rows(arrays: Arrays, rows: Rows) -> Mapping[str, npt.NDArray[np.generic]]:
    return {name: array[rows] for name, array in arrays.items()}


def _percentiles(values: Floats) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))


def _is_binary(scores: Floats) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _mean_interval(scores: Floats) -> tuple[Interval, str]:
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores have the shape {list(scores.shape)}; a mean needs [N] with N over 0")
    if _is_binary(scores):
        return wilson(int(scores.sum()), len(scores)), "wilson"
    return _student(scores), "student"


def _student(scores: Floats) -> Interval:
    count = len(scores)
    if count < 2:
        raise ValueError(f"{count} score has no interval; give 2 at least, better hundreds")
    mean = float(scores.mean())
    half = _student_point(count - 1) * float(scores.std(ddof=1)) / math.sqrt(count)
    return Interval(mean - half, mean + half)


def _student_point(freedom: int) -> float:
    """The 97.5 % point of Student's distribution.

    Exact for 1 and 2 degrees of freedom, else the expansion of Abramowitz and Stegun 26.7.5, within 0.15 %.
    """
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    z = NORMAL_95
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / math.pow(freedom, power) for power, term in enumerate(terms, start=1))


def _matched_proportions(a: Floats, b: Floats) -> Interval:
    only_a = float(((a == 1) & (b == 0)).sum()) + 0.5
    only_b = float(((a == 0) & (b == 1)).sum()) + 0.5
    count = len(a) + 2
    centre = (only_b - only_a) / count
    half = NORMAL_95 * math.sqrt(only_a + only_b - (only_b - only_a) ** 2 / count) / count
    return Interval(max(-1.0, centre - half), min(1.0, centre + half))
