"""Choosing a trial by its number and recipe, and telling whether what is shown of one has changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from dash import html
from dash.development.base_component import Component

from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.kept import Kept
from autoshrink.dashboard.view import TargetView
from autoshrink.explain.explanation import FILE
from autoshrink.records import StudyFolder, record_to_json
from autoshrink.search.words import describe
from autoshrink.types import Outcome, TrialRecord, content_key
from autoshrink.val_set import FOLDER, VAL_FILE

MOST_OPTIONS = 200
"""Trials that a list offers; of more there is a field for the number."""


@dataclass(frozen=True)
class Line:
    """A trial in a line, and the words that it is found by, in small letters."""

    number: int
    text: str
    words: str


def lines_of(view: TargetView) -> tuple[Line, ...]:
    """The trials of a target: the recommended one, the front, then the others by their numbers."""
    return _LINES.of(view)


def _lines_of(view: TargetView) -> tuple[Line, ...]:
    chosen = headline(view).chosen
    members = view.members if view.is_scored else []
    numbers = {member.number for member in members}
    found = []
    for record in _unique([*([chosen] if chosen else []), *members, *view.records]):
        text = label_of(record, record is chosen, record.number in numbers)
        front = " front" if record.number in numbers else ""
        found.append(Line(record.number, text, f"{text}{front}".lower()))
    return tuple(found)


_LINES = Kept(_lines_of, 16)
"""Of the studies that are looked at: describing 10,000 recipes takes a while."""


def found_lines(lines: Iterable[Line], asked: str) -> list[Line]:
    """Those that have every word of `asked`; a number alone finds the trial of this number before all others."""
    wanted = asked.lower().split()
    found = [line for line in lines if all(word in line.words for word in wanted)]
    if len(wanted) == 1 and wanted[0].isdecimal():
        # Then those whose number begins so, then those that only speak of it.
        found.sort(key=lambda line: (str(line.number) != wanted[0], not str(line.number).startswith(wanted[0])))
    return found


def trial_options(
    view: TargetView, current: Collection[int] = (), most: int = MOST_OPTIONS, asked: str = ""
) -> dict[int, str]:
    """The trials of a target that a list offers, in the order of `lines_of`, or as they are found.

    Args:
        view: of the target.
        current: numbers of trials that are offered in any case.
        most: so many, and those of `current`.
        asked: words that the others must have; see `found_lines`.

    Returns:
        Number -> the trial in a line.
    """
    lines = lines_of(view)
    first = found_lines(lines, asked)[:most]
    offered = {line.number for line in first}
    kept = [line for line in lines if line.number in current and line.number not in offered]
    return {line.number: line.text for line in (*first, *kept)}


def option_nodes(options: Iterable[tuple[str, str]], value: str) -> list[Component]:
    """(Value, text) as what a list of the browser holds."""
    return [html.Option(text, value=each, selected=each == value) for each, text in options]


def label_of(record: TrialRecord, is_chosen: bool = False, is_member: bool = False) -> str:
    """A trial in a line: `7: prune 50 % + int8 static (recommended)`."""
    kind = "recommended" if is_chosen else "front" if is_member else ""
    if record.outcome not in (Outcome.COMPLETE, Outcome.COMPILED):
        kind = record.outcome.value
    return f"{record.number}: {describe(record.recipe)}{f' ({kind})' if kind else ''}"


def _unique(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    return list({record.number: record for record in records}.values())


def recommended(view: TargetView) -> int | None:
    """Number of the trial to look at first: the one to ship, else the first; None where none has ended."""
    chosen = headline(view).chosen
    if chosen is not None:
        return chosen.number
    return view.records[0].number if view.records else None


def stamp_of(study: StudyFolder, view: TargetView, record: TrialRecord, chosen: TrialRecord | None) -> str:
    """Changes when anything does that a trial's page shows."""
    beside = (record, *([view.baseline] if view.baseline else []))
    folder = study.trial_folder(record.target, record.number)
    state = [
        *(record_to_json(each) for each in beside),
        *map(_stamp, (folder / FILE, study.path / FOLDER / VAL_FILE)),
        None if chosen is None else chosen.number,
        any(record is member for member in view.members),
    ]
    return content_key(json.loads(json.dumps(state)))


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
