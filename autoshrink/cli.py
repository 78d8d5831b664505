"""The command line: one thin function a command. Documents go to standard output, logs to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoshrink import units
from autoshrink.errors import AutoshrinkError, ConfigError, NothingFits
from autoshrink.target import Limits

if TYPE_CHECKING:
    from autoshrink.api import Study

DONE, DOES_NOT_HOLD, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finds the best compressed version of a trained model for a given device, measured on the compiled artifact.",
)
out = Console()
log = Console(stderr=True)

_T = TypeVar("_T")


def _quantity(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    def checked(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return checked


AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Results = Annotated[Path, typer.Option("--results", help="Folder that holds the studies.")]
MaxLatency = Annotated[
    float | None,
    typer.Option(parser=_quantity(units.milliseconds), metavar="2ms", help="Latency of one call, at most."),
]
MaxSize = Annotated[
    int | None,
    typer.Option(parser=_quantity(units.size_bytes), metavar="1MB", help="Size of the files that ship, at most."),
]
MaxDrop = Annotated[
    float | None, typer.Option(parser=_quantity(units.share), metavar="1%", help="Loss of the metric, at most.")
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name within --results, or the study's folder.")]
RESULTS = Path("results")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


@app.command()
def doctor(
    target: Annotated[list[str] | None, typer.Option(help="Only these: names or YAML files.")] = None,
    as_json: AsJson = False,
) -> None:
    """Says for each target whether it is ready on this machine, why not, and the fix."""
    from autoshrink.config import load_target, profile_names
    from autoshrink.doctor import examine

    findings = [examine(load_target(name)) for name in target or profile_names("targets")]
    if as_json:
        _print_json({"targets": findings})
    else:
        table = Table("target", "state", "runtime", "why", "fix", box=None, pad_edge=False)
        for found in findings:
            colour = "green" if found["state"] == "ready" else "yellow" if found["state"] == "compile-only" else "red"
            table.add_row(found["target"], Text(found["state"], colour), found["runtime"], found["why"], found["fix"])
        out.print(table)
    if target and any(found["state"] == "unavailable" for found in findings):
        raise typer.Exit(DOES_NOT_HOLD)


@app.command()
def search(
    task: Annotated[str, typer.Argument(help="A built-in task (fashion-mini, digits, ...) or a .py file.")],
    target: Annotated[list[str], typer.Option(help="Name or YAML file; may be given several times.")],
    space: Annotated[str, typer.Option(help="Name or YAML file of the search space.")] = "standard",
    trials: Annotated[int, typer.Option(min=1, help="Trials a target, the baseline included.")] = 24,
    time: Annotated[
        float | None, typer.Option(parser=_quantity(units.seconds), metavar="10min", help="No trial begins after this.")
    ] = None,
    max_latency: MaxLatency = None,
    max_size: MaxSize = None,
    max_drop: MaxDrop = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    fidelity: Annotated[float, typer.Option(metavar="0.1", help="Share of the training steps that are made.")] = 1.0,
    force: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Keep what a target avoids: a technique, or technique.parameter=value."),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study; the task's name when not given.")] = None,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Searches for the best compressed versions of a model, for each target."""
    from autoshrink import api

    with _interruptible():
        found = api.search(
            task,
            target,
            space,
            trials=trials,
            time_limit_s=time,
            limits=Limits(max_latency, max_size, max_drop),
            seed=seed,
            fidelity=fidelity,
            force=force or (),
            study=study,
            results=results,
            console=log,
        )
    _conclude(found, as_json)


@app.command()
def resume(
    study: StudyName,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials a target, instead of the study's own number.")
    ] = None,
    time: Annotated[
        float | None, typer.Option(parser=_quantity(units.seconds), metavar="10min", help="No trial begins after this.")
    ] = None,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Goes on with a study after Ctrl-C, a crash or a reboot, or with more trials."""
    from autoshrink import api

    with _interruptible():
        found = api.resume(study, trials=trials, time_limit_s=time, results=results, console=log)
    _conclude(found, as_json)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is an ordinary way to end a search, and says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        log.print("stopped; every finished trial is kept, `autoshrink resume STUDY` goes on", style="yellow")
        raise typer.Exit(INTERRUPTED) from None


def _conclude(study: Study, as_json: bool) -> None:
    """The fronts, the report, and what to do next."""
    from autoshrink.dashboard.tables import front_rows
    from autoshrink.dashboard.terminal import front_table

    report = study.report()
    targets = list(study.folder.meta.targets)
    fronts = {target: front_rows(study.folder, target) for target in targets}
    if as_json:
        _print_json({"study": study.name, "report": str(report), "targets": fronts})
    else:
        for target in targets:
            out.print(front_table(study.folder, target))
            out.print()
        where = "" if study.folder.path.parent == RESULTS else f" --results {study.folder.path.parent}"
        out.print("What next", style="bold")
        out.print(f"  open {report}", highlight=False)
        out.print(
            f"  autoshrink pick {study.name}{where} --target {targets[0]} --max-drop 1% --out package",
            highlight=False,
            soft_wrap=True,
        )
        out.print("  autoshrink verify package", highlight=False)
    if not any(rows["front"] for rows in fronts.values()):
        raise NothingFits("no feasible trial: `autoshrink front` lists every trial with the limit it misses")


@app.command()
def front(
    study: StudyName,
    target: Annotated[str | None, typer.Option(help="Only this target.")] = None,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Prints the Pareto front of each target."""
    from autoshrink.api import open_study
    from autoshrink.dashboard.tables import front_rows
    from autoshrink.dashboard.terminal import front_table

    opened = open_study(study, results)
    targets = [target] if target else list(opened.folder.meta.targets)
    fronts = {name: front_rows(opened.folder, name) for name in targets}
    if as_json:
        _print_json({"study": opened.name, "targets": fronts})
    else:
        for name in targets:
            out.print(front_table(opened.folder, name))
            out.print()
    if not any(rows["front"] for rows in fronts.values()):
        raise NothingFits(f"{opened.name}: no feasible trial yet")


@app.command()
def pick(
    study: StudyName,
    target: Annotated[str, typer.Option(help="The target to ship to.")],
    destination: Annotated[Path, typer.Option("--out", help="A new folder for the package.")],
    max_latency: MaxLatency = None,
    max_drop: MaxDrop = None,
    max_size: MaxSize = None,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Chooses the trial to ship by its confidence bounds and writes it as a package."""
    from autoshrink.api import open_study
    from autoshrink.dashboard.tables import front_rows
    from autoshrink.search.words import describe

    opened = open_study(study, results)
    limits = Limits(max_latency, max_size, max_drop)
    record = opened.choose(target, limits)
    package = opened.pick(target, destination, limits)
    if as_json:
        rows = front_rows(opened.folder, target)["trials"]
        row = next(row for row in rows if row["number"] == record.number)
        _print_json({"package": str(package), "trial": row})
    else:
        words = describe(record.recipe, opened.folder.meta.fidelity)
        out.print(f"{package}: trial {record.number}, {words}", highlight=False, soft_wrap=True)
        out.print(f"  autoshrink verify {package}", highlight=False, soft_wrap=True)


@app.command()
def verify(
    package: Annotated[Path, typer.Argument(help="The folder that `pick` wrote.")],
    task: Annotated[str | None, typer.Option(help="Also score the task's test split.")] = None,
    as_json: AsJson = False,
) -> None:
    """Checks a package on this machine: hashes, parity, accuracy, latency ratio."""
    from autoshrink.package.verify import verify as verify_package

    loaded = None
    if task is not None:
        from autoshrink.tasks.loading import load_task

        loaded = load_task(task)
    found = verify_package(package, task=loaded)
    if as_json:
        _print_json(found.to_json())
    else:
        table = Table("check", "", "what was found", box=None, pad_edge=False)
        for check in found.checks:
            verdict = Text("ok", "green") if check.ok else Text("FAILED", "bold red")
            table.add_row(check.name, verdict, check.text)
        out.print(table)
        for note in found.notes:
            out.print(f"note: {note}", highlight=False, style="dim")
    if not found.ok:
        raise NothingFits(f"{package}: " + "; ".join(check.name for check in found.checks if not check.ok) + " failed")


@app.command()
def report(
    study: StudyName,
    destination: Annotated[Path | None, typer.Option("--out", help="The HTML file.")] = None,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Writes a study's report: one HTML file that needs no network."""
    from autoshrink.api import open_study

    written = open_study(study, results).report(destination)
    if as_json:
        _print_json({"report": str(written)})
    else:
        out.print(str(written), highlight=False, soft_wrap=True)


@app.command()
def targets(as_json: AsJson = False) -> None:
    """Lists the shipped targets: copy one and edit it for your own device."""
    from dataclasses import asdict

    from autoshrink.config import load_target, profile_folder, profile_names

    folder = profile_folder("targets")
    profiles = [load_target(name) for name in profile_names("targets")]
    if as_json:
        _print_json({"targets": [{"file": str(folder / f"{t.name}.yaml"), **asdict(t)} for t in profiles]})
        return
    table = Table("target", "what", "precisions", "left out", "file", box=None, pad_edge=False)
    for profile in profiles:
        left_out = ", ".join([*map(str, profile.unsupported), *profile.avoid]) or "-"
        table.add_row(
            profile.name,
            profile.summary,
            ", ".join(map(str, profile.precisions)),
            left_out,
            str(folder / f"{profile.name}.yaml"),
        )
    out.print(table)


@app.command()
def spaces(as_json: AsJson = False) -> None:
    """Lists the shipped search spaces: copy one and edit it."""
    from dataclasses import asdict

    from autoshrink.config import load_space, profile_folder, profile_names
    from autoshrink.search.space import enumerate_recipes

    most = 20_000
    folder = profile_folder("search_spaces")
    listed = []
    for name in profile_names("search_spaces"):
        space = load_space(name)
        recipes = enumerate_recipes(space, most)
        listed.append((space, folder / f"{name}.yaml", len(recipes) if recipes is not None else None))
    if as_json:
        _print_json(
            {"spaces": [{"file": str(file), "recipes": count, **asdict(space)} for space, file, count in listed]}
        )
        return
    table = Table("space", "what", "techniques", "recipes", "file", box=None, pad_edge=False)
    for space, file, count in listed:
        table.add_row(
            space.name,
            space.summary,
            ", ".join(space.techniques),
            f"{count:,}" if count else f"over {most:,}",
            str(file),
        )
    out.print(table)


@app.command()
def cache(
    trim: Annotated[
        int | None,
        typer.Option(
            parser=_quantity(units.size_bytes),
            metavar="2GB",
            help="Remove what was unused longest down to this; 0MB empties it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows what the stage cache holds, and trims it."""
    from autoshrink.cache import StageCache
    from autoshrink.search.words import human_bytes

    store = StageCache()
    removed = store.trim(trim) if trim is not None else []
    kinds: dict[str, list[int]] = {}
    for entry in store.entries():
        kinds.setdefault(entry.kind, []).append(entry.size)
    if as_json:
        _print_json(
            {
                "folder": str(store.root),
                "bytes": sum(map(sum, kinds.values())),
                "kinds": {kind: {"entries": len(sizes), "bytes": sum(sizes)} for kind, sizes in kinds.items()},
                "removed": [{"key": entry.key, "kind": entry.kind, "bytes": entry.size} for entry in removed],
            }
        )
        return
    table = Table("stage", "entries", "size", box=None, pad_edge=False)
    for kind, sizes in sorted(kinds.items()):
        table.add_row(kind, str(len(sizes)), human_bytes(sum(sizes)))
    table.add_row(
        "in all", str(sum(map(len, kinds.values()))), human_bytes(sum(map(sum, kinds.values()))), style="bold"
    )
    out.print(str(store.root), highlight=False, soft_wrap=True)
    out.print(table)
    if removed:
        out.print(
            f"removed {len(removed)} entries, {human_bytes(sum(entry.size for entry in removed))}", highlight=False
        )


def main() -> None:
    """Runs a command; a mistake of the user's becomes a message and an exit code, never a stack trace."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            # Python remembers an interrupt that passed through exec(), as imports use it, and would end by the signal.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
    except NothingFits as error:
        _complain(error)
        sys.exit(DOES_NOT_HOLD)
    except (AutoshrinkError, OSError) as error:
        _complain(error)
        sys.exit(BAD_INPUT)


def _complain(error: Exception) -> None:
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    for problem in problems:
        log.print(Text.assemble(("error: ", "bold red"), problem), soft_wrap=True)


if __name__ == "__main__":
    main()
