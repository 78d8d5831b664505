"""The front in three dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from autoshrink.dashboard.figure_json import Json, packed
from autoshrink.dashboard.figures import BASELINE
from autoshrink.dashboard.front_look import Axes, Panel, base_layout, log_ticks
from autoshrink.dashboard.front_traces import FAINT, MANY, PLAIN_NAME, PanelTraces
from autoshrink.dashboard.palette import Palette

HEIGHT = 560
# The few symbols that plotly has in three dimensions.
SYMBOLS = ("circle", "square", "diamond", "cross")


def solid_figure(axes: Axes, palette: Palette, colours: Mapping[str, str]) -> Json:
    """Trials of all panels in one space: `look.y` is the height, `look.area` the depth."""
    data: list[Json] = []
    for place, panel in enumerate(axes.panels):
        drawer = PanelTraces(axes, panel, place, palette, colours)
        data += _traces(axes, panel, place, drawer, palette, colours)
    look = axes.look
    layout = base_layout(palette, HEIGHT)
    del layout["xaxis"], layout["yaxis"]
    layout |= {
        "scene": {
            "xaxis": _axis(axes, look.x, look.x_scale, palette),
            "yaxis": _axis(axes, look.area, "auto", palette),
            "zaxis": _axis(axes, look.y, look.y_scale, palette),
            "aspectmode": "manual",
            "aspectratio": {"x": 1.35, "y": 1.1, "z": 0.85},
            "camera": {"eye": {"x": -1.6, "y": -1.75, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.12}},
        },
        "uirevision": f"solid {look.x.name} {look.y.name} {look.area.name} {look.relative}",
        "margin": {"l": 0, "r": 0, "t": 12, "b": 0},
    }
    return {"data": data, "layout": layout}


def _axis(axes: Axes, quantity: Any, scale: Any, palette: Palette) -> Json:
    title = escape(axes.title(quantity), quote=False).split(", 1 = ")[0]
    found: Json = {
        "title": {"text": f"{title}, ratio" if axes.is_relative(quantity) else title, "font": {"size": 13}},
        "type": "linear",
        "gridcolor": palette.grid,
        "zerolinecolor": palette.grid,
        "color": palette.muted,
        "showbackground": False,
        "nticks": 6,
    }
    return found | log_ticks() if axes.is_log(quantity, scale) else found


def _traces(
    axes: Axes, panel: Panel, place: int, drawer: PanelTraces, palette: Palette, colours: Mapping[str, str]
) -> Iterator[Json]:
    symbol = SYMBOLS[place % len(SYMBOLS)]
    depth = axes.column(panel, axes.look.area)
    points = panel.points
    plain = ~drawer.special & ~drawer.unfinished & drawer.drawn

    def scatter(rows: Any, name: str, first: bool, marker: Json) -> Json:
        told = len(rows) <= MANY
        return {
            "type": "scatter3d",
            "x": packed(drawer.x.value[rows]),
            "y": packed(depth.value[rows]),
            "z": packed(drawer.y.value[rows]),
            "mode": "markers",
            "name": escape(name),
            "legendgroup": escape(name),
            "showlegend": first and place == 0 and len(rows) > 0,
            "marker": marker,
            "text": [points.hover(points.records[row]) if told else escape(points.words[row]) for row in rows],
            "customdata": [[int(points.numbers[row]), panel.name] for row in rows],
            "hovertemplate": "%{text}<extra></extra>",
        }

    for group, colour in colours.items():
        of_group = plain & (drawer.groups == group)
        strong = np.flatnonzero(of_group & drawer.members & drawer.keeps)
        faint = np.flatnonzero(of_group & ~drawer.members & drawer.keeps)
        hollow = np.flatnonzero(of_group & ~drawer.keeps)
        yield scatter(strong, group, True, {"symbol": symbol, "size": 6, "color": colour})
        yield scatter(faint, group, not len(strong), {"symbol": symbol, "size": 4, "color": colour, "opacity": FAINT})
        # Only these two have a hollow form here.
        ring = f"{symbol}-open" if symbol != "cross" else "circle-open"
        yield scatter(
            hollow,
            group,
            not len(strong) and not len(faint),
            {"symbol": ring, "size": 4, "color": colour, "opacity": 0.6},
        )
    for row, name, mark in (
        (points.baseline, BASELINE, {"symbol": "square", "size": 7, "color": palette.ink}),
        (points.plain_int8, PLAIN_NAME, {"symbol": "diamond", "size": 7, "color": palette.ink}),
        (points.row(panel.chosen), "the pick", {"symbol": "circle-open", "size": 14, "color": palette.ink}),
        (points.row(panel.selected), "selected", {"symbol": "square-open", "size": 14, "color": palette.ink}),
    ):
        rows = np.array([] if row is None or not drawer.drawn[row] else [row], dtype=np.int64)
        yield scatter(rows, name, True, mark)
