"""Devices without a device, for the control flow of pools and searches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autoshrink.backends.base import State
from autoshrink.devices.base import Device, DeviceGone, Facts, OnStage
from autoshrink.isolate.job import Job, JobResult
from autoshrink.isolate.parent import run_job
from autoshrink.target import RemoteDevice, Target

IDENTITY = {"processor": "Fake-A76", "architecture": "fake64", "cores": "4", "system": "Linux", "runtime": "fake 1"}


class FakeDevice(Device):
    """Gives an empty result; `runs` are the jobs' folders that it was given.

    Attributes:
        gone: errors that the next calls of `run` raise, the first one first; None runs.
        absent: answers of the next calls of `facts` that are none.
        hold: a run waits for it.
        runtime: of its results.
    """

    def __init__(
        self,
        number: int,
        target: Target,
        say: Callable[[str], None],
        identity: dict[str, str] | None = None,
        state: State = "ready",
    ) -> None:
        spec = RemoteDevice(agent=f"http://fake-{number}", token_env="FAKE", patience_s=0.5)
        super().__init__(spec, target, say)
        self.identity = identity or dict(IDENTITY)
        self.state = state
        self.gone: list[Exception | None] = []
        self.absent = 0
        self.hold: threading.Event | None = None
        self.begun = threading.Event()
        self.runs: list[Path] = []
        self.at_once = 0
        self.most_at_once = 0
        self.runtime = self.identity["runtime"]
        self.closed = False
        self._lock = threading.Lock()

    def facts(self) -> Facts:
        if self.absent:
            self.absent -= 1
            raise DeviceGone(f"{self.name} does not answer")
        return Facts(self.identity, self.state, "" if self.state == "ready" else "it is broken", "mend it")

    def run(self, job: Job, work: Path, on_stage: OnStage) -> JobResult:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.begun.set()
            self.runs.append(work)
            on_stage("measure")
            work.mkdir(parents=True, exist_ok=True)
            (work / "samples.npy").write_text("half of it")
            if self.hold:
                assert self.hold.wait(10)
            error = self.gone.pop(0) if self.gone else None
            if error:
                raise error
            return self.result(job, work)
        finally:
            with self._lock:
                self.at_once -= 1

    def result(self, job: Job, work: Path) -> JobResult:
        return JobResult(runtime=self.runtime)

    def close(self) -> None:
        self.closed = True
        if self.hold:
            self.hold.set()


class FakeElsewhere(FakeDevice):
    """Runs jobs in children of this machine, so that searches have real figures; only its place is fake."""

    def result(self, job: Job, work: Path) -> JobResult:
        return replace(run_job(job, work), runtime=self.runtime)
