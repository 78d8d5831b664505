"""A study of FAKE numbers on five targets: two timed, one by throughput, one imitated, one that only compiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoshrink.dashboard.view import TargetView
from autoshrink.records import StudyFolder
from autoshrink.target import Limits, Precision, Target
from autoshrink.types import Figure, Outcome, Recipe, TrialRecord
from tests.fake_study import TEST, fake_artifact, fake_audit, fake_latency, fake_meta, fake_score, fake_trial

FP16 = [{"technique": "quantize", "scheme": "fp16"}]
INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
PRUNED = [{"technique": "prune", "ratio": 0.5}, {"technique": "finetune", "epochs": 2}]
SMALL = [{"technique": "student", "width": 0.5}, *INT8]
RECIPES: Sequence[Sequence[Mapping[str, Any]]] = ([], INT8, FP16, [*PRUNED, *INT8], SMALL, PRUNED)
KINDS = {"fp32": Precision(), "fp16": Precision("storage"), "int8_static": Precision()}
FIELD = {
    "server": Target("server", "fake", KINDS, "Fake server, two threads", threads=2, limits=Limits(latency_ms=2.0)),
    "phone": Target("phone", "fake", KINDS, "Fake phone, one thread", limits=Limits(size_bytes=4_000_000)),
    "cloud": Target("cloud", "fake", KINDS, "Fake accelerator", batch=64, objective="throughput", device="gpu"),
    "microcontroller": Target(
        "microcontroller",
        "fake",
        KINDS,
        "Fake board, on an emulator",
        limits=Limits(latency_ms=50.0, size_bytes=2_000_000, figures={"arena": 262_144}),
    ),
    "tablet": Target("tablet", "fake", KINDS, "Fake tablet", limits=Limits(latency_ms=20.0)),
}
# Of each recipe in the order of RECIPES: accuracy, latency ratio, bytes.
FIGURES = {
    "server": [
        (0.9, 1.0, 4_920_000), (0.897, 0.35, 1_250_000), (0.9, 0.99, 2_470_000),
        (0.894, 0.16, 420_000), (0.885, 0.12, 330_000), (0.896, 0.42, 1_600_000),
    ],
    "phone": [
        (0.9, 1.0, 4_930_000), (0.896, 0.30, 1_260_000), (0.9, 0.62, 2_480_000),
        (0.872, 0.19, 430_000), (0.884, 0.14, 340_000), (0.896, 0.48, 1_610_000),
    ],
    "cloud": [
        (0.9, 1.0, 5_100_000), (0.897, 0.52, 1_800_000), (0.9, 0.28, 2_600_000),
        (0.894, 0.36, 700_000), (0.885, 0.33, 600_000), (0.896, 0.55, 1_900_000),
    ],
    "microcontroller": [
        (0.9, 0.0, 4_940_000), (0.896, 0.0, 1_270_000), (0.9, 0.0, 2_490_000),
        (0.893, 0.0, 440_000), (0.884, 0.0, 350_000), (0.896, 0.0, 1_620_000),
    ],
    "tablet": [(0.0, 0.0, size) for size in (5_000_000, 1_300_000, 2_510_000, 450_000, 360_000, 1_650_000)],
}  # fmt: skip
CALL_MS = {"server": 1.9, "phone": 6.4, "cloud": 12.0}
NOTE = "weights of 6 bits lie in 8-bit containers"


def fake_field_record(name: str, number: int) -> TrialRecord:
    """The FAKE trial of recipe `number` of RECIPES on a target of FIELD."""
    accuracy, ratio, size = FIGURES[name][number]
    recipe = RECIPES[number]
    precision = Recipe.from_json(recipe).precision
    artifact = fake_artifact(size, precision)
    audit = fake_audit(10 if "int8" in precision else 0)
    if name == "tablet":
        why = "compiled, not measured: there is no tablet here; run the file on one to measure it"
        notes = (NOTE,) if number == 4 else ()
        return TrialRecord(
            number, name, Recipe.from_json(recipe), Outcome.COMPILED, why,
            artifact=artifact, audit=replace(audit, notes=notes), seconds={"export": 2.0, "compile": 7.5},
        )  # fmt: skip
    record = fake_trial(
        number, recipe, target=name, accuracy=accuracy, size=size, artifact=artifact, audit=audit,
        latency=fake_latency(ratio, CALL_MS.get(name, 1.0)),
    )  # fmt: skip
    if name == "phone" and number == 3:
        record = replace(record, audit=replace(fake_audit(6), notes=(NOTE,)), agreement_db=14.0)
    if name == "microcontroller":
        arena = Figure(size / 5, "bytes", "fake planner")
        cycles = Figure(size * 30.0, "cycles", "fake estimator", estimate=True)
        record = replace(
            record, latency=None, figures={"arena": arena, "cycles": cycles},
            reason="latency not measured: the board is emulated, and an emulator's speed says nothing",
        )  # fmt: skip
        if arena.value > 262_144 or size > 2_000_000:
            record = replace(
                record, outcome=Outcome.INFEASIBLE, reason=f"arena of {arena.value:,.0f} bytes is over the limit"
            )
    if name == "server" and number in (0, 3, 4):
        test = fake_score(accuracy - 0.003, TEST)
        record = replace(record, test=test, test_drop=record.drop, test_drop_ci=record.drop_ci)
    return record


def fake_field_views(names: Sequence[str] = tuple(FIELD), **limits: Limits) -> dict[str, TargetView]:
    """The views of some targets, as of a study of these alone; `limits` by target go before its own."""
    records = {name: [fake_field_record(name, number) for number in range(len(RECIPES))] for name in names}
    return {
        name: TargetView(
            replace(FIELD[name], limits=limits.get(name, FIELD[name].limits)),
            records[name],
            [record for other in names if other != name for record in records[other]],
        )
        for name in names
    }


def make_fake_field(path: Path, names: Sequence[str] = tuple(FIELD)) -> StudyFolder:
    """The study on disk."""
    study = StudyFolder.create(path, fake_meta({name: FIELD[name] for name in names}, len(RECIPES)))
    for name in names:
        for number in range(len(RECIPES)):
            study.write(fake_field_record(name, number))
    return study
