"""A study of many GENERATED trials, measured by nobody: `python -m autoshrink.bench.many_trials --out results/NAME`.

What the dashboard is timed with. Recipes, figures and outcomes are plausible in their shape and in the size of their
records; they come from a seeded generator, and the study's name and texts say so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from autoshrink.measure.stats import wilson
from autoshrink.records import StudyFolder, StudyMeta, record_to_json
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
    Range,
    Recipe,
    Scalar,
    Score,
    Space,
    TrialRecord,
)

COMMAND = "python -m autoshrink.bench.many_trials"
TRIALS = 10_000
SOURCE = "generated, measured by nobody"
VAL = 2000
BASELINE_ACCURACY = 0.942
BASELINE_BYTES = 4_910_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LAYERS = {
    "stem": (64, 1, 3, 3),
    "blocks.0.conv1": (64, 64, 3, 3),
    "blocks.0.conv2": (64, 64, 3, 3),
    "blocks.1.conv1": (128, 64, 3, 3),
    "blocks.1.conv2": (128, 128, 3, 3),
    "blocks.1.shortcut": (128, 64, 1, 1),
    "blocks.2.conv1": (256, 128, 3, 3),
    "blocks.2.conv2": (256, 256, 3, 3),
    "blocks.2.shortcut": (256, 128, 1, 1),
    "head": (10, 256),
}
SPACE = Space(
    "generated",
    {
        "prune": {"ratio": Range(0.0, 0.9, 0.01)},
        "finetune": {"epochs": Choice((1, 2, 4))},
        "quantize": {
            "scheme": Choice(("fp32", "fp16", "int8_dynamic", "int8_static")),
            "calibration": Choice(("minmax", "percentile", "entropy")),
            "keep_float": Choice(("none", "first_last")),
            "samples": Choice((64, 128, 256, 512)),
        },
    },
    SOURCE,
)


@dataclass(frozen=True)
class _Runtime:
    """What is peculiar to a target: milliseconds of the baseline, and how much of them each precision takes."""

    milliseconds: float
    share: Mapping[str, float]
    limits: Limits


RUNTIMES = {
    "onnxruntime-cpu": _Runtime(
        4.06, {"fp32": 1.0, "fp16": 1.01, "int8_dynamic": 0.7, "int8_static": 0.42}, Limits(drop=0.05)
    ),
    "openvino-cpu": _Runtime(
        3.61, {"fp32": 1.0, "fp16": 0.98, "int8_dynamic": 0.66, "int8_static": 0.31}, Limits(latency_ms=3.0)
    ),
}
WEIGHT_BYTES = {"fp32": 1.0, "fp16": 0.5, "int8_dynamic": 0.256, "int8_static": 0.262}


def generate(path: Path, trials: int = TRIALS, seed: int = 0) -> StudyFolder:
    """Writes a study of `trials` generated records, half of them on each of two targets, every outcome among them.

    The same seed gives the same bytes.

    Raises:
        ConfigError: there is a study at `path`, or it cannot be written.
        ValueError: fewer than one trial a target.
    """
    of_target = trials // len(RUNTIMES)
    if of_target < 1:
        raise ValueError(f"trials is {trials}; it must be {len(RUNTIMES)} or more, one for each target")
    study = StudyFolder.create(path, _meta(path.name, of_target, seed))
    for place, name in enumerate(RUNTIMES):
        for record in _records(name, of_target, np.random.default_rng([seed, place])):
            # Not `study.write`, which waits for the disk after each.
            study.trial_file(name, record.number).write_text(json.dumps(record_to_json(record), indent=1) + "\n")
    return study


def _meta(name: str, trials: int, seed: int) -> StudyMeta:
    targets = {
        target: Target(
            target,
            target.removesuffix("-cpu"),
            {"fp32": Precision(), "fp16": Precision(), "int8_dynamic": Precision(), "int8_static": Precision()},
            summary=f"{target}, {SOURCE}",
            limits=runtime.limits,
        )
        for target, runtime in RUNTIMES.items()
    }
    machine = {"processor": SOURCE, "architecture": "none", "system": "none", "python": "none", "versions": {}}
    return StudyMeta(
        name, "generated", targets, SPACE, seed, trials, None, BEGAN.isoformat(), "0.1.0", {**machine, "cores": 0}
    )


def _records(target: str, count: int, random: np.random.Generator) -> Iterator[TrialRecord]:
    runtime, known = RUNTIMES[target], set[str]()
    for number in range(count):
        finished = (BEGAN + timedelta(seconds=30 * number)).isoformat(timespec="seconds")
        recipe = Recipe()
        while number and (not recipe.stages or recipe.key in known):
            recipe = _recipe(random)
        known.add(recipe.key)
        if random.random() < 0.03 and number:
            yield _unmeasured(number, target, recipe, finished, random)
        else:
            yield _measured(number, target, recipe, finished, runtime, random)


def _recipe(random: np.random.Generator) -> Recipe:
    stages: list[dict[str, Scalar]] = []
    # The search looks longest where much is pruned: that is where the front is.
    ratio = round(float(random.beta(2.0, 1.6)) * 0.9, 2) if random.random() < 0.9 else 0.0
    if ratio:
        stages += [
            {"technique": "prune", "ratio": ratio},
            {"technique": "finetune", "epochs": int(random.choice((1, 2, 4)))},
        ]
    scheme = str(random.choice(list(WEIGHT_BYTES), p=(0.12, 0.16, 0.16, 0.56)))
    if scheme == "int8_static":
        stages.append(
            {
                "technique": "quantize",
                "scheme": scheme,
                "calibration": str(random.choice(("minmax", "percentile", "entropy"))),
                "keep_float": str(random.choice(("none", "first_last"))),
                "samples": int(random.choice((64, 128, 256, 512))),
            }
        )
    elif scheme != "fp32":
        stages.append({"technique": "quantize", "scheme": scheme})
    return Recipe.from_json(stages)


def _unmeasured(number: int, target: str, recipe: Recipe, finished: str, random: np.random.Generator) -> TrialRecord:
    outcome, reason = (
        (Outcome.REJECTED, f"{recipe.precision}: {SOURCE}")
        if random.random() < 0.5
        else (Outcome.FAILED, f"compile: the child ended with code 1 and no result ({SOURCE})")
    )
    return TrialRecord(number, target, recipe, outcome, reason, seconds={"other": 0.01}, finished=finished)


def _measured(
    number: int, target: str, recipe: Recipe, finished: str, runtime: _Runtime, random: np.random.Generator
) -> TrialRecord:
    settings = recipe.settings("prune") or {}
    pruned, epochs = float(settings.get("ratio", 0.0)), int((recipe.settings("finetune") or {}).get("epochs", 0))
    quantize = recipe.settings("quantize") or {}
    precision = recipe.precision
    ends = quantize.get("keep_float") == "first_last"
    kept = (1 - pruned) ** 1.5
    noise = float(random.lognormal(0, 0.03)) if number else 1.0
    ratio = (0.05 + 0.95 * kept) * (runtime.share[precision] + 0.03 * ends) * noise
    lost = 0.03 * pruned**2.5 / max(1, epochs) ** 0.5 + {
        "int8_dynamic": 0.001,
        "int8_static": 0.003 - 0.002 * ends,
    }.get(precision, 0.0)
    right = round(VAL * min(1.0, BASELINE_ACCURACY - lost + (float(random.normal(0, 0.001)) if number else 0.0)))
    size = round(BASELINE_BYTES * kept * WEIGHT_BYTES[precision]) + 14_000 if number else BASELINE_BYTES
    accuracy, ms = right / VAL, ratio * runtime.milliseconds
    drop = BASELINE_ACCURACY - accuracy
    outcome, reason = Outcome.COMPLETE, ""
    limits = runtime.limits
    if number and limits.latency_ms is not None and ms > limits.latency_ms:
        outcome, reason = Outcome.INFEASIBLE, f"latency {ms:.2f} ms is over the limit of {limits.latency_ms:g} ms"
    if number and limits.drop is not None and drop > limits.drop:
        outcome, reason = Outcome.INFEASIBLE, f"accuracy drops by {drop:.4f}, over the limit of {limits.drop:g}"
    half = 0.012 * ratio
    seconds = {"export": 2.0, "compile": 0.3, "measure": 6.0, "evaluate": 4.0, "score": 0.3, "other": 0.1}
    if pruned:
        seconds |= {"prune": 0.6, "finetune": 20.0 * epochs}
    int8 = precision.startswith("int8")
    layers = tuple(Layer(f"{name}/Conv", "Conv", "uint8" if int8 else "fp32") for name in LAYERS)
    files = (ArtifactFile("model.onnx", size, "0" * 64),)
    folder = f"{target}/trials/{number:04d}/artifact"
    return TrialRecord(
        number,
        target,
        recipe,
        outcome,
        reason,
        val=Score(accuracy, wilson(right, VAL), VAL, "wilson"),
        drop=drop,
        drop_ci=Interval(drop - 0.004, drop + 0.004) if number else Interval(0.0, 0.0),
        latency=Latency(
            ms,
            Interval(ms * 0.96, ms * 1.04),
            ratio,
            Interval(ratio - half, ratio + half),
            ms * 1.03,
            ms * 1.2,
            8,
            int(random.integers(0, 10)),
            bool(random.random() > 0.03),
            False,
        ),
        artifact=Artifact(target, precision, files, folder, SOURCE, round(0.92 * size)),
        audit=Audit(layers, conversions=2 * int8, kernels=14),
        agreement_db=round(float(random.uniform(20, 35)), 2) if int8 else 90.0,
        seconds={stage: round(value * float(random.lognormal(0, 0.1)), 4) for stage, value in seconds.items()},
        weights={layer: _shape(shape, pruned, layer) for layer, shape in LAYERS.items()},
        peak_memory_bytes=107_851_776,
        finished=finished,
        sensors={"load": (2.0, 2.0)},
    )


def _shape(shape: tuple[int, ...], pruned: float, layer: str) -> tuple[int, ...]:
    out, into, *kernel = shape
    kept = 1 - pruned
    return (
        out if layer == "head" else max(1, round(out * kept)),
        into if layer == "stem" else max(1, round(into * kept)),
        *kernel,
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--out", type=Path, required=True, help="folder of the study; its name is the study's")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"over both targets (default {TRIALS})")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    study = generate(options.out, options.trials, options.seed)
    print(study.path)


if __name__ == "__main__":
    main()
