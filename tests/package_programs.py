"""Packages for the runtimes that compile traced programs: small models, compiled for real, as `pick` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoshrink.backends import get_backend
from autoshrink.backends.base import Source
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import compile_and_run
from autoshrink.package import write_package
from autoshrink.program import write_program
from autoshrink.records import StudyFolder, StudyMeta
from autoshrink.target import ChildLimits, Precision, Target
from autoshrink.task import Task
from autoshrink.types import Artifact, Outcome, Recipe, Scalar, Space, StageSpec, TrialRecord
from tests import onnx_files, programs
from tests.model_tasks import task_of
from tests.onnx_files import BATCH
from tests.small_models import tiny_task

SAMPLES = 3
STATIC = {"scheme": "int8_static", "calibration": "minmax", "samples": 8, "keep_float": "none"}


def task_named(name: str) -> Task:
    """Of `cnn` (image -> logits) or `two_by_two` (floats and integers in and out) of `tests.programs`.

    `two_outputs` of `tests.small_models` has two inputs and two outputs without integers of 64 bits.
    """
    if name == "two_outputs":
        return tiny_task(name)
    if name == "cnn":
        task = task_of(programs.Cnn().eval(), ("logits",), image=onnx_files.image(1, 1))
        return replace(task, outputs={"logits": "logits"})
    pair = onnx_files.pair(1, 1)
    ordered = {"features": pair["features"], "token_ids": pair["token_ids"].astype(np.int64)}
    return task_of(programs.TwoByTwo().eval(), ("scores", "total"), **ordered)


def make_package(
    place: Path, backend: str, name: str = "cnn", precision: str = "fp32", options: Mapping[str, Scalar] | None = None
) -> Path:
    """The package of a model that was compiled for `backend` in a child, as a trial does it, with three samples."""
    runtime, task = get_backend(backend), task_named(name)
    target = Target(
        "bench",
        backend,
        {"fp32": Precision()},
        batch=BATCH,
        options=options or {},
        child=ChildLimits(240, 8192),
        device=f"{backend} of tests",
    )
    study = StudyFolder.create(
        place / "study",
        StudyMeta(
            name=name,
            task="small",
            targets={"bench": target},
            space=Space("none", {}),
            seed=0,
            trials=1,
            time_limit_s=None,
            created="2026-11-22T12:00:00+00:00",
            autoshrink="0.1.0",
            machine={"architecture": "x86_64", "system": "Linux 6.1"},
        ),
    )
    (place / "source").mkdir()
    write_program(task.model(), task, BATCH, place / "source/model.pt2")
    static = precision == "int8_static"
    recipe = Recipe((StageSpec.of("quantize", STATIC),)) if static else Recipe()
    calibration = place / "calibration"
    calibration.mkdir()
    for port, array in task.calibration.items():
        np.save(calibration / f"{port}.npy", array, allow_pickle=False)
    source = Source(
        place / "source/model.pt2",
        precision,
        recipe,
        STATIC if static else {},
        calibration if static else None,
        BATCH,
        options=target.options,
    )
    folder = study.path / "artifacts/a"
    job = Job(backend, 1, BATCH, target.child, Loaded(folder, (), precision), source, False, target.options)
    result = compile_and_run(job, place / "work", apart=runtime.apart)
    record = TrialRecord(
        number=0,
        target="bench",
        recipe=Recipe(),
        outcome=Outcome.COMPILED,
        reason="a test made it",
        artifact=Artifact(backend, precision, result.files, "artifacts/a", result.runtime),
        audit=result.audit,
        figures=result.figures,
    )
    study.write(record)
    return write_package(study, record, task, place / "package", include_reference=False, samples=SAMPLES)
