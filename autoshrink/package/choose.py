"""Which trial to ship, and, when none keeps the limits, which come nearest and what would have to give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoshrink.errors import NothingFits
from autoshrink.measure.stats import difference_interval
from autoshrink.package.candidates import Candidate, candidates, drop_interval
from autoshrink.package.shortfall import NoneKeeps, shortfall_of
from autoshrink.search.limits import Limit, given, relaxed
from autoshrink.target import Limits
from autoshrink.types import Interval, Outcome, TrialRecord

LATENCY_NOISE = 0.04
"""Two latencies closer than this share are a tie: recompiled copies of one model differ by as much."""
DEFAULT_DROP = 0.01
"""Without any limit: what may be lost for speed and size, in the metric's unit (one point of accuracy)."""


def choose(
    records: Sequence[TrialRecord],
    limits: Limits,
    *,
    batch: int = 1,
    others: Iterable[TrialRecord] = (),
    found: Sequence[Candidate] | None = None,
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
        found: the `candidates` of these, where they are known already; `batch` and `others` then say nothing.

    Raises:
        NoneKeeps: no trial keeps the limits; the message names the nearest misses and the limits that would do.
        NothingFits: none was measured, or a limit is on what was not measured on this target.
        ValueError: the records are of several targets.
    """
    targets = sorted({record.target for record in records})
    if len(targets) > 1:
        raise ValueError(f"records are of the targets {', '.join(targets)}; choose among the records of one")
    if found is None:
        found = candidates(records, batch, others)
    if not found:
        raise NothingFits(_why_none(records))
    unknown = [limit for limit in given(limits) if _is_unknown(limit, found, records)]
    if unknown:
        raise NothingFits("\n".join(_unchecked(limit, records) for limit in unknown))
    chosen = _best(found, limits)
    if chosen is None:
        raise NoneKeeps(shortfall_of(found, limits, _best))
    return chosen.record


def applicable(
    limits: Limits,
    records: Sequence[TrialRecord],
    batch: int = 1,
    others: Iterable[TrialRecord] = (),
    found: Sequence[Candidate] | None = None,
) -> tuple[Limits, list[str]]:
    """The limits that can be held against something, and the names of those on what was not measured."""
    if found is None:
        found = candidates(records, batch, others)
    unknown = [limit for limit in given(limits) if found and _is_unknown(limit, found, records)]
    return relaxed(limits, dict.fromkeys(unknown)), [limit.noun for limit in unknown]


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
    fitting = [candidate for candidate in found if candidate.keeps(asked)]
    if not fitting:
        return None
    return _greatest_gain(fitting) if [limit.name for limit in asked] == ["drop"] else _most_accurate(fitting)


def _most_accurate(found: Sequence[Candidate]) -> Candidate:
    leader = max(found, key=lambda c: (c.accuracy, -c.slowness, -c.number))
    best = drop_interval(leader.scored)
    tied = [c for c in found if c is leader or not _is_worse(c.scored, best)]
    fastest = min(c.slowness for c in tied)
    as_fast = [c for c in tied if c.slowness <= fastest * (1 + LATENCY_NOISE)]
    return min(as_fast, key=lambda c: (c.size_bytes, c.slowness, c.number))


def _is_worse(record: TrialRecord, best: tuple[float, Interval] | None) -> bool:
    """Whether the interval of the difference of two drops lies over 0 (see `difference_interval`)."""
    own = drop_interval(record)
    if own is None or best is None:
        return True
    (drop, ci), (least, least_ci) = own, best
    # The interval reaches no farther than its two parts together: most of ten thousand trials end here.
    apart = drop - least
    return apart > (drop - ci.low) + (least_ci.high - least) or difference_interval(*own, *best).low > 0


def _greatest_gain(found: Sequence[Candidate]) -> Candidate:
    def cost(candidate: Candidate) -> float:
        return candidate.slowness * candidate.size_bytes

    least = min(cost(c) for c in found)
    tied = [c for c in found if cost(c) <= least * (1 + LATENCY_NOISE)]
    return max(tied, key=lambda c: (c.accuracy, -cost(c), -c.number))
