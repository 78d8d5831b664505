"""The trials of a target that may be shipped, with the bounds that limits are held against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autoshrink.search.front import LATENCY, METRIC, axes_of, is_known
from autoshrink.search.limits import Limit
from autoshrink.search.words import rows_per_second
from autoshrink.types import Interval, Outcome, Recipe, TrialRecord


@dataclass(frozen=True)
class Candidate:
    """A measured trial with the bounds that are held against the limits.

    Attributes:
        size_bytes: exact.
        drop: upper end of the paired interval on val; infinite when there is none. When the test split was scored and
            refutes it (the worst score the baseline may have on test, less the best this trial may have, is more),
            the figure of test. Test does nothing else here: ranking by it would leave no split that tells, without
            having been looked at, how good the chosen trial is.
        accuracy: lower end of the metric's interval on val.
        scored: the record that metric and drop are of; another target's where this one only compiles.
        latency_ms: upper end of the latency's interval, milliseconds; None where it was not measured.
        throughput: of that latency, rows a second.
        ratio: upper end of the interval of the latency ratio to the baseline; None where it was not measured.
        figures: name -> value.
    """

    record: TrialRecord
    size_bytes: float
    drop: float
    accuracy: float
    scored: TrialRecord
    latency_ms: float | None = None
    throughput: float | None = None
    ratio: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Of the trial."""
        return self.record.number

    @property
    def slowness(self) -> float:
        """`ratio` as trials are ranked by it: the same for all where nothing was timed."""
        return 1.0 if self.ratio is None else self.ratio

    def bound(self, limit: Limit) -> float | None:
        """What is held against a limit; None where it is not known."""
        if limit.is_figure:
            return self.figures.get(limit.name)
        value: float | None = getattr(self, limit.name)
        return value

    def excess(self, limit: Limit) -> float:
        """By which share of the limit this is over it; infinite where that is not known."""
        bound = self.bound(limit)
        return math.inf if bound is None else limit.excess(bound)

    def keeps(self, limits: Iterable[Limit]) -> bool:
        """Whether every limit is kept; one on what is not known is not."""
        for limit in limits:
            bound = self.bound(limit)
            if bound is None or not limit.allows(bound):
                return False
        return True


def candidates(records: Sequence[TrialRecord], batch: int = 1, others: Iterable[TrialRecord] = ()) -> list[Candidate]:
    """The trials of one target that may be shipped, whatever the limits (see `choose`)."""
    axes = axes_of(records)
    timed = LATENCY in axes
    scores = {} if METRIC in axes else scored_elsewhere(others)
    baselines = {
        record.target: record for record in [*scores.values(), *records] if not record.recipe.stages and record.val
    }
    found = []
    for record in records:
        scored = record if METRIC in axes else scores.get(record.recipe)
        if not _counts(record, axes) or record.artifact is None or scored is None or scored.val is None:
            continue
        latency = record.latency if timed else None
        found.append(
            Candidate(
                record=record,
                size_bytes=float(record.artifact.size_bytes),
                drop=drop_bound(scored, baselines.get(scored.target)),
                accuracy=scored.val.ci.low,
                scored=scored,
                latency_ms=latency.ms_ci.high if latency else None,
                throughput=rows_per_second(replace(latency, ms=latency.ms_ci.high), batch) if latency else None,
                ratio=latency.ratio_ci.high if latency else None,
                figures={name: figure.value for name, figure in record.figures.items()},
            )
        )
    return found


def _counts(record: TrialRecord, axes: Sequence[str]) -> bool:
    ended = Outcome.COMPLETE if METRIC in axes else Outcome.COMPILED
    return record.outcome in (ended, Outcome.INFEASIBLE) and is_known(record, axes)


def scored_elsewhere(others: Iterable[TrialRecord]) -> dict[Recipe, TrialRecord]:
    """Recipe -> its trial on the target where it loses the most, of those on which its accuracy was measured."""
    worst: dict[Recipe, TrialRecord] = {}
    for record in others:
        if record.is_scored and record.outcome in (Outcome.COMPLETE, Outcome.INFEASIBLE):
            known = worst.get(record.recipe)
            if known is None or drop_bound(record) > drop_bound(known):
                worst[record.recipe] = record
    return worst


def drop_bound(record: TrialRecord, baseline: TrialRecord | None = None) -> float:
    """See `Candidate.drop`; without the baseline of its target, test refutes nothing."""
    interval = drop_interval(record)
    drop = math.inf if interval is None else interval[1].high
    if baseline is not None and baseline.test is not None and record.test is not None:
        drop = max(drop, baseline.test.ci.low - record.test.ci.high)
    return drop


def drop_interval(record: TrialRecord) -> tuple[float, Interval] | None:
    """The drop on val and its interval, no drop at all for the baseline; None where it was not compared with it."""
    if record.drop is not None and record.drop_ci is not None:
        return record.drop, record.drop_ci
    return None if record.recipe.stages else (0.0, Interval(0.0, 0.0))
