"""The commands that search: `search` and `resume`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from autoshrink.cli_common import (
    INTERRUPTED,
    RESULTS,
    AsJson,
    MaxDrop,
    MaxFigure,
    MaxLatency,
    MaxSize,
    MinThroughput,
    Results,
    StudyName,
    TimeLimit,
    app,
    limits_of,
    log,
    out,
    print_json,
)
from autoshrink.errors import NothingFits

if TYPE_CHECKING:
    from autoshrink.api import Study


@app.command()
def search(
    task: Annotated[str, typer.Argument(help="A built-in task (fashion-mini, digits, ...) or a .py file.")],
    target: Annotated[list[str], typer.Option(help="Name or YAML file; may be given several times.")],
    space: Annotated[str, typer.Option(help="Name or YAML file of the search space.")] = "standard",
    trials: Annotated[int, typer.Option(min=1, help="Trials a target, the baseline included.")] = 24,
    time: TimeLimit = None,
    max_latency: MaxLatency = None,
    max_size: MaxSize = None,
    max_drop: MaxDrop = None,
    min_throughput: MinThroughput = None,
    max_figure: MaxFigure = None,
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
            limits=limits_of(max_latency, max_size, max_drop, min_throughput, max_figure),
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
    time: TimeLimit = None,
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
        print_json({"study": study.name, "report": str(report), "targets": fronts})
    else:
        for target in targets:
            out.print(front_table(study.folder, target))
            out.print()
        results = study.folder.path.parent
        where = "" if results == RESULTS else f" --results {results}"
        out.print("What next", style="bold")
        out.print(
            f"  autoshrink dashboard{'' if results == RESULTS else f' {results}'}", highlight=False, soft_wrap=True
        )
        out.print(f"  open {report}", highlight=False)
        out.print(
            f"  autoshrink pick {study.name}{where} --target {targets[0]} --max-drop 1% --out package",
            highlight=False,
            soft_wrap=True,
        )
        out.print("  autoshrink verify package", highlight=False)
    if not any(rows["front"] or rows["compiled"] for rows in fronts.values()):
        raise NothingFits("no feasible trial: `autoshrink front` lists every trial with the limit it misses")
