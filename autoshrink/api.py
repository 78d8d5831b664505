"""The Python face of autoshrink: search, resume, and a study to look at and pick from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from autoshrink import __version__
from autoshrink.config import is_name, load_space, load_target
from autoshrink.errors import ConfigError, NothingFits
from autoshrink.measure.environment import describe_machine
from autoshrink.records import StudyFolder, StudyMeta
from autoshrink.search.limits import merged
from autoshrink.target import Limits, Target
from autoshrink.task import Task
from autoshrink.techniques.keys import read_key
from autoshrink.types import TrialRecord

if TYPE_CHECKING:
    import pandas

RESULTS = Path("results")


class Study:
    """A finished or half-finished search on disk."""

    def __init__(self, folder: StudyFolder, task: Task | None = None) -> None:
        self.folder = folder
        self._task = task

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.meta.name

    def task(self) -> Task:
        """The task it is about, loaded again when the study was only opened."""
        if self._task is None:
            from autoshrink.tasks.loading import load_task

            self._task = load_task(self.folder.meta.task)
        return self._task

    def front(self, target: str | None = None) -> pandas.DataFrame:
        """The Pareto front as a table, one row a trial; of every target when none is named."""
        from autoshrink.dashboard.tables import front_frame

        return front_frame(self.folder, target)

    def choose(self, target: str, limits: Limits | None = None, trial: int | None = None) -> TrialRecord:
        """The trial to ship under `limits`, by confidence bounds; the target's own hold where `limits` sets none.

        Those of the target's own that are on what was not measured there are left out; one of `limits` is refused.

        Args:
            target: of the study.
            limits: see `Limits`.
            trial: takes the trial of this number, whatever the limits.

        Raises:
            NothingFits: no trial keeps the limits; names the nearest misses. Or `trial` has no compiled files.
            ConfigError: the study has no such target.
        """
        from autoshrink.package.choose import applicable, choose

        records = self.folder.records(target)
        if trial is not None:
            return _numbered(records, trial, target)
        profile = self.folder.meta.targets[target]
        others = [r for name in self.folder.meta.targets if name != target for r in self.folder.records(name)]
        own, _ = applicable(profile.limits, records, profile.batch, others)
        return choose(records, merged(limits or Limits(), own), batch=profile.batch, others=others)

    def pick(self, target: str, out: str | Path, limits: Limits | None = None, trial: int | None = None) -> Path:
        """Writes the package of the trial to ship into the new folder `out`; see `choose`.

        Raises:
            NothingFits: no trial keeps the limits.
            ConfigError: `out` cannot be written.
        """
        from autoshrink.package.write import write_package

        return write_package(self.folder, self.choose(target, limits, trial), self.task(), Path(out))

    def report(self, out: str | Path | None = None) -> Path:
        """Writes the HTML report, to `report.html` in the study's folder unless told otherwise."""
        from autoshrink.dashboard.report import write_report

        return write_report(self.folder, Path(out) if out else self.folder.path / "report.html")


def _numbered(records: list[TrialRecord], number: int, target: str) -> TrialRecord:
    record = next((each for each in records if each.number == number), None)
    if record is None:
        raise ConfigError([f"--trial: {target} has no trial {number}; it has 0 to {len(records) - 1}"])
    if record.artifact is None:
        raise NothingFits(f"trial {number} of {target} has no compiled files: {record.outcome}, {record.reason}")
    return record


def search(
    task: str | Path | Task,
    targets: Iterable[str | Path | Target] = ("onnxruntime-cpu",),
    space: str | Path = "standard",
    *,
    trials: int | None = 24,
    time_limit_s: float | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    fidelity: float = 1.0,
    force: Iterable[str] = (),
    study: str | None = None,
    results: str | Path = RESULTS,
    console: Console | None = None,
) -> Study:
    """Searches for the best compressed versions of a task's model, for each target.

    Args:
        task: a built-in name, the path of a task file, or a Task.
        targets: names or YAML files of targets; each gets a front of its own.
        space: name or YAML file of the search space.
        trials: trials a target, the baseline included; None is until the time is up or nothing new is left.
        time_limit_s: no further trial begins after so many seconds.
        limits: go before the targets' own, where set.
        seed: of everything random.
        fidelity: share of the training steps that every stage makes, over 0 to 1: a cheap first look with 0.1 or 0.3.
        force: keeps what a target avoids since it gains nothing there, for the size alone. `sparsify` keeps the
            technique with all its values; `sparsify.pattern=2:4` keeps it with this value, without others that are
            avoided by a key of their own.
        study: name of the study; the task's name when not given.
        results: folder that holds the study's folder.
        console: where progress goes; standard error when not given.

    Raises:
        ConfigError: anything wrong with the task, a target, the space, or the place for the results.
        TargetUnavailable: a target's runtime is not here.
    """
    # What needs no import of torch first: a mistake there is said at once.
    profiles: dict[str, Target] = {}
    for named in targets:
        target = named if isinstance(named, Target) else load_target(str(named))
        if target.name in profiles:
            raise ConfigError([f"--target: {target.name} is named twice"])
        profiles[target.name] = with_limits(target, limits or Limits())
    if not profiles:
        raise ConfigError(["--target: name at least one target"])
    if trials is not None and trials < 1:
        raise ConfigError([f"--trials: {trials}; it must be 1 or more"])
    if not 0 < fidelity <= 1:
        raise ConfigError([f"--fidelity: {fidelity:g}; it must be over 0 and at most 1 (0.1 trains a tenth)"])
    if study:
        _check_name(study)
    searched = load_space(str(space))
    loaded = _load(task)
    name = study or loaded.name
    _check_name(name)
    meta = StudyMeta(
        name=name,
        task=loaded.source,
        targets=profiles,
        space=searched,
        seed=seed,
        trials=trials,
        time_limit_s=time_limit_s,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        autoshrink=__version__,
        machine=describe_machine(),
        fidelity=fidelity,
        force=_read_force(force, profiles.values()),
    )
    _check_available(profiles.values())
    folder = StudyFolder.create(Path(results) / name, meta)
    return _run(folder, loaded, console)


def resume(
    study: str | Path,
    *,
    task: Task | None = None,
    trials: int | None = None,
    time_limit_s: float | None = None,
    results: str | Path = RESULTS,
    console: Console | None = None,
) -> Study:
    """Goes on with a study after it was stopped in any way, or with more `trials` than it was asked for.

    Raises:
        ConfigError: there is no such study, or its task cannot be loaded any more.
        AutoshrinkError: another process works on it.
    """
    folder = open_study(study, results).folder
    if trials is not None:
        folder.update(trials=trials)
    if time_limit_s is not None:
        folder.update(time_limit_s=time_limit_s)
    _check_available(folder.meta.targets.values())
    return _run(folder, task or _load(folder.meta.task), console)


def open_study(study: str | Path, results: str | Path = RESULTS) -> Study:
    """A study by name within `results`, or by the path of its folder.

    Raises:
        ConfigError: there is no such study; lists those that are there.
    """
    path = Path(study)
    return Study(StudyFolder.open(path if path.is_dir() else Path(results) / path))


def with_limits(target: Target, limits: Limits) -> Target:
    """The target with every limit that is set taking the place of its own."""
    return replace(target, limits=merged(limits, target.limits))


def _read_force(force: Iterable[str], targets: Iterable[Target]) -> tuple[str, ...]:
    """The keys in their canonical form, each of something that a target avoids."""
    avoided = sorted({key for target in targets for key in target.avoid})
    keys: dict[str, None] = {}
    problems = []
    for key in force:
        try:
            read = read_key(key)
        except ValueError as error:
            problems.append(f"--force: {error}")
            continue
        technique = read.partition(".")[0]
        if read in avoided or technique in avoided or any(other.startswith(f"{read}.") for other in avoided):
            keys[read] = None
        else:
            problems.append(f"--force: no target avoids {key}; avoided are {', '.join(avoided) or 'none'}")
    if problems:
        raise ConfigError(problems)
    return tuple(keys)


def _check_name(name: str) -> None:
    if not is_name(name):
        raise ConfigError([f"--study: {name!r} may hold letters, digits, '.', '-' and '_' only"])


def _load(task: str | Path | Task) -> Task:
    from autoshrink.tasks.loading import check_thoroughly, load_task

    if isinstance(task, Task):
        check_thoroughly(task)
        return task
    # A file is kept by its full path, so that `resume` finds it from any folder.
    path = Path(task)
    return load_task(str(path.resolve()) if path.suffix == ".py" else str(task))


def _check_available(targets: Iterable[Target]) -> None:
    from autoshrink.devices import open_device
    from autoshrink.isolate.probe import probe

    for target in targets:
        probe(target)
        for spec in target.devices:
            # What a profile names and is not here is said before there is a study.
            open_device(spec, target, lambda _text: None).close()


def _run(folder: StudyFolder, task: Task, console: Console | None) -> Study:
    from autoshrink.progress import Progress
    from autoshrink.search.run import run_search
    from autoshrink.search.words import reduced_training

    meta = folder.meta
    planned = None if meta.trials is None else meta.trials * len(meta.targets)
    title = f"{meta.name}{reduced_training(meta.fidelity)}"
    with Progress(console or Console(stderr=True), title, planned, meta.time_limit_s, meta.targets) as progress:
        run_search(folder, task, progress)
    return Study(folder, task)
