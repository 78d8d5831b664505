"""Choosing a trial by its number and recipe, and telling whether what is shown of one has changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.view import TargetView
from autoshrink.explain.explanation import FILE
from autoshrink.records import StudyFolder, record_to_json
from autoshrink.search.words import describe
from autoshrink.types import Outcome, TrialRecord, content_key
from autoshrink.val_set import FOLDER, VAL_FILE

MOST_OPTIONS = 200
"""Trials that a list offers; typing finds the others."""


def options_of(view: TargetView, search: str, current: Collection[int | None] = ()) -> list[dict[str, Any]]:
    """The trials of a target as options of a list: the recommended one, the front, then all others by their numbers.

    Args:
        view: of the target.
        search: words that all have to be in the option; of many trials the first `MOST_OPTIONS` that have them.
        current: numbers of trials that are options in any case.
    """
    chosen = headline(view).chosen
    members = view.members if view.is_scored else []
    ordered = _unique([*([chosen] if chosen else []), *members, *view.records])
    words = search.lower().split()
    options: list[dict[str, Any]] = []
    for record in ordered:
        label = label_of(record, record is chosen, any(record is member for member in members[:MOST_OPTIONS]))
        if record.number in current or (len(options) < MOST_OPTIONS and all(word in label.lower() for word in words)):
            options.append({"label": label, "value": record.number})
    return options


def label_of(record: TrialRecord, is_chosen: bool = False, is_member: bool = False) -> str:
    """A trial in a line: `7: prune 50 % + int8 static (recommended)`."""
    kind = "recommended" if is_chosen else "front" if is_member else ""
    if record.outcome not in (Outcome.COMPLETE, Outcome.COMPILED):
        kind = record.outcome.value
    return f"{record.number}: {describe(record.recipe)}{f' ({kind})' if kind else ''}"


def _unique(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    return list({record.number: record for record in records}.values())


def stamp_of(study: StudyFolder, view: TargetView, record: TrialRecord, chosen: TrialRecord | None) -> str:
    """Changes when anything does that a trial's page shows."""
    beside = (record, *([view.baseline] if view.baseline else []))
    folder = study.trial_folder(record.target, record.number)
    files = [folder / FILE, study.path / FOLDER / VAL_FILE]
    on_front = any(record is member for member in view.members)
    state = [
        *(record_to_json(each) for each in beside),
        *map(_stamp, files),
        None if chosen is None else chosen.number,
        on_front,
    ]
    return content_key(json.loads(json.dumps(state)))


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
