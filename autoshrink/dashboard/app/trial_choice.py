"""Choosing a trial by its number and recipe, and telling whether what is shown of one has changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from dash import html
from dash.development.base_component import Component

from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.view import TargetView
from autoshrink.explain.explanation import FILE
from autoshrink.records import StudyFolder, record_to_json
from autoshrink.search.words import describe
from autoshrink.types import Outcome, TrialRecord, content_key
from autoshrink.val_set import FOLDER, VAL_FILE

MOST_OPTIONS = 200
"""Trials that a list offers; of more there is a field for the number."""


def trial_options(view: TargetView, current: Collection[int] = (), most: int = MOST_OPTIONS) -> dict[int, str]:
    """The trials of a target that a list offers: the recommended one, the front, then the others by their numbers.

    Args:
        view: of the target.
        current: numbers of trials that are offered in any case.
        most: so many, and those of `current`.

    Returns:
        Number -> the trial in a line.
    """
    chosen = headline(view).chosen
    members = (view.members if view.is_scored else [])[:most]
    numbers = {member.number for member in members}
    ordered = _unique([*([chosen] if chosen else []), *members, *view.records])
    return {
        record.number: label_of(record, record is chosen, record.number in numbers)
        for place, record in enumerate(ordered)
        if place < most or record.number in current
    }


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
