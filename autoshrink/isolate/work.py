"""A job done step by step: compile, load, audit, measure, profile, evaluate. Whoever runs it says how to load.

The timed process imports this: numpy and the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from autoshrink.backends.base import Array, Backend, Session
from autoshrink.isolate.evaluate import evaluate, map_arrays
from autoshrink.isolate.job import OUTPUTS, SAMPLES, Job, JobResult, Loaded
from autoshrink.measure.sensors import read_sensors
from autoshrink.measure.timing import sample, summarise
from autoshrink.types import ArtifactFile, Audit, Figure, Latency, Profile


class JobRun:
    """One job on its way.

    Attributes:
        stage: the one it is in.
        seconds: stage -> wall seconds of those that are over.

    Args:
        job: what to do.
        work: folder for what it writes.
        backend: of the job.
        load: loads an artifact into the runtime.
        announce: told the name of each stage as it begins.
    """

    def __init__(
        self,
        job: Job,
        work: Path,
        backend: Backend,
        load: Callable[[Loaded], Session],
        announce: Callable[[str], None],
    ) -> None:
        self.stage = "start"
        self.seconds: dict[str, float] = {}
        self._job = job
        self._work = work
        self._backend = backend
        self._load = load
        self._announce = announce

    def run(self) -> JobResult:
        """What the job asks for.

        Raises:
            Exception: whatever a stage raises; `stage` says which one it was.
        """
        job, backend = self._job, self._backend
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
            session = self._load(artifact)
            if job.measure:
                reference = self._load(job.reference or artifact)
        if job.audit and audit is None:
            with self._stage("audit"):
                audit = session.audit()
        modules = top_level_modules()
        latency: Latency | None = None
        before: Mapping[str, float] = {}
        after: Mapping[str, float] = {}
        if reference:
            with self._stage("measure"):
                before = read_sensors()
                latency = self._measure(session, reference)
                after = read_sensors()
        profile: Profile | None = None
        if job.profile:
            with self._stage("profile"):
                profile = session.profile(self._example(), job.profile)
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
            sensors={name: (before[name], after[name]) for name in before if name in after},
            samples=self._work / SAMPLES if latency else None,
            profile=profile,
            outputs=outputs,
            seconds=self.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            modules=modules,
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.stage = name
        self._announce(name)
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began

    def _example(self) -> dict[str, Array]:
        assert self._job.example  # noqa: S101 - `Job` refuses what needs one without it
        return {name: np.array(array) for name, array in map_arrays(self._job.example).items()}

    def _measure(self, session: Session, reference: Session) -> Latency:
        job = self._job
        assert job.measure  # noqa: S101 - asked before
        example = self._example()
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
