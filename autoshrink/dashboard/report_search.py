"""How the search of a target went, for a report: its progress, what the settings did, its time and its cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import plotly.graph_objects as go

from autoshrink.dashboard.figures import progress_figure, time_figure
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.importance import importance_figure, importances
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.pace import in_order_of_end, worked_seconds
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.parallel import parallel_figure
from autoshrink.dashboard.report_tables import figure_cell, sortable_table
from autoshrink.dashboard.search_facts import SAVED_IS, STAGE_HEADS, reused_in_all, stage_cells, stage_uses
from autoshrink.dashboard.view import TargetView
from autoshrink.search.front import is_known
from autoshrink.search.words import human_seconds

PROGRESS, PACE = "progress", "pace"
"""The hypervolume over trials, and the same over time, which the page draws in its place."""
_RAISED = "%{text}<br>hypervolume %{y:.3f}<extra></extra>"
UNITS = {"time": "s", "share": "%", "saved": "s"}


def search_figures(view: TargetView, palette: Palette) -> dict[str, go.Figure | None]:
    """Kind -> figure, None where the records give nothing for it; over each other they are in the order of the page.

    To keep the file small, points of trials that are on the front's figure have no text: the page takes what it says of
    them from there.
    """
    ended = in_order_of_end(view.records)
    minutes = [seconds / 60 for seconds in worked_seconds(ended)]
    limits = view.target.limits
    told = {record.number for record in view.records if view.axes and is_known(record, view.axes)}
    return {
        PROGRESS: _in_short(progress_figure(view.records, limits, palette), told, _RAISED),
        PACE: _in_short(progress_figure(ended, limits, palette, minutes), told, _RAISED),
        "time": _by_template(time_figure(view.records, palette), len(view.records)),
        "importance": importance_figure(importances(view), palette),
        "lines": _with_room(_in_short(parallel_figure(view, palette), told)),
    }


def _in_short(figure: go.Figure | None, told: Collection[int], template: str | None = None) -> go.Figure | None:
    """Of trials that are not `told` elsewhere the first line of their text, of the others none."""
    for trace in figure.data if figure is not None else ():
        if trace.text is None:
            continue
        if template is not None:
            trace.hovertemplate = template
        numbers = trace.customdata
        trace.text = [
            "" if number is None or number in told else text.partition("<br>")[0]
            for number, text in zip(numbers, trace.text, strict=True)
        ]
        if not any(trace.text):
            trace.text = None
    return figure


def _with_room(figure: go.Figure | None) -> go.Figure | None:
    """On a narrow page, or paper, the marks of the last axis reach over its end."""
    if figure is not None:
        figure.update_layout(margin={"r": 44})
    return figure


def _by_template(figure: go.Figure | None, trials: int) -> go.Figure | None:
    """What each bar of a single trial says, written once a stage."""
    for trace in figure.data if figure is not None else ():
        if len(trace.x) == trials:
            stage = trace.name.rpartition(" ")[0].rpartition(" ")[0]
            trace.update(text=None, hovertemplate=f"trial %{{customdata}}, {stage}: %{{y:.3~r}} s<extra></extra>")
    return figure


def over_switch(name: str, kinds: Mapping[str, str]) -> Markup:
    """What a figure is drawn over; hidden until the page's script shows it.

    Args:
        name: of the figure's element.
        kinds: name of the figure that is drawn in it -> what the reader calls that.
    """
    options = [element("option", text, value=kind) for kind, text in kinds.items()]
    select = element("select", options, autocomplete="off", data_figure=name)
    return element("label", element("span", "over "), select, class_="r-axes r-over", hidden=True)


def stages_table(view: TargetView) -> list[Markup]:
    """Each stage: what it took, how often it was made, how often the cache had it; empty where no time is known."""
    uses = stage_uses(view.records)
    whole = sum(use.seconds for use in uses)
    if not whole:
        return []
    rows = [
        element("tr", element("td", use.stage), *(figure_cell(*cell) for cell in stage_cells(use, whole)))
        for use in uses
    ]
    cached = reused_in_all(uses)
    words = f"In all {human_seconds(whole)}."
    if cached.wanted:
        words += f" The cache had {cached.reused} of {counted(cached.wanted, 'stage')} that it can have"
        words += f", which saved about {human_seconds(cached.saved)}." if cached.saved >= 1 else "."
        words += f" {SAVED_IS}"
    return [
        element("h3", "Stages and the cache"),
        sortable_table(STAGE_HEADS, [element("tbody", rows)], "Stages and the cache", units=UNITS),
        element("p", words, class_="note"),
    ]
