"""Tries the changes that explain found for a user's own file, and measures each beside the file as it was."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoshrink.agreement import bounded_db, sqnr_db
from autoshrink.errors import AutoshrinkError
from autoshrink.explain.explanation import Tried
from autoshrink.explain.findings import Change, Finding
from autoshrink.explain.place import Listen, Place, quiet
from autoshrink.explain.run import Explained, changed_target, job_of
from autoshrink.explain.subject import Subject, made_inputs, write_arrays
from autoshrink.isolate.job import Job, JobResult, Loaded
from autoshrink.target import Target
from autoshrink.types import Audit

SAMPLES = 16
"""Calls on which the outputs of two files are compared."""


@dataclass(frozen=True)
class Variant:
    """Changes that are made together, and what they are expected to bring."""

    changes: tuple[Change, ...]
    expected_ms: float | None


def variants_of(findings: Sequence[Finding]) -> list[Variant]:
    """Each change by itself, and all of them together where there are several. One change may serve many findings."""
    expected: dict[Change, float | None] = {}
    for finding in findings:
        if finding.change is not None:
            known = expected.get(finding.change)
            ms = finding.expected.ms
            expected[finding.change] = ms if known is None else known if ms is None else max(known, ms)
    found = [Variant((change,), ms) for change, ms in expected.items()]
    if len(found) > 1:
        told = [ms for ms in expected.values() if ms is not None]
        found.append(Variant(tuple(expected), sum(told) if len(told) == len(expected) else None))
    return found


def apply_to_file(
    explained: Explained,
    subject: Subject,
    place: Place,
    out: Path,
    work: Path,
    seed: int = 0,
    listen: Listen = quiet,
) -> tuple[Tried, ...]:
    """Makes each change, measures it turn by turn with the original, and compares the outputs of the two.

    Args:
        explained: of the file.
        subject: the file as it was explained.
        place: of the target, whose protocol is used.
        out: folder for the changed files.
        work: folder for what is made on the way.
        seed: of the inputs on which outputs are compared.
        listen: told each stage.

    Raises:
        ChildError: the original cannot be run any more.
    """
    samples = _samples(subject, explained, work, seed)
    original: JobResult | None = None
    if samples is not None:
        job = replace(_job(place.target, explained.artifact, samples, subject), seed=seed)
        original = place.run(job, work / "original-outputs", listen)
    return tuple(
        _tried(variant, explained, subject, place, out, work / f"variant-{number}", original, samples, listen)
        for number, variant in enumerate(variants_of(explained.explanation.findings))
    )


def _tried(
    variant: Variant,
    explained: Explained,
    subject: Subject,
    place: Place,
    out: Path,
    work: Path,
    original: JobResult | None,
    samples: Path | None,
    listen: Listen,
) -> Tried:
    target = place.target
    before = int8_of(explained.audit)
    tried = Tried(variant.changes, expected_ms=variant.expected_ms, int8_before=before)
    folder = out / "+".join(change.key.rpartition(".")[2] for change in variant.changes)
    try:
        changed = _made(variant, subject, folder)
        options = target
        for change in variant.changes:
            if change.kind == "target":
                options = changed_target(options, change.key, change.value)
        artifact = Loaded(changed.folder, changed.files, "fp32", options.options)
        job = replace(
            _job(target, artifact, samples, subject),
            reference=explained.artifact,
            example=explained.example,
            measure=target.measuring,
            audit=True,
        )
        result = place.run(job, work, listen)
    except AutoshrinkError as error:
        return replace(tried, why=str(error))
    return replace(
        tried.timed(result.latency),
        int8_after=int8_of(result.audit),
        agreement_db=_agreement(original, result),
        where=str(changed.path) if any(change.kind == "file" for change in variant.changes) else "the same file",
    )


def _made(variant: Variant, subject: Subject, folder: Path) -> Subject:
    """The subject with the rewrites of a variant, in `folder`; the subject itself when there are none.

    Raises:
        AutoshrinkError: a rewrite finds nothing that it could change.
    """
    names = [change.key for change in variant.changes if change.kind == "file"]
    if not names:
        return subject
    folder.mkdir(parents=True, exist_ok=True)
    for name in subject.files:
        shutil.copyfile(subject.folder / name, folder / name)
    path = folder / subject.files[0]
    done = _rewritten_onnx(path, names) if path.suffix == ".onnx" else _rewritten_tflite(path, names)
    if not done:
        shutil.rmtree(folder)
        raise AutoshrinkError(f"{', '.join(names)}: nothing in this file can be rewritten so; change it at its source")
    return replace(subject, folder=folder)


def _rewritten_onnx(path: Path, names: Sequence[str]) -> int:
    import onnx

    from autoshrink.explain.onnx_rewrites import REWRITES

    model = onnx.load(str(path))
    done = sum(REWRITES[name](model) for name in names)
    onnx.save(model, str(path))
    return done


def _rewritten_tflite(path: Path, names: Sequence[str]) -> int:
    from autoshrink.backends.tflite_graph import Graph
    from autoshrink.explain.tflite_rewrites import REWRITES

    graph = Graph(path.read_bytes())
    done = sum(REWRITES[name](graph) for name in names)
    path.write_bytes(graph.content())
    return done


def _samples(subject: Subject, explained: Explained, work: Path, seed: int) -> Path | None:
    """Inputs of several calls for comparing outputs; None where inputs have no batch in common to go by."""
    rows = {port.shape[0] if port.shape else 0 for port in subject.ports}
    shapes = [np.load(explained.example / f"{port.name}.npy", mmap_mode="r").shape for port in subject.ports]
    if len(rows) != 1 or 0 in rows or [port.shape for port in subject.ports] != shapes:
        return None
    return write_arrays(made_inputs(subject.ports, seed + 1, SAMPLES), work / "samples")


def _job(target: Target, artifact: Loaded, samples: Path | None, subject: Subject) -> Job:
    job = job_of(target, artifact)
    if samples is None:
        return job
    return replace(job, batch=subject.ports[0].shape[0], evaluate={"samples": samples})


def _agreement(original: JobResult | None, changed: JobResult) -> float | None:
    if original is None or "samples" not in changed.outputs:
        return None
    values = []
    for path in sorted(original.outputs["samples"].glob("*.npy")):
        before = np.load(path, allow_pickle=False)
        after = np.load(changed.outputs["samples"] / path.name, allow_pickle=False)
        values.append(sqnr_db(before, after))
    return bounded_db(min(values)) if values else None


def int8_of(audit: Audit | None) -> tuple[int, int] | None:
    """(layers in 8 bit, layers)."""
    return (audit.int8_layers, len(audit.layers)) if audit else None
