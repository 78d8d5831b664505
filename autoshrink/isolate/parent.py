"""The parent's side: starts a child for a job, waits for it, and says clearly why when it gives no result."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from autoshrink.errors import ChildError
from autoshrink.isolate.device import device_lock
from autoshrink.isolate.job import JOB, LOG, RESULT, Failure, Job, JobResult, parse_answer
from autoshrink.isolate.process import ChildProcess

COMPILE = "compile"
HOST = "cpu"
"""The device that stands for this machine's processor."""
WAITING = "wait for the device"
OUT_OF_MEMORY = re.compile(
    r"MemoryError|bad_alloc|bad allocation|cannot allocate memory|failed to allocate memory|out of memory"
    r"|unable to allocate|can't start new thread|resource temporarily unavailable|failed to map segment",
    re.IGNORECASE,
)
"""How numpy, the runtimes, the C++ library and the loader say it, also of a thread whose stack has no room."""
STACKS = "Fatal Python error"
"""Where the interpreter's own report of a crash begins: stacks, which stay in the log."""
LOG_LINES = 5
LOG_BYTES = 65536


class _TimeUp(Exception):
    """The child took longer than it may."""


def run_job(
    job: Job,
    work: Path,
    on_stage: Callable[[str], None] = lambda _stage: None,
    python: str = sys.executable,
    child: ChildProcess | None = None,
) -> JobResult:
    """Does `job` in a child process with `work` as its folder: `child.log`, `samples.npy`, `outputs/` appear there.

    Holds the device's lock meanwhile (a probe runs without it). When it takes too long, and when an exception comes
    between, the child and what it started are killed; when this process itself is killed, the child is.

    Args:
        job: what to do.
        work: folder for the child's files; is made.
        on_stage: called with `compile`, `load`, `audit`, `measure`, `profile`, `evaluate` as each begins, and before
            all of them, when another process holds the device, with `wait for the device`.
        python: interpreter of the child. Another one than this process' must have autoshrink installed.
        child: one that was started for `work` before and waits; None starts one now.

    Raises:
        ChildError: the child gave no result; stage, reason and log file say why.
        OSError: `work` or the lock cannot be written, or the interpreter not started.
    """
    work.mkdir(parents=True, exist_ok=True)
    (work / RESULT).unlink(missing_ok=True)
    (work / JOB).write_text(job.to_json())
    lock = nullcontext() if job.probe else device_lock(job.device, lambda: on_stage(WAITING))
    # Whoever started a child ends it.
    with lock, nullcontext(child) if child else ChildProcess(work, job.threads, python) as running:
        return _Run(job, work, on_stage).result(running)


def compile_and_run(
    job: Job,
    work: Path,
    on_stage: Callable[[str], None] = lambda _stage: None,
    python: str = sys.executable,
    child: ChildProcess | None = None,
    apart: bool = False,
) -> JobResult:
    """As `run_job` for a job that compiles; `apart` has a child of its own do that, and a fresh one the rest.

    Its files are then in the folder `compile` of `work`. Compiling takes the processor of this machine, whatever the
    target's device: it holds the lock that measuring on this machine does.

    Raises:
        ChildError: as `run_job`.
        OSError: as `run_job`.
    """
    if not apart:
        return run_job(job, work, on_stage, python, child)
    # Compiling needs no child that started early: it takes seconds anyway.
    compiled = compile_only(job, work, on_stage, python)
    if not job.run:
        return compiled
    return joined(compiled, run_job(without_compiling(job, compiled), work, on_stage, python, child))


def compile_only(
    job: Job, work: Path, on_stage: Callable[[str], None] = lambda _stage: None, python: str = sys.executable
) -> JobResult:
    """Has a child of its own compile what `job` compiles, and do nothing else; it works in the folder `compile`.

    Raises:
        ChildError: as `run_job`.
        OSError: as `run_job`.
    """
    compiling = replace(job, run=False, audit=False, measure=None, profile=0, evaluate={}, device=HOST, pin=())
    return run_job(compiling, work / COMPILE, on_stage, python)


def without_compiling(job: Job, compiled: JobResult) -> Job:
    """The rest of a job whose artifact `compile_only` has made."""
    artifact = replace(job.artifact, files=tuple(file.name for file in compiled.files))
    return replace(job, source=None, artifact=artifact, audit=job.audit and compiled.audit is None)


def joined(compiled: JobResult, result: JobResult) -> JobResult:
    """The result of a job that was done in these two parts."""
    audit = compiled.audit or result.audit
    if compiled.audit and result.audit:
        # Compiling knows more of the layers; where it runs there may be more to say.
        known = compiled.audit.notes
        audit = replace(compiled.audit, notes=(*known, *(note for note in result.audit.notes if note not in known)))
    return replace(
        result,
        files=compiled.files,
        audit=audit,
        figures=compiled.figures,
        seconds=_sum(compiled.seconds, result.seconds),
    )


def _sum(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {stage: first.get(stage, 0.0) + second.get(stage, 0.0) for stage in {**first, **second}}


class _Run:
    """One child from its start to its end."""

    def __init__(self, job: Job, work: Path, on_stage: Callable[[str], None]) -> None:
        self._job = job
        self._work = work
        self._on_stage = on_stage
        self._stage = "start"
        self._start_seconds = 0.0

    def result(self, child: ChildProcess) -> JobResult:
        began = time.monotonic()
        child.begin()
        try:
            self._follow(child.stages, began)
            code = child.process.wait(self._left(began))
        except (_TimeUp, subprocess.TimeoutExpired):
            limit = self._job.limits.time_limit_s
            raise self._error(
                f"did not end within child.time_limit_s = {limit:g}; child.time_limit_s in the target raises it"
            ) from None
        return self._answer(code)

    def _follow(self, stages: int, began: float) -> None:
        """Passes the stages on until the child closes its pipe, which it does by ending."""
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stages, selectors.EVENT_READ)
            while selector.select(self._left(began)):
                read = os.read(stages, 4096)
                if not read:
                    return
                *lines, rest = (rest + read).split(b"\n")
                for line in lines:
                    self._start_seconds = self._start_seconds or time.monotonic() - began
                    self._stage = line.decode()
                    self._on_stage(self._stage)
        raise _TimeUp

    def _left(self, began: float) -> float:
        left = began + self._job.limits.time_limit_s - time.monotonic()
        if left <= 0:
            raise _TimeUp
        return left

    def _answer(self, code: int) -> JobResult:
        try:
            answer = parse_answer((self._work / RESULT).read_text())
        except (OSError, ValueError):
            raise self._error(self._why_no_result(code)) from None
        if isinstance(answer, Failure):
            reason = self._over_memory(answer.reason) if OUT_OF_MEMORY.search(answer.reason) else answer.reason
            raise self._error(reason, answer.stage)
        return replace(answer, seconds={"start": self._start_seconds, **answer.seconds})

    def _why_no_result(self, code: int) -> str:
        lines = self._log_lines()
        for line in reversed(lines):
            if OUT_OF_MEMORY.search(line):
                return self._over_memory(line)
        if code == -signal.SIGKILL:
            return (
                f"the child was killed from outside, as the kernel does when the machine has no memory left; with a "
                f"lower child.memory_limit_mb than {self._job.limits.memory_limit_mb} it fails by itself"
            )
        said = f"; it last said: {' | '.join(lines[-LOG_LINES:])}" if lines else ""
        if code < 0:
            return f"the child ended by {_signal_name(-code)}, a fault in native code{said}"
        return f"the child ended with code {code} and no result{said}"

    def _over_memory(self, how: str) -> str:
        limit = self._job.limits.memory_limit_mb
        return f"ran over child.memory_limit_mb = {limit}; child.memory_limit_mb in the target raises it ({how})"

    def _log_lines(self) -> list[str]:
        """The end of what the child printed, without the stacks of a crash."""
        with (self._work / LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            text = log.read().decode(errors="replace").partition(STACKS)[0]
        return [line.strip() for line in text.splitlines() if line.strip()]

    def _error(self, reason: str, stage: str = "") -> ChildError:
        return ChildError(stage or self._stage, reason, str(self._work / LOG))


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
