"""Which trial to ship, and, when none keeps the limits, which come nearest and what would have to give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoshrink import units
from autoshrink.errors import NothingFits
from autoshrink.search.words import describe
from autoshrink.target import Limits
from autoshrink.types import Interval, Outcome, TrialRecord

LATENCY_NOISE = 0.04
"""Two latencies closer than this share are a tie: recompiled copies of one model differ by as much."""
DEFAULT_DROP = 0.01
"""Without any limit: what may be lost for speed and size, in the metric's unit (one point of accuracy)."""
NEAREST = 3
"""Misses that are named when nothing fits."""

_OPTIONS = {"latency_ms": "--max-latency", "size_bytes": "--max-size", "drop": "--max-drop"}
_PARSE: dict[str, Callable[[str], float]] = {
    "latency_ms": units.milliseconds,
    "size_bytes": units.size_bytes,
    "drop": units.share,
}
_NOUNS = {"latency_ms": "latency", "size_bytes": "size", "drop": "drop"}
# Beside a limit of 0 every excess would be infinite; a drop is then counted in points instead.
_LEAST_SCALE = {"latency_ms": 0.0, "size_bytes": 0.0, "drop": 0.01}


def choose(records: Sequence[TrialRecord], limits: Limits) -> TrialRecord:
    """The trial to ship among the records of one target.

    A trial counts when it was measured and keeps every limit by its CONFIDENCE BOUND (the upper ends of the 95 %
    intervals of latency and drop, see `Candidate`), so that a lucky mean does not pass. Trials that the search called
    infeasible count too: they were measured, and these limits may be wider than those of the search. Failed, rejected
    and stopped ones never do.

    - With a limit on latency or size: the most accurate, by the lower end of the metric's interval on val. Of those
      that nobody can tell from it, the one with the lowest upper end of the latency ratio; of those within 4 % of
      that, the smallest.
    - With a limit on the drop alone: the greatest gain, speed-up (by its bound) times size reduction. Of those within
      4 % of that, the most accurate.
    - Without limits: as with a drop of 0.01; when not even the baseline was measured, the most accurate.

    Raises:
        NothingFits: no trial keeps the limits; the message names the nearest misses and the limits that would do.
        ValueError: the records are of several targets.
    """
    targets = sorted({record.target for record in records})
    if len(targets) > 1:
        raise ValueError(f"records are of the targets {', '.join(targets)}; choose among the records of one")
    candidates = _candidates(records)
    if not candidates:
        raise NothingFits(
            f"none of the {len(records)} trials was measured, so there is none to choose from; "
            "their records say why, `autoshrink resume` runs more"
        )
    chosen = _best(candidates, limits)
    if chosen is None:
        raise NothingFits(_explain(candidates, limits))
    return chosen.record


@dataclass(frozen=True)
class Candidate:
    """A measured trial with the bounds that are held against the limits.

    Attributes:
        latency_ms: upper end of the latency's interval, milliseconds.
        size_bytes: exact.
        drop: upper end of the paired interval on val; infinite when there is none. When the test split was scored and
            refutes it (the worst score the baseline may have on test, less the best this trial may have, is more),
            the figure of test. Test does nothing else here: ranking by it would leave no split that tells, without
            having been looked at, how good the chosen trial is.
        accuracy: lower end of the metric's interval on val.
        ratio: upper end of the interval of the latency ratio to the baseline.
    """

    record: TrialRecord
    latency_ms: float
    size_bytes: float
    drop: float
    accuracy: float
    ratio: float

    @property
    def number(self) -> int:
        """Of the trial."""
        return self.record.number

    def bound(self, limit: str) -> float:
        """What is held against the field `limit` of `Limits`."""
        return float(getattr(self, limit))


def _candidates(records: Sequence[TrialRecord]) -> list[Candidate]:
    baseline = next((record for record in records if not record.recipe.stages), None)
    found = []
    for record in records:
        if record.outcome not in (Outcome.COMPLETE, Outcome.INFEASIBLE):
            continue
        if record.val is None or record.latency is None or record.artifact is None:
            continue
        interval = _drop_interval(record)
        drop = math.inf if interval is None else interval[1].high
        if baseline is not None and baseline.test is not None and record.test is not None:
            drop = max(drop, baseline.test.ci.low - record.test.ci.high)
        found.append(
            Candidate(
                record=record,
                latency_ms=record.latency.ms_ci.high,
                size_bytes=float(record.artifact.size_bytes),
                drop=drop,
                accuracy=record.val.ci.low,
                ratio=record.latency.ratio_ci.high,
            )
        )
    return found


def _drop_interval(record: TrialRecord) -> tuple[float, Interval] | None:
    if record.drop is not None and record.drop_ci is not None:
        return record.drop, record.drop_ci
    return None if record.recipe.stages else (0.0, Interval(0.0, 0.0))


def _best(candidates: Sequence[Candidate], limits: Limits) -> Candidate | None:
    given = _given(limits)
    if not given:
        return _best(candidates, Limits(drop=DEFAULT_DROP)) or _most_accurate(candidates)
    fitting = [c for c in candidates if all(c.bound(limit) <= value for limit, value in given.items())]
    if not fitting:
        return None
    return _greatest_gain(fitting) if list(given) == ["drop"] else _most_accurate(fitting)


def _given(limits: Limits) -> dict[str, float]:
    values = {limit: getattr(limits, limit) for limit in _OPTIONS}
    return {limit: float(value) for limit, value in values.items() if value is not None}


def _most_accurate(candidates: Sequence[Candidate]) -> Candidate:
    leader = max(candidates, key=lambda c: (c.accuracy, -c.ratio, -c.number))
    tied = [c for c in candidates if c is leader or not _is_worse(c.record, leader.record)]
    fastest = min(c.ratio for c in tied)
    as_fast = [c for c in tied if c.ratio <= fastest * (1 + LATENCY_NOISE)]
    return min(as_fast, key=lambda c: (c.size_bytes, c.ratio, c.number))


def _is_worse(record: TrialRecord, leader: TrialRecord) -> bool:
    """Whether the interval of the difference of two drops lies over 0.

    Made from the two intervals (Zou and Donner 2008, equation 8, for independent estimates). Both drops are against one
    baseline on the same samples, which makes the true interval narrower, so this rather sees a tie than a difference.
    """
    own, best = _drop_interval(record), _drop_interval(leader)
    if own is None or best is None:
        return True
    slack = math.hypot(own[0] - own[1].low, best[1].high - best[0])
    return own[0] - best[0] > slack


def _greatest_gain(candidates: Sequence[Candidate]) -> Candidate:
    def cost(candidate: Candidate) -> float:
        return candidate.ratio * candidate.size_bytes

    least = min(cost(c) for c in candidates)
    tied = [c for c in candidates if cost(c) <= least * (1 + LATENCY_NOISE)]
    return max(tied, key=lambda c: (c.accuracy, -cost(c), -c.number))


def _explain(candidates: Sequence[Candidate], limits: Limits) -> str:
    given = _given(limits)
    asked = ", ".join(f"{_OPTIONS[limit]} {_exact(limit, value)}" for limit, value in given.items())
    nearest = sorted(candidates, key=lambda c: (sum(_excess(c, given).values()), c.number))[:NEAREST]
    return "\n".join(
        [
            f"none of the {len(candidates)} measured trials keeps {asked} (by the upper ends of the 95 % intervals)",
            "nearest:",
            *(f"  {_miss(candidate, given)}" for candidate in nearest),
            *_ways_out(candidates, limits),
        ]
    )


def _excess(candidate: Candidate, given: dict[str, float]) -> dict[str, float]:
    """Limit -> by which share of it the candidate is over, for those it breaks."""
    return {
        limit: (candidate.bound(limit) - value) / max(value, _LEAST_SCALE[limit])
        for limit, value in given.items()
        if candidate.bound(limit) > value
    }


def _miss(candidate: Candidate, given: dict[str, float]) -> str:
    parts = []
    for limit in _excess(candidate, given):
        found, value = candidate.bound(limit), given[limit]
        if math.isinf(found):
            parts.append(f"{_NOUNS[limit]} unknown: its interval was not measured")
        else:
            over = _exact(limit, float(f"{found - value:.3g}"))
            parts.append(f"{_NOUNS[limit]} {_rounded_up(limit, found)} is {over} over {_exact(limit, value)}")
    return f"trial {candidate.number} ({describe(candidate.record.recipe)}): {'; '.join(parts)}"


def _ways_out(candidates: Sequence[Candidate], limits: Limits) -> list[str]:
    """A line for each limit that would do when relaxed alone, the least relaxation first; else one for several."""
    given = _given(limits)
    lines: list[tuple[float, str]] = []
    for limit in given:
        needed = [c.bound(limit) for c in candidates if list(_excess(c, given)) == [limit]]
        if needed and math.isfinite(min(needed)):
            lines.append(_way_out(candidates, limits, {limit: min(needed)}))
    if not lines:
        finite = [c for c in candidates if all(map(math.isfinite, map(c.bound, given)))]
        if not finite:
            return ["no drop has an interval: leave --max-drop out"]
        nearest = min(finite, key=lambda c: (sum(_excess(c, given).values()), c.number))
        lines.append(_way_out(candidates, limits, {limit: nearest.bound(limit) for limit in _excess(nearest, given)}))
    return [text for _, text in sorted(lines)]


def _way_out(candidates: Sequence[Candidate], limits: Limits, needed: dict[str, float]) -> tuple[float, str]:
    """How far the limits have to be relaxed, and the line that says so and names the trial `choose` would then give."""
    given = _given(limits)
    texts = {limit: _rounded_up(limit, value) for limit, value in needed.items()}
    changed: dict[str, Any] = {limit: _PARSE[limit](text) for limit, text in texts.items()}
    chosen = _best(candidates, replace(limits, **changed))
    gives = f"trial {chosen.number}" if chosen else "a trial"
    changes = " and ".join(
        f"{_OPTIONS[limit]} {text} instead of {_exact(limit, given[limit])}" for limit, text in texts.items()
    )
    share = max((value - given[limit]) / max(given[limit], _LEAST_SCALE[limit]) for limit, value in needed.items())
    return share, f"{changes} would give {gives}"


def _unit(limit: str, value: float) -> tuple[float, str]:
    """The factor and the name of the unit in which the command line would write `value`."""
    if limit == "latency_ms":
        return 1.0, "ms"
    if limit == "drop":
        return 0.01, "%"
    return (1e6, "MB") if value >= 1e6 else (1e3, "kB") if value >= 1e3 else (1.0, "B")


def _exact(limit: str, value: float) -> str:
    factor, unit = _unit(limit, value)
    return f"{value / factor:.12g}{unit}"


def _rounded_up(limit: str, value: float) -> str:
    """Three significant digits, rounded up: as the command line would read it, it is not under `value`."""
    factor, unit = _unit(limit, value)
    if value <= 0:
        return f"0{unit}"
    step = 10.0 ** (math.floor(math.log10(value / factor)) - 2)
    steps = math.floor(value / factor / step)
    # Counted in steps from below, since a quotient a hair over a whole number must not cost a step.
    while _PARSE[limit](f"{steps * step:.12g}{unit}") < value:
        steps += 1
    return f"{steps * step:.12g}{unit}"
