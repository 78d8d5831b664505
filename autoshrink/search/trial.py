"""The way of one trial: recipe, pipeline, export; then compile, audit, measure, evaluate, here or on a device."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from autoshrink.backends import get_backend
from autoshrink.backends.base import Source, State
from autoshrink.cache import StageCache
from autoshrink.devices.pool import Pool
from autoshrink.errors import AutoshrinkError, ChildError, StageError, TargetUnavailable
from autoshrink.isolate.job import Job, JobResult, Loaded
from autoshrink.isolate.parent import compile_and_run, compile_only, joined, run_job, without_compiling
from autoshrink.isolate.probe import availability
from autoshrink.isolate.process import ChildProcess, interpreter
from autoshrink.pipeline import Pipeline
from autoshrink.records import StudyFolder
from autoshrink.search.judge import Judge, load_arrays, relative_to_study
from autoshrink.target import Target
from autoshrink.task import Arrays, Task, fingerprint
from autoshrink.types import Artifact, Outcome, Recipe, TrialRecord

Array = npt.NDArray[np.generic]

Listener = Callable[[str, int, int], None]
"""Told (stage, steps done, steps in all); (stage, 0, 0) when a stage of unknown length begins."""


class TrialRunner:
    """Runs recipes of one study on one target. Whatever happens to a trial becomes its record.

    Artifacts are run by children on this machine, or by the devices of `pool`; they are compiled here in any case.
    """

    def __init__(
        self,
        folder: StudyFolder,
        task: Task,
        target: Target,
        pipeline: Pipeline,
        cache: StageCache,
        pool: Pool | None = None,
    ) -> None:
        self.backend = get_backend(target.backend)
        self.state, why = (pool.state, pool.why) if pool else _here(target)
        self.judge = Judge(folder, task, target, pipeline, why)
        self.python = interpreter(target)
        self.pool = pool
        self.folder = folder
        self.task = task
        self.target = target
        self.pipeline = pipeline
        self._cache = cache

    def run(self, recipe: Recipe, number: int, baseline: TrialRecord | None, listen: Listener) -> TrialRecord:
        """The record of a recipe, written to the study's folder. `baseline` is None for the baseline itself.

        Raises:
            TargetUnavailable: the target's devices are gone; nothing is recorded.
        """
        with self.begin(recipe, number, baseline) as trial:
            trial.prepare(listen)
            trial.measure(lambda stage: listen(stage, 0, 0))
            return trial.conclude()

    def begin(self, recipe: Recipe, number: int, baseline: TrialRecord | None) -> Trial:
        """A trial, for one who does its parts at different times; see `Trial`."""
        return Trial(self, recipe, number, baseline)

    @property
    def places(self) -> int:
        """How many trials may be measured at once."""
        return self.pool.size if self.pool else 1

    def refusal(self, recipe: Recipe) -> str:
        """Why a recipe is rejected before any work; empty when it is not."""
        target = self.target
        if recipe.precision not in {str(name) for name in target.precisions}:
            reasons = {str(name): why for name, why in target.unsupported.items()}
            why = reasons.get(recipe.precision, f"target {target.name} lists no such precision")
            return f"{recipe.precision}: {why}"
        return self.backend.refuses(recipe, target)

    def score_test(self, record: TrialRecord) -> TrialRecord:
        """The record with the score of its artifact on the test split, written to the study's folder."""
        if record.artifact is None or record.test is not None or self.state == "compile-only":
            return record
        place = self.folder.trial_folder(self.target.name, record.number) / "test"
        place.mkdir(exist_ok=True)
        job = replace(
            self.job(self.loaded(record.artifact)), evaluate={"test": self.arrays_folder(self.task.test.inputs)}
        )
        if self.pool:
            result, _ = self.pool.run(job, place, lambda _stage: None)
        else:
            result = run_job(job, place, python=self.python)
        record = self.judge.judge_test(record, load_arrays(result.outputs["test"]))
        if record.number != 0:
            shutil.rmtree(place, ignore_errors=True)
        self.folder.write(record)
        return record

    def job(self, artifact: Loaded, source: Source | None = None) -> Job:
        """A job of this target that does nothing with `artifact` yet, except compiling it from `source`."""
        target = self.target
        return Job(
            backend=target.backend,
            threads=target.threads,
            batch=target.batch,
            limits=target.child,
            artifact=artifact,
            source=source,
            options=target.options,
            pin=target.pin,
            seed=self.folder.meta.seed,
            device=target.device,
        )

    def loaded(self, artifact: Artifact) -> Loaded:
        """Where an artifact of this study lies."""
        return Loaded(
            self.folder.path.resolve() / artifact.folder, tuple(f.name for f in artifact.files), artifact.precision
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


class Trial:
    """One trial on its way: `prepare`, `measure`, `conclude`, in this order; what goes wrong is in its record.

    The first and the last work on this machine, one trial at a time. `measure` of several trials of a target with
    devices may run at once, each in a thread. On leaving its context what was started for it is ended.

    Raises:
        TargetUnavailable: from each part: the target's devices are gone; it is to be done again some other day.
    """

    def __init__(self, runner: TrialRunner, recipe: Recipe, number: int, baseline: TrialRecord | None) -> None:
        self.record = TrialRecord(number, runner.target.name, recipe, Outcome.FAILED)
        self.place = runner.folder.trial_folder(runner.target.name, number)
        self._runner = runner
        self._baseline = baseline
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._over = False
        self._job: Job | None = None
        self._compiled: JobResult | None = None
        self._result: JobResult | None = None
        self._child: ChildProcess | None = None
        self._started = ExitStack()

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be measured: it was rejected, or has failed."""
        return self._over

    def close(self) -> None:
        """Ends what was started for it. May be called twice."""
        self._started.close()

    def prepare(self, listen: Listener) -> None:
        """The pipeline, and for devices elsewhere the compiler."""
        runner = self._runner
        # What a killed process left of this very trial.
        shutil.rmtree(self.place, ignore_errors=True)
        with self._attempt():
            self.place.mkdir(parents=True)
            if runner.pool is None:
                # Started here, the child has its imports behind it when the pipeline is through.
                child = ChildProcess(self.place, runner.target.threads, runner.python, runner.target.backend)
                self._child = self._started.enter_context(child)
            why = runner.refusal(self.record.recipe)
            if why:
                self.record = replace(self.record, outcome=Outcome.REJECTED, reason=why)
                self._over = True
                return
            self._job = self._built(listen)
            if runner.pool:
                self._compiled = compile_only(self._job, self.place, lambda stage: listen(stage, 0, 0), runner.python)

    def measure(self, on_stage: Callable[[str], None]) -> None:
        """Compiles where that is not done, audits, measures and evaluates, on this machine or on a device."""
        if self._over or self._job is None:
            return
        runner, job = self._runner, self._job
        with self._attempt():
            if runner.pool and self._compiled:
                rest = without_compiling(job, self._compiled)
                result, device = runner.pool.run(rest, self.place, on_stage)
                self._result = joined(self._compiled, result)
                self.record = replace(self.record, device=device)
            else:
                apart = runner.backend.apart
                self._result = compile_and_run(job, self.place, on_stage, runner.python, self._child, apart)

    def conclude(self) -> TrialRecord:
        """The record, written to the study's folder."""
        result = self._result
        if not self._over and result is not None:
            with self._attempt():
                for stage, value in result.seconds.items():
                    self._seconds[stage] = self._seconds.get(stage, 0.0) + value
                began = time.monotonic()
                self.record = self._runner.judge.judge(self.record, self.place, self._baseline, result)
                self._seconds["score"] = time.monotonic() - began
        spent = time.monotonic() - self._began
        self._seconds["other"] = max(0.0, spent - sum(self._seconds.values()))
        self.record = replace(
            self.record,
            seconds={stage: round(value, 4) for stage, value in self._seconds.items()},
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._runner.folder.write(self.record)
        return self.record

    def _built(self, listen: Listener) -> Job:
        """The job of the model that the pipeline makes of the recipe."""
        runner, recipe = self._runner, self.record.recipe
        target, task = runner.target, runner.task
        built = runner.pipeline.run(recipe, target, listen)
        self._seconds.update(built.seconds)
        self.record = replace(
            self.record,
            reused=built.reused,
            weight_bits=dict(built.weight_bits),
            weights=dict(built.weights),
            allocations=tuple(runner.folder.write_shared_out(found) for found in built.shared_out),
        )
        began = time.monotonic()
        example = runner.arrays_folder(first_rows(task.val.inputs, target.batch))
        val = runner.arrays_folder(task.val.inputs)
        # Outputs that training left without a range get one, so it is there after training too.
        calibrates = runner.backend.form == "program" and recipe.stages
        calibration = runner.arrays_folder(task.calibration) if calibrates else None
        self._seconds["prepare"] = time.monotonic() - began
        reference = None
        if self._baseline is not None and self._baseline.artifact is not None:
            reference = runner.loaded(self._baseline.artifact)
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
        return replace(
            runner.job(Loaded(self.place / "artifact", (), recipe.precision), source),
            run=runner.state != "compile-only",
            reference=reference,
            example=example,
            measure=target.measuring if runner.state == "ready" else None,
            audit=True,
            evaluate={"val": val},
        )

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """What goes wrong within becomes the trial's reason, and the trial is over."""
        try:
            yield
        except TargetUnavailable:
            raise
        except AutoshrinkError as error:
            log = Path(error.log) if isinstance(error, ChildError) else None
            kept = relative_to_study(self._runner.folder, log) if log and log.exists() else None
            self._fail(str(error), kept)
        except Exception as error:
            trace = self.place / "traceback.log"
            reason = f"{type(error).__name__}: {error}".strip()
            try:
                trace.write_text(traceback.format_exc())
                self._fail(reason, relative_to_study(self._runner.folder, trace))
            except OSError:
                self._fail(reason, None)

    def _fail(self, reason: str, log: str | None) -> None:
        self.record = replace(self.record, outcome=Outcome.FAILED, reason=reason, log=log)
        self._over = True


def _here(target: Target) -> tuple[State, str]:
    found = availability(target)
    return found.state, found.why


def first_rows(arrays: Arrays, count: int) -> Mapping[str, Array]:
    """The first `count` rows of each array, repeated when there are fewer."""
    return {name: np.resize(array[:count], (count, *array.shape[1:])) for name, array in arrays.items()}
