"""A temporary folder of one process, which the next process of its kind removes when this one was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

LOCK = "lock"


class OwnFolder:
    """A new folder in `place`, which tells by a lock that its process lives; those of dead ones are removed.

    Attributes:
        path: of the folder; only its owner may look into it.

    Args:
        prefix: of its name, and of those that may be removed.
        place: where it lies; the folder for temporary files when None.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, prefix: str, place: Path | None = None) -> None:
        place = place or Path(tempfile.gettempdir())
        for folder in place.glob(f"{prefix}*"):
            with suppress(OSError):
                lock = _locked(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        self._lock: int | None = _locked(self.path)

    def remove(self) -> None:
        """Removes it with all that is in it. May be called twice."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> OwnFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _locked(folder: Path) -> int:
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
