"""`autoshrink front STUDY --across` as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from autoshrink.dashboard.across import Across, RecipeSet
from autoshrink.dashboard.across_words import (
    Views,
    agreement,
    change,
    notes,
    penalty,
    size,
    speed,
    speed_heading,
    titles,
)
from autoshrink.dashboard.target_agreement import Disagreement
from autoshrink.search.words import describe


def across_tables(
    found: Across, shared: int, differing: Sequence[Disagreement], views: Views
) -> Iterator[RenderableType]:
    """A table for each set of recipes, then what to know about them and about the targets' agreement."""
    for each, title, text in titles(found):
        yield _set_table(each, title, text, views)
    for target, why in found.unserved.items():
        yield Text.assemble((f"{target}: no recipe serves it. ", "bold red"), why, "\n")
    yield Text("".join(f"{note}.\n" for note in notes(found, views)), "dim")
    for sentence, reasons in agreement(shared, differing, views):
        yield Text(f"{sentence}.", "yellow" if reasons else "")
        yield from (Text(f"  {reason}", "dim") for reason in reasons)


def _set_table(each: RecipeSet, title: str, text: str, views: Views) -> Table:
    table = Table(
        title=Text.assemble((title, "bold"), f"  {text}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    table.add_column("target", min_width=min(20, max(map(len, each.services))), overflow="fold")
    table.add_column("recipe", min_width=9, max_width=36, overflow="fold")
    table.add_column("trial", justify="right", no_wrap=True)
    speeds = speed_heading(each, views)
    for name, width in ((speeds, 8), ("of its best", 8), ("change", 7), ("size", 7)):
        table.add_column(name, justify="right", min_width=width, overflow="fold")
    for name, service in each.services.items():
        view = views[name]
        table.add_row(
            name,
            describe(service.record.recipe),
            str(service.record.number),
            _two_lines(*speed(service, view)),
            Text(penalty(service), "" if service.is_as_good else "yellow"),
            _two_lines(*change(service, view)),
            size(service),
        )
    return table


def _two_lines(value: str, below: str) -> Text:
    return Text.assemble(value, "\n" if below else "", (below, "dim"))
