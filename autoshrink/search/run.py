"""The search: a baseline for each target, trials in turn, then the test split for the members of the front."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoshrink.cache import StageCache
from autoshrink.errors import AutoshrinkError, ConfigError
from autoshrink.isolate.probe import probe
from autoshrink.pipeline import Pipeline
from autoshrink.records import SCHEMA, StudyFolder, read_json, write_json
from autoshrink.search.front import front
from autoshrink.search.seeding import start_recipes
from autoshrink.search.space import Removal, reduce_space
from autoshrink.search.study import Sampler
from autoshrink.search.trial import TrialRunner
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.techniques import get_technique
from autoshrink.types import Outcome, Recipe, Space, TrialRecord


class Display(Protocol):
    """What shows a search to the one who waits for it."""

    def removed(self, target: str, removals: Iterable[Removal]) -> None:
        """What a target's space was relieved of."""

    def begin(self, target: str, number: int, recipe: Recipe) -> None:
        """A trial begins."""

    def stage(self, stage: str, done: int, total: int) -> None:
        """A stage of it begins (total 0), or has come so far."""

    def end(self, record: TrialRecord, finished: int, planned: int | None) -> None:
        """It ended; `finished` of `planned` trials over all targets are done."""

    def scoring(self, record: TrialRecord) -> None:
        """A member of the front is scored on the test split."""

    def say(self, text: str) -> None:
        """Anything else worth a line."""


@dataclass
class _Lane:
    """One target on its way through the search."""

    target: Target
    space: Space
    runner: TrialRunner
    sampler: Sampler
    records: list[TrialRecord]
    exhausted: bool = False

    @property
    def baseline(self) -> TrialRecord | None:
        return next((record for record in self.records if record.number == 0), None)


def run_search(folder: StudyFolder, task: Task, display: Display, cache: StageCache | None = None) -> None:
    """Runs a study until its trials are done, its time is up, or its spaces hold nothing new.

    May be called again on a folder that an earlier process left at any moment: finished trials are kept, a half-done
    one is run again, its cached stages reused.

    Raises:
        AutoshrinkError: another process works on this study; no target is available; no baseline could be built.
    """
    with folder.locked():
        _run(folder, task, display, cache or StageCache())


def _run(folder: StudyFolder, task: Task, display: Display, cache: StageCache) -> None:
    meta = folder.meta
    began = time.monotonic()
    if meta.fidelity != 1:
        display.say(f"every training makes {100 * meta.fidelity:g} % of its steps")
    pipeline = Pipeline(task, cache, meta.seed, meta.fidelity)
    lanes = [_prepare(folder, task, target, pipeline, cache, display) for target in meta.targets.values()]
    planned = None if meta.trials is None else meta.trials * len(lanes)

    def over() -> bool:
        return meta.time_limit_s is not None and time.monotonic() - began > meta.time_limit_s

    def finished() -> int:
        return sum(len(lane.records) for lane in lanes)

    def run(lane: _Lane, recipe: Recipe) -> TrialRecord:
        number = 1 + max((record.number for record in lane.records), default=-1)
        display.begin(lane.target.name, number, recipe)
        write_json(_half_done(folder, lane.target), {"schema": SCHEMA, "number": number, "recipe": recipe.to_json()})
        record = lane.runner.run(recipe, number, lane.baseline, display.stage)
        lane.records.append(record)
        _half_done(folder, lane.target).unlink(missing_ok=True)
        display.end(record, finished(), planned)
        return record

    for lane in lanes:
        half_done = _read_half_done(folder, lane.target, lane.records)
        if lane.baseline is None:
            record = run(lane, Recipe())
            if record.artifact is None:
                folder.trial_file(lane.target.name, 0).unlink(missing_ok=True)
                raise AutoshrinkError(f"the baseline of {lane.target.name} failed: {record.reason}")
        for record in lane.records:
            lane.sampler.learn(record)
        for recipe in [*half_done, *start_recipes(lane.space)]:
            lane.sampler.enqueue(recipe)

    while not over():
        waiting = [
            lane for lane in lanes if not lane.exhausted and (meta.trials is None or len(lane.records) < meta.trials)
        ]
        if not waiting:
            break
        lane = _next(lanes, waiting)
        suggestion = lane.sampler.ask()
        if suggestion is None:
            lane.exhausted = True
            display.say(f"{lane.target.name}: every recipe of space {meta.space.name} has been tried")
            continue
        record = run(lane, suggestion.recipe)
        lane.sampler.tell(suggestion, record)
        if _is_shared(record, lane):
            for other in lanes:
                if other is not lane:
                    other.sampler.enqueue(suggestion.recipe)

    for lane in lanes:
        for record in _finalists(lane.records):
            display.scoring(record)
            try:
                lane.runner.score_test(record)
            except AutoshrinkError as error:
                display.say(f"{lane.target.name} trial {record.number} has no test score: {error}")


def _next(lanes: list[_Lane], waiting: list[_Lane]) -> _Lane:
    """Of the lanes with the fewest trials, the one whose turn it is to lead.

    A recipe that needed training goes to the others next, so whoever comes first in a round proposes for all. The
    lead changes from round to round: each target's sampler has its say.
    """
    fewest = min(len(lane.records) for lane in waiting)
    at = fewest % len(lanes)
    order = [*lanes[at:], *lanes[:at]]
    return next(lane for lane in order if lane in waiting and len(lane.records) == fewest)


def _is_shared(record: TrialRecord, lane: _Lane) -> bool:
    """Whether other targets should try this recipe too: its training, the dear part, is done; or it is worth it."""
    if record.outcome not in (Outcome.COMPLETE, Outcome.INFEASIBLE, Outcome.COMPILED):
        return False
    trained = any(get_technique(stage.technique).trains for stage in record.recipe.stages)
    return trained or any(member.number == record.number for member in front(lane.records))


def _finalists(records: list[TrialRecord]) -> list[TrialRecord]:
    """The baseline and the members of the front: the only ones the test split is spent on."""
    members = {record.number: record for record in front(records)}
    return [record for record in records if record.number == 0 or record.number in members]


def _prepare(
    folder: StudyFolder, task: Task, target: Target, pipeline: Pipeline, cache: StageCache, display: Display
) -> _Lane:
    space, removals = reduce_space(folder.meta.space, target, probe(target), task, folder.meta.force)
    if removals:
        display.removed(target.name, removals)
    folder.write_left_out(target.name, {removal.what: removal.why for removal in removals})
    records = [record for record in folder.records(target.name) if record.outcome is not Outcome.STOPPED]
    sampler = Sampler(
        folder.path / "study.db",
        f"{folder.meta.name}/{target.name}",
        space,
        folder.meta.seed,
        target.limits,
        target.batch,
    )
    return _Lane(target, space, TrialRunner(folder, task, target, pipeline, cache), sampler, records)


def _half_done(folder: StudyFolder, target: Target) -> Path:
    return folder.path / target.name / "running.json"


def _read_half_done(folder: StudyFolder, target: Target, records: list[TrialRecord]) -> list[Recipe]:
    """The recipe that was running when the last process died, unless its record was already written."""
    path = _half_done(folder, target)
    if not path.exists():
        return []
    try:
        data = read_json(path)
        recipe = Recipe.from_json(data["recipe"])
    except (ConfigError, KeyError, TypeError, AttributeError):
        return []
    finally:
        path.unlink(missing_ok=True)
    return [] if any(record.recipe == recipe for record in records) else [recipe]
