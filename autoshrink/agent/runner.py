"""Runs the jobs of an agent, one at a time, each in a child that was started before it came."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from autoshrink.isolate.job import Job, JobResult
from autoshrink.isolate.parent import run_job
from autoshrink.isolate.process import ChildProcess


class Runner:
    """Children of one agent.

    Args:
        place: an existing folder, in which each job gets one.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._waiting: tuple[ChildProcess, Path, int, str] | None = None
        self._running: ChildProcess | None = None
        self._stopped = False

    def prepare(self, threads: int, backend: str) -> Path:
        """The folder of a child that waits for a job of this kind: imports cost the job no time."""
        if self._waiting and self._waiting[2:] != (threads, backend):
            self._discard()
        if not self._waiting:
            folder = self._place / uuid.uuid4().hex
            folder.mkdir()
            self._waiting = ChildProcess(folder, threads, preload=backend), folder, threads, backend
        self._stopped = False
        return self._waiting[1]

    def run(self, job: Job, folder: Path, on_stage: Callable[[str], None]) -> JobResult:
        """Does a job in the folder that `prepare` gave for its kind. Called in one thread only.

        Raises:
            ChildError: as `run_job`.
            OSError: as `run_job`.
        """
        assert self._waiting and self._waiting[1] == folder  # noqa: S101 - prepared just before
        child = self._waiting[0]
        self._waiting, self._running = None, child
        try:
            with child:
                if self._stopped:
                    child.kill()
                return run_job(job, folder, on_stage, child=child)
        finally:
            self._running = None

    def stop(self) -> None:
        """Ends the job that runs, from another thread."""
        self._stopped = True
        running = self._running
        if running:
            running.kill()

    def close(self) -> None:
        """Ends every child."""
        self.stop()
        self._discard()

    def _discard(self) -> None:
        if self._waiting:
            child, folder, *_ = self._waiting
            self._waiting = None
            child.__exit__(None, None, None)
            shutil.rmtree(folder, ignore_errors=True)
