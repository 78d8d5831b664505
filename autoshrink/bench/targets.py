"""Every target: `python -m autoshrink.bench.targets --out results/targets.json`.

The demo's CNN and EfficientNet-Lite0 in fp32, fp16, static int8 and with 4-bit weights, on every target that this
machine has, each the way of a trial of a search: compiled, audited, measured beside the target's own fp32 artifact,
scored on the compiled artifact. The machine must be quiet. The 4-bit CNN is trained when the stage cache has none.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from autoshrink.bench.efficientnet_lite import efficientnet_lite0
from autoshrink.bench.target_page import markdown
from autoshrink.bench.target_rows import CNN, EFFICIENTNET, FLOAT, MODELS, TARGETS, VARIANTS, Row, row_of
from autoshrink.bench.techniques import open_folder
from autoshrink.cache import StageCache
from autoshrink.config import load_target
from autoshrink.errors import AutoshrinkError
from autoshrink.isolate.job import Job
from autoshrink.isolate.parent import run_job
from autoshrink.isolate.probe import availability, probe
from autoshrink.measure.environment import describe_machine
from autoshrink.pipeline import Pipeline
from autoshrink.records import SCHEMA, StudyFolder, write_json
from autoshrink.search.trial import TrialRunner, first_rows
from autoshrink.search.weight_range import with_exact_sums
from autoshrink.search.words import human_bytes
from autoshrink.target import Target
from autoshrink.task import Split, Task
from autoshrink.tasks.loading import load_task
from autoshrink.types import Artifact, TrialRecord

COMMAND = "python -m autoshrink.bench.targets"
YARDSTICK = "onnxruntime-cpu"
IMITATED_ROWS = {CNN: 500, EFFICIENTNET: 16}
"""Samples of val and of test on a target that is imitated, which takes a hundred times as long as a runtime."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--out", type=Path, required=True, help="JSON file; a Markdown page is written beside it")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="which models (default: both)")
    parser.add_argument("--targets", nargs="+", default=TARGETS, help="which targets (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    options = parser.parse_args(arguments)
    try:
        # Before anything is measured: a package of the second model may be missing.
        tasks = {name: load_task("fashion-mnist") if name == CNN else efficientnet_lite0() for name in options.models}
        rows = _kept(options.out, options.models, options.targets, options.seed)
        targets, away = _here(options.targets)
        with tempfile.TemporaryDirectory(prefix="autoshrink-") as temporary:
            for model, task in tasks.items():
                folder = open_folder(Path(temporary) / model, task.source or task.name, targets, options.seed)
                with folder.locked():
                    rows += _Bench(model, task, folder).run(targets)
                rows += [Row(model, name, variant, reason=why) for name, why in away for variant in VARIANTS[model]]
                _write(options.out, rows, options.seed)
    except (AutoshrinkError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    print(f"wrote {options.out} and {options.out.with_suffix('.md')}")


def _kept(out: Path, models: Sequence[str], targets: Sequence[str], seed: int) -> list[Row]:
    """The other rows of the file that is there, when it is of this machine, seed and versions."""
    try:
        data = json.loads(out.read_text())
        machine = describe_machine()
        same = data["seed"] == seed and all(data["machine"][k] == machine[k] for k in ("processor", "versions"))
        rows = [Row.from_json(row) for row in data["rows"] if same]
        return [row for row in rows if row.model not in models or row.target not in targets]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _here(names: Sequence[str]) -> tuple[list[Target], list[tuple[str, str]]]:
    """The targets that can at least be compiled for on this machine, and the others with the reason."""
    here, away = [], []
    for name in names:
        target = load_target(name)
        try:
            target = with_exact_sums(target, probe(target))
            # What is over a profile's limit is published all the same.
            here.append(replace(target, limits=type(target.limits)()))
        except AutoshrinkError as error:
            away.append((name, str(error)))
    return here, away


class _Bench:
    """One model on its targets."""

    def __init__(self, model: str, task: Task, folder: StudyFolder) -> None:
        self._model = model
        self._task = task
        self._folder = folder
        self._cache = StageCache()
        self._pipeline = Pipeline(task, self._cache, folder.meta.seed)
        self._yardstick: tuple[Target, TrialRunner, Artifact] | None = None

    def run(self, targets: Sequence[Target]) -> list[Row]:
        rows = []
        for target in targets:
            imitated = availability(target).state == "untimed"
            task = _fewer(self._task, IMITATED_ROWS[self._model]) if imitated else self._task
            runner = TrialRunner(self._folder, task, target, self._pipeline, self._cache)
            baseline: TrialRecord | None = None
            for number, (variant, recipe) in enumerate(VARIANTS[self._model].items()):
                before = self._ort_ms()
                record = runner.run(recipe, number, baseline, lambda _stage, _done, _total: None)
                if variant == FLOAT:
                    baseline = record
                    if target.name == YARDSTICK and record.artifact is not None:
                        self._yardstick = target, runner, record.artifact
                after = self._ort_ms()
                # Timed before and after: the machine's pace in between is nearer to their mean than to either.
                ort_ms = (before + after) / 2 if before and after else after
                try:
                    record = runner.score_test(record)
                except AutoshrinkError as error:
                    record = replace(record, reason=f"not scored: {error}")
                row = row_of(record, self._model, variant, ort_ms)
                if imitated:
                    row = replace(row, notes=(*row.notes, f"scored on {len(task.test)} samples of the test split"))
                rows.append(row)
                print(_line(rows[-1]), flush=True)
                if baseline is None or baseline.artifact is None:
                    rows += [
                        Row(self._model, target.name, other, reason=f"its fp32 baseline failed: {record.reason}")
                        for other in list(VARIANTS[self._model])[1:]
                    ]
                    break
        return rows

    def _ort_ms(self) -> float | None:
        """Milliseconds of ONNX Runtime's fp32 artifact now, timed against a second copy of itself."""
        if self._yardstick is None:
            return None
        target, runner, artifact = self._yardstick
        job = Job(
            backend=target.backend,
            threads=target.threads,
            batch=target.batch,
            limits=target.child,
            artifact=runner.loaded(artifact),
            example=runner.arrays_folder(first_rows(self._task.val.inputs, target.batch)),
            measure=target.measuring,
            seed=self._folder.meta.seed,
            device=target.device,
        )
        with tempfile.TemporaryDirectory(prefix="autoshrink-") as place:
            latency = run_job(job, Path(place)).latency
        return latency.ms if latency else None


def _fewer(task: Task, rows: int) -> Task:
    """The task with so many samples of val and test, evenly from each."""

    def some(split: Split) -> Split:
        return split.rows(np.linspace(0, len(split) - 1, min(rows, len(split))).astype(np.int64))

    return replace(task, val=some(task.val), test=some(task.test))


def _place(row: Row) -> tuple[int, int, int]:
    targets = [*TARGETS, row.target]
    return MODELS.index(row.model), targets.index(row.target), list(VARIANTS[row.model]).index(row.variant)


def _line(row: Row) -> str:
    parts = [f"{row.model} {row.target} {row.variant}:"]
    if row.size_bytes is not None:
        parts.append(human_bytes(row.size_bytes))
    if row.latency_ratio is not None:
        parts.append(f"{1 / row.latency_ratio:.2f} times as fast as its fp32")
    for name, value in (("accuracy", row.accuracy), ("top-1 agreement", row.top1_agreement)):
        if value is not None:
            parts.append(f"{name} {100 * value:.2f} %")
    if row.agreement_db is not None:
        parts.append(f"{row.agreement_db:.1f} dB")
    return " ".join([*parts, row.reason])


def _write(out: Path, rows: Sequence[Row], seed: int) -> None:
    machine = describe_machine()
    shown = out.name if out.is_absolute() else str(out)
    document = {
        "schema": SCHEMA,
        "command": f"{COMMAND} --out {shown}",
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": machine["versions"],
        "machine": machine,
        "rows": [row.to_json() for row in sorted(rows, key=_place)],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, document)
    out.with_suffix(".md").write_text(markdown(document))


if __name__ == "__main__":
    main()
