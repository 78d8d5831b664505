"""The files that an agent holds while searches use them, named by their SHA-256 and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

ROOM_LEFT = 64 * 2**20
"""Bytes of the disk that are left free for whatever else the device does."""


class TooLarge(Exception):
    """There is no room for a job's files, and how much there is."""


class Wrong(Exception):
    """What came is not what was announced."""


class Store:
    """Files in one folder. Those that no session uses any more are removed.

    Args:
        folder: is made.
        most: bytes that it may hold.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._users: dict[str, set[str]] = {}
        self._sizes: dict[str, int] = {}
        folder.mkdir(parents=True)

    def missing(self, files: Mapping[str, int], session: str) -> list[str]:
        """Those of `files` (SHA-256 -> bytes) that are not there; the others now belong to `session` too.

        Raises:
            TooLarge: they do not fit.
        """
        absent = [sha256 for sha256 in files if sha256 not in self._sizes]
        needed = sum(files[sha256] for sha256 in absent)
        free = min(self._most - sum(self._sizes.values()), max(0, shutil.disk_usage(self._folder).free - ROOM_LEFT))
        if needed > free:
            raise TooLarge(f"the files have {needed:,} bytes more, and there is room for {max(0, free):,}")
        for sha256 in files:
            if sha256 in self._users:
                self._users[sha256].add(session)
        return absent

    def receive(self, sha256: str, size: int, session: str) -> Upload:
        """A file that is about to come."""
        return Upload(self, sha256, size, session)

    def keep(self, path: Path, sha256: str, size: int, session: str) -> None:
        """Takes over a file that was checked."""
        path.replace(self._folder / sha256)
        self._sizes[sha256] = size
        self._users.setdefault(sha256, set()).add(session)

    def put(self, places: Mapping[Path, str]) -> None:
        """Links files to where a job wants them.

        Raises:
            KeyError: one is not there.
            OSError: it cannot be put there.
        """
        for path, sha256 in places.items():
            if sha256 not in self._sizes:
                raise KeyError(sha256)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self._folder / sha256, path)
            except OSError:
                # A file system without links.
                shutil.copyfile(self._folder / sha256, path)

    def forget(self, session: str) -> None:
        """Removes what only this session used."""
        for sha256, users in list(self._users.items()):
            users.discard(session)
            if not users:
                (self._folder / sha256).unlink(missing_ok=True)
                del self._users[sha256], self._sizes[sha256]

    def new_path(self) -> Path:
        """Where a file may be written before it is checked."""
        return self._folder / f"{uuid.uuid4().hex}.partial"

    def names(self) -> Iterable[str]:
        """The SHA-256 of what it holds."""
        return tuple(self._sizes)


class Upload:
    """A file on its way in; unless `finish` was reached, nothing of it stays."""

    def __init__(self, store: Store, sha256: str, size: int, session: str) -> None:
        self._store = store
        self._sha256, self._size, self._session = sha256, size, session
        self._digest = hashlib.sha256()
        self._got = 0
        self._path = store.new_path()
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Upload:
        self._stream = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()
        self._path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """The next part.

        Raises:
            Wrong: it is more than was announced.
            OSError: it cannot be written.
        """
        self._got += len(chunk)
        if self._got > self._size:
            raise Wrong(f"more than the {self._size:,} bytes that were announced came")
        self._digest.update(chunk)
        assert self._stream is not None  # noqa: S101 - only within the context
        self._stream.write(chunk)

    def finish(self) -> None:
        """Keeps it.

        Raises:
            Wrong: its bytes or its SHA-256 are not those that were announced.
        """
        if self._got != self._size or self._digest.hexdigest() != self._sha256:
            raise Wrong(
                f"{self._got:,} bytes of SHA-256 {self._digest.hexdigest()} came; announced were {self._size:,} of "
                f"{self._sha256}"
            )
        assert self._stream is not None  # noqa: S101 - only within the context
        self._stream.close()
        self._store.keep(self._path, self._sha256, self._size, self._session)
