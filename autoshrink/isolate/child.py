"""The child: `python -m autoshrink.isolate.child WORK [FD]` does the job in `WORK/job.json` and nothing else.

With FD it waits for a line on its standard input first: it may have been started before its job was known. It writes
`result.json`, one line a stage to the file descriptor FD (standard error without one), and what goes wrong to its
standard error. Only numpy, the runtime and the few modules below are imported.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from autoshrink.backends import get_backend
from autoshrink.backends.base import Backend, Session
from autoshrink.errors import AutoshrinkError, StageError
from autoshrink.isolate.evaluate import evaluate, map_arrays
from autoshrink.isolate.job import JOB, OUTPUTS, RESULT, SAMPLES, Failure, Job, JobResult, Loaded
from autoshrink.measure.timing import sample, summarise
from autoshrink.target import ChildLimits
from autoshrink.types import ArtifactFile, Audit, Figure, Latency

STDERR = 2
PR_SET_PDEATHSIG = 1


class Child:
    """One job on its way: which stage it is in, and how long each took."""

    def __init__(self, job: Job, work: Path, announce_to: int) -> None:
        self.stage = "start"
        self.seconds: dict[str, float] = {}
        self._job = job
        self._work = work
        self._announce_to = announce_to

    def run(self) -> JobResult:
        """What the job asks for.

        Raises:
            Exception: whatever a stage raises; `stage` says which one it was.
        """
        backend = get_backend(self._job.backend)
        _limit_memory(self._job.limits, backend.reserves_address_space)
        try:
            return self._run(backend)
        finally:
            backend.close()

    def _run(self, backend: Backend) -> JobResult:
        job = self._job
        if job.probe:
            with self._stage("probe"):
                return JobResult(capabilities=backend.capabilities(), seconds=self.seconds)
        artifact = job.artifact
        audit: Audit | None = None
        figures: Mapping[str, Figure] = {}
        if job.source is not None:
            with self._stage("compile"):
                compiled = backend.compile(job.source, artifact.folder)
                artifact = Loaded(artifact.folder, compiled.files, artifact.precision)
                audit, figures = compiled.audit, compiled.figures
        if not job.run:
            return JobResult(
                files=tuple(_described(artifact.folder, name) for name in artifact.files),
                runtime=backend.runtime(),
                audit=audit,
                figures=figures,
                seconds=self.seconds,
                peak_memory_bytes=peak_memory_bytes(),
            )
        reference = None
        with self._stage("load"):
            session = self._load(backend, artifact)
            if job.measure:
                reference = self._load(backend, job.reference or artifact)
        if job.audit and audit is None:
            with self._stage("audit"):
                audit = session.audit()
        modules = top_level_modules()
        latency: Latency | None = None
        if reference:
            with self._stage("measure"):
                latency = self._measure(session, reference)
        outputs: dict[str, Path] = {}
        if job.evaluate:
            with self._stage("evaluate"):
                for name, inputs in job.evaluate.items():
                    outputs[name] = self._work / OUTPUTS / name
                    evaluate(session, inputs, outputs[name], job.batch)
        return JobResult(
            files=tuple(_described(artifact.folder, name) for name in artifact.files),
            runtime=backend.runtime(),
            audit=audit,
            figures=figures,
            latency=latency,
            samples=self._work / SAMPLES if latency else None,
            outputs=outputs,
            seconds=self.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            modules=modules,
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.stage = name
        # A broken pipe, for the parent is gone, ends the child here.
        os.write(self._announce_to, f"{name}\n".encode())
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began

    def _load(self, backend: Backend, artifact: Loaded) -> Session:
        job = self._job
        return backend.load(artifact.folder, artifact.files, artifact.precision, job.threads, job.options)

    def _measure(self, session: Session, reference: Session) -> Latency:
        job = self._job
        assert job.measure and job.example  # noqa: S101 - `Job` refuses one without the other
        example = {name: np.array(array) for name, array in map_arrays(job.example).items()}
        samples = sample(session.timed(example), reference.timed(example), job.measure, job.seed)
        samples.save(self._work / SAMPLES)
        return summarise(samples, job.measure, job.seed)


def top_level_modules() -> tuple[str, ...]:
    """Names of the top-level modules that are imported; blocked ones, which are None, are not."""
    return tuple(sorted(name for name, module in sys.modules.items() if module is not None and "." not in name))


def peak_memory_bytes() -> int:
    """Most memory that this process had resident."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Only where there is no /proc: on Linux this one starts from what the parent had resident.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _described(folder: Path, name: str) -> ArtifactFile:
    with (folder / name).open("rb") as stream:
        return ArtifactFile(name, os.fstat(stream.fileno()).st_size, hashlib.file_digest(stream, "sha256").hexdigest())


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
    if len(sys.argv) > 2 and not sys.stdin.readline():
        return
    job = Job.from_json((work / JOB).read_text())
    child = Child(job, work, announce_to)
    answer: JobResult | Failure
    try:
        _keep_to(job.pin)
        answer = child.run()
    except Exception as error:
        answer = _failure(error, child.stage)
    partial = work / f"{RESULT}.partial"
    partial.write_text(answer.to_json())
    partial.replace(work / RESULT)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: with everything said, a runtime that crashes while it is unloaded would only confuse.
    os._exit(0)


if __name__ == "__main__":
    main()
