"""Whether one trial is better than another in a figure: only where the intervals say so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from autoshrink.dashboard.formatting import SAME, Metric, counted, factor
from autoshrink.dashboard.trial_classes import Answers, paired
from autoshrink.measure.stats import difference_interval
from autoshrink.package.candidates import drop_interval
from autoshrink.package.choose import LATENCY_NOISE
from autoshrink.types import Interval, Score, TrialRecord

EXACT = 1e-9
"""Shares of right answers that are nearer than this are the same metric."""


class Finding(StrEnum):
    """What can be said of two trials in a figure."""

    BETTER = "better"
    SAME = "the same"
    """Exactly."""
    TIE = "cannot be told apart"
    UNKNOWN = "not compared"


@dataclass(frozen=True)
class Verdict:
    """Two trials in one figure.

    Attributes:
        finding: what can be said.
        first_wins: whether the better one is the first; None where none is.
        amount: by how much, with the interval where there is one.
        why: what the finding rests on, or why there is none.
        word: what the better one is, such as `faster`.
    """

    finding: Finding
    first_wins: bool | None = None
    amount: str = ""
    why: str = ""
    word: str = "better"

    def sentence(self, first: str, second: str) -> str:
        """The finding in words, with the names of the two."""
        if self.first_wins is not None:
            better, worse = (first, second) if self.first_wins else (second, first)
            return f"{better} is {self.word} than {worse}: {self.amount}"
        if self.finding is Finding.UNKNOWN:
            return f"{first} and {second} are not compared: {self.why}"
        if self.finding is Finding.SAME:
            return f"{first} and {second} are the same"
        return f"{first} and {second} cannot be told apart: {self.amount}"


def unknown(why: str) -> Verdict:
    """That nothing can be said."""
    return Verdict(Finding.UNKNOWN, why=why)


def verdict_on_val(
    first: TrialRecord,
    second: TrialRecord,
    metric: Metric,
    answers: tuple[Answers | str, Answers | str] = ("", ""),
) -> Verdict:
    """Of the metric on val.

    Sample by sample where the answers of both are known and the metric is the share of right ones. Else from the
    intervals of both drops when they are against the same baseline, and from those of the scores when they are not.
    """
    if first.val is None or second.val is None:
        return unknown("accuracy was not measured for both")
    direct = _paired(first.val, second.val, *answers)
    if direct is not None:
        return _of_difference(*direct, metric, "the same samples through both")
    if first.target == second.target:
        drops = drop_interval(first), drop_interval(second)
        if drops[0] is not None and drops[1] is not None:
            return _drops(*drops[0], *drops[1], metric)
    return _scores(first.val, second.val, metric)


def verdict_on_test(first: TrialRecord, second: TrialRecord, metric: Metric) -> Verdict:
    """Of the metric on test, from the intervals of both drops against the baseline, else from those of the scores."""
    if first.test is None or second.test is None:
        return unknown("test was not scored for both")
    drops = [
        (record.test_drop, record.test_drop_ci) if record.recipe.stages else (0.0, Interval(0.0, 0.0))
        for record in (first, second)
    ]
    (drop, ci), (other, other_ci) = drops
    if first.target == second.target and None not in (drop, ci, other, other_ci):
        return _drops(drop, ci, other, other_ci, metric)  # type: ignore[arg-type]
    return _scores(first.test, second.test, metric)


def _paired(
    first: Score, second: Score, answers: Answers | str, others: Answers | str
) -> tuple[float, Interval] | None:
    """The difference of right answers over the same samples, where that is what the metric is."""
    if isinstance(answers, str) or isinstance(others, str) or not np.array_equal(answers.truth, others.truth):
        return None
    for score, of in ((first, answers), (second, others)):
        if abs(score.value - float(of.right.mean())) > EXACT:
            return None
    difference, interval = paired(others.right, answers.right)
    return None if interval is None else (difference, interval)


def _drops(drop: float, ci: Interval, other: float, other_ci: Interval, metric: Metric) -> Verdict:
    # A smaller drop is better: the difference of the metric is that of the drops the other way round.
    interval = difference_interval(other, other_ci, drop, ci)
    return _of_difference(other - drop, interval, metric, "from the intervals of both changes against the baseline")


def _scores(first: Score, second: Score, metric: Metric) -> Verdict:
    interval = difference_interval(first.value, first.ci, second.value, second.ci)
    return _of_difference(
        first.value - second.value, interval, metric, "from the intervals of both, as if of different samples"
    )


def _of_difference(difference: float, interval: Interval, metric: Metric, why: str) -> Verdict:
    """`difference` is the first's metric minus the second's; what is said is of the better minus the worse."""
    wins = True if interval.low > 0 else False if interval.high < 0 else None
    if wins is False:
        difference, interval = -difference, Interval(-interval.high, -interval.low)
    unit = " points" if metric.percent else ""
    amount = f"{metric.signed(difference)}{unit} [{metric.signed(interval.low)}, {metric.signed(interval.high)}]"
    return Verdict(Finding.TIE if wins is None else Finding.BETTER, wins, amount, why)


def latency_verdict(first: TrialRecord, second: TrialRecord) -> Verdict:
    """Of latency, from the intervals of the ratios to the baseline that each was measured in turns with.

    Recompiled copies of one model differ by up to `LATENCY_NOISE`, which no interval knows of: less is a tie too.
    """
    if first.latency is None or second.latency is None:
        return unknown("latency was not measured for both")
    if first.target != second.target:
        return unknown("each was measured against a baseline of its own, and at another time")
    sides = [
        (math.log(each.ratio), Interval(math.log(each.ratio_ci.low), math.log(each.ratio_ci.high)))
        for each in (first.latency, second.latency)
        if min(each.ratio, each.ratio_ci.low) > 0
    ]
    if len(sides) < 2:
        return unknown("a ratio is not over 0")
    logs = difference_interval(*sides[0], *sides[1])
    ratio, low, high = (math.exp(value) for value in (sides[0][0] - sides[1][0], logs.low, logs.high))
    wins = True if high < 1 else False if low > 1 else None
    # In words the time of the slower one over that of the faster one; of a tie the second's over the first's.
    quotient, ends = (ratio, (low, high)) if wins is False else (1 / ratio, (1 / high, 1 / low))
    amount = f"{factor(quotient)}x [{factor(ends[0])}, {factor(ends[1])}]"
    unrest = [
        f"trial {record.number} was unsteady" for record in (first, second) if record.latency and record.latency.unrest
    ]
    if wins is not None and quotient <= 1 + LATENCY_NOISE:
        why = f"copies of one model differ by up to {LATENCY_NOISE:.0%} when compiled again".replace("%", " %")
        return Verdict(Finding.TIE, None, amount, why, "faster")
    why = "; ".join(["from the intervals of both ratios to the baseline", *unrest])
    return Verdict(Finding.TIE if wins is None else Finding.BETTER, wins, amount, why, "faster")


def size_verdict(first: TrialRecord, second: TrialRecord) -> Verdict:
    """Of the bytes that ship, which are exact."""
    return _exact(first, second, lambda record: record.artifact.size_bytes if record.artifact else None)


def gzip_verdict(first: TrialRecord, second: TrialRecord) -> Verdict:
    """Of the bytes that ship when they are compressed."""
    return _exact(first, second, lambda record: record.artifact.compressed_bytes if record.artifact else None)


def _exact(first: TrialRecord, second: TrialRecord, size: Callable[[TrialRecord], int | None]) -> Verdict:
    own, other = size(first), size(second)
    if own is None or other is None:
        return unknown("there are no files of both")
    if own == other:
        return Verdict(Finding.SAME, why="exact")
    quotient = max(own, other) / max(1, min(own, other))
    amount = f"{factor(quotient)}x" if quotient >= 1 + SAME else counted(abs(own - other), "byte")
    return Verdict(Finding.BETTER, own < other, amount, "exact", "smaller")
