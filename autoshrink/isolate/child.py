"""The child: `python -m autoshrink.isolate.child WORK [FD [BACKEND]]` does the job in `WORK/job.json` and nothing else.

With FD it waits for a line on its standard input first: it may have been started before its job was known, and imports
the runtime of BACKEND meanwhile. It writes `result.json`, one line a stage to the file descriptor FD (standard error
without one), and what goes wrong to its standard error. Only numpy, the runtime and the few modules below are imported.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from autoshrink.backends import get_backend
from autoshrink.backends.base import Backend, Session
from autoshrink.errors import AutoshrinkError, StageError
from autoshrink.isolate.job import JOB, RESULT, Failure, Job, JobResult, Loaded
from autoshrink.isolate.work import JobRun
from autoshrink.target import ChildLimits

STDERR = 2
PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Has the kernel end this process when its parent dies; other systems than Linux notice at the next stage."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _limit_memory(limits: ChildLimits, reserves_address_space: bool) -> None:
    wanted = limits.memory_limit_mb * 2**20
    # Of the heap and what is mapped for it, where the address space says nothing of the memory used.
    what = resource.RLIMIT_DATA if reserves_address_space else resource.RLIMIT_AS
    _, hard = resource.getrlimit(what)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(what, (most, most))
    # A runtime that crashes would write all of its memory to a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _keep_to(processors: tuple[int, ...]) -> None:
    """Has this process and its threads run on `processors` only.

    Raises:
        StageError: this system has no such processor, or does not let a process choose.
    """
    if not processors:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise StageError("start", f"pin is {list(processors)}, and this system cannot keep a process to processors")
    there = os.sched_getaffinity(0)
    if not there.issuperset(processors):
        raise StageError("start", f"pin is {list(processors)}; this machine has the processors {sorted(there)}")
    os.sched_setaffinity(0, processors)


def _answer(job: Job, work: Path, announce_to: int) -> JobResult | Failure:
    """What the job gives, or why it gives nothing."""
    backend: Backend | None = None
    run: JobRun | None = None

    def load(artifact: Loaded) -> Session:
        assert backend is not None  # noqa: S101 - nothing is loaded before it is there
        options = job.options if artifact.options is None else artifact.options
        return backend.load(artifact.folder, artifact.files, artifact.precision, job.threads, options)

    def announce(stage: str) -> None:
        # A broken pipe, for the parent is gone, ends the child here.
        os.write(announce_to, f"{stage}\n".encode())

    try:
        _keep_to(job.pin)
        backend = get_backend(job.backend)
        _limit_memory(job.limits, backend.reserves_address_space)
        run = JobRun(job, work, backend, load, announce)
        return run.run()
    except Exception as error:
        return _failure(error, run.stage if run else "start")
    finally:
        if backend is not None:
            backend.close()


def _failure(error: Exception, stage: str) -> Failure:
    traceback.print_exception(error)
    if isinstance(error, StageError):
        return Failure(error.stage, error.reason)
    lines = str(error).strip().splitlines()
    if isinstance(error, AutoshrinkError):
        return Failure(stage, " ".join(lines))
    return Failure(stage, f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)


def main() -> None:
    """Does the job of the folder that the command line names, and leaves."""
    _die_with_parent()
    work = Path(sys.argv[1])
    announce_to = int(sys.argv[2]) if len(sys.argv) > 2 else STDERR
    os.set_inheritable(announce_to, False)
    if len(sys.argv) > 3:
        # What is wrong with the runtime is said where it is used.
        with suppress(Exception):
            get_backend(sys.argv[3]).preload()
    if len(sys.argv) > 2 and not sys.stdin.readline():
        return
    answer = _answer(Job.from_json((work / JOB).read_text()), work, announce_to)
    partial = work / f"{RESULT}.partial"
    partial.write_text(answer.to_json())
    partial.replace(work / RESULT)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: with everything said, a runtime that crashes while it is unloaded would only confuse.
    os._exit(0)


if __name__ == "__main__":
    main()
