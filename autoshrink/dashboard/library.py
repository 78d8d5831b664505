"""The studies of a results folder, read again and again while searches write them. A broken file hides no other."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from autoshrink.activity import ACTIVITY_FILE, Activity, read_activity
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import ConfigError
from autoshrink.records import STUDY_FILE, StudyFolder, StudyMeta, read_json, record_from_json
from autoshrink.types import TrialRecord

Stamp = tuple[int, int]
"""When a file was changed (nanoseconds) and how large it is: what tells that it is another."""


class StudyState(StrEnum):
    """What a study is doing."""

    EMPTY = "empty"
    """No trial has ended yet, and no search works on it."""
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Its search was broken off, and none works on it."""
    DONE = "done"


@dataclass(frozen=True)
class Broken:
    """A file that cannot be read: its path within the results folder, and why."""

    file: str
    why: str


@dataclass(frozen=True)
class Snapshot:
    """A study as its files were at one moment.

    Attributes:
        views: target -> its trials, those left out whose record is broken.
        broken: files that cannot be read.
        version: changes whenever a file of the study does, and when its search dies.
        activity: what its search is doing; of one that was broken off, what it was doing then.
    """

    folder: StudyFolder
    meta: StudyMeta
    views: Mapping[str, TargetView]
    broken: tuple[Broken, ...]
    state: StudyState
    version: str
    activity: Activity | None = None

    @property
    def name(self) -> str:
        """Of the study."""
        return self.meta.name


class Library:
    """The studies of one results folder. Its methods may be called from several threads."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self._lock = threading.Lock()
        self._records: dict[Path, tuple[Stamp, TrialRecord | Broken]] = {}
        self._snapshots: dict[str, Snapshot] = {}

    def names(self) -> list[str]:
        """Of every study, also of those that cannot be read, sorted."""
        return sorted(path.parent.name for path in self.results.glob(f"*/{STUDY_FILE}"))

    def snapshot(self, name: str) -> Snapshot:
        """The study as it is now; the same object as before when nothing changed.

        Raises:
            ConfigError: there is no such study, or its `study.json` cannot be read.
        """
        if name not in self.names():
            raise ConfigError([f"{name!r}: there is no study of this name in {self.results}"])
        with self._lock:
            version = self.version(name)
            known = self._snapshots.get(name)
            if known is None or known.version != version:
                known = self._snapshots[name] = self._read(name, version)
            return known

    def version(self, name: str) -> str:
        """Changes whenever a file of the study does."""
        folder = self.results / name
        files = [folder / STUDY_FILE, folder / ACTIVITY_FILE, *folder.glob("*/trials/[0-9]*.json")]
        activity = _activity(folder)
        alive = activity is not None and activity.is_alive
        return str(hash((alive, *((str(file), _stamp(file)) for file in sorted(files)))))

    def version_of_all(self) -> str:
        """Changes whenever a file of a study does, or one comes or goes."""
        return str(hash(tuple((name, self.version(name)) for name in self.names())))

    def _read(self, name: str, version: str) -> Snapshot:
        folder = StudyFolder.open(self.results / name)
        meta = folder.meta
        broken: list[Broken] = []
        records: dict[str, list[TrialRecord]] = {target: [] for target in meta.targets}
        for target, of_target in records.items():
            for file in sorted((folder.path / target / "trials").glob("[0-9]*.json")):
                found = self._record(file)
                if isinstance(found, Broken):
                    broken.append(found)
                else:
                    of_target.append(found)
        views = {target: TargetView.among(records, folder, target) for target in meta.targets}
        activity = _activity(folder.path)
        return Snapshot(folder, meta, views, tuple(broken), _state(activity, meta, views), version, activity)

    def _record(self, file: Path) -> TrialRecord | Broken:
        stamp = _stamp(file)
        known = self._records.get(file)
        if known is None or known[0] != stamp:
            found: TrialRecord | Broken
            try:
                found = record_from_json(read_json(file), file)
            except ConfigError as error:
                found = Broken(str(file.relative_to(self.results)), "; ".join(error.problems))
            known = self._records[file] = stamp, found
        return known[1]


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _activity(folder: Path) -> Activity | None:
    try:
        return read_activity(folder)
    except ConfigError:
        return None


def _state(activity: Activity | None, meta: StudyMeta, views: Mapping[str, TargetView]) -> StudyState:
    if activity is not None and activity.is_alive:
        return StudyState.RUNNING
    count = sum(len(view.records) for view in views.values())
    if not count:
        return StudyState.EMPTY
    if activity is not None:
        # A search takes the file away when it has come to its end.
        return StudyState.INTERRUPTED
    planned = None if meta.trials is None else meta.trials * len(meta.targets)
    if planned is None or count >= planned or _has_all_tests(views):
        return StudyState.DONE
    return StudyState.INTERRUPTED


def _has_all_tests(views: Mapping[str, TargetView]) -> bool:
    """Whether the fronts were scored on test, which a search does last: when its time is up, or its space used up."""
    members = [member for view in views.values() if view.is_scored for member in view.members]
    return bool(members) and all(member.test is not None for member in members)
