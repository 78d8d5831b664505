"""Parallel coordinates of a target's trials: a line each, over their settings and what they came to.

Drawn with plain lines: plotly's own kind wants WebGL, which compiles code in the page, and the report allows none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from autoshrink.dashboard.factors import Factor, settings
from autoshrink.dashboard.figures import hover, lay_out
from autoshrink.dashboard.importance import importances
from autoshrink.dashboard.palette import LIGHT, Palette
from autoshrink.dashboard.view import TargetView
from autoshrink.search.words import human_bytes, human_ms
from autoshrink.types import Scalar, TrialRecord

MOST_LINES = 240
"""Lines that are drawn: the front, then the latest; more would hide each other."""
MOST_SETTINGS = 6
OFF = "off"
"""Stands where a recipe has no such setting."""
CLASSES = 4
_LIGHT = ("#0b3c7d", "#2b83ba", "#b56a00", "#b3261e")
_DARK = ("#a8d4ff", "#4ba3e3", "#f0a94a", "#ff7d73")
_DASHES = ("solid", "longdash", "dash", "dot")


@dataclass(frozen=True)
class Axis:
    """One vertical axis.

    Attributes:
        title: what it shows.
        places: where each record stands on it: 0 is the foot, 1 the top, None unknown.
        marks: (place, text) each.
        text_at: place -> what it stands for.
    """

    title: str
    places: tuple[float | None, ...]
    marks: tuple[tuple[float, str], ...]
    text_at: Callable[[float], str]


def parallel_figure(
    view: TargetView, palette: Palette, kept: Callable[[Sequence[Axis]], Collection[int]] | None = None
) -> go.Figure | None:
    """The figure; None with fewer than two measured trials. The colour, and the dashes, tell the loss of the metric.

    Args:
        view: of the target.
        palette: of the page.
        kept: the axes -> the lines (by index) that are not faint; all of them when None.
    """
    records = lines(view)
    axes = axes_of_lines(view, records) if len(records) > 1 else []
    if len(axes) < 2:
        return None
    figure = go.Figure()
    colours = _LIGHT if palette is LIGHT else _DARK
    shown = range(len(records)) if kept is None else kept(axes)
    faint = [index for index in range(len(records)) if index not in shown]
    groups = [(f"left out, {len(faint)}", faint, len(colours))] if faint else []
    groups += [(label, [i for i in members if i in shown], place) for label, members, place in classes(view, records)]
    for label, members, place in groups:
        is_faint = place == len(colours)
        colour = palette.grid if is_faint else colours[place]
        xs: list[float | None] = []
        ys: list[float | None] = []
        texts: list[str] = []
        numbers: list[int | None] = []
        for index in members:
            for x, axis in enumerate(axes):
                xs.append(x)
                ys.append(axis.places[index])
                texts.append(hover(records[index], view.metric))
                numbers.append(records[index].number)
            xs.append(None)
            ys.append(None)
            texts.append("")
            numbers.append(None)
        figure.add_trace(
            go.Scatter(
                x=xs, y=ys, text=texts, customdata=numbers, name=escape(label), mode="lines+markers",
                line={"color": colour, "width": 1.4, "dash": "solid" if is_faint else _DASHES[place]},
                marker={"color": colour, "size": 4}, opacity=0.75, connectgaps=False,
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    lay_out(figure, palette, height=440)
    last = len(axes) - 1
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=[_wrapped(axis.title) for axis in axes], range=[-0.25, last + 0.45],
        side="top", showgrid=False, zeroline=False, showline=False, tickfont={"size": 12.5, "color": palette.ink},
        tickangle=0, fixedrange=True,
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[-0.06, 1.06], fixedrange=True)
    figure.update_layout(legend={"y": -0.02, "yanchor": "top"}, dragmode=False)
    for x, axis in enumerate(axes):
        figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, line={"color": palette.muted, "width": 1}, layer="below")
        for height, text in axis.marks:
            figure.add_annotation(
                x=x, y=height, text=escape(text), showarrow=False, xanchor="left", xshift=5, yanchor="middle",
                bgcolor=palette.surface, opacity=0.9, borderpad=1, font={"size": 11.5, "color": palette.muted},
            )  # fmt: skip
    return figure


def lines(view: TargetView) -> list[TrialRecord]:
    """The measured trials that get a line, by number: the front, then the latest, `MOST_LINES` at most."""
    measured = [record for record in view.records if record.is_scored]
    members = {record.number for record in view.members}
    first = sorted(measured, key=lambda record: (record.number not in members, -record.number))
    return sorted(first[:MOST_LINES], key=lambda record: record.number)


def axes_of_lines(view: TargetView, records: Sequence[TrialRecord]) -> list[Axis]:
    """An axis for each setting in which they differ, `MOST_SETTINGS` of the most telling, then one for each figure."""
    factors = settings(records)
    if len(factors) > MOST_SETTINGS:
        telling = [each.name for each in importances(view)]
        ranks = {name: rank for rank, name in enumerate(telling)}
        kept = sorted(factors, key=lambda factor: ranks.get(factor.name, len(telling)))[:MOST_SETTINGS]
        factors = [factor for factor in factors if factor in kept]
    axes = [_setting_axis(factor) for factor in factors]
    if view.is_timed:
        axes.append(_figure_axis("latency", [r.latency.ms if r.latency else None for r in records], human_ms))
    sizes = [float(record.artifact.size_bytes) if record.artifact else None for record in records]
    axes.append(_figure_axis("size", sizes, human_bytes))
    metric = view.metric
    axes.append(_figure_axis(metric.name, [r.val.value if r.val else None for r in records], metric.value))
    return axes


def _setting_axis(factor: Factor) -> Axis:
    """Listed values evenly spaced, in order, `off` at the foot; many numbers by size."""
    distinct = factor.distinct
    has_off = any(value is None for value in factor.values)
    names = [*([OFF] if has_off else []), *map(_text, distinct)]
    step = 1 / max(1, len(names) - 1)
    at: dict[Scalar | None, float] = {value: (place + has_off) * step for place, value in enumerate(distinct)}
    at[None] = 0.0
    shown = [(place * step, name) for place, name in enumerate(names)]
    if len(shown) > 8:
        # Every mark of a long axis would lie on the next one.
        shown = [shown[round(index * (len(shown) - 1) / 5)] for index in range(6)]
    places = tuple(at[value] for value in factor.values)
    return Axis(factor.name, places, tuple(shown), lambda place: names[round(place / step)])


def _figure_axis(title: str, values: Sequence[float | None], text: Callable[[float], str]) -> Axis:
    """By size, on a logarithmic scale where the largest is ten times the smallest; marks at the ends and between."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    logarithmic = low > 0 and high >= 10 * low
    begin, end = (math.log(low), math.log(high)) if logarithmic else (low, high)

    def place(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return 0.5 if end == begin else ((math.log(value) if logarithmic else value) - begin) / (end - begin)

    ends = np.linspace(begin, end, 5) if end > begin else np.array([begin])
    marks = [math.exp(mark) if logarithmic else float(mark) for mark in ends]
    found = tuple((place(mark) or 0.0, text(mark)) for mark in marks)

    def text_at(at: float) -> str:
        value = begin + at * (end - begin)
        return text(math.exp(value) if logarithmic else value)

    return Axis(title, tuple(map(place, values)), found, text_at)


def classes(view: TargetView, records: Sequence[TrialRecord]) -> list[tuple[str, list[int], int]]:
    """The records (by index) in up to `CLASSES` groups of equal size by their loss, the least first.

    Returns:
        For each group what it is called, its members, and its place in the colours.
    """
    losses = [record.drop for record in records]
    known = sorted({loss for loss in losses if loss is not None})
    if len(known) < 2:
        return [(f"{view.metric.name} not compared" if not known else "all alike", list(range(len(records))), 0)]
    inner = np.quantile([loss for loss in losses if loss is not None], np.linspace(0, 1, CLASSES + 1))
    edges = sorted({float(edge) for edge in inner})
    found = []
    for place, (low, high) in enumerate(pairwise(edges)):
        is_last = place == len(edges) - 2
        members = [
            index for index, loss in enumerate(losses)
            if loss is not None and low <= loss and (loss < high or is_last)
        ]  # fmt: skip
        if members:
            own = [loss for index in members if (loss := losses[index]) is not None]
            best, worst = min(own), max(own)
            spread = (
                view.metric.change(best)
                if best == worst
                else f"{view.metric.signed(-worst)} to {view.metric.change(best)}"
            )
            found.append((spread, members, place))
    return found


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")


def _wrapped(title: str) -> str:
    """In two lines where it has several words."""
    first, _, rest = title.partition(" ")
    return f"{escape(first)}<br>{escape(rest)}" if rest else escape(first)
