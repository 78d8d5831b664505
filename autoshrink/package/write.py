"""Writes the package of a trial: compiled files, the proof of what they do, and a runner that needs no autoshrink."""

from __future__ import annotations

import errno
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoshrink.cache import file_sha256
from autoshrink.errors import ChildError, ConfigError, StageError
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import run_job
from autoshrink.isolate.probe import availability
from autoshrink.isolate.process import interpreter
from autoshrink.package.card import model_card
from autoshrink.package.manifest import (
    ARTIFACT,
    FLOAT,
    INPUTS,
    MANIFEST,
    OUTPUTS,
    REFERENCE,
    TARGETS,
    AuditCounts,
    Figures,
    Manifest,
    OutputPort,
    Port,
    Runtime,
    Signature,
    options_that_ship,
    read_manifest,
)
from autoshrink.package.samples import write_arrays
from autoshrink.package.worlds import has_runner, usage, write_runner, write_snippets
from autoshrink.records import StudyFolder, write_json
from autoshrink.search.words import describe, human_bytes
from autoshrink.target import Target
from autoshrink.task import Arrays, Split, Task
from autoshrink.tasks.forward import run_forward
from autoshrink.types import Artifact, ArtifactFile, TrialRecord

SAMPLES = 256


def write_package(
    study: StudyFolder,
    record: TrialRecord,
    task: Task,
    out: Path,
    *,
    include_reference: bool = True,
    samples: int = SAMPLES,
) -> Path:
    """Writes the package of a trial into the new folder `out` and returns it.

    The folder appears in one rename, when everything is in it::

        package.json        signature, recipe, target, measurements with intervals, machine, SHA-256 of every file
        README.md           the model card
        run.py, runtime.py  run the model; need numpy and the runtime
        requirements.txt
        android/, web/, ... what runs it in the language of the target (see `autoshrink.package.worlds`)
        artifact/           the compiled files, as the trial left them
        reference/          the study's fp32 baseline, which `verify` compares the latency with
        samples/inputs/     <input>.npy [N, ...], rows that lie evenly over the test split
        samples/targets/    <target>.npy [N, ...]
        samples/outputs/    <output>.npy [N, ...], what the compiled files gave for them when the package was written
        samples/float/      instead of these, where nothing could run the files: the outputs of the task's float model

    Args:
        study: where the trial and its artifact lie.
        record: of the trial; the baseline's own is fine.
        task: of the study.
        out: must not exist, or be an empty folder.
        include_reference: without it `verify` cannot time the model.
        samples: how many rows of the test split.

    Raises:
        ConfigError: `out` is taken or cannot be written (no space, no permission), or the study's artifact is missing
            or was changed. Nothing half-written stays.
        StageError: the artifact cannot be run here, though its runtime and device are; or its files are not such as
            the target's snippets need.
    """
    out = out.absolute()
    _refuse_taken(out)
    baseline = next((each for each in study.records(record.target) if not each.recipe.stages), None)
    if baseline is None:
        raise ConfigError([f"{study.path}: has no baseline of {record.target}; `autoshrink resume` measures it"])
    artifacts = {ARTIFACT: _artifact(record)}
    if include_reference:
        artifacts[REFERENCE] = _artifact(baseline)
    for artifact in artifacts.values():
        _check_artifact(study, artifact)
    rows = np.linspace(0, len(task.test) - 1, min(samples, len(task.test))).astype(np.int64)
    split = task.test.rows(rows)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        for folder, artifact in artifacts.items():
            _copy_artifact(study, artifact, partial / folder)
        _write_samples(split, partial)
        target = study.meta.targets[record.target]
        available = availability(target)
        not_run = available.why if available.state == "compile-only" else ""
        if not_run:
            outputs = _run_float_model(task, split)
        else:
            outputs = _run_samples(artifacts[ARTIFACT], target, task.outputs, study.meta.seed, partial)
        write_arrays(partial / (FLOAT if not_run else OUTPUTS), outputs)
        manifest = replace(_manifest(out.name, study, record, baseline, task, split, outputs), not_run=not_run)
        if not include_reference:
            manifest = replace(manifest, runtime=replace(manifest.runtime, reference=()))
        _write_texts(manifest, partial)
        files = tuple(_listed(path, partial) for path in sorted(partial.rglob("*")) if path.is_file())
        write_json(partial / MANIFEST, replace(manifest, files=files).to_json())
        # What cannot be read again must not be shipped: the names of a task's arrays are the user's.
        read_manifest(partial)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise _cannot_write(out, artifacts, split, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _refuse_taken(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise ConfigError([f"--out: {out} is there already; a package goes into a new or an empty folder"])


def _check_artifact(study: StudyFolder, artifact: Artifact) -> None:
    problems = []
    for file in artifact.files:
        path = study.path / artifact.folder / file.name
        try:
            if file_sha256(path) != file.sha256:
                problems.append(f"{path}: was changed since the trial (its SHA-256 differs); run the trial again")
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}; the study's files must stay together")
    if problems:
        raise ConfigError(problems)


def _copy_artifact(study: StudyFolder, artifact: Artifact, folder: Path) -> None:
    for file in artifact.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(study.path / artifact.folder / file.name, path)


def _write_samples(split: Split, partial: Path) -> None:
    write_arrays(partial / INPUTS, split.inputs)
    write_arrays(partial / TARGETS, split.targets)


def _run_samples(
    artifact: Artifact, target: Target, names: Iterable[str], seed: int, partial: Path
) -> dict[str, npt.NDArray[np.generic]]:
    """What the copied files give for the samples, run in a child: output name -> array [N, ...]."""
    job = Job(
        backend=target.backend,
        threads=target.threads,
        batch=target.batch,
        limits=target.child,
        artifact=Loaded(partial / ARTIFACT, tuple(file.name for file in artifact.files), artifact.precision),
        evaluate={"samples": partial / INPUTS},
        options=target.options,
        seed=seed,
        device=target.device,
    )
    with tempfile.TemporaryDirectory(prefix=".work-", dir=partial) as work:
        try:
            result = run_job(job, Path(work), python=interpreter(target))
        except ChildError as error:
            # The child's log goes with its folder.
            raise StageError(error.stage, error.reason) from error
        return {name: np.load(result.outputs["samples"] / f"{name}.npy", allow_pickle=False) for name in names}


def _run_float_model(task: Task, split: Split) -> dict[str, npt.NDArray[np.generic]]:
    """What the task's own model gives for the samples: output name -> array [N, ...]."""
    outputs = run_forward(task, task.model().eval(), split.inputs)
    return {name: output.numpy() for name, output in outputs.items()}


def _manifest(
    name: str,
    study: StudyFolder,
    record: TrialRecord,
    baseline: TrialRecord,
    task: Task,
    split: Split,
    outputs: Arrays,
) -> Manifest:
    meta = study.meta
    target = meta.targets[record.target]
    artifact, reference = _artifact(record), _artifact(baseline)
    return Manifest(
        name=name,
        task=task.name,
        metric=task.metric_name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        autoshrink=meta.autoshrink,
        study={"name": meta.name, "trial": record.number, "seed": meta.seed, "recipe": record.recipe.key},
        recipe=tuple(record.recipe.to_json()),
        words=describe(record.recipe),
        # What is of the machine that measured, others must choose for themselves.
        target=replace(target, python="", options=options_that_ship(target)),
        runtime=Runtime(
            backend=artifact.backend,
            version=artifact.runtime,
            precision=artifact.precision,
            artifact=tuple(file.name for file in artifact.files),
            reference=tuple(file.name for file in reference.files),
            reference_precision=reference.precision,
        ),
        signature=Signature(
            tuple(Port(each, *_shape_and_dtype(array, target.batch)) for each, array in split.inputs.items()),
            tuple(
                OutputPort(each, *_shape_and_dtype(outputs[each], target.batch), kind)
                for each, kind in task.outputs.items()
            ),
        ),
        preprocessing=task.preprocessing,
        figures=_figures(record, reference),
        baseline=_figures(baseline, reference),
        machine=meta.machine,
        samples=len(split),
        files=(),
    )


def _artifact(record: TrialRecord) -> Artifact:
    if record.artifact is None:
        raise ConfigError(
            [f"trial {record.number} of {record.target}: has no artifact; pick a trial that was measured"]
        )
    return record.artifact


def _shape_and_dtype(array: npt.NDArray[np.generic], batch: int) -> tuple[tuple[int, ...], str]:
    return (batch, *array.shape[1:]), str(array.dtype)


def _figures(record: TrialRecord, reference: Artifact) -> Figures:
    artifact, audit = _artifact(record), record.audit
    counts = (
        AuditCounts(len(audit.layers), audit.int8_layers, audit.conversions, audit.kernels, audit.notes)
        if audit
        else None
    )
    return Figures(
        val=record.val,
        test=record.test,
        drop=record.drop,
        drop_ci=record.drop_ci,
        latency=record.latency,
        size_bytes=artifact.size_bytes,
        size_ratio=artifact.size_bytes / reference.size_bytes,
        audit=counts,
        agreement_db=record.agreement_db,
        outcome=record.outcome,
        reason=record.reason,
        figures=dict(record.figures),
    )


def _write_texts(manifest: Manifest, partial: Path) -> None:
    write_runner(manifest, partial)
    write_snippets(manifest, partial)
    card = model_card(manifest, usage(manifest, partial), python=has_runner(manifest))
    (partial / "README.md").write_text(card, encoding="utf-8")


def _listed(path: Path, partial: Path) -> ArtifactFile:
    return ArtifactFile(path.relative_to(partial).as_posix(), path.stat().st_size, file_sha256(path))


def _cannot_write(out: Path, artifacts: Mapping[str, Artifact], split: Split, error: OSError) -> ConfigError:
    reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        arrays = (*split.inputs.values(), *split.targets.values())
        needed = sum(a.size_bytes for a in artifacts.values()) + sum(array.nbytes for array in arrays)
        reason += f"; it needs some {human_bytes(needed)}"
    return ConfigError([f"--out: {out} cannot be written ({reason}); free some space or name another place"])
