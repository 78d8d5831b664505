"""The way of one trial: recipe, pipeline, export, then in a child compile, audit, measure, evaluate; and its record."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoshrink.agreement import bounded_db, sqnr_db
from autoshrink.backends import get_backend
from autoshrink.backends.base import Source
from autoshrink.cache import StageCache
from autoshrink.compressed_size import gzip_bytes
from autoshrink.errors import AutoshrinkError, ChildError, StageError
from autoshrink.isolate.job import Job, JobResult, Loaded
from autoshrink.isolate.parent import compile_and_run, run_job
from autoshrink.isolate.probe import availability
from autoshrink.isolate.process import ChildProcess, interpreter
from autoshrink.measure.stats import paired_difference, score_of
from autoshrink.pipeline import Pipeline
from autoshrink.records import StudyFolder
from autoshrink.search.study import excesses
from autoshrink.search.words import human_bytes, human_ms
from autoshrink.target import Target
from autoshrink.task import Arrays, Split, Task, fingerprint
from autoshrink.types import Artifact, Interval, Outcome, Recipe, Score, TrialRecord

Array = npt.NDArray[np.generic]

AGREEMENT_SAMPLES = 64

Listener = Callable[[str, int, int], None]
"""Told (stage, steps done, steps in all); (stage, 0, 0) when a stage of unknown length begins."""


class TrialRunner:
    """Runs recipes of one study on one target. Whatever happens to a trial becomes its record."""

    def __init__(self, folder: StudyFolder, task: Task, target: Target, pipeline: Pipeline, cache: StageCache) -> None:
        self._backend = get_backend(target.backend)
        self._available = availability(target)
        self._python = interpreter(target)
        self._folder = folder
        self._task = task
        self._target = target
        self._pipeline = pipeline
        self._cache = cache
        self._baseline_outputs: dict[str, dict[str, Array]] = {}

    def run(self, recipe: Recipe, number: int, baseline: TrialRecord | None, listen: Listener) -> TrialRecord:
        """The record of a recipe, written to the study's folder. `baseline` is None for the baseline itself."""
        began = time.monotonic()
        place = self._folder.trial_folder(self._target.name, number)
        # What a killed process left of this very trial.
        shutil.rmtree(place, ignore_errors=True)
        record = TrialRecord(number, self._target.name, recipe, Outcome.FAILED)
        seconds: dict[str, float] = {}
        try:
            place.mkdir(parents=True)
            # Started here, the child has its imports behind it when the pipeline is through.
            with ChildProcess(place, self._target.threads, self._python, self._target.backend) as child:
                record = self._run(record, child, place, baseline, seconds, listen)
        except AutoshrinkError as error:
            log = Path(error.log) if isinstance(error, ChildError) else None
            record = replace(record, reason=str(error), log=self._relative(log) if log and log.exists() else None)
        except Exception as error:
            log = place / "traceback.log"
            reason = f"{type(error).__name__}: {error}".strip()
            try:
                log.write_text(traceback.format_exc())
                record = replace(record, reason=reason, log=self._relative(log))
            except OSError:
                record = replace(record, reason=reason)
        seconds["other"] = max(0.0, time.monotonic() - began - sum(seconds.values()))
        record = replace(
            record,
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._folder.write(record)
        return record

    def _run(
        self,
        record: TrialRecord,
        child: ChildProcess,
        place: Path,
        baseline: TrialRecord | None,
        seconds: dict[str, float],
        listen: Listener,
    ) -> TrialRecord:
        recipe, target, task = record.recipe, self._target, self._task
        precision = {str(name) for name in target.precisions}
        if recipe.precision not in precision:
            reasons = {str(name): why for name, why in target.unsupported.items()}
            why = reasons.get(recipe.precision, f"target {target.name} lists no such precision")
            return replace(record, outcome=Outcome.REJECTED, reason=f"{recipe.precision}: {why}")
        why = self._backend.refuses(recipe, target)
        if why:
            return replace(record, outcome=Outcome.REJECTED, reason=why)
        built = self._pipeline.run(recipe, target, listen)
        seconds.update(built.seconds)
        record = replace(record, reused=built.reused, weight_bits=dict(built.weight_bits))

        began = time.monotonic()
        example = self.arrays_folder(first_rows(task.val.inputs, target.batch))
        val = self.arrays_folder(task.val.inputs)
        # Outputs that training left without a range get one, so it is there after training too.
        calibrates = self._backend.form == "program" and recipe.stages
        calibration = self.arrays_folder(task.calibration) if calibrates else None
        seconds["prepare"] = time.monotonic() - began
        reference = None
        if baseline is not None and baseline.artifact is not None:
            reference = self.loaded(baseline.artifact)
        state = self._available.state
        source = Source(
            built.model,
            recipe.precision,
            recipe,
            built.settings,
            calibration,
            target.batch,
            target.threads,
            target.options,
        )
        job = replace(
            self._job(Loaded(place / "artifact", (), recipe.precision), source),
            run=state != "compile-only",
            reference=reference,
            example=example,
            measure=target.measuring if state == "ready" else None,
            audit=True,
            evaluate={"val": val},
        )
        result = compile_and_run(
            job, place, lambda stage: listen(stage, 0, 0), self._python, child, self._backend.apart
        )
        for stage, value in result.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value

        began = time.monotonic()
        record = self._judge(record, place, baseline, result)
        seconds["score"] = time.monotonic() - began
        return record

    def _judge(self, record: TrialRecord, place: Path, baseline: TrialRecord | None, result: JobResult) -> TrialRecord:
        task, target = self._task, self._target
        folder = place / "artifact"
        artifact = Artifact(
            target.backend,
            record.recipe.precision,
            result.files,
            self._relative(folder),
            result.runtime,
            gzip_bytes(folder / file.name for file in result.files),
        )
        record = replace(
            record,
            artifact=artifact,
            audit=result.audit,
            figures=dict(result.figures),
            peak_memory_bytes=result.peak_memory_bytes,
        )
        if "val" not in result.outputs:
            why = f"compiled, not measured: {self._available.why}"
            return self._within_limits(replace(record, outcome=Outcome.COMPILED, reason=why))
        outputs = load_arrays(result.outputs["val"])
        val = self._score(outputs, task.val)
        if baseline is None:
            drop, drop_ci = 0.0, Interval(0.0, 0.0)
        else:
            drop, drop_ci = self._drop(outputs, task.val, "val")
        chosen = {name: array[:AGREEMENT_SAMPLES] for name, array in task.val.inputs.items()}
        expected = self._pipeline.float_outputs(record.recipe, target, chosen)
        agreement = min(sqnr_db(expected[name], outputs[name][:AGREEMENT_SAMPLES]) for name in expected)
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
            log=self._relative(place / "child.log"),
            samples=self._relative(result.samples) if result.samples else None,
            outcome=Outcome.COMPLETE,
            reason="" if result.latency else f"latency not measured: {self._available.why}",
        )
        return self._within_limits(record)

    def _within_limits(self, record: TrialRecord) -> TrialRecord:
        """The record, infeasible when it is over a limit of the target."""
        over = [
            name for name, excess in excesses(record, self._target.limits, self._target.batch).items() if excess > 0
        ]
        if not over:
            return record
        reasons = [*([record.reason] if record.reason else []), *(self._over(record, name) for name in over)]
        return replace(record, outcome=Outcome.INFEASIBLE, reason="; ".join(reasons))

    def _over(self, record: TrialRecord, limit: str) -> str:
        limits = self._target.limits
        if limit == "latency" and record.latency and limits.latency_ms:
            return f"latency {human_ms(record.latency.ms)} is over the limit of {human_ms(limits.latency_ms)}"
        if limit == "size" and record.artifact and limits.size_bytes:
            return (
                f"size {human_bytes(record.artifact.size_bytes)} is over the limit of {human_bytes(limits.size_bytes)}"
            )
        if limit == "throughput" and record.latency:
            found = self._target.batch / record.latency.ms * 1000
            return f"throughput of {found:.4g} rows a second is under the least of {limits.throughput:g}"
        if limit in limits.figures:
            figure = record.figures[limit]
            kind = "estimated " if figure.estimate else ""
            return (
                f"{kind}{limit} of {figure.value:,.0f} {figure.unit} is over the limit of {limits.figures[limit]:,.0f}"
            )
        return f"{self._task.metric_name} drops by {record.drop:.4f}, over the limit of {limits.drop}"

    def score_test(self, record: TrialRecord) -> TrialRecord:
        """The record with the score of its artifact on the test split, written to the study's folder."""
        if record.artifact is None or record.test is not None or self._available.state == "compile-only":
            return record
        place = self._folder.trial_folder(self._target.name, record.number) / "test"
        place.mkdir(exist_ok=True)
        job = replace(
            self._job(self.loaded(record.artifact)), evaluate={"test": self.arrays_folder(self._task.test.inputs)}
        )
        result = run_job(job, place, python=self._python)
        outputs = load_arrays(result.outputs["test"])
        record = replace(record, test=self._score(outputs, self._task.test))
        if record.number != 0:
            drop, drop_ci = self._drop(outputs, self._task.test, "test")
            record = replace(record, test_drop=drop, test_drop_ci=drop_ci)
            shutil.rmtree(place, ignore_errors=True)
        self._folder.write(record)
        return record

    def _job(self, artifact: Loaded, source: Source | None = None) -> Job:
        """A job of this target that does nothing with `artifact` yet, except compiling it from `source`."""
        target = self._target
        return Job(
            backend=target.backend,
            threads=target.threads,
            batch=target.batch,
            limits=target.child,
            artifact=artifact,
            source=source,
            options=target.options,
            pin=target.pin,
            seed=self._folder.meta.seed,
            device=target.device,
        )

    def _score(self, outputs: Arrays, split: Split) -> Score:
        task = self._task
        return replace(score_of(task.metric, outputs, split.targets, self._folder.meta.seed), name=task.metric_name)

    def loaded(self, artifact: Artifact) -> Loaded:
        """Where an artifact of this study lies."""
        return Loaded(
            self._folder.path.resolve() / artifact.folder, tuple(f.name for f in artifact.files), artifact.precision
        )

    def arrays_folder(self, arrays: Arrays) -> Path:
        """A folder of the cache with one npy file an input, for children to map into memory."""

        def write(folder: Path) -> None:
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)

        try:
            return self._cache.get_or_make(fingerprint(arrays), "arrays", write)[0]
        except OSError as error:
            raise StageError("cache", f"inputs cannot be written ({error.strerror or error})") from error

    def _drop(self, outputs: Arrays, split: Split, name: str) -> tuple[float, Interval]:
        """What the metric loses against the baseline on the same samples of a split, with its interval."""
        if name not in self._baseline_outputs:
            place = self._folder.trial_folder(self._target.name, 0)
            self._baseline_outputs[name] = load_arrays((place / "test" if name == "test" else place) / "outputs" / name)
        baseline = self._baseline_outputs[name]
        difference, interval = paired_difference(
            self._task.metric, baseline, outputs, split.targets, self._folder.meta.seed
        )
        return 0.0 - difference, Interval(0.0 - interval.high, 0.0 - interval.low)

    def _relative(self, path: Path) -> str:
        return str(path.resolve().relative_to(self._folder.path.resolve()))


def load_arrays(folder: Path) -> dict[str, Array]:
    """The npy files of a folder, by name."""
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}


def first_rows(arrays: Arrays, count: int) -> Mapping[str, Array]:
    """The first `count` rows of each array, repeated when there are fewer."""
    return {name: np.resize(array[:count], (count, *array.shape[1:])) for name, array in arrays.items()}
