"""What comes nearest when no trial keeps the limits, and which of them to relax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoshrink.package.candidates import Candidate
from autoshrink.search.limits import Limit, given, relaxed
from autoshrink.search.words import describe
from autoshrink.target import Limits

NEAREST = 3
"""Misses that are named when nothing fits."""

Best = Callable[[Sequence[Candidate], Limits], Candidate | None]
"""(candidates, limits) -> the one to ship; None when none keeps the limits."""


@dataclass(frozen=True)
class Miss:
    """A trial that breaks some limits, and how: `size 2.5MB is 500kB over 2MB` of each."""

    candidate: Candidate
    breaks: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it in one line."""
        record = self.candidate.record
        return f"trial {record.number} ({describe(record.recipe)}): {'; '.join(self.breaks)}"


@dataclass(frozen=True)
class WayOut:
    """Limits that would do.

    Attributes:
        enough: limit that is broken -> the value that would do, as the command line takes it.
        gives: the number of the trial that would be chosen then; None where that cannot be told.
        excess: by which share the limits have to be relaxed, the greatest of them.
    """

    enough: Mapping[Limit, str]
    gives: int | None
    excess: float

    @property
    def text(self) -> str:
        """All of it in one line."""
        changes = " and ".join(
            f"{limit.option(text)} instead of {limit.text(limit.value)}" for limit, text in self.enough.items()
        )
        return f"{changes} would give {'a trial' if self.gives is None else f'trial {self.gives}'}"


@dataclass(frozen=True)
class Shortfall:
    """Why nothing fits.

    Attributes:
        sentence: how many trials keep none of which limits.
        nearest: those that break them the least.
        ways_out: for each limit that would do when relaxed alone, the least relaxation first; else one for several.
            Empty when no relaxation is known to do.
    """

    sentence: str
    nearest: tuple[Miss, ...]
    ways_out: tuple[WayOut, ...]

    @property
    def text(self) -> str:
        """All of it, a line each."""
        ways = [way.text for way in self.ways_out] or ["no drop has an interval: leave --max-drop out"]
        return "\n".join([self.sentence, "nearest:", *(f"  {miss.text}" for miss in self.nearest), *ways])


def shortfall_of(found: Sequence[Candidate], limits: Limits, best: Best) -> Shortfall:
    """What comes nearest to limits that none of `found` keeps, and what would have to give."""
    asked = given(limits)
    broken = [(candidate, _broken(candidate, asked)) for candidate in found]
    broken.sort(key=lambda pair: (sum(pair[1].values()), pair[0].number))
    options = ", ".join(limit.option(limit.text(limit.value)) for limit in asked)
    only = {candidate.scored.target for candidate in found} - {candidate.record.target for candidate in found}
    where = f"; accuracy is of the same recipes on {', '.join(sorted(only))}" if only else ""
    sentence = (
        f"none of the {len(found)} {'compiled' if only else 'measured'} trials keeps {options} (by the upper ends of "
        f"the 95 % intervals{where})"
    )
    nearest = tuple(Miss(candidate, tuple(map(_broken_by(candidate), by))) for candidate, by in broken[:NEAREST])

    def way_out(candidate: Candidate, by: Mapping[Limit, float]) -> WayOut:
        enough = {limit: limit.enough_for(bound) for limit in by if (bound := candidate.bound(limit)) is not None}
        chosen = best(found, relaxed(limits, {limit: limit.parse(text) for limit, text in enough.items()}))
        return WayOut(enough, chosen.number if chosen else None, max(by.values()))

    ways = []
    for limit in asked:
        alone = [(c, by) for c, by in broken if list(by) == [limit] and math.isfinite(by[limit])]
        if alone:
            ways.append(way_out(*min(alone, key=lambda pair: pair[1][limit])))
    if not ways:
        finite = [(c, by) for c, by in broken if all(map(math.isfinite, by.values()))]
        ways = [way_out(*finite[0])] if finite else []
    return Shortfall(sentence, nearest, tuple(sorted(ways, key=lambda way: (way.excess, way.text))))


def _broken(candidate: Candidate, asked: Sequence[Limit]) -> dict[Limit, float]:
    """The limits that the candidate breaks -> by which share of them."""
    excesses = {limit: candidate.excess(limit) for limit in asked}
    return {limit: excess for limit, excess in excesses.items() if excess > 0}


def _broken_by(candidate: Candidate) -> Callable[[Limit], str]:
    def text(limit: Limit) -> str:
        bound = candidate.bound(limit)
        if bound is None or math.isinf(bound):
            return f"{limit.noun} unknown: its interval was not measured"
        return limit.miss(bound)

    return text
