"""What becomes of a trial's results: scores, drops against the baseline, limits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoshrink.agreement import bounded_db, sqnr_db
from autoshrink.compressed_size import gzip_bytes
from autoshrink.isolate.job import JobResult
from autoshrink.measure.stats import paired_difference, score_of
from autoshrink.pipeline import Pipeline
from autoshrink.records import StudyFolder
from autoshrink.search.study import excesses
from autoshrink.search.words import human_bytes, human_ms
from autoshrink.target import Target
from autoshrink.task import Arrays, Split, Task
from autoshrink.types import Artifact, Interval, Outcome, Score, TrialRecord
from autoshrink.val_set import predicted_classes, sample_scores, write_array

Array = npt.NDArray[np.generic]

AGREEMENT_SAMPLES = 64
PREDICTIONS = "predictions.npy"
SCORES = "scores.npy"


class Judge:
    """Of the trials of one study on one target; `why` is the reason why not everything is measured there."""

    def __init__(self, folder: StudyFolder, task: Task, target: Target, pipeline: Pipeline, why: str) -> None:
        self.folder = folder
        self.task = task
        self.target = target
        self.pipeline = pipeline
        self.why = why
        self._baseline_outputs: dict[str, dict[str, Array]] = {}

    def judge(self, record: TrialRecord, place: Path, baseline: TrialRecord | None, result: JobResult) -> TrialRecord:
        """The record with what `result` says: scored, compared with the baseline, and held against the limits."""
        task, target = self.task, self.target
        folder = place / "artifact"
        artifact = Artifact(
            target.backend,
            record.recipe.precision,
            result.files,
            relative_to_study(self.folder, folder),
            result.runtime,
            gzip_bytes(folder / file.name for file in result.files),
        )
        record = replace(
            record,
            artifact=artifact,
            audit=result.audit,
            figures=dict(result.figures),
            peak_memory_bytes=result.peak_memory_bytes,
            sensors=dict(result.sensors),
        )
        if "val" not in result.outputs:
            why = f"compiled, not measured: {self.why}"
            return self._within_limits(replace(record, outcome=Outcome.COMPILED, reason=why))
        outputs = load_arrays(result.outputs["val"])
        val = self._score(outputs, task.val)
        if baseline is None:
            drop, drop_ci = 0.0, Interval(0.0, 0.0)
        else:
            drop, drop_ci = self._drop(outputs, task.val, "val")
        chosen = {name: array[:AGREEMENT_SAMPLES] for name, array in task.val.inputs.items()}
        expected = self.pipeline.float_outputs(record.recipe, target, chosen)
        agreement = min(sqnr_db(expected[name], outputs[name][:AGREEMENT_SAMPLES]) for name in expected)
        predictions, scores = self._per_sample(outputs, place)
        if baseline is not None:
            # The baseline's outputs stay for the paired comparisons; the others' have served.
            shutil.rmtree(result.outputs["val"], ignore_errors=True)
        record = replace(
            record,
            val=val,
            drop=drop,
            drop_ci=drop_ci,
            latency=result.latency,
            agreement_db=bounded_db(agreement),
            log=relative_to_study(self.folder, place / "child.log"),
            samples=relative_to_study(self.folder, result.samples) if result.samples else None,
            predictions=predictions,
            scores=scores,
            outcome=Outcome.COMPLETE,
            reason="" if result.latency else f"latency not measured: {self.why}",
        )
        return self._within_limits(record)

    def _per_sample(self, outputs: Arrays, place: Path) -> tuple[str | None, str | None]:
        """Writes what the artifact makes of each sample of val; the files of the predictions and of the scores."""
        predictions = predicted_classes(self.task, outputs)
        if predictions is not None:
            write_array(place / PREDICTIONS, predictions)
            return relative_to_study(self.folder, place / PREDICTIONS), None
        scores = sample_scores(self.task, outputs, self.task.val)
        if scores is None:
            return None, None
        write_array(place / SCORES, scores)
        return None, relative_to_study(self.folder, place / SCORES)

    def _within_limits(self, record: TrialRecord) -> TrialRecord:
        """The record, infeasible when it is over a limit of the target."""
        over = [name for name, excess in excesses(record, self.target.limits, self.target.batch).items() if excess > 0]
        if not over:
            return record
        reasons = [*([record.reason] if record.reason else []), *(self._over(record, name) for name in over)]
        return replace(record, outcome=Outcome.INFEASIBLE, reason="; ".join(reasons))

    def _over(self, record: TrialRecord, limit: str) -> str:
        limits = self.target.limits
        if limit == "latency" and record.latency and limits.latency_ms:
            return f"latency {human_ms(record.latency.ms)} is over the limit of {human_ms(limits.latency_ms)}"
        if limit == "size" and record.artifact and limits.size_bytes:
            return (
                f"size {human_bytes(record.artifact.size_bytes)} is over the limit of {human_bytes(limits.size_bytes)}"
            )
        if limit == "throughput" and record.latency:
            found = self.target.batch / record.latency.ms * 1000
            return f"throughput of {found:.4g} rows a second is under the least of {limits.throughput:g}"
        if limit in limits.figures:
            figure = record.figures[limit]
            kind = "estimated " if figure.estimate else ""
            return (
                f"{kind}{limit} of {figure.value:,.0f} {figure.unit} is over the limit of {limits.figures[limit]:,.0f}"
            )
        return f"{self.task.metric_name} drops by {record.drop:.4f}, over the limit of {limits.drop}"

    def judge_test(self, record: TrialRecord, outputs: Mapping[str, Array]) -> TrialRecord:
        """The record with the score of its artifact's outputs for the test split."""
        record = replace(record, test=self._score(outputs, self.task.test))
        if record.number != 0:
            drop, drop_ci = self._drop(outputs, self.task.test, "test")
            record = replace(record, test_drop=drop, test_drop_ci=drop_ci)
        return record

    def _score(self, outputs: Arrays, split: Split) -> Score:
        task = self.task
        return replace(score_of(task.metric, outputs, split.targets, self.folder.meta.seed), name=task.metric_name)

    def _drop(self, outputs: Arrays, split: Split, name: str) -> tuple[float, Interval]:
        """What the metric loses against the baseline on the same samples of a split, with its interval."""
        if name not in self._baseline_outputs:
            place = self.folder.trial_folder(self.target.name, 0)
            self._baseline_outputs[name] = load_arrays((place / "test" if name == "test" else place) / "outputs" / name)
        baseline = self._baseline_outputs[name]
        difference, interval = paired_difference(
            self.task.metric, baseline, outputs, split.targets, self.folder.meta.seed
        )
        return 0.0 - difference, Interval(0.0 - interval.high, 0.0 - interval.low)


def relative_to_study(folder: StudyFolder, path: Path) -> str:
    """A path below a study's folder, as records have it."""
    return str(path.resolve().relative_to(folder.path.resolve()))


def load_arrays(folder: Path) -> dict[str, Array]:
    """The npy files of a folder, by name."""
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
