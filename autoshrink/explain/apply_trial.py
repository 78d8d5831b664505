"""Tries the changes that explain found for a trial, as new trials, and measures each beside the trial as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from autoshrink import __version__
from autoshrink.errors import AutoshrinkError
from autoshrink.explain.apply_file import Variant, int8_of, variants_of
from autoshrink.explain.explanation import Tried
from autoshrink.explain.findings import Change
from autoshrink.explain.place import Place
from autoshrink.explain.run import Explained, changed_recipe, changed_target, job_of
from autoshrink.explain.trial import runner_of
from autoshrink.isolate.job import Loaded
from autoshrink.records import StudyFolder, StudyMeta
from autoshrink.search.weight_range import with_exact_sums
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.types import Recipe, TrialRecord

BESIDE = "-explain"
"""End of the name of the study that holds what a changed target did; see docs/decisions/0014."""

Progress = Callable[[str, int, int], None]


def apply_to_trial(
    explained: Explained, record: TrialRecord, folder: StudyFolder, task: Task, place: Place, progress: Progress
) -> tuple[Tried, ...]:
    """Runs what was found as trials. A recipe change is a trial of the study itself, a target change one beside it.

    Args:
        explained: of the trial.
        record: of the trial.
        folder: of its study; must not be searched meanwhile.
        task: of the study.
        place: of the target.
        progress: told (stage, steps done, steps in all).

    Raises:
        AutoshrinkError: another process works on the study.
    """
    with folder.locked():
        return tuple(
            _tried(variant, explained, record, folder, task, place, progress)
            for variant in variants_of(explained.explanation.findings)
        )


def _tried(
    variant: Variant,
    explained: Explained,
    record: TrialRecord,
    folder: StudyFolder,
    task: Task,
    place: Place,
    progress: Progress,
) -> Tried:
    target = place.target
    tried = Tried(variant.changes, expected_ms=variant.expected_ms, int8_before=int8_of(record.audit))
    try:
        recipe, changed = record.recipe, target
        for change in variant.changes:
            if change.kind == "recipe":
                recipe = changed_recipe(recipe, change.key, change.value)
            else:
                changed = changed_target(changed, change.key, change.value)
        if changed == target:
            home, name = folder, target.name
        else:
            name = variant_name(target.name, variant.changes)
            home = _study_beside(folder, replace(changed, name=name))
        new = _trial(home, task, home.meta.targets[name], recipe, place, progress)
    except AutoshrinkError as error:
        return replace(tried, why=str(error))
    where = f"trial {new.number} of {name}" if home is folder else f"trial {new.number} of {name} in {home.meta.name}"
    if new.artifact is None:
        return replace(tried, where=where, why=f"{new.outcome}: {new.reason}")
    if record.drop is not None and new.drop is not None:
        tried = replace(tried, figure_change=record.drop - new.drop)
    tried = replace(tried, where=where, int8_after=int8_of(new.audit))
    if new.latency is None:
        return replace(tried, why=new.reason)
    try:
        artifact = replace(_loaded(home, new), options=changed.options)
        return _measured(tried, explained, artifact, place, progress)
    except AutoshrinkError as error:
        return replace(tried, why=str(error))


def _measured(tried: Tried, explained: Explained, artifact: Loaded, place: Place, progress: Progress) -> Tried:
    """Turn by turn with the trial as it was: two trials' own ratios are of different moments."""
    job = replace(
        job_of(place.target, artifact),
        reference=explained.artifact,
        example=explained.example,
        measure=place.target.measuring,
    )
    with tempfile.TemporaryDirectory(prefix="autoshrink-") as work:
        result = place.run(job, Path(work), lambda stage: progress(stage, 0, 0))
    return tried.timed(result.latency)


def _trial(
    folder: StudyFolder, task: Task, target: Target, recipe: Recipe, place: Place, progress: Progress
) -> TrialRecord:
    """The trial of a recipe on a target of a study; the one that is there already, if it is."""
    records = folder.records(target.name)
    runner = runner_of(folder, task, with_exact_sums(target, place.capabilities), place)
    baseline = next((each for each in records if each.number == 0), None)
    if baseline is None:
        baseline = runner.run(Recipe(), 0, None, progress)
        if baseline.artifact is None:
            raise AutoshrinkError(f"the baseline of {target.name} failed: {baseline.reason}")
        records = [baseline]
    known = next((each for each in records if each.recipe == recipe and each.artifact is not None), None)
    if known is not None:
        return known
    number = 1 + max(each.number for each in records)
    return runner.run(recipe, number, baseline, progress)


def variant_name(target: str, changes: tuple[Change, ...]) -> str:
    """The name of a changed target, such as `onnxruntime-cpu-activations-uint8`."""
    parts = [f"{change.key.rpartition('.')[2]}-{change.value}" for change in changes if change.kind == "target"]
    return "-".join((target, *parts)).replace("_", "-")


def _study_beside(folder: StudyFolder, target: Target) -> StudyFolder:
    """The study `STUDY-explain` with `target` among its targets."""
    meta = folder.meta
    path = folder.path.with_name(f"{folder.path.name}{BESIDE}")
    if not (path / "study.json").exists():
        targets: Mapping[str, Target] = {target.name: target}
        made = datetime.now(UTC).isoformat(timespec="seconds")
        return StudyFolder.create(
            path,
            StudyMeta(
                **{
                    **{name: getattr(meta, name) for name in ("task", "space", "seed", "fidelity", "force", "machine")},
                    "name": f"{meta.name}{BESIDE}",
                    "targets": targets,
                    "trials": 0,
                    "time_limit_s": None,
                    "created": made,
                    "autoshrink": __version__,
                }
            ),
        )
    beside = StudyFolder.open(path)
    known = beside.meta.targets.get(target.name)
    if known is not None and known != target:
        raise AutoshrinkError(
            f"{path}: target {target.name} there is another one than this change asks for; move that study away"
        )
    if known is None:
        (path / target.name / "trials").mkdir(parents=True, exist_ok=True)
        beside.update(targets={**beside.meta.targets, target.name: target})
    return beside


def _loaded(folder: StudyFolder, record: TrialRecord) -> Loaded:
    assert record.artifact is not None  # noqa: S101 - asked before
    artifact = record.artifact
    names = tuple(file.name for file in artifact.files)
    return Loaded(folder.path.resolve() / artifact.folder, names, artifact.precision)
