"""What every technique does: `python -m autoshrink.bench.techniques --out results/techniques.json`.

One row a technique and the best combination, on the residual CNN with the full Fashion-MNIST and on a small transformer
encoder, each on every target: accuracy on the test split, latency beside the fp32 baseline's artifact, size plain and
compressed, and the minutes that making it took. Everything goes the way of a trial of a search. First all rows of a
model are trained, then they are measured, so that a measurement is alone on the machine, which must be quiet otherwise.

The files are written after each row: a command that was interrupted goes on where it was, with the trained models from
the stage cache and the rows whose model, machine and versions are still the same from the JSON file; delete that to
measure all anew. A row that fails is listed with its reason and the others go on.

Training takes some 45 minutes for both models on two cores with bf16 arithmetic, measuring a quarter of a minute a row
and target; `--epochs-scale 0.05` is for trying the command itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from autoshrink import __version__
from autoshrink.bench.technique_page import markdown
from autoshrink.bench.technique_results import Made, Result, failed, goals_json, measured, summary
from autoshrink.bench.technique_rows import BASELINE, MODELS, ROWS, TechniqueRow, scaled
from autoshrink.cache import StageCache
from autoshrink.config import load_target
from autoshrink.errors import AutoshrinkError, ConfigError
from autoshrink.isolate.probe import probe
from autoshrink.measure.environment import describe_machine
from autoshrink.pipeline import Pipeline
from autoshrink.records import SCHEMA, STUDY_FILE, StudyFolder, StudyMeta, write_json
from autoshrink.search.trial import TrialRunner
from autoshrink.search.weight_range import with_exact_sums
from autoshrink.search.words import human_seconds
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.tasks.loading import load_task
from autoshrink.types import Recipe, Space, TrialRecord

COMMAND = "python -m autoshrink.bench.techniques"
TARGETS = ("onnxruntime-cpu", "openvino-cpu")

Say = Callable[[str], None]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--out", type=Path, required=True, help="JSON file; a Markdown page is written beside it")
    parser.add_argument("--models", default=",".join(MODELS), help="which models (default %(default)s)")
    parser.add_argument("--rows", help="which rows, by name; all when not given")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="share of every row's epochs (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument(
        "--study", type=Path, help="folder that keeps every trial's record; a temporary one if not given"
    )
    options = parser.parse_args(arguments)
    models, names = options.models.split(","), options.rows.split(",") if options.rows else [row.name for row in ROWS]
    for option, given, known in (("--models", models, list(MODELS)), ("--rows", names, [row.name for row in ROWS])):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"{option}: {', '.join(unknown)} is not known; there are {', '.join(known)}")
    if options.epochs_scale <= 0:
        parser.error(f"--epochs-scale is {options.epochs_scale:g}; it must be over 0")
    rows = [replace(row, recipe=scaled(row.recipe, options.epochs_scale)) for row in ROWS if row.name in names]
    # An absolute path would publish a folder of this machine.
    shown = options.out.name if options.out.is_absolute() else options.out
    command = f"{COMMAND} --out {shown}" + "".join(
        f" --{name.replace('_', '-')} {value}"
        for name, value in vars(options).items()
        if name not in ("out", "study") and value is not None and value != parser.get_default(name)
    )
    try:
        targets = [with_exact_sums(target, probe(target)) for target in map(load_target, TARGETS)]
        report = Report(options.out, command, options.seed)
        with tempfile.TemporaryDirectory(prefix="autoshrink-") as temporary:
            for model in models:
                task = load_task(MODELS[model])
                chosen = [row for row in rows if model in row.models]
                folder = open_folder((options.study or Path(temporary)) / model, MODELS[model], targets, options.seed)
                with folder.locked():
                    run_model(model, task, targets, chosen, folder, StageCache(), report)
        report.write()
    except (AutoshrinkError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it was")
    print(f"wrote {options.out} and {options.out.with_suffix('.md')}")


class Report:
    """The JSON file and the page beside it, written anew after each row.

    Rows of an earlier run stay when they were measured on this machine with the same versions and seed.
    """

    def __init__(self, out: Path, command: str, seed: int, say: Say = lambda text: print(text, flush=True)) -> None:
        self.say = say
        self._out = out
        self._command = command
        self._seed = seed
        self._machine = describe_machine()
        self._results = {_place(result): result for result in self._earlier()}

    def knows(self, row: TechniqueRow, model: str, target: Target, made: Made) -> bool:
        """Whether this very model has been measured in an earlier run."""
        result = self._results.get((model, row.name, target.name))
        return result is not None and result.is_measured and result.model_key == made.key

    def keep(self, result: Result) -> None:
        """Puts the result in the place of an earlier one, and writes the files."""
        self._results[_place(result)] = result
        self.write()

    def write(self) -> None:
        """Writes the JSON file and the page with the results that are there."""
        results = sorted(self._results.values(), key=_order)
        self._out.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "schema": SCHEMA,
            "command": self._command,
            "seed": self._seed,
            "date": datetime.now(UTC).date().isoformat(),
            "versions": self._machine["versions"],
            "machine": self._machine,
            "rows": [each.to_json() for each in results],
            "goals": goals_json(results),
        }
        write_json(self._out, document)
        self._out.with_suffix(".md").write_text(markdown(document))

    def _earlier(self) -> list[Result]:
        """The rows of the file that is there; none when it is of another machine, or cannot be read."""
        try:
            data = json.loads(self._out.read_text())
            same = data["seed"] == self._seed and all(
                data["machine"][name] == self._machine[name] for name in ("processor", "versions", "usable_cores")
            )
            results = [Result.from_json(row) for row in data["rows"]] if same else []
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [result for result in results if _is_listed(result)]


def open_folder(path: Path, task: str, targets: Sequence[Target], seed: int) -> StudyFolder:
    """The study's folder that keeps the records, a new one or that of an earlier run.

    Raises:
        ConfigError: the one that is there is of another task, seed or set of targets, or it cannot be written.
    """
    if (path / STUDY_FILE).exists():
        folder = StudyFolder.open(path)
        meta = folder.meta
        if (meta.task, meta.seed, meta.targets) != (task, seed, {target.name: target for target in targets}):
            raise ConfigError([f"{path}: holds a study of another task, seed or target; name another folder"])
        return folder
    return StudyFolder.create(
        path,
        StudyMeta(
            name=path.name,
            task=task,
            targets={target.name: target for target in targets},
            space=Space("techniques", {}, "the rows of the benchmark"),
            seed=seed,
            trials=None,
            time_limit_s=None,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            autoshrink=__version__,
            machine=describe_machine(),
        ),
    )


def run_model(
    model: str,
    task: Task,
    targets: Sequence[Target],
    rows: Sequence[TechniqueRow],
    folder: StudyFolder,
    cache: StageCache,
    report: Report,
) -> None:
    """Trains every row, then measures what the report does not know yet, the baseline first.

    Args:
        model: as the results name it.
        task: its training set, its val and test splits are used.
        targets: each has its own baseline.
        rows: without the baseline.
        folder: of a study; its seed is used.
        cache: of the stages.
        report: is told each result.
    """
    pipeline = Pipeline(task, cache, folder.meta.seed)
    every = [BASELINE, *rows]
    made = make_all(model, pipeline, targets, every, report.say)
    lanes = [(target, _Lane(folder, TrialRunner(folder, task, target, pipeline, cache), target)) for target in targets]
    for row in every:
        for target, lane in lanes:
            ready = made[row.name, target.name]
            if isinstance(ready, str):
                report.keep(failed(row, model, target.name, ready))
            elif report.knows(row, model, target, ready):
                report.say(f"{model} {row.name} on {target.name}: known")
            else:
                result = lane.measure(row, model, ready)
                report.keep(result)
                report.say(f"{model} {row.name} on {target.name}: {summary(result)}")


def make_all(
    model: str, pipeline: Pipeline, targets: Sequence[Target], rows: Sequence[TechniqueRow], say: Say
) -> dict[tuple[str, str], Made | str]:
    """What each row became on each target, by (row, target); the reason where it could not be made."""
    found: dict[tuple[str, str], Made | str] = {}
    for row in rows:
        for target in targets:
            say(f"{model} {row.name}: making it for {target.name}")
            try:
                built = pipeline.run(row.recipe, target, lambda _stage, _done, _total: None)
                outcome: Made | str = Made.of(built.key, built.cost_seconds.items())
            except AutoshrinkError as error:
                outcome = str(error)
            except Exception as error:
                # A technique that is broken must not take the other rows with it.
                outcome = f"{type(error).__name__}: {error}"
            found[row.name, target.name] = outcome
            say(f"  {outcome if isinstance(outcome, str) else human_seconds(60 * outcome.minutes)}")
    return found


class _Lane:
    """One target: its baseline is measured when the first row needs it."""

    def __init__(self, folder: StudyFolder, runner: TrialRunner, target: Target) -> None:
        self._folder = folder
        self._runner = runner
        self._target = target
        self._baseline: TrialRecord | None = None

    def measure(self, row: TechniqueRow, model: str, made: Made) -> Result:
        """The result of a row whose model is made."""
        try:
            if self._baseline is None:
                self._baseline = self._scored(Recipe(), 0, None)
            if self._baseline.test is None:
                reason = f"the baseline was not measured: {self._baseline.reason}"
                return failed(row, model, self._target.name, reason, made)
            if not row.recipe.stages:
                return measured(row, model, made, self._baseline, self._baseline)
            number = 1 + max(record.number for record in self._folder.records(self._target.name))
            return measured(row, model, made, self._scored(row.recipe, number, self._baseline), self._baseline)
        except AutoshrinkError as error:
            return failed(row, model, self._target.name, str(error), made)

    def _scored(self, recipe: Recipe, number: int, baseline: TrialRecord | None) -> TrialRecord:
        record = self._runner.run(recipe, number, baseline, lambda _stage, _done, _total: None)
        return self._runner.score_test(record)


def _place(result: Result) -> tuple[str, str, str]:
    return result.model, result.technique, result.target


_PLACES = list(dict.fromkeys((model, row.name) for model in MODELS for row in (BASELINE, *ROWS) if model in row.models))


def _is_listed(result: Result) -> bool:
    return (result.model, result.technique) in _PLACES


def _order(result: Result) -> tuple[int, str]:
    return _PLACES.index((result.model, result.technique)), result.target


if __name__ == "__main__":
    main()
