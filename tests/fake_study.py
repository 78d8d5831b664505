"""A study folder full of FAKE numbers: plausible in shape, measured by nobody. For the tests of what shows a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.dashboard.view import TargetView
from autoshrink.records import StudyFolder, StudyMeta
from autoshrink.search.front import front
from autoshrink.target import Limits, Precision, Target
from autoshrink.types import (
    Artifact,
    ArtifactFile,
    Audit,
    Choice,
    Interval,
    Latency,
    Layer,
    Outcome,
    Recipe,
    Score,
    Space,
    TrialRecord,
)
from tests.fake_samples import fake_weights, with_fake_files, write_fake_activity, write_fake_val_set

VAL, TEST = 5000, 10000
LAYERS = ("stem.conv", *(f"blocks.{i}.conv{j}" for i in range(4) for j in (1, 2)), "head")
FAKE_TARGETS = {
    "onnxruntime-cpu": Target(
        name="onnxruntime-cpu",
        backend="onnxruntime",
        precisions={"fp32": Precision(), "fp16": Precision("storage"), "int8_static": Precision()},
        summary="ONNX Runtime, CPU, one thread",
        unsupported={"bf16": "ONNX Runtime has no bf16 kernels on CPUs"},
    ),
    "openvino-cpu": Target(
        name="openvino-cpu",
        backend="openvino",
        precisions={"fp32": Precision(), "fp16": Precision("storage"), "int8_static": Precision()},
        summary="OpenVINO, CPU, one thread",
        limits=Limits(latency_ms=0.9, drop=0.02),
    ),
}
FAKE_MACHINE = {
    "processor": "Fake CPU @ 2.60GHz",
    "architecture": "x86_64",
    "cores": 2,
    "usable_cores": 2,
    "memory_bytes": 16_000_000_000,
    "system": "Linux 6.1.0",
    "python": "3.11.9",
    "instruction_sets": ["avx2", "avx512f", "avx512_vnni"],
    "versions": {"autoshrink": "0.1.0", "torch": "2.9.0", "onnxruntime": "1.31.1", "openvino": "2026.4.0"},
    "load_1_min": 0.4,
    "frequency_mhz": None,
    "temperature_celsius": None,
}


def fake_meta(targets: Mapping[str, Target], trials: int | None = 24, **changes: Any) -> StudyMeta:
    """What a study that nobody ran was asked to do."""
    space = Space("standard", {"prune": {"ratio": Choice((0.0, 0.25, 0.5, 0.75))}}, "fake space")
    meta = StudyMeta(
        "fake-study",
        "fashion-mini",
        targets,
        space,
        0,
        trials,
        600.0,
        "2026-11-22T14:03:00+00:00",
        "0.1.0",
        FAKE_MACHINE,
    )
    return replace(meta, **changes)


def fake_score(value: float, count: int = VAL) -> Score:
    """A score with the normal interval of a proportion."""
    half = 1.96 * (max(value * (1 - value), 1e-4) / count) ** 0.5
    return Score(value, Interval(max(0.0, value - half), min(1.0, value + half)), count, "wilson")


def fake_latency(ratio: float, reference_ms: float = 1.24, stable: bool = True) -> Latency:
    """A latency with an interval of +- 1.2 %."""
    ms = ratio * reference_ms
    return Latency(
        ms,
        Interval(ms * 0.988, ms * 1.012),
        ratio,
        Interval(ratio * 0.988, ratio * 1.012),
        ms * 1.02,
        ms * 1.11,
        12,
        1,
        stable,
        not stable,
    )


def fake_artifact(size: int, precision: str = "fp32") -> Artifact:
    """An artifact whose file is not there; compressed it would be nine tenths of its size."""
    files = (ArtifactFile("model.bin", size, "0" * 64),)
    return Artifact("fake", precision, files, "artifacts/fake", "fake 1.0", round(0.9 * size))


def fake_audit(int8: int) -> Audit:
    """An audit in which the first `int8` of ten layers run in 8 bit; the ends are the first to stay float."""
    order = [*LAYERS[1:-1], LAYERS[0], LAYERS[-1]]
    quantized = set(order[:int8])
    layers = tuple(Layer(name, "Conv", "uint8" if name in quantized else "fp32") for name in LAYERS)
    return Audit(layers, conversions=2 * (0 < int8 < 10) + 2 * (int8 > 0), kernels=24)


def fake_trial(
    number: int,
    recipe: Sequence[Mapping[str, Any]] = (),
    *,
    target: str = "onnxruntime-cpu",
    accuracy: float = 0.9,
    ratio: float = 1.0,
    size: int = 4_920_000,
    outcome: Outcome = Outcome.COMPLETE,
    **changes: Any,
) -> TrialRecord:
    """A measured trial; its drop is against an accuracy of 0.9."""
    recipe_ = Recipe.from_json(recipe)
    drop = 0.9 - accuracy
    record = TrialRecord(
        number,
        target,
        recipe_,
        outcome,
        val=fake_score(accuracy),
        drop=drop,
        drop_ci=Interval(drop - 0.004, drop + 0.004) if recipe else Interval(0.0, 0.0),
        latency=fake_latency(ratio),
        artifact=fake_artifact(size, recipe_.precision),
        audit=fake_audit(10 if "int8" in recipe_.precision else 0),
        agreement_db=60.0,
        seconds={"export": 2.0, "compile": 0.6, "measure": 6.0, "evaluate": 3.1, "other": 0.3},
        finished="2026-11-22T14:05:00+00:00",
    )
    return replace(record, **changes)


def fake_view(records: Sequence[TrialRecord], limits: Limits | None = None, **changes: Any) -> TargetView:
    """One target's view of FAKE trials; `others` and fields of the target may be given."""
    others = changes.pop("others", ())
    target = FAKE_TARGETS[records[0].target if records else "onnxruntime-cpu"]
    return TargetView(replace(target, limits=limits or Limits(), **changes), records, others)


def make_fake_study(
    path: Path, targets: int = 2, trials: int = 24, seed: int = 0, running: bool = False
) -> StudyFolder:
    """A study of up to two targets with FAKE trials of every outcome; its front is scored on a fake test split.

    It has FAKE samples of val, predictions and latencies beside its records. With `running` this process seems to
    search on, having been asked for twice as many trials.
    """
    chosen = dict(list(FAKE_TARGETS.items())[:targets])
    study = StudyFolder.create(path, fake_meta(chosen, trials * 2 if running else trials, name=path.name))
    write_fake_val_set(study, VAL)
    for place, (name, target) in enumerate(chosen.items()):
        random = np.random.default_rng([seed, place])
        records = [_fake_trial(number, name, target, place, random) for number in range(trials)]
        scored = {record.number for record in front(records)} | {0}
        for record in records:
            if record.number in scored and record.val is not None:
                shift = float(random.normal(-0.004, 0.0015))
                record = replace(
                    record,
                    test=fake_score(record.val.value + shift, TEST),
                    test_drop=record.drop,
                    test_drop_ci=record.drop_ci,
                )
            study.write(with_fake_files(study, record))
    if running:
        write_fake_activity(study)
    return study


def _fake_trial(number: int, name: str, target: Target, place: int, random: np.random.Generator) -> TrialRecord:
    reference_ms, baseline_bytes = (1.24, 1.61)[place], 4_920_000
    if number == 0:
        return fake_trial(0, target=name, accuracy=0.9, latency=fake_latency(1.0, reference_ms), weights=fake_weights())
    prune = float(random.choice([0.0, 0.25, 0.5, 0.625, 0.75]))
    epochs = int(random.choice([1, 2]))
    scheme = str(random.choice(["fp32", "fp16", "bf16", "int8_static"], p=[0.18, 0.14, 0.08, 0.6]))
    ends = str(random.choice(["none", "first_last"]))
    calibration = str(random.choice(["minmax", "percentile"]))
    recipe: list[dict[str, Any]] = []
    if prune:
        recipe += [{"technique": "prune", "ratio": prune}, {"technique": "finetune", "epochs": epochs}]
    if scheme == "int8_static":
        recipe += [{"technique": "quantize", "scheme": scheme, "calibration": calibration, "keep_float": ends}]
    elif scheme != "fp32":
        recipe += [{"technique": "quantize", "scheme": scheme}]
    if not recipe:
        recipe = [{"technique": "quantize", "scheme": "fp16"}]
    int8 = (8 if ends == "first_last" else 10) if scheme == "int8_static" else 0
    if scheme == "bf16":
        why = target.unsupported.get("bf16", "target lists no such precision")
        return TrialRecord(
            number, name, Recipe.from_json(recipe), Outcome.REJECTED, f"bf16: {why}", seconds={"other": 0.01}
        )
    if number % 11 == 9:
        return TrialRecord(
            number,
            name,
            Recipe.from_json(recipe),
            Outcome.FAILED,
            "compile: the child ended with exit code -9 (out of memory at 8192 MiB) after node <Conv_12>",
            seconds={"finetune": 21.0, "export": 2.2, "compile": 4.0, "other": 0.4},
            log=f"{name}/trials/{number:04d}/child.log",
        )
    kept = (1 - prune) ** 1.4
    ratio = (0.08 + 0.92 * kept) * (0.42 + 0.03 * (10 - int8) if int8 else 1.0) * float(random.lognormal(0, 0.02))
    size = int(baseline_bytes * kept * ({"fp16": 0.5, "int8_static": 0.258}.get(scheme, 1.0)) + 14_000)
    loss = 0.02 * prune**1.6 / epochs + (0.0025 if int8 == 10 else 0.0008 if int8 else 0.0)
    accuracy = 0.9 - loss + float(random.normal(0, 0.0012))
    record = fake_trial(
        number,
        recipe,
        target=name,
        accuracy=accuracy,
        size=size,
        latency=fake_latency(ratio, reference_ms, stable=number % 7 != 5),
        audit=fake_audit(int8),
        weights=fake_weights(prune),
        agreement_db=round(float(random.uniform(18, 40)), 1) if int8 else 92.0,
        seconds={
            **({"prune": 0.8, "finetune": epochs * float(random.uniform(18, 24))} if prune else {}),
            "export": float(random.uniform(1.5, 3)),
            **({"quantize": float(random.uniform(3, 7))} if int8 else {}),
            "prepare": 0.05,
            "compile": float(random.uniform(0.3, 0.9)),
            "measure": float(random.uniform(3, 9)),
            "evaluate": float(random.uniform(2, 4)),
            "score": 0.2,
            "other": 0.4,
        },
    )
    limits = target.limits
    if limits.latency_ms is not None and record.latency is not None and record.latency.ms > limits.latency_ms:
        return replace(
            record,
            outcome=Outcome.INFEASIBLE,
            reason=f"latency {record.latency.ms:.2f} ms is over the limit of {limits.latency_ms:.3f} ms",
        )
    return record
