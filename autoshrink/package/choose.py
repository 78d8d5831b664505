"""Which trial to ship, and, when none keeps the limits, which come nearest and what would have to give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autoshrink.errors import NothingFits
from autoshrink.search.front import LATENCY, METRIC, axes_of, is_known
from autoshrink.search.limits import Limit, given, relaxed
from autoshrink.search.words import describe, rows_per_second
from autoshrink.target import Limits
from autoshrink.types import Interval, Outcome, Recipe, TrialRecord

LATENCY_NOISE = 0.04
"""Two latencies closer than this share are a tie: recompiled copies of one model differ by as much."""
DEFAULT_DROP = 0.01
"""Without any limit: what may be lost for speed and size, in the metric's unit (one point of accuracy)."""
NEAREST = 3
"""Misses that are named when nothing fits."""


def choose(
    records: Sequence[TrialRecord], limits: Limits, *, batch: int = 1, others: Iterable[TrialRecord] = ()
) -> TrialRecord:
    """The trial to ship among the records of one target.

    A trial counts when it was measured and keeps every limit by its CONFIDENCE BOUND (the upper ends of the 95 %
    intervals of latency and drop, see `Candidate`), so that a lucky mean does not pass. Trials that the search called
    infeasible count too: they were measured, and these limits may be wider than those of the search. Failed, rejected
    and stopped ones never do.

    - With a limit on latency, throughput, size or a figure: the most accurate, by the lower end of the metric's
      interval on val. Of those that nobody can tell from it, the one with the lowest upper end of the latency ratio;
      of those within 4 % of that, the smallest.
    - With a limit on the drop alone: the greatest gain, speed-up (by its bound) times size reduction. Of those within
      4 % of that, the most accurate.
    - Without limits: as with a drop of 0.01; when not even the baseline was measured, the most accurate.

    On a target that is not timed, the same goes by metric and size alone. On one that only compiles, metric and drop
    are those of the same recipe on another target, the worst where several measured it.

    Args:
        records: of one target.
        limits: see `applicable` for those that the target says nothing of.
        batch: rows of one call, for a limit on throughput.
        others: records of the study's other targets.

    Raises:
        NothingFits: no trial keeps the limits; the message names the nearest misses and the limits that would do. Or
            a limit is on what was not measured on this target.
        ValueError: the records are of several targets.
    """
    targets = sorted({record.target for record in records})
    if len(targets) > 1:
        raise ValueError(f"records are of the targets {', '.join(targets)}; choose among the records of one")
    found = candidates(records, batch, others)
    if not found:
        raise NothingFits(_why_none(records))
    unknown = [limit for limit in given(limits) if _is_unknown(limit, found, records)]
    if unknown:
        raise NothingFits("\n".join(_unchecked(limit, records) for limit in unknown))
    chosen = _best(found, limits)
    if chosen is None:
        raise NothingFits(_explain(found, limits))
    return chosen.record


def applicable(
    limits: Limits, records: Sequence[TrialRecord], batch: int = 1, others: Iterable[TrialRecord] = ()
) -> tuple[Limits, list[str]]:
    """The limits that can be held against something, and the names of those on what was not measured."""
    found = candidates(records, batch, others)
    unknown = [limit for limit in given(limits) if found and _is_unknown(limit, found, records)]
    return relaxed(limits, dict.fromkeys(unknown)), [limit.noun for limit in unknown]


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

    def keeps(self, limits: Limits) -> bool:
        """Whether every limit is kept."""
        return all(self.excess(limit) <= 0 for limit in given(limits))


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


def _why_none(records: Sequence[TrialRecord]) -> str:
    built = [record for record in records if record.outcome is Outcome.COMPILED]
    if built:
        return (
            f"the {len(built)} trials were compiled, not measured, and no other target of the study measured the "
            "accuracy of a recipe among them: search with one that can, such as --target onnxruntime-cpu, or name the "
            "trial with --trial"
        )
    return (
        f"none of the {len(records)} trials was measured, so there is none to choose from; "
        "their records say why, `autoshrink resume` runs more"
    )


def _is_unknown(limit: Limit, found: Sequence[Candidate], records: Sequence[TrialRecord]) -> bool:
    """Whether a limit is on what this target says nothing of at all; a drop without interval is known, and too much."""
    if limit.is_figure:
        return not any(limit.name in record.figures for record in records)
    return all(candidate.bound(limit) is None for candidate in found)


def _unchecked(limit: Limit, records: Sequence[TrialRecord]) -> str:
    target, asked = records[0].target, limit.option(limit.text(limit.value))
    if limit.is_figure:
        return f"{asked}: compiling for {target} finds no figure {limit.name!r}; leave it out"
    why = next((record.reason for record in records if "not measured" in record.reason), "")
    return (
        f"{asked}: {limit.noun} was not measured on {target}"
        f"{f' ({why})' if why else ''}, so nothing can be held against it; leave it out"
    )


def _best(found: Sequence[Candidate], limits: Limits) -> Candidate | None:
    asked = given(limits)
    if not asked:
        return _best(found, Limits(drop=DEFAULT_DROP)) or _most_accurate(found)
    fitting = [candidate for candidate in found if candidate.keeps(limits)]
    if not fitting:
        return None
    return _greatest_gain(fitting) if [limit.name for limit in asked] == ["drop"] else _most_accurate(fitting)


def _most_accurate(found: Sequence[Candidate]) -> Candidate:
    leader = max(found, key=lambda c: (c.accuracy, -c.slowness, -c.number))
    tied = [c for c in found if c is leader or not _is_worse(c.scored, leader.scored)]
    fastest = min(c.slowness for c in tied)
    as_fast = [c for c in tied if c.slowness <= fastest * (1 + LATENCY_NOISE)]
    return min(as_fast, key=lambda c: (c.size_bytes, c.slowness, c.number))


def _is_worse(record: TrialRecord, leader: TrialRecord) -> bool:
    """Whether the interval of the difference of two drops lies over 0.

    Made from the two intervals (Zou and Donner 2008, equation 8, for independent estimates). Both drops are against one
    baseline on the same samples, which makes the true interval narrower, so this rather sees a tie than a difference.
    """
    own, best = drop_interval(record), drop_interval(leader)
    if own is None or best is None:
        return True
    slack = math.hypot(own[0] - own[1].low, best[1].high - best[0])
    return own[0] - best[0] > slack


def _greatest_gain(found: Sequence[Candidate]) -> Candidate:
    def cost(candidate: Candidate) -> float:
        return candidate.slowness * candidate.size_bytes

    least = min(cost(c) for c in found)
    tied = [c for c in found if cost(c) <= least * (1 + LATENCY_NOISE)]
    return max(tied, key=lambda c: (c.accuracy, -cost(c), -c.number))


def _explain(found: Sequence[Candidate], limits: Limits) -> str:
    asked = ", ".join(limit.option(limit.text(limit.value)) for limit in given(limits))
    nearest = sorted(found, key=lambda c: (sum(_excess(c, limits).values()), c.number))[:NEAREST]
    only = {candidate.scored.target for candidate in found} - {candidate.record.target for candidate in found}
    where = f"; accuracy is of the same recipes on {', '.join(sorted(only))}" if only else ""
    return "\n".join(
        [
            f"none of the {len(found)} {'compiled' if only else 'measured'} trials keeps {asked} (by the upper ends of "
            f"the 95 % intervals{where})",
            "nearest:",
            *(f"  {_miss(candidate, limits)}" for candidate in nearest),
            *_ways_out(found, limits),
        ]
    )


def _excess(candidate: Candidate, limits: Limits) -> dict[Limit, float]:
    """The limits that the candidate breaks -> by which share of them."""
    return {limit: candidate.excess(limit) for limit in given(limits) if candidate.excess(limit) > 0}


def _miss(candidate: Candidate, limits: Limits) -> str:
    parts = []
    for limit in _excess(candidate, limits):
        bound = candidate.bound(limit)
        if bound is None or math.isinf(bound):
            parts.append(f"{limit.noun} unknown: its interval was not measured")
        else:
            parts.append(limit.miss(bound))
    return f"trial {candidate.number} ({describe(candidate.record.recipe)}): {'; '.join(parts)}"


def _ways_out(found: Sequence[Candidate], limits: Limits) -> list[str]:
    """A line for each limit that would do when relaxed alone, the least relaxation first; else one for several."""
    lines: list[tuple[float, str]] = []
    for limit in given(limits):
        alone = [c for c in found if list(_excess(c, limits)) == [limit] and math.isfinite(c.excess(limit))]
        if alone:
            lines.append(_way_out(found, limits, min(alone, key=lambda c: c.excess(limit)), [limit]))
    if not lines:
        finite = [c for c in found if all(math.isfinite(c.excess(limit)) for limit in given(limits))]
        if not finite:
            return ["no drop has an interval: leave --max-drop out"]
        nearest = min(finite, key=lambda c: (sum(_excess(c, limits).values()), c.number))
        lines.append(_way_out(found, limits, nearest, list(_excess(nearest, limits))))
    return [text for _, text in sorted(lines)]


def _way_out(
    found: Sequence[Candidate], limits: Limits, nearest: Candidate, broken: Sequence[Limit]
) -> tuple[float, str]:
    """How far the limits have to be relaxed, and the line that says so and names the trial `choose` would then give."""
    texts = {limit: limit.enough_for(bound) for limit in broken if (bound := nearest.bound(limit)) is not None}
    chosen = _best(found, relaxed(limits, {limit: limit.parse(text) for limit, text in texts.items()}))
    gives = f"trial {chosen.number}" if chosen else "a trial"
    changes = " and ".join(
        f"{limit.option(text)} instead of {limit.text(limit.value)}" for limit, text in texts.items()
    )
    return max(nearest.excess(limit) for limit in broken), f"{changes} would give {gives}"
