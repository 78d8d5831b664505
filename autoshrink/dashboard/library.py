"""The studies of a results folder, read again and again while searches write them. A broken file hides no other."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from autoshrink.activity import ACTIVITY_FILE, Activity, read_activity
from autoshrink.config import is_name
from autoshrink.dashboard.shelf import Broken, Shelf, Stamp, stamp_of
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import ConfigError
from autoshrink.records import STUDY_FILE, StudyFolder, StudyMeta, meta_from_json, read_json
from autoshrink.types import TrialRecord

__all__ = ["Broken", "Library", "Snapshot", "StudyState"]


class StudyState(StrEnum):
    """What a study is doing."""

    EMPTY = "empty"
    """No trial has ended yet, and no search works on it."""
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Its search was broken off, and none works on it."""
    DONE = "done"


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
        """Of the study's folder, which it is found under."""
        return self.folder.path.name


class Library:
    """The studies of one results folder. Its methods may be called from several threads."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self._lock = threading.Lock()
        self._studies: dict[str, _Study] = {}

    @classmethod
    def read(cls, study: StudyFolder) -> Snapshot:
        """One study as it is now, whose broken records hide no other.

        Raises:
            ConfigError: its `study.json` cannot be read.
        """
        path = study.path.resolve()
        return cls(path.parent).snapshot(path.name)

    def names(self) -> list[str]:
        """Of every study, also of those that cannot be read, sorted."""
        return sorted(path.parent.name for path in self.results.glob(f"*/{STUDY_FILE}"))

    def snapshot(self, name: str) -> Snapshot:
        """The study as it is now; the same object as before when nothing changed.

        Raises:
            ConfigError: there is no such study, or its `study.json` cannot be read.
        """
        return self._study(name).snapshot()

    def targets(self, name: str) -> list[str]:
        """Names of the targets of a study. Reads no record.

        Raises:
            ConfigError: as `snapshot`.
        """
        return self._study(name).targets()

    def entries(self) -> dict[str, Snapshot | Broken]:
        """Every study by name, or why it cannot be read."""
        found: dict[str, Snapshot | Broken] = {}
        for name in self.names():
            try:
                found[name] = self.snapshot(name)
            except ConfigError as error:
                found[name] = Broken(f"{name}/{STUDY_FILE}", "; ".join(error.problems))
        return found

    def version(self, name: str) -> str:
        """Changes whenever a file of the study does, and when its search dies. Reads no record.

        Raises:
            ConfigError: there is no such study.
        """
        return self._study(name).version()

    def version_of_all(self) -> str:
        """Changes whenever that of a study does, or one comes or goes."""
        names = self.names()
        with self._lock:
            for gone in self._studies.keys() - set(names):
                del self._studies[gone]
        return " ".join(f"{name}:{self._study(name, known=True).version()}" for name in names)

    def _study(self, name: str, known: bool = False) -> _Study:
        if not known and name not in self.names():
            raise ConfigError([f"{name!r}: there is no study of this name in {self.results}"])
        with self._lock:
            return self._studies.setdefault(name, _Study(self.results, name))


class _Study:
    """One study, whose files are looked at and read by one thread at a time."""

    def __init__(self, results: Path, name: str) -> None:
        self._results = results
        self._path = results / name
        self._lock = threading.RLock()
        self._meta_stamp: Stamp | None = None
        self._meta: StudyMeta | ConfigError | None = None
        self._shelves: dict[str, Shelf] = {}
        self._known: Snapshot | None = None

    def version(self) -> str:
        """See `Library.version`."""
        with self._lock:
            self._look_at_meta()
            changes = [shelf.look() for shelf in self._shelves.values()]
            activity, _ = self._activity()
            alive = activity is not None and activity.is_alive
            parts = (self._meta_stamp, stamp_of(self._path / ACTIVITY_FILE), changes, alive)
            return f"{hash(str(parts)) & 0xFFFFFFFFFFFFFFFF:016x}"

    def snapshot(self) -> Snapshot:
        """See `Library.snapshot`."""
        with self._lock:
            version = self.version()
            if isinstance(self._meta, ConfigError):
                raise ConfigError(self._meta.problems)
            if self._known is None or self._known.version != version:
                self._known = self._read(version)
            return self._known

    def targets(self) -> list[str]:
        """See `Library.targets`."""
        with self._lock:
            self._look_at_meta()
            if isinstance(self._meta, ConfigError):
                raise ConfigError(self._meta.problems)
            return list(self._shelves)

    def _look_at_meta(self) -> None:
        stamp = stamp_of(self._path / STUDY_FILE)
        if stamp == self._meta_stamp:
            return
        self._meta_stamp = stamp
        try:
            self._meta = _read_meta(self._path)
        except ConfigError as error:
            self._meta, self._shelves = error, {}
            return
        self._shelves = {
            target: self._shelves.get(target) or Shelf(self._path / target / "trials", target, self._results)
            for target in self._meta.targets
        }

    def _activity(self) -> tuple[Activity | None, str]:
        """What the search is doing, and what is wrong with the file that says so."""
        try:
            return read_activity(self._path), ""
        except ConfigError as error:
            return None, "; ".join(error.problems)

    def _read(self, version: str) -> Snapshot:
        meta = self._meta
        assert isinstance(meta, StudyMeta)  # noqa: S101 - `snapshot` has looked
        records: dict[str, list[TrialRecord]] = {}
        broken: list[Broken] = []
        for target, shelf in self._shelves.items():
            records[target], unreadable = shelf.read()
            broken += unreadable
        lost = len(broken)
        activity, wrong = self._activity()
        if wrong:
            broken.append(Broken(f"{self._path.name}/{ACTIVITY_FILE}", wrong))
        folder = StudyFolder(self._path)
        folder.__dict__["meta"] = meta
        views = {target: TargetView.among(records, folder, target) for target in meta.targets}
        return Snapshot(folder, meta, views, tuple(broken), _state(activity, meta, views, lost), version, activity)


def _read_meta(path: Path) -> StudyMeta:
    """What a study was asked to do.

    Raises:
        ConfigError: the file cannot be read, or a target is named so that its folder would lie elsewhere.
    """
    file = path / STUDY_FILE
    meta = meta_from_json(read_json(file), file)
    if not meta.targets:
        raise ConfigError([f"{file}:targets: is empty; a study has one at least"])
    wrong = [target for target in meta.targets if not is_name(target)]
    if wrong:
        names = ", ".join(map(repr, wrong))
        raise ConfigError([f"{file}:targets: {names}: a name may hold letters, digits, '.', '-' and '_' only"])
    return meta


def _state(activity: Activity | None, meta: StudyMeta, views: Mapping[str, TargetView], lost: int) -> StudyState:
    """What a study is doing; `lost` trials have ended too, but cannot be read."""
    if activity is not None and activity.is_alive:
        return StudyState.RUNNING
    count = lost + sum(len(view.records) for view in views.values())
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
