"""The stage cache: folders named by the content they were made from, written atomically, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "AUTOSHRINK_CACHE"
META = "entry.json"
CHECKPOINTS = ".checkpoints"


def cache_root() -> Path:
    """`$AUTOSHRINK_CACHE`, or `autoshrink` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "autoshrink"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Entry:
    """One thing the cache holds: its key, what made it, its bytes, and when it was last used (seconds since 1970)."""

    key: str
    kind: str
    size: int
    used: float
    folder: Path


class StageCache:
    """Content-addressed folders under `root`.

    An entry is a folder of plain files (safetensors, JSON, npy, onnx) and `entry.json` with the SHA-256 of each. A
    folder appears under its key in one rename, so a half-written one is never seen; one whose files do not have their
    hashes is thrown away and made again.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or cache_root()) / "stages"

    def get(self, key: str) -> Path | None:
        """The folder of `key`, its files checked, or None when it is not there or was corrupt (and is now gone)."""
        folder = self.root / key
        try:
            meta = json.loads((folder / META).read_text())
            sound = all(file_sha256(folder / name) == sha256 for name, sha256 in meta["files"].items())
        except FileNotFoundError:
            sound = False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if sound:
            os.utime(folder / META)
            return folder
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def get_or_make(self, key: str, kind: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The folder of `key` and whether it was there; `make` fills an empty folder when it was not.

        Two processes that want one key do not both make it: the second waits for the first.

        Raises:
            OSError: the folder cannot be written (no space, no permission); nothing half-made stays.
        """
        # Here, since processes that are timed look up the cache's place, and hold no more than they must.
        from filelock import FileLock

        found = self.get(key)
        if found:
            return found, True
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f"{key}.lock"):
            found = self.get(key)
            if found:
                return found, True
            partial = self.root / f".{key}.{uuid.uuid4().hex}"
            partial.mkdir()
            try:
                make(partial)
                files = {str(p.relative_to(partial)): file_sha256(p) for p in sorted(partial.rglob("*")) if p.is_file()}
                (partial / META).write_text(json.dumps({"kind": kind, "files": files}))
                partial.rename(self.root / key)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return self.root / key, False

    def checkpoint(self, key: str) -> Path:
        """The folder in which the training that makes `key` may keep its state; it need not exist."""
        return self.root / CHECKPOINTS / key

    def entries(self) -> list[Entry]:
        """What the cache holds, the longest unused first."""
        return sorted(self._entries(), key=lambda entry: entry.used)

    def _entries(self) -> Iterator[Entry]:
        if not self.root.is_dir():
            return
        for folder in self.root.iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                kind = str(json.loads((folder / META).read_text())["kind"])
                used = (folder / META).stat().st_mtime
            except (OSError, ValueError, KeyError, TypeError):
                kind, used = "corrupt", 0.0
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            yield Entry(folder.name, kind, size, used, folder)

    def trim(self, keep_bytes: int) -> list[Entry]:
        """Removes what was unused longest until `keep_bytes` are left, and what a killed process left half-made."""
        removed = []
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total <= keep_bytes:
                break
            shutil.rmtree(entry.folder, ignore_errors=True)
            total -= entry.size
            removed.append(entry)
        if self.root.is_dir():
            hour_ago = time.time() - 3600
            for folder in [*self.root.glob(".*"), *self.root.glob(f"{CHECKPOINTS}/*")]:
                if folder.name != CHECKPOINTS and folder.is_dir() and folder.stat().st_mtime < hour_ago:
                    shutil.rmtree(folder, ignore_errors=True)
        return removed
