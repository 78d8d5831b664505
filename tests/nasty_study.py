"""A study every text of which tries to become more than text: markup, scripts, paths, formulas, other directions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoshrink.activity import ACTIVITY_FILE, read_activity
from autoshrink.errors import ConfigError
from autoshrink.records import STUDY_FILE, StudyFolder, record_from_json
from autoshrink.val_set import read_val_set
from tests.fake_study import make_fake_study

MARKED = "<img src=x onerror=alert(1)>"
NASTY = f"\"'>{MARKED}<script>alert(2)</script><a href='javascript:alert(3)'>x</a>\n&amp;%0d ../../..\u202e\u00fc"
"""For any text of a file."""
NAME = f"..{MARKED}\"'&%2e\n\u00fc"
"""For a folder; no slash."""


def make_nasty_study(results: Path) -> StudyFolder:
    """A FAKE study of the name `NAME` with one target of that name; texts that must be of a kind stay as they are."""
    study = make_fake_study(results / NAME, targets=1, trials=12, running=True)
    (target,) = study.meta.targets
    shutil.move(study.path / target, study.path / NAME)
    _rewrite(study.path / STUDY_FILE, lambda: StudyFolder(study.path).meta, {target: NAME})
    for file in sorted((study.path / NAME / "trials").glob("[0-9]*.json")):

        def read(file: Path = file) -> object:
            return record_from_json(json.loads(file.read_text()), file)

        _rewrite(file, read, {target: NAME})
    _rewrite(study.path / ACTIVITY_FILE, lambda: _sure(read_activity(study.path)), {target: NAME})
    for file in study.path.glob("val/*.json"):
        _rewrite(file, lambda: _sure(read_val_set(study.path)), {})
    logs = study.path / NAME / "trials"
    for log in logs.rglob("*.log"):
        log.write_text(NASTY)
    return StudyFolder.open(study.path)


def _sure(found: object) -> object:
    if found is None:
        raise ConfigError(["unreadable"])
    return found


def _rewrite(file: Path, read: Callable[[], object], names: dict[str, str]) -> None:
    """Replaces every text of a JSON file, key or value, with which the file can still be read."""
    data = json.loads(file.read_text())
    data = _renamed(data, names)
    for holder, key in list(_texts(data)):
        before = holder[key]
        if before in names.values():
            continue
        holder[key] = NASTY
        file.write_text(json.dumps(data))
        try:
            read()
        except (ConfigError, ValueError, KeyError, TypeError):
            holder[key] = before
    file.write_text(json.dumps(data))
    read()


def _renamed(data: Any, names: dict[str, str]) -> Any:
    if isinstance(data, dict):
        return {names.get(key, key): _renamed(value, names) for key, value in data.items()}
    if isinstance(data, list):
        return [_renamed(value, names) for value in data]
    return names.get(data, data) if isinstance(data, str) else data


def _texts(data: Any) -> Iterator[tuple[Any, Any]]:
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(pairs):
        if isinstance(value, str):
            yield data, key
        else:
            yield from _texts(value)
