"""The studies of a results folder in one row each: what they were asked, how they stand, what is best so far."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoshrink.dashboard.figures import progress
from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.library import Library, Snapshot, StudyState
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import ConfigError
from autoshrink.search.words import describe
from autoshrink.types import Outcome

BROKEN = "broken"
STATES = (StudyState.RUNNING, StudyState.INTERRUPTED, BROKEN, StudyState.EMPTY, StudyState.DONE)
"""In the order of the need to look."""


@dataclass(frozen=True)
class TargetRow:
    """A target of a study.

    Attributes:
        chosen: number of the trial that `pick` would ship; None when none can be.
        best: what that trial gains, or why there is none.
        recipe: its recipe in words.
        hypervolume: of the feasible trials, see `progress`; None without a measured baseline.
    """

    name: str
    chosen: int | None
    best: str
    recipe: str
    hypervolume: float | None


@dataclass(frozen=True)
class StudyRow:
    """A study.

    Attributes:
        name: of its folder, by which it is opened.
        state: of `STATES`; `broken` when its `study.json` cannot be read.
        task: a built-in name, or that of a file without its folder.
        begun: when it was made, ISO 8601.
        latest: when the latest trial ended; empty before the first.
        outcomes: how its trials ended -> how many, over all targets.
        planned: trials that were asked for, over all targets; None is no number.
        unreadable: how many of its files cannot be read.
        problems: why it is broken.
    """

    name: str
    state: str
    task: str = ""
    begun: str = ""
    latest: str = ""
    targets: tuple[TargetRow, ...] = ()
    outcomes: Mapping[Outcome, int] = field(default_factory=dict)
    planned: int | None = None
    unreadable: int = 0
    problems: tuple[str, ...] = ()

    @property
    def trials(self) -> int:
        """How many have ended."""
        return sum(self.outcomes.values())

    @property
    def hypervolume(self) -> float:
        """Of its best target; -1 when none is known."""
        return max((row.hypervolume for row in self.targets if row.hypervolume is not None), default=-1.0)


def study_row(name: str, snapshot: Snapshot) -> StudyRow:
    """The row of a study that can be read; `name` is its folder's."""
    meta = snapshot.meta
    records = [record for view in snapshot.views.values() for record in view.records]
    counts = Counter(record.outcome for record in records)
    return StudyRow(
        name,
        snapshot.state.value,
        Path(meta.task).name,
        meta.created,
        max((record.finished for record in records), default=""),
        tuple(_target_row(view) for view in snapshot.views.values()),
        {outcome: counts[outcome] for outcome in Outcome if counts[outcome]},
        None if meta.trials is None else meta.trials * len(snapshot.views),
        len(snapshot.broken),
    )


def _target_row(view: TargetView) -> TargetRow:
    answer = headline(view)
    volumes = progress(view.records, view.target.limits)
    gains = ", ".join(large for large, _ in answer.gains)
    best = gains or (answer.sentence.splitlines() or [""])[0]
    number = None if answer.chosen is None else answer.chosen.number
    recipe = "" if answer.chosen is None else describe(answer.chosen.recipe)
    return TargetRow(view.name, number, best, recipe, volumes[-1] if volumes else None)


class StudyRows:
    """The rows of a library's studies, made anew only for those that changed. May be asked from several threads."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, StudyRow]] = {}

    def all(self) -> list[StudyRow]:
        """A row for each study, by name; one that cannot be read hides no other."""
        with self._lock:
            return [self._row(name) for name in self._library.names()]

    def _row(self, name: str) -> StudyRow:
        try:
            snapshot = self._library.snapshot(name)
        except ConfigError as error:
            return StudyRow(name, BROKEN, problems=tuple(error.problems))
        known = self._known.get(name)
        if known is None or known[0] != snapshot.version:
            known = self._known[name] = snapshot.version, study_row(name, snapshot)
        return known[1]


ORDERS: Mapping[str, tuple[str, Callable[[StudyRow], Any], bool]] = {
    "newest": ("Newest first", lambda row: row.begun, True),
    "latest": ("Latest trial first", lambda row: row.latest, True),
    "name": ("Name", lambda row: row.name.casefold(), False),
    "state": ("State", lambda row: STATES.index(row.state), False),
    "trials": ("Most trials", lambda row: row.trials, True),
    "hypervolume": ("Hypervolume", lambda row: row.hypervolume, True),
}
"""Name of an order -> how it is called, what it goes by, and whether the largest comes first."""


def chosen_rows(rows: Iterable[StudyRow], find: str = "", state: str = "", order: str = "newest") -> list[StudyRow]:
    """Those rows whose name, task or a target holds each word of `find`, and whose state is `state`, in an order.

    Empty `find` and `state` take all; an unknown order is that of `newest`. Ties are by name.
    """
    words = find.casefold().split()
    found = [row for row in rows if (not state or row.state == state) and all(_mentions(row, word) for word in words)]
    _, key, largest_first = ORDERS.get(order, ORDERS["newest"])
    found.sort(key=lambda row: row.name.casefold())
    return sorted(found, key=key, reverse=largest_first)


def _mentions(row: StudyRow, word: str) -> bool:
    texts: Sequence[str] = (row.name, row.task, *(target.name for target in row.targets))
    return any(word in text.casefold() for text in texts)
