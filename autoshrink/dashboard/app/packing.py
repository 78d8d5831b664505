"""Builds the package of a trial for a download: the command `pick` in a process of its own, and a zip of what it wrote.

It is the one thing that the dashboard starts.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from autoshrink.dashboard.library import Library
from autoshrink.errors import AutoshrinkError, ConfigError
from autoshrink.own_folder import OwnFolder
from autoshrink.records import StudyFolder
from autoshrink.types import Artifact

PREFIX = "autoshrink-download-"
TIME_LIMIT_S = 900.0
"""For one package."""
GRACE_S = 10.0
"""Seconds that an interrupted `pick` has for ending its own children."""
MOST_WORDS = 4000
"""Characters of what `pick` said that are passed on."""


class Busy(AutoshrinkError):
    """Another package is being built; one is enough for a machine that may be measuring."""

    def __init__(self) -> None:
        super().__init__("Another package is being built; try again when it is done.")


class NotBuilt(AutoshrinkError):
    """`pick` refused or failed; what it said."""


class Packer:
    """Builds one package at a time.

    Args:
        library: the studies.
        time_limit_s: seconds after which `pick` is ended.
    """

    def __init__(self, library: Library, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._library = library
        self._time_limit_s = time_limit_s
        self._one = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def build(self, study: str, target: str, trial: int) -> tuple[str, IO[bytes]]:
        """The package of a trial as a zip.

        Args:
            study: of the library.
            target: of the study.
            trial: number of a trial that has compiled files.

        Returns:
            Name of the file, and its content from the beginning. It lies in no folder and is gone once it is closed.

        Raises:
            ConfigError: there is no such study, target or trial, or it has no compiled files.
            Busy: another one is being built.
            NotBuilt: `pick` gave none.
        """
        folder = self._checked(study, target, trial)
        name = package_name(study, target, trial)
        if not self._one.acquire(blocking=False):
            raise Busy
        try:
            with OwnFolder(PREFIX) as own:
                written = own.path / name
                self._pick(folder, target, trial, written)
                return f"{name}.zip", _zipped(written)
        finally:
            self._one.release()

    def stop(self) -> None:
        """Ends the `pick` that is at work."""
        child = self._child
        if child is not None:
            _end(child)

    def _checked(self, study: str, target: str, trial: int) -> StudyFolder:
        snapshot = self._library.snapshot(study)
        view = snapshot.views.get(target)
        if view is None:
            raise ConfigError([f"{target!r}: {study} has no such target; it has {', '.join(snapshot.views)}"])
        record = next((each for each in view.records if each.number == trial), None)
        if record is None:
            raise ConfigError([f"trial {trial}: {target} has no trial of this number"])
        if record.artifact is None:
            raise ConfigError([f"trial {trial} of {target} has no compiled files: {record.outcome}, {record.reason}"])
        for each in (record, *(each for each in view.records if not each.recipe.stages)):
            if each.artifact is not None:
                _refuse_outside(snapshot.folder.path, each.artifact)
        return snapshot.folder

    def _pick(self, folder: StudyFolder, target: str, trial: int, out: Path) -> None:
        command = [
            *(sys.executable, "-P", "-m", "autoshrink", "pick"),
            *(f"--target={target}", f"--trial={trial}", f"--out={out}", "--", str(folder.path.resolve())),
        ]
        child = self._child = subprocess.Popen(
            command,
            cwd=out.parent,
            env={**os.environ, "PYTHONPATH": _import_path(), "NO_COLOR": "1", "TMPDIR": str(out.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # An interrupt from the keyboard is for the dashboard, which ends this one by `stop`.
            start_new_session=True,
        )
        try:
            said, _ = child.communicate(timeout=self._time_limit_s)
        except subprocess.TimeoutExpired:
            _end(child)
            child.communicate()
            raise NotBuilt(f"The package was not done within {self._time_limit_s:g} s, and was given up.") from None
        finally:
            self._child = None
        if child.returncode != 0:
            raise NotBuilt(_message(said, child.returncode))


def package_name(study: str, target: str, trial: int) -> str:
    """Name of a download's folder: letters, digits, `.`, `-` and `_` only, and neither a dot nor a dash first."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", f"{study[:80]}-{target[:80]}-trial{trial}")
    return kept.lstrip(".-") or f"trial{trial}"


def _refuse_outside(study: Path, artifact: Artifact) -> None:
    """A record that names files outside its study was not written by a search."""
    inside = (study / artifact.folder).resolve()
    places = [inside, *((inside / file.name).resolve() for file in artifact.files)]
    outside = not inside.is_relative_to(study.resolve()) or not all(place.is_relative_to(inside) for place in places)
    if outside:
        raise ConfigError([f"{artifact.folder}: the record names files outside of its study's folder"])


def _import_path() -> str:
    """The child finds what this process finds, installed or not."""
    return os.pathsep.join(path or str(Path.cwd()) for path in sys.path)


def _end(child: subprocess.Popen[str]) -> None:
    """Interrupts, so that it ends its own children; kills what does not listen. May be called twice."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
            return


def _message(said: str, code: int) -> str:
    """The errors that `pick` printed; of a stack trace its last line."""
    lines = [line.rstrip() for line in said[-MOST_WORDS:].splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return "\n".join(errors)
    last = f": {lines[-1]}" if lines else ""
    return f"`autoshrink pick` ended with exit code {code}{last}"


def _zipped(folder: Path) -> IO[bytes]:
    """The files of `folder` under its name, in the order of their names."""
    # Given to the caller, who closes it.
    made = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    archive.write(path, path.relative_to(folder.parent))
        made.seek(0)
    except BaseException:
        made.close()
        raise
    return made
