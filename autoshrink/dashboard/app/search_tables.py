"""The tables of the page Search: what its figures show, how trials ended, and what the cache gave."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from dash import dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.exports import Table
from autoshrink.dashboard.app.place import address
from autoshrink.dashboard.app.tables import Cell, small_table
from autoshrink.dashboard.factors import settings
from autoshrink.dashboard.figures import progress, stage_seconds
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.importance import Importance, importances
from autoshrink.dashboard.pace import in_order_of_end, worked_seconds
from autoshrink.dashboard.parallel import lines
from autoshrink.dashboard.report_tables import OUTCOMES
from autoshrink.dashboard.search_facts import SAVED_IS, STAGE_HEADS, reasons, stage_cells, stage_uses
from autoshrink.dashboard.view import TargetView
from autoshrink.search.words import describe, human_bytes, human_ms, human_seconds
from autoshrink.types import Outcome, TrialRecord

MOST_ROWS = 200
"""Rows of a table beside a figure; the CSV file has all."""
LINKED = 12
"""Trials that a reason links to at once; the others unfold."""


def trial_link(study: str, record: TrialRecord) -> Component:
    """The trial's number, which opens it."""
    return dcc.Link(str(record.number), href=address("trial", study, target=record.target, trial=record.number))


def _grown(view: TargetView) -> Iterator[tuple[TrialRecord, float, float]]:
    """Record, minutes of search, hypervolume of every trial, in the order in which they ended."""
    records = in_order_of_end(view.records)
    volumes = progress(records, view.target.limits)
    yield from zip(records, (s / 60 for s in worked_seconds(records)), volumes, strict=False)


def progress_table(view: TargetView, study: str) -> Component:
    """The trials that raised the hypervolume."""
    before, rows = 0.0, []
    for record, minutes, volume in _grown(view):
        if volume > before:
            rows.append(
                [trial_link(study, record), f"{minutes:.1f} min", f"{volume:.3f}", f"+{volume - before:.3f}",
                 describe(record.recipe)]
            )  # fmt: skip
            before = volume
    heads = [("trial", True), ("after", True), ("hypervolume", True), ("gained", True), ("recipe", False)]
    return cut(heads, rows, "Trials that raised the hypervolume", last=True)


def progress_csv(view: TargetView) -> Table:
    """Every trial."""
    heads = ("trial", "minutes of search", "hypervolume", "outcome", "recipe")
    rows = [(r.number, minutes, volume, r.outcome.value, describe(r.recipe)) for r, minutes, volume in _grown(view)]
    return Table(heads, rows)


def time_table(view: TargetView, study: str) -> Component:
    """Seconds by stage, the dearest trials first."""
    stages = _dearest_stages(view.records)
    dearest = sorted(view.records, key=lambda record: -sum(record.seconds.values()))
    rows: list[list[Cell]] = [
        [
            trial_link(study, record),
            human_seconds(sum(record.seconds.values())),
            *(f"{record.seconds[stage]:.1f}" if stage in record.seconds else "-" for stage in stages),
        ]
        for record in dearest
    ]
    heads = [("trial", True), ("in all", True), *((f"{stage}, s", True) for stage in stages)]
    return cut(heads, rows, "Seconds of each trial by stage, the longest first")


def _dearest_stages(records: Iterable[TrialRecord]) -> list[str]:
    totals = stage_seconds(records)
    kept = sorted(totals, key=lambda stage: -totals[stage])[:8]
    return [stage for stage in totals if stage in kept]


def time_csv(view: TargetView) -> Table:
    """Every stage of every trial, seconds."""
    stages = list(stage_seconds(view.records))
    heads = ("trial", "outcome", *(f"{stage}, s" for stage in stages), "from the cache")
    rows = [
        (r.number, r.outcome.value, *(r.seconds.get(stage) for stage in stages), " ".join(r.reused))
        for r in view.records
    ]
    return Table(heads, rows)


def importance_table(found: Sequence[Importance]) -> Component | None:
    """Every setting that could be judged."""
    if not found:
        return None
    names = list(found[0].shares)
    rows: list[list[Cell]] = [[each.name, str(each.trials), *(_share(each, name) for name in names)] for each in found]
    heads = [("setting", False), ("trials", True), *((name, True) for name in names)]
    return small_table(heads, rows, "Share of the order that each setting explains")


def _share(each: Importance, name: str) -> Cell:
    share = each.shares[name]
    text = f"{100 * share.value:.0f} %"
    return text if share.is_sure else [text, html.Small("may be chance")]


def importance_csv(view: TargetView) -> Table:
    """Shares from 0 to 1."""
    found = importances(view)
    names = list(found[0].shares) if found else []
    heads = ("setting", "trials", *(part for name in names for part in (f"{name}, share", f"{name}, sure")))
    rows = [
        (
            each.name,
            each.trials,
            *(part for name in names for part in (each.shares[name].value, each.shares[name].is_sure)),
        )
        for each in found
    ]
    return Table(heads, rows)


def lines_table(view: TargetView, study: str, shown: Collection[int] | None = None) -> Component:
    """The trials that have a line, with their settings; of those the ones that `shown` has, by index."""
    records = [record for place, record in enumerate(lines(view)) if shown is None or place in shown]
    factors = settings(records)
    metric = view.metric
    rows: list[list[Cell]] = [
        [
            trial_link(study, record),
            *("-" if factor.values[place] is None else str(factor.values[place]) for factor in factors),
            human_ms(record.latency.ms) if record.latency else "-",
            human_bytes(record.artifact.size_bytes) if record.artifact else "-",
            metric.value(record.val.value) if record.val else "-",
        ]
        for place, record in enumerate(records)
    ]
    named = [(factor.name, False) for factor in factors]
    heads = [("trial", True), *named, ("latency", True), ("size", True), (f"{metric.name}, val", True)]
    return cut(heads, rows, "Settings and figures of the trials", last=True)


def lines_csv(view: TargetView) -> Table:
    """Every measured trial."""
    records = [record for record in view.records if record.is_scored]
    factors = settings(records)
    heads = (
        "trial",
        *(factor.name for factor in factors),
        "latency, ms",
        "size, bytes",
        f"{view.metric.name}, val",
        "loss",
    )
    rows = [
        (
            record.number,
            *(factor.values[place] for factor in factors),
            record.latency.ms if record.latency else None,
            record.artifact.size_bytes if record.artifact else None,
            record.val.value if record.val else None,
            record.drop,
        )
        for place, record in enumerate(records)
    ]
    return Table(heads, rows)


def ends(view: TargetView, study: str) -> list[Component]:
    """How many trials ended in which way, and why those did not complete."""
    if not view.records:
        return [html.P("No trial has ended yet.", className="note empty")]
    by_number = {record.number: record for record in view.records}
    whole = sum(record.outcome is Outcome.COMPLETE for record in view.records)
    parts: list[Component] = [
        html.P(
            f"{whole} of {counted(len(view.records), 'trial')} complete: {OUTCOMES[Outcome.COMPLETE]}.",
            className="note",
        )
    ]
    rows: list[list[Cell]] = [
        [
            html.Span(reason.outcome.value, className=f"badge {reason.outcome.value}"),
            str(len(reason.numbers)),
            html.Span(reason.text, className="reason"),
            _links([by_number[number] for number in reason.numbers], study),
        ]
        for reason in reasons(view.records)
    ]
    if rows:
        heads = [("outcome", False), ("trials", True), ("reason", False), ("which", False)]
        parts.append(cut(heads, rows, "Why trials did not complete"))
    return parts


def _links(records: Sequence[TrialRecord], study: str) -> Component:
    linked = [html.Span([trial_link(study, record), " "]) for record in records]
    rest = linked[LINKED:]
    more = [html.Details([html.Summary(f"{len(rest)} more"), *rest])] if rest else []
    return html.Div([*linked[:LINKED], *more], className="links")


def stages(view: TargetView) -> Component:
    """Each stage: what it took, how often it was made, how often the cache had it."""
    uses = stage_uses(view.records)
    if not uses:
        return html.P("No time was recorded yet.", className="note empty")
    whole = sum(use.seconds for use in uses) or 1.0
    rows = [[use.stage, *(text for text, _ in stage_cells(use, whole))] for use in uses]
    return html.Div([small_table(STAGE_HEADS, rows, "Stages and the cache"), html.P(SAVED_IS, className="note")])


def cut(heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[Cell]], label: str, last: bool = False) -> Component:
    """The first rows, or the last; says so where that leaves some out."""
    if len(rows) <= MOST_ROWS:
        return small_table(heads, rows, label)
    kept = rows[-MOST_ROWS:] if last else rows[:MOST_ROWS]
    which = "latest" if last else "first"
    note = f"The {which} {MOST_ROWS} of {len(rows)}; the CSV file has all."
    return html.Div([html.P(note, className="note"), small_table(heads, kept, label)])
