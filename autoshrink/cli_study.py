"""The commands about a study's results: `front`, `pick`, `verify`, `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from autoshrink import units
from autoshrink.cli_common import (
    RESULTS,
    AsJson,
    MaxDrop,
    MaxFigure,
    MaxLatency,
    MaxSize,
    MinThroughput,
    Results,
    StudyName,
    app,
    limits_of,
    log,
    out,
    print_json,
    quantity,
)
from autoshrink.errors import ConfigError, NothingFits
from autoshrink.target import Limits

if TYPE_CHECKING:
    from autoshrink.dashboard.library import Snapshot
    from autoshrink.dashboard.view import TargetView


@app.command()
def front(
    study: StudyName,
    target: Annotated[str | None, typer.Option(help="Only this target.")] = None,
    across: Annotated[
        bool, typer.Option("--across", help="The fewest recipes that serve all targets, and what each more buys.")
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            parser=quantity(units.share), metavar="1%", help="With --across: loss of the metric on any target, at most."
        ),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draws the front in the terminal, above its table.")] = False,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Prints the Pareto front of each target, or with --across what serves them all."""
    from autoshrink.api import open_study
    from autoshrink.dashboard.library import Library
    from autoshrink.dashboard.tables import rows_of
    from autoshrink.dashboard.terminal import table_of

    if plot and (as_json or across):
        other = "--json" if as_json else "--across"
        raise ConfigError([f"--plot: draws a front for people, and {other} shows none; leave one out"])
    opened = open_study(study, results)
    if across:
        if target is not None:
            raise ConfigError([f"--target: {target} is named, and --across is about all targets; leave one out"])
        _across(Library.read(opened.folder), max_drop, as_json)
        return
    if max_drop is not None:
        raise ConfigError(["--max-drop: only --across takes it; a front shows every drop"])
    if target is not None:
        opened.folder.check_target(target)
    snapshot = Library.read(opened.folder)
    views = {name: view for name, view in snapshot.views.items() if target in (None, name)}
    fronts = {name: rows_of(view) for name, view in views.items()}
    if as_json:
        print_json({"study": opened.name, "targets": fronts, "broken": _broken(snapshot)})
    else:
        for view in views.values():
            if plot:
                _plot(view)
            out.print(table_of(view))
            out.print()
        _say_broken(snapshot)
    if not any(rows["front"] or rows["compiled"] for rows in fronts.values()):
        raise NothingFits(f"{opened.name}: no feasible trial yet")


def _broken(snapshot: Snapshot) -> list[dict[str, str]]:
    """The files that could not be read, and why."""
    from autoshrink.dashboard.standing import why_broken

    return [{"file": each.file, "why": why_broken(snapshot, each)} for each in snapshot.broken]


def _say_broken(snapshot: Snapshot) -> None:
    """Names what is missing above, so that nobody takes it for all there is."""
    for each in _broken(snapshot):
        log.print(
            Text.assemble((each["file"], "bold"), f" cannot be read and is left out: {each['why']}"), style="yellow"
        )


def _plot(view: TargetView) -> None:
    from autoshrink.dashboard.terminal_plot import COLOURS, WIDEST, WIDTH, front_picture

    # A pipe has no width: what is read there later should not depend on the terminal that it was made in.
    width = min(out.width, WIDEST) if out.is_terminal else WIDTH
    picture = front_picture(view, width)
    out.print(Text(view.name, "bold"))
    if picture is None:
        out.print(Text("nothing to draw yet: fewer than two trials were measured", "dim"))
        return
    for row, line in enumerate(picture.lines):
        text = Text(line)
        for (at, column), mark in picture.marks.items():
            if at == row:
                text.stylize(COLOURS[mark], column, column + 1)
        out.print(text, no_wrap=True, crop=False, overflow="ignore")
    out.print()


def _across(snapshot: Snapshot, max_drop: float | None, as_json: bool) -> None:
    from autoshrink.dashboard.across import across
    from autoshrink.dashboard.across_terminal import across_tables
    from autoshrink.dashboard.across_words import across_json
    from autoshrink.dashboard.target_agreement import disagreements

    views = snapshot.views
    found = across(views, max_drop)
    shared, differing = disagreements(views)
    if as_json:
        document = across_json(found, shared, differing, views)
        print_json({"study": snapshot.meta.name, **document, "broken": _broken(snapshot)})
    else:
        for each in across_tables(found, shared, differing, views):
            out.print(each)
        _say_broken(snapshot)
    if not found.sets:
        raise NothingFits(f"{snapshot.meta.name}: no target is served by any recipe")


@app.command()
def pick(
    study: StudyName,
    target: Annotated[str, typer.Option(help="The target to ship to.")],
    destination: Annotated[Path, typer.Option("--out", help="A new folder for the package.")],
    max_latency: MaxLatency = None,
    max_drop: MaxDrop = None,
    max_size: MaxSize = None,
    min_throughput: MinThroughput = None,
    max_figure: MaxFigure = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Takes this trial, whatever the limits.")] = None,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Chooses the trial to ship by its confidence bounds and writes it as a package.

    The target's own limits hold where none is given.
    """
    from autoshrink.api import open_study
    from autoshrink.dashboard.tables import front_rows
    from autoshrink.search.words import describe

    opened = open_study(study, results)
    limits = limits_of(max_latency, max_size, max_drop, min_throughput, max_figure)
    if trial is not None and limits != Limits():
        raise ConfigError([f"--trial: {trial} is taken whatever the limits; leave them or it out"])
    record = opened.choose(target, limits, trial)
    package = opened.pick(target, destination, limits, trial)
    if as_json:
        rows = front_rows(opened.folder, target)["trials"]
        row = next(row for row in rows if row["number"] == record.number)
        print_json({"package": str(package), "trial": row})
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
        print_json(found.to_json())
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
        print_json({"report": str(written)})
    else:
        out.print(str(written), highlight=False, soft_wrap=True)
