"""Proves a package on the machine it is now on: files, runtime, outputs, accuracy, latency against the baseline."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.backends.base import State
from autoshrink.errors import AutoshrinkError, ConfigError, StageError
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import run_job
from autoshrink.measure.stats import score_of
from autoshrink.package.checks import (
    Check,
    Tolerance,
    check_answers,
    check_files,
    check_first_run,
    check_latency,
    check_parity,
    check_runtime,
    check_score,
    failed_run,
)
from autoshrink.package.manifest import ARTIFACT, FLOAT, INPUTS, MANIFEST, OUTPUTS, REFERENCE, Manifest, read_manifest
from autoshrink.package.samples import read_arrays, write_arrays
from autoshrink.task import Task
from autoshrink.types import Latency, Score

NAMED = 5
"""Unlisted files that are named."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found. It stops after the files or the runtime when they are not right: the rest would say nothing.

    Attributes:
        name: of the package.
        checks: in the order they were made.
        notes: what is worth knowing and no failure, such as another processor than recorded.
        latency: as measured here; None when it was not.
        score: of the task's data, when a task was given.
    """

    name: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    latency: Latency | None = None
    score: Score | None = None

    @property
    def ok(self) -> bool:
        """Whether every check is right."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """JSON values, `ok` first."""
        return {"ok": self.ok, **asdict(self)}


def verify(folder: Path, *, task: Task | None = None, tolerance: Tolerance | None = None) -> Verification:
    """Checks a package, and measures it again, on this machine.

    The package may come from a stranger: what it says of itself is checked before anything is opened, nothing is
    unpickled, and its model runs in a child process with limits of time and memory. A model is code for its runtime
    all the same: run a stranger's where you would run a stranger's program.

    1. files: each listed one is there with its bytes and SHA-256.
    2. runtime: installed here. Another version than recorded is a note.
    3. parity: the samples' outputs agree with the recorded ones. Of a package that was never run, since its device was
       not there when it was written, they are finite; how near they are to the float model's is told. Where its device
       is not here either, nothing more is checked: it stays compiled, not measured.
    4. answers: for logits, the largest one is the same; with `task`, its metric on test (on val when test was not
       scored) is not under the recorded interval.
    5. latency: interleaved with the baseline in `reference/`. On the recorded processor the ratio's lower end may not
       be over the recorded upper end times `tolerance.latency`; on another, which the notes name, the model may not
       be slower than the baseline. Not on an imitation of the device.

    Raises:
        ConfigError: `package.json` is missing, malformed, of an unknown schema, or leads out of the package; or `task`
            is not the package's.
        AutoshrinkError: the temporary files cannot be written here.
        StageError: the task's metric fails.
    """
    folder = folder.absolute()
    manifest = read_manifest(folder)
    if task is not None:
        _refuse_other_task(task, manifest)
    checks = [check_files(folder, manifest)]
    notes = _unlisted(folder, manifest)
    if manifest.target.pin and not _processors_here(manifest.target.pin):
        notes.append(f"processors {list(manifest.target.pin)} are not here: the model ran on any of this machine's")
    state: State = "unavailable"
    if checks[0].ok:
        runtime, state, about = check_runtime(manifest)
        checks.append(runtime)
        notes += about
    if state not in ("ready", "untimed"):
        return Verification(manifest.name, tuple(checks), tuple(notes))
    return _measure(folder, manifest, task, tolerance or Tolerance(), checks, notes, timed=state == "ready")


def _refuse_other_task(task: Task, manifest: Manifest) -> None:
    inputs = [(port.name, port.shape[1:], port.dtype) for port in manifest.signature.inputs]
    own = [(name, array.shape[1:], str(array.dtype)) for name, array in task.example_inputs.items()]
    if task.name != manifest.task or own != inputs:
        raise ConfigError(
            [f"--task: {task.name} with inputs {own}; the package is of task {manifest.task} with inputs {inputs}"]
        )


def _unlisted(folder: Path, manifest: Manifest) -> list[str]:
    listed = {MANIFEST, *(file.name for file in manifest.files)}
    found = (
        path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() and "__pycache__" not in path.parts
    )
    others = sorted(path.as_posix() for path in found if path.as_posix() not in listed)
    if not others:
        return []
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return [f"not part of the package, and not checked: {', '.join(others[:NAMED])}{more}"]


def _measure(
    folder: Path,
    manifest: Manifest,
    task: Task | None,
    tolerance: Tolerance,
    checks: list[Check],
    notes: list[str],
    *,
    timed: bool,
) -> Verification:
    recorded = manifest.figures.test or manifest.figures.val
    split = None if task is None else task.test if manifest.figures.test else task.val
    with tempfile.TemporaryDirectory(prefix="autoshrink-") as place:
        work = Path(place)
        try:
            samples = read_arrays(folder / INPUTS, manifest.signature.inputs)
            expected = read_arrays(folder / (FLOAT if manifest.not_run else OUTPUTS), manifest.signature.outputs)
            write_arrays(work / "samples", samples)
            first = {
                name: np.resize(array, (manifest.target.batch, *array.shape[1:])) for name, array in samples.items()
            }
            write_arrays(work / "example", first)
            if split is not None:
                write_arrays(work / "split", split.inputs)
            job = _job(folder, manifest, work, split is not None)
            result = run_job(job if timed else replace(job, measure=None), work / "child")
            found = read_arrays(result.outputs["samples"], manifest.signature.outputs)
            scored = read_arrays(result.outputs["split"], manifest.signature.outputs) if split is not None else {}
        except OSError as error:
            raise AutoshrinkError(f"{error.filename or work}: {error.strerror or error}; free some space") from error
        except StageError as error:
            return Verification(manifest.name, (*checks, failed_run(error)), tuple(notes))
    score = None
    for port in manifest.signature.outputs:
        if manifest.not_run:
            checks.append(check_first_run(port, expected[port.name], found[port.name]))
            continue
        checks.append(check_parity(port, expected[port.name], found[port.name], tolerance))
        if port.kind == "logits" and found[port.name].shape == expected[port.name].shape:
            checks.append(check_answers(port, expected[port.name], found[port.name], tolerance))
    if task is not None and split is not None:
        score = score_of(task.metric, scored, split.targets)
        checks.append(check_score(manifest, score, recorded))
    if result.latency is None:
        if timed:
            notes.append("the package has no reference/, so its latency was not compared with the baseline's")
    else:
        latency, about = check_latency(manifest, result.latency, tolerance)
        checks.append(latency)
        notes += about
    return Verification(manifest.name, tuple(checks), tuple(notes), result.latency, score)


def _job(folder: Path, manifest: Manifest, work: Path, with_split: bool) -> Job:
    runtime, target = manifest.runtime, manifest.target
    timed = bool(runtime.reference)
    return Job(
        backend=runtime.backend,
        threads=target.threads,
        batch=target.batch,
        limits=target.child,
        artifact=Loaded(folder / ARTIFACT, runtime.artifact, runtime.precision),
        reference=Loaded(folder / REFERENCE, runtime.reference, runtime.reference_precision) if timed else None,
        example=work / "example" if timed else None,
        measure=target.measuring if timed else None,
        evaluate={"samples": work / "samples", **({"split": work / "split"} if with_split else {})},
        options=target.options,
        pin=_processors_here(target.pin),
        device=target.device,
    )


def _processors_here(wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The processors to keep to: those of the profile where they are here, else all."""
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    return wanted if here.issuperset(wanted) else ()
