"""Explains a trial of a study."""

from __future__ import annotations

from autoshrink.cache import StageCache
from autoshrink.explain.chosen import chosen_record
from autoshrink.explain.place import Listen, Place, quiet
from autoshrink.explain.run import CALLS, Explained, explain_artifact
from autoshrink.isolate.job import Loaded
from autoshrink.pipeline import Pipeline
from autoshrink.records import StudyFolder
from autoshrink.search.trial import TrialRunner, first_rows
from autoshrink.search.words import describe
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.types import TrialRecord


def runner_of(folder: StudyFolder, task: Task, target: Target, place: Place) -> TrialRunner:
    """What runs trials of a study as a search would, on the devices of `place` where it has some."""
    cache = StageCache()
    pipeline = Pipeline(task, cache, folder.meta.seed, folder.meta.fidelity)
    return TrialRunner(folder, task, target, pipeline, cache, place.pool)


def explain_trial(
    folder: StudyFolder,
    task: Task,
    number: int,
    place: Place,
    calls: int = CALLS,
    listen: Listen = quiet,
) -> tuple[Explained, TrialRecord]:
    """Explains the artifact of a trial on the first rows of the task's val split.

    Args:
        folder: of the study.
        task: of the study.
        number: of the trial.
        place: of one of its targets.
        calls: that are profiled.
        listen: told each stage.

    Raises:
        ConfigError: the study has no such trial.
        NothingFits: the trial has no compiled files.
        ChildError: they cannot be loaded or run.
    """
    target = place.target
    record = chosen_record(folder, target.name, number)
    runner = runner_of(folder, task, target, place)
    example = runner.arrays_folder(first_rows(task.val.inputs, target.batch))
    artifact: Loaded | None = runner.loaded(record.artifact) if record.artifact else None
    subject = f"{folder.meta.name} trial {number}: {describe(record.recipe, folder.meta.fidelity)}"
    return explain_artifact(record, subject, place, artifact, example, calls, listen), record
