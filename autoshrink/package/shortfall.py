"""What comes nearest when no trial keeps the limits, and which of them to relax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoshrink.errors import NothingFits
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


class NoneKeeps(NothingFits):
    """No trial keeps the limits; `shortfall` says what comes nearest."""

    def __init__(self, shortfall: Shortfall) -> None:
        super().__init__(shortfall.text)
        self.shortfall = shortfall


def shortfall_of(found: Sequence[Candidate], limits: Limits, best: Best) -> Shortfall:
    """What comes nearest to limits that none of `found` keeps, and what would have to give."""
    asked = given(limits)
    # By which share of each limit it is over it: 0 where it keeps it.
    excesses = [tuple(max(candidate.excess(limit), 0.0) for limit in asked) for candidate in found]
    order = sorted(range(len(found)), key=lambda place: (sum(excesses[place]), found[place].number))
    options = ", ".join(limit.option(limit.text(limit.value)) for limit in asked)
    only = {candidate.scored.target for candidate in found} - {candidate.record.target for candidate in found}
    where = f"; accuracy is of the same recipes on {', '.join(sorted(only))}" if only else ""
    sentence = (
        f"none of the {len(found)} {'compiled' if only else 'measured'} trials keeps {options} (by the upper ends of "
        f"the 95 % intervals{where})"
    )
    nearest = tuple(Miss(found[place], _breaks(found[place], asked, excesses[place])) for place in order[:NEAREST])

    def way_out(place: int) -> WayOut:
        candidate, over = found[place], excesses[place]
        bounds = {limit: candidate.bound(limit) for limit, excess in zip(asked, over, strict=True) if excess > 0}
        enough = {limit: limit.enough_for(bound) for limit, bound in bounds.items() if bound is not None}
        chosen = best(found, relaxed(limits, {limit: limit.parse(text) for limit, text in enough.items()}))
        return WayOut(enough, chosen.number if chosen else None, max(over))

    ways = []
    for which in range(len(asked)):
        alone = [place for place in order if excesses[place][which] == sum(excesses[place]) < math.inf]
        if alone:
            ways.append(way_out(min(alone, key=lambda place: excesses[place][which])))
    if not ways:
        finite = [place for place in order if sum(excesses[place]) < math.inf]
        ways = [way_out(finite[0])] if finite else []
    return Shortfall(sentence, nearest, tuple(sorted(ways, key=lambda way: (way.excess, way.text))))


def _breaks(candidate: Candidate, asked: Sequence[Limit], excesses: Sequence[float]) -> tuple[str, ...]:
    texts = []
    for limit, excess in zip(asked, excesses, strict=True):
        bound = candidate.bound(limit)
        if excess <= 0:
            continue
        if bound is None or math.isinf(bound):
            texts.append(f"{limit.noun} unknown: its interval was not measured")
        else:
            texts.append(limit.miss(bound))
    return tuple(texts)
