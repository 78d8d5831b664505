"""A study folder with two trials on hand-built ONNX files: a slow baseline, and a small model of the same function."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from autoshrink.backends import get_backend
from autoshrink.backends.base import Source, processor_name
from autoshrink.cache import file_sha256
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import compile_and_run
from autoshrink.package import Check, Verification
from autoshrink.records import StudyFolder, StudyMeta
from autoshrink.target import ChildLimits, Measuring, Precision, Target
from autoshrink.task import Split, Task
from autoshrink.tasks.classification import right_answers
from autoshrink.types import (
    Artifact,
    ArtifactFile,
    Audit,
    Interval,
    Latency,
    Layer,
    Outcome,
    Recipe,
    Score,
    Space,
    StageSpec,
    TrialRecord,
)

BATCH, FEATURES, HIDDEN, CLASSES, ROWS = 2, 8, 512, 4, 37
MEASURING = Measuring(interval=0.5, rounds_min=3, rounds_max=4, turn_ms=1, warm_up_calls=3, time_limit_s=5)


def product_chain(weights: Sequence[npt.NDArray[np.float32]], out: Path) -> None:
    """`x` [2, 8] times each of the matrices in turn -> logits [2, 4]."""
    names = ["x", *(f"between{i}" for i in range(len(weights) - 1)), "logits"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"product{i}") for i in range(len(weights))
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH, CLASSES])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(out))


def weights() -> list[npt.NDArray[np.float32]]:
    """Four matrices, two of them large, whose product is well scaled."""
    random = np.random.RandomState(0)
    sizes = [FEATURES, HIDDEN, HIDDEN, HIDDEN, CLASSES]
    return [(random.randn(rows, columns) / rows**0.5).astype(np.float32) for rows, columns in itertools.pairwise(sizes)]


def no_model() -> NoReturn:
    """Packages are made of compiled files; nobody may ask for the torch model."""
    raise AssertionError("the task's model was built")


def a_task() -> Task:
    """Rows whose label is the largest output of the exact product, one row in ten mislabelled."""
    random = np.random.RandomState(1)
    exact = np.linalg.multi_dot([w.astype(np.float64) for w in weights()])

    def split(count: int) -> Split:
        x = random.randn(count, FEATURES).astype(np.float32)
        label = (x @ exact).argmax(1)
        label[::10] = (label[::10] + 1) % CLASSES
        return Split({"x": x}, {"label": label})

    return Task(
        name="products",
        model=no_model,
        example_inputs={"x": np.zeros((1, FEATURES), np.float32)},
        outputs={"logits": "logits"},
        calibration=split(4).inputs,
        val=split(ROWS),
        test=split(ROWS),
        metric=right_answers,
        preprocessing="Divide by 127.5 and subtract 1.",
    )


def float_task() -> Task:
    """`a_task` with a torch model that computes the exact product."""
    exact = np.linalg.multi_dot([w.astype(np.float64) for w in weights()])

    class Product(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.double() @ torch.from_numpy(exact)).float()

    return replace(a_task(), model=lambda: Product())


def score(value: float, low: float, high: float) -> Score:
    """Of the task's splits."""
    return Score(value, Interval(low, high), ROWS, "wilson")


def latency(ratio: float, low: float, high: float) -> Latency:
    """Of a baseline of 0.1 ms."""
    return Latency(
        ratio / 10, Interval(low / 10, high / 10), ratio, Interval(low, high), ratio / 10, ratio / 8, 8, 1, True, False
    )


def artifact(study: Path, key: str, files: Sequence[str], backend: str, version: str) -> Artifact:
    """What lies in `artifacts/<key>`."""
    folder = study / "artifacts" / key
    listed = tuple(ArtifactFile(name, (folder / name).stat().st_size, file_sha256(folder / name)) for name in files)
    return Artifact(backend, "fp32", listed, f"artifacts/{key}", version)


def compiled(study: Path, key: str, backend: str, source: Path) -> tuple[str, ...]:
    """Compiles an ONNX file into `artifacts/<key>`, in a child where the backend does that; the names of the files."""
    runtime, folder = get_backend(backend), study / "artifacts" / key
    if not runtime.apart:
        return runtime.compile(Source(source, batch=BATCH), folder).files
    job = Job(backend, 1, BATCH, ChildLimits(), Loaded(folder, (), "fp32"), Source(source, batch=BATCH), False)
    return tuple(file.name for file in compile_and_run(job, study / f"{key}.work", apart=True).files)


def make_study(path: Path, backend: str = "onnxruntime") -> tuple[StudyFolder, TrialRecord]:
    """The study and the record of its small model, trial 3. Its figures are made up, the files are real."""
    runtime = get_backend(backend)
    target = Target("bench", backend, {"fp32": Precision()}, batch=BATCH, measuring=MEASURING)
    meta = StudyMeta(
        name="products",
        task="products",
        targets={"bench": target},
        space=Space("none", {}),
        seed=0,
        trials=2,
        time_limit_s=None,
        created="2026-11-22T12:00:00+00:00",
        autoshrink="0.1.0",
        machine={"processor": processor_name(), "architecture": "x86_64", "system": "Linux 6.1"},
    )
    study = StudyFolder.create(path, meta)
    chain = weights()
    product = np.linalg.multi_dot([w.astype(np.float64) for w in chain]).astype(np.float32)
    artifacts = {}
    for key, matrices in (("slow", chain), ("small", [product])):
        source = path / f"{key}.onnx"
        product_chain(matrices, source)
        files = compiled(path, key, backend, source)
        artifacts[key] = artifact(path, key, files, backend, runtime.runtime())
    audit = Audit((Layer("product0", "MatMul", "fp32"),), 0, 1)
    baseline = TrialRecord(
        number=0,
        target="bench",
        recipe=Recipe(),
        outcome=Outcome.COMPLETE,
        val=score(0.9, 0.77, 0.97),
        drop=0.0,
        drop_ci=Interval(0.0, 0.0),
        test=score(0.9, 0.77, 0.97),
        latency=latency(1.0, 0.99, 1.01),
        artifact=artifacts["slow"],
        audit=audit,
        agreement_db=120.0,
    )
    record = TrialRecord(
        number=3,
        target="bench",
        recipe=Recipe((StageSpec.of("prune", {"ratio": 0.5}), StageSpec.of("quantize", {"scheme": "int8_static"}))),
        outcome=Outcome.COMPLETE,
        val=score(0.89, 0.76, 0.96),
        drop=0.01,
        drop_ci=Interval(-0.02, 0.04),
        test=score(0.9, 0.77, 0.97),
        latency=latency(0.5, 0.48, 0.52),
        artifact=artifacts["small"],
        audit=audit,
        agreement_db=96.5,
    )
    for each in (baseline, record):
        study.write(each)
    return study, record


def edit(package: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes `package.json` and writes it back."""
    path = package / "package.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def relist(package: Path) -> None:
    """Brings the list of files up to date, as somebody who means harm would."""

    def change(data: dict[str, Any]) -> None:
        for file in data["files"]:
            path = package / file["name"]
            file.update(size=path.stat().st_size, sha256=file_sha256(path))

    edit(package, change)


def failures(verification: Verification) -> list[Check]:
    """The checks that are not right."""
    return [check for check in verification.checks if not check.ok]
