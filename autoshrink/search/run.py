"""The search: a baseline for each target, trials in turn, then the test split for the members of the front."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from autoshrink.backends import get_backend
from autoshrink.cache import StageCache
from autoshrink.devices import open_device
from autoshrink.devices.pool import Pool
from autoshrink.errors import AutoshrinkError, ConfigError, TargetUnavailable
from autoshrink.isolate.probe import availability, probe
from autoshrink.measure.identity import differences, identity_here
from autoshrink.pipeline import Pipeline
from autoshrink.records import SCHEMA, StudyFolder, read_json, write_json
from autoshrink.search.display import ActivityFile, Display, Tee
from autoshrink.search.front import front
from autoshrink.search.seeding import start_recipes
from autoshrink.search.space import Removal, reduce_space
from autoshrink.search.study import Sampler, Suggestion
from autoshrink.search.trial import Trial, TrialRunner
from autoshrink.search.weight_range import narrowed, why, with_exact_sums
from autoshrink.target import Target
from autoshrink.target_states import remember
from autoshrink.task import Task
from autoshrink.techniques import get_technique
from autoshrink.types import Outcome, Recipe, Space, TrialRecord
from autoshrink.val_set import write_val_set

LOOK_S = 1.0
"""Seconds between two looks at what devices elsewhere say, while nothing else is to be done."""


@dataclass
class _Lane:
    """One target on its way through the search.

    Attributes:
        flying: what is measured on devices elsewhere now, with what the sampler is to be told.
        exhausted: nothing more is asked for: the space is used up, or the devices are gone.
        lost: the devices are gone; `left` are the trials that they had begun.
    """

    target: Target
    space: Space
    runner: TrialRunner
    sampler: Sampler
    records: list[TrialRecord]
    flying: dict[Future[None], tuple[Trial, Suggestion | None]] = field(default_factory=dict)
    exhausted: bool = False
    lost: bool = False
    left: list[Trial] = field(default_factory=list)

    @property
    def baseline(self) -> TrialRecord | None:
        return next((record for record in self.records if record.number == 0), None)

    @property
    def count(self) -> int:
        """Trials that are done or on their way."""
        return len(self.records) + len(self.flying)

    @property
    def is_free(self) -> bool:
        return len(self.flying) < self.runner.places

    def next_number(self) -> int:
        numbers = [record.number for record in self.records]
        return 1 + max([*numbers, *(trial.record.number for trial, _ in self.flying.values())], default=-1)


def run_search(folder: StudyFolder, task: Task, display: Display, cache: StageCache | None = None) -> None:
    """Runs a study until its trials are done, its time is up, or its spaces hold nothing new.

    May be called again on a folder that an earlier process left at any moment: finished trials are kept, a half-done
    one is run again, its cached stages reused.

    Raises:
        AutoshrinkError: another process works on this study; no target is available; no baseline could be built.
    """
    meta = folder.meta
    planned = None if meta.trials is None else meta.trials * len(meta.targets)
    with folder.locked():
        activity = ActivityFile(folder.path, planned, meta.time_limit_s)
        is_over = False
        try:
            with ExitStack() as stack:
                search = _Search(folder, task, Tee(display, activity), cache or StageCache(), stack)
                activity.timed_here = search.timed_here
                search.run()
            is_over = True
        finally:
            activity.close(is_over)


class _Search:
    """One run of a study.

    This thread asks, trains, compiles and writes records, one trial after the other. Where a target has devices
    elsewhere, they measure meanwhile, each in a thread that waits for it.
    """

    def __init__(self, folder: StudyFolder, task: Task, display: Display, cache: StageCache, stack: ExitStack) -> None:
        self._folder = folder
        self._meta = folder.meta
        self._display = display
        self._began = time.monotonic()
        self._stages: SimpleQueue[tuple[str, int, str]] = SimpleQueue()
        self._stack = stack
        if self._meta.fidelity != 1:
            display.say(f"every training makes {100 * self._meta.fidelity:g} % of its steps")
        try:
            write_val_set(folder.path, task)
        except OSError as error:
            # Of use to those who look at the study, and to no trial.
            display.say(f"{folder.path}: the samples of val cannot be kept there ({error.strerror or error})")
        pipeline = Pipeline(task, cache, self._meta.seed, self._meta.fidelity)
        self._lanes = [self._prepare(task, target, pipeline, cache) for target in self._meta.targets.values()]
        self._planned = None if self._meta.trials is None else self._meta.trials * len(self._lanes)
        elsewhere = sum(lane.runner.places for lane in self._lanes if lane.runner.pool)
        self._threads = ThreadPoolExecutor(max(1, elsewhere))
        # Last in, first out: the devices are closed first, which ends what the threads wait for.
        stack.callback(self._threads.shutdown, wait=True, cancel_futures=True)
        for lane in self._lanes:
            if lane.runner.pool:
                stack.callback(lane.runner.pool.close)

    @property
    def timed_here(self) -> frozenset[str]:
        """Targets whose artifacts are timed on this machine."""
        return frozenset(
            lane.target.name for lane in self._lanes if lane.runner.pool is None and lane.runner.state == "ready"
        )

    def run(self) -> None:
        """The baselines, the trials, the test split."""
        for lane in self._lanes:
            self._begin(lane)
        while not self._is_over():
            waiting = [lane for lane in self._lanes if not lane.exhausted and not self._has_all(lane)]
            free = [lane for lane in waiting if lane.is_free]
            if free:
                self._ask(_next(self._lanes, free))
                self._land(0)
            elif not self._land():
                break
        while self._land():
            pass
        for lane in self._lanes:
            if not lane.lost:
                self._score_test(lane)

    def _begin(self, lane: _Lane) -> None:
        half_done = _read_half_done(self._folder, lane.target, lane.records)
        if lane.baseline is None:
            record = self._run_baseline(lane)
            if record.artifact is None:
                self._folder.trial_file(lane.target.name, 0).unlink(missing_ok=True)
                raise AutoshrinkError(f"the baseline of {lane.target.name} failed: {record.reason}")
        for record in lane.records:
            lane.sampler.learn(record)
        for recipe in [*half_done, *start_recipes(lane.space)]:
            lane.sampler.enqueue(recipe)

    def _run_baseline(self, lane: _Lane) -> TrialRecord:
        self._start(lane, Recipe(), None)
        while lane.flying:
            self._land()
        if lane.baseline is None:
            raise AutoshrinkError(f"the baseline of {lane.target.name} was not measured: its devices are gone")
        return lane.baseline

    def _ask(self, lane: _Lane) -> None:
        suggestion = lane.sampler.ask()
        if suggestion is None:
            lane.exhausted = True
            self._display.say(f"{lane.target.name}: every recipe of space {self._meta.space.name} has been tried")
            return
        self._start(lane, suggestion.recipe, suggestion)

    def _start(self, lane: _Lane, recipe: Recipe, suggestion: Suggestion | None) -> None:
        """Runs a trial, or has a device measure it."""
        number = lane.next_number()
        self._display.begin(lane.target.name, number, recipe)
        trial = lane.runner.begin(recipe, number, lane.baseline)
        self._write_half_done(lane, trial)
        with ExitStack() as until_it_flies:
            until_it_flies.enter_context(trial)
            trial.prepare(self._display.stage)
            if lane.runner.pool is None or trial.is_over:
                trial.measure(lambda stage: self._display.stage(stage, 0, 0))
                self._end(lane, trial, suggestion)
                return
            until_it_flies.pop_all()

        def on_stage(stage: str) -> None:
            self._stages.put((lane.target.name, number, stage))

        lane.flying[self._threads.submit(trial.measure, on_stage)] = trial, suggestion

    def _land(self, timeout: float | None = None) -> bool:
        """Ends the trials that devices have measured; waits for one, unless `timeout` says how long.

        Returns:
            Whether there were any to wait for.
        """
        flying = {future: lane for lane in self._lanes for future in lane.flying}
        if not flying:
            return False
        landed: set[Future[None]] = set()
        while not landed:
            landed, _ = wait(flying, LOOK_S if timeout is None else timeout, FIRST_COMPLETED)
            self._show_stages()
            if timeout is not None:
                break
        for future in sorted(landed, key=lambda each: flying[each].flying[each][0].record.number):
            lane = flying[future]
            trial, suggestion = lane.flying.pop(future)
            try:
                future.result()
            except TargetUnavailable as error:
                self._lose(lane, trial, str(error))
                continue
            self._end(lane, trial, suggestion)
        return True

    def _show_stages(self) -> None:
        with suppress(Empty):
            while True:
                self._display.elsewhere(*self._stages.get_nowait())

    def _end(self, lane: _Lane, trial: Trial, suggestion: Suggestion | None) -> None:
        record = trial.conclude()
        lane.records.append(record)
        lane.records.sort(key=lambda each: each.number)
        self._write_half_done(lane)
        self._display.end(record, sum(len(each.records) for each in self._lanes), self._planned)
        if suggestion is None:
            return
        lane.sampler.tell(suggestion, record)
        if _is_shared(record, lane):
            for other in self._lanes:
                if other is not lane:
                    other.sampler.enqueue(suggestion.recipe)

    def _lose(self, lane: _Lane, trial: Trial, why: str) -> None:
        """Stops asking for a target whose devices are gone; what they had begun is done when the search is resumed."""
        if not lane.lost:
            kept = f"its finished trials are kept, `autoshrink resume {self._meta.name}` goes on"
            self._display.say(f"{lane.target.name}: {why}; {kept}")
        self._display.lost(lane.target.name, trial.record.number)
        lane.left.append(trial)
        lane.lost = lane.exhausted = True
        self._write_half_done(lane)

    def _write_half_done(self, lane: _Lane, beginning: Trial | None = None) -> None:
        """Keeps which trials of a target are on their way, for the case that this process is killed."""
        unfinished = [*lane.left, *(trial for trial, _ in lane.flying.values()), *([beginning] if beginning else [])]
        trials = [{"number": trial.record.number, "recipe": trial.record.recipe.to_json()} for trial in unfinished]
        path = _half_done(self._folder, lane.target)
        if trials:
            write_json(path, {"schema": SCHEMA, "trials": trials})
        else:
            path.unlink(missing_ok=True)

    def _is_over(self) -> bool:
        limit = self._meta.time_limit_s
        return limit is not None and time.monotonic() - self._began > limit

    def _has_all(self, lane: _Lane) -> bool:
        return self._meta.trials is not None and lane.count >= self._meta.trials

    def _score_test(self, lane: _Lane) -> None:
        for record in _finalists(lane.records):
            self._display.scoring(record)
            try:
                lane.runner.score_test(record)
            except AutoshrinkError as error:
                self._display.say(f"{lane.target.name} trial {record.number} has no test score: {error}")

    def _prepare(self, task: Task, target: Target, pipeline: Pipeline, cache: StageCache) -> _Lane:
        folder, meta = self._folder, self._meta
        pool = self._pool(target) if target.devices else None
        if pool is None:
            _check_this_machine(folder, target)
        capabilities = pool.capabilities if pool else probe(target)
        space, removals = reduce_space(meta.space, target, capabilities, task, meta.force)
        given, target = target, with_exact_sums(target, capabilities)
        precisions = narrowed(given, target, space)
        if precisions:
            removals = (*removals, Removal("weights of 8 bits", why(precisions)))
        if removals:
            self._display.removed(target.name, removals)
        folder.write_left_out(target.name, {removal.what: removal.why for removal in removals})
        records = [record for record in folder.records(target.name) if record.outcome is not Outcome.STOPPED]
        sampler = Sampler(
            folder.path / "study.db", f"{meta.name}/{target.name}", space, meta.seed, target.limits, target.batch
        )
        runner = TrialRunner(folder, task, target, pipeline, cache, pool)
        return _Lane(target, space, runner, sampler, records)

    def _pool(self, target: Target) -> Pool:
        """The devices of a target, at least one of them there, alike with those that measured it before."""
        devices = [open_device(spec, target, self._display.say) for spec in target.devices]
        pool = Pool(devices, self._folder.identity(target.name) or None, self._display.say)
        self._stack.callback(pool.close)
        self._display.waiting_for_devices(target.name)
        pool.open()
        self._folder.write_identity(target.name, pool.identity or {})
        return pool


def _next(lanes: list[_Lane], waiting: list[_Lane]) -> _Lane:
    """Of the lanes with the fewest trials, the one whose turn it is to lead.

    A recipe that needed training goes to the others next, so whoever comes first in a round proposes for all. The
    lead changes from round to round: each target's sampler has its say.
    """
    fewest = min(lane.count for lane in waiting)
    at = fewest % len(lanes)
    order = [*lanes[at:], *lanes[:at]]
    return next(lane for lane in order if lane in waiting and lane.count == fewest)


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


def _check_this_machine(folder: StudyFolder, target: Target) -> None:
    """Keeps what this machine is, or holds it against what the target's trials were measured on.

    Raises:
        ConfigError: it is another machine, or has another version of the runtime.
    """
    available = availability(target)
    identity = identity_here(get_backend(target.backend)) if available.state == "ready" else {}
    if target.python:
        # Another interpreter's; its version is in every record.
        identity.pop("runtime", None)
    remember(target, {**asdict(available), "runtime": identity.get("runtime", "")}, "search")
    if not identity:
        return
    before = folder.identity(target.name)
    if before and folder.records(target.name):
        unlike = differences(before, identity)
        if unlike:
            raise ConfigError(
                [f"{folder.path}: {target.name} was measured elsewhere or with another runtime ({'; '.join(unlike)}), "
                 "and figures of two kinds are never mixed; start another study with --study NAME"]
            )  # fmt: skip
    folder.write_identity(target.name, identity)


def _half_done(folder: StudyFolder, target: Target) -> Path:
    return folder.path / target.name / "running.json"


def _read_half_done(folder: StudyFolder, target: Target, records: list[TrialRecord]) -> list[Recipe]:
    """The recipes that were running when the last process died, unless their records were already written."""
    path = _half_done(folder, target)
    if not path.exists():
        return []
    try:
        recipes = [Recipe.from_json(trial["recipe"]) for trial in read_json(path)["trials"]]
    except (ConfigError, KeyError, TypeError, AttributeError):
        return []
    finally:
        path.unlink(missing_ok=True)
    return [recipe for recipe in recipes if not any(record.recipe == recipe for record in records)]
