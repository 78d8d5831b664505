"""The trials of one target as files that come and change, and are read again only where they did."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoshrink.errors import ConfigError
from autoshrink.records import read_json, record_from_json
from autoshrink.types import TrialRecord

Stamp = tuple[int, int, int]
"""When a file was changed (nanoseconds), how large it is, and its number: what tells that it is another."""

MOST_BYTES = 4 * 2**20
"""Of a record; real ones have some kilobytes."""
MANY = 300
"""A folder of more files is not looked through at each look."""
LOOK_THROUGH_S = 1.0
"""So often it is, at most: whoever writes records renames them into place, which shows in the folder's own time."""
LOOK_THROUGH_SHARE = 0.01
"""Of the time is spent on that, at most: ten thousand files take nearly a tenth of a second."""
SETTLED_S = 0.1
"""What changed within so many seconds before it was looked through may have changed again in the same tick."""


@dataclass(frozen=True)
class Broken:
    """A file that cannot be read: its path within the results folder, and why."""

    file: str
    why: str


class Shelf:
    """The trials in one folder of records.

    Args:
        folder: with the records; need not exist.
        target: whose they are.
        results: what the paths of broken files are relative to.
    """

    def __init__(self, folder: Path, target: str, results: Path) -> None:
        self._folder = folder
        self._target = target
        self._results = results
        self._stamps: dict[str, Stamp] = {}
        self._found: dict[str, TrialRecord | Broken] = {}
        self._unread: set[str] = set()
        self._seen: Stamp | None = None
        self._looked = 0.0
        self._took = 0.0
        self._settled = False
        self._changes = 0

    def look(self) -> int:
        """Looks for files that came, changed or went, and reads none. How often there were any."""
        seen, at = stamp_of(self._folder), time.monotonic()
        often = max(LOOK_THROUGH_S, self._took / LOOK_THROUGH_SHARE)
        lately = len(self._stamps) > MANY and at - self._looked < often
        if lately and self._settled and seen == self._seen:
            return self._changes
        self._seen, self._looked = seen, at
        self._settled = time.time() - seen[0] / 1e9 > SETTLED_S
        stamps = dict(_stamps(self._folder))
        self._took = time.monotonic() - at
        if stamps != self._stamps:
            changed = {name for name, stamp in stamps.items() if self._stamps.get(name) != stamp}
            for name in self._stamps.keys() - stamps.keys():
                self._found.pop(name, None)
            self._unread = (self._unread | changed) & stamps.keys()
            self._stamps = stamps
            self._changes += 1
        return self._changes

    def read(self) -> tuple[list[TrialRecord], list[Broken]]:
        """The trials by number, and the files that are broken, as they were when it was last looked."""
        with _no_collecting(len(self._unread) > MANY):
            for name in self._unread:
                self._found[name] = self._read(name)
        self._unread = set()
        records = [found for found in self._found.values() if isinstance(found, TrialRecord)]
        broken = [found for found in self._found.values() if isinstance(found, Broken)]
        return sorted(records, key=lambda each: each.number), sorted(broken, key=lambda each: each.file)

    def _read(self, name: str) -> TrialRecord | Broken:
        file = self._folder / name
        try:
            record = record_from_json(read_json(file, most=MOST_BYTES), file)
        except ConfigError as error:
            return Broken(str(file.relative_to(self._results)), "; ".join(error.problems))
        if (record.target, f"{record.number:04d}.json") != (self._target, name):
            why = f"is trial {record.number} of {record.target}; a record lies in its target's folder, under its number"
            return Broken(str(file.relative_to(self._results)), why)
        return record


def stamp_of(file: Path) -> Stamp:
    """Zeros of a file that is not there."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino


def _stamps(folder: Path) -> Iterator[tuple[str, Stamp]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".json") and name[0].isdigit():
                    try:
                        found = entry.stat()
                    except OSError:
                        # It is there and leads nowhere, or has gone: reading it tells.
                        yield name, (0, 0, 0)
                        continue
                    yield name, (found.st_mtime_ns, found.st_size, found.st_ino)
    except OSError:
        return


@contextmanager
def _no_collecting(wanted: bool) -> Iterator[None]:
    """Leaves what is made within, which holds no cycles, out of the search for cycles, now and later.

    With 10,000 records it takes as long as reading them, and as long again each time that it comes by.
    """
    if not wanted or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
