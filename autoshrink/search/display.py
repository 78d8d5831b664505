"""Who is told what a search does while it does it: the one who waits for it, and the file that others look at."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from autoshrink.activity import Activity, Underway, now, remove_activity, write_activity
from autoshrink.search.space import Removal
from autoshrink.types import Recipe, TrialRecord

MEASURE = "measure"
BEFORE_MEASURE = "load"
"""The stage after which a job here goes on to be timed without a pause, its audit between."""
QUIET = ("audit", MEASURE)
TEST = "test split"
ON = "on "
"""How a stage of a trial begins that says which device has taken it."""


class Display(Protocol):
    """What is told of a search."""

    def removed(self, target: str, removals: Iterable[Removal]) -> None:
        """What a target's space was relieved of."""

    def begin(self, target: str, number: int, recipe: Recipe) -> None:
        """A trial begins."""

    def stage(self, stage: str, done: int, total: int) -> None:
        """A stage of it begins (total 0), or has come so far."""

    def end(self, record: TrialRecord, finished: int, planned: int | None) -> None:
        """It ended; `finished` of `planned` trials over all targets are done."""

    def elsewhere(self, target: str, number: int, stage: str) -> None:
        """A trial that a device elsewhere measures has come to a stage."""

    def lost(self, target: str, number: int) -> None:
        """A trial is left for another run: the devices of its target are gone."""

    def waiting_for_devices(self, target: str) -> None:
        """The search waits for a device of a target."""

    def scoring(self, record: TrialRecord) -> None:
        """A member of the front is scored on the test split."""

    def say(self, text: str) -> None:
        """Anything else worth a line."""


class Tee:
    """Tells several displays, in their order."""

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def removed(self, target: str, removals: Iterable[Removal]) -> None:
        """See `Display`."""
        listed = tuple(removals)
        for display in self._displays:
            display.removed(target, listed)

    def begin(self, target: str, number: int, recipe: Recipe) -> None:
        """See `Display`."""
        for display in self._displays:
            display.begin(target, number, recipe)

    def stage(self, stage: str, done: int, total: int) -> None:
        """See `Display`."""
        for display in self._displays:
            display.stage(stage, done, total)

    def end(self, record: TrialRecord, finished: int, planned: int | None) -> None:
        """See `Display`."""
        for display in self._displays:
            display.end(record, finished, planned)

    def elsewhere(self, target: str, number: int, stage: str) -> None:
        """See `Display`."""
        for display in self._displays:
            display.elsewhere(target, number, stage)

    def lost(self, target: str, number: int) -> None:
        """See `Display`."""
        for display in self._displays:
            display.lost(target, number)

    def waiting_for_devices(self, target: str) -> None:
        """See `Display`."""
        for display in self._displays:
            display.waiting_for_devices(target)

    def scoring(self, record: TrialRecord) -> None:
        """See `Display`."""
        for display in self._displays:
            display.scoring(record)

    def say(self, text: str) -> None:
        """See `Display`."""
        for display in self._displays:
            display.say(text)


class ActivityFile:
    """Keeps `search.json` of a study: what its search is doing, written when that changes.

    Nothing is written between the loading of an artifact that is timed on this machine and the end of its timing: the
    file says `measure` from before on. A file that cannot be written ends no search.

    Args:
        study: its folder.
        planned: trials over all targets, or None.
        time_limit_s: of the search, or None.
    """

    def __init__(self, study: Path, planned: int | None, time_limit_s: float | None) -> None:
        self.timed_here: frozenset[str] = frozenset()
        """Targets whose artifacts are timed on this machine; what is not known yet times nothing."""
        self._study = study
        self._activity = Activity.here(planned, time_limit_s)
        self._underway: dict[tuple[str, int], Underway] = {}
        self._current: tuple[str, int] | None = None
        self._write()

    def close(self, is_over: bool) -> None:
        """Takes the file away from a search that is over; else it says when the search was broken off."""
        if is_over:
            with suppress(OSError):
                remove_activity(self._study)
        else:
            self._write(ended=now())

    def removed(self, target: str, removals: Iterable[Removal]) -> None:
        """See `Display`."""

    def begin(self, target: str, number: int, recipe: Recipe) -> None:
        """See `Display`."""
        self._put(target, number, recipe)

    def stage(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002
        """See `Display`."""
        if total or self._current is None:
            return
        if self._current[0] in self.timed_here:
            if stage in QUIET:
                return
            stage = MEASURE if stage == BEFORE_MEASURE else stage
        self._at(self._current, stage)

    def end(self, record: TrialRecord, finished: int, planned: int | None) -> None:  # noqa: ARG002
        """See `Display`."""
        self._forget((record.target, record.number))

    def elsewhere(self, target: str, number: int, stage: str) -> None:
        """See `Display`."""
        self._at((target, number), stage)

    def lost(self, target: str, number: int) -> None:
        """See `Display`."""
        self._forget((target, number))

    def waiting_for_devices(self, target: str) -> None:
        """See `Display`."""

    def scoring(self, record: TrialRecord) -> None:
        """See `Display`."""
        self._underway.clear()
        self._put(record.target, record.number, record.recipe, TEST)

    def say(self, text: str) -> None:
        """See `Display`."""

    def _put(self, target: str, number: int, recipe: Recipe, stage: str = "") -> None:
        moment = now()
        self._current = target, number
        self._underway[self._current] = Underway(number, recipe, stage, "", moment, moment)
        self._write()

    def _at(self, trial: tuple[str, int], stage: str) -> None:
        before = self._underway.get(trial)
        if before is None:
            return
        device = stage.removeprefix(ON) if stage.startswith(ON) else before.device
        stage = "start" if stage.startswith(ON) else stage
        self._underway[trial] = replace(before, stage=stage, device=device, since=now())
        self._write()

    def _forget(self, trial: tuple[str, int]) -> None:
        self._underway.pop(trial, None)
        self._write()

    def _write(self, ended: str = "") -> None:
        targets: dict[str, tuple[Underway, ...]] = {}
        for (target, _), trial in sorted(self._underway.items(), key=lambda item: item[0]):
            targets[target] = (*targets.get(target, ()), trial)
        activity = replace(self._activity, targets=targets, written=now(), ended=ended)
        with suppress(OSError):
            write_activity(self._study, activity)
