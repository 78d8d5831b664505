"""Explains a trial of a study."""

from __future__ import annotations

from autoshrink.cache import StageCache
from autoshrink.errors import ConfigError
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


def chosen_target(folder: StudyFolder, name: str | None) -> Target:
    """The target of a study that is meant; its only one where none is named.

    Raises:
        ConfigError: there is no such target, or there are several.
    """
    targets = folder.meta.targets
    if name is None and len(targets) > 1:
        raise ConfigError([f"--target: {folder.meta.name} has {', '.join(targets)}; name one of them"])
    if name is not None and name not in targets:
        raise ConfigError([f"--target: {name!r} is not in study {folder.meta.name}; it has {', '.join(targets)}"])
    return targets[name or next(iter(targets))]


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
    records = folder.records(target.name)
    record = next((each for each in records if each.number == number), None)
    if record is None:
        known = ", ".join(str(each.number) for each in records) or "none"
        raise ConfigError([f"TRIAL: {target.name} has no trial {number}; it has {known}"])
    runner = runner_of(folder, task, target, place)
    example = runner.arrays_folder(first_rows(task.val.inputs, target.batch))
    artifact: Loaded | None = runner.loaded(record.artifact) if record.artifact else None
    subject = f"{folder.meta.name} trial {number}: {describe(record.recipe, folder.meta.fidelity)}"
    return explain_artifact(record, subject, place, artifact, example, calls, listen), record
