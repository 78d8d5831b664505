"""The parallel coordinates of the page Search, and what restricts their lines: a list an axis, in the address."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dash import ALL, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from autoshrink.dashboard.app import search_tables as tables
from autoshrink.dashboard.app.choice import choice
from autoshrink.dashboard.app.page import PLACE, SCHEME, VERSION
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.app.plots import outputs, palette_of, plot_block, shown
from autoshrink.dashboard.parallel import axes_of_lines, lines, parallel_figure
from autoshrink.dashboard.parallel_bands import bands, kept
from autoshrink.dashboard.view import TargetView
from autoshrink.types import content_key

BOXES, OFFERED = "parallel-only", "parallel-offered"
_ONLY = "only."
"""Beginning of the controls' names; the title of the axis follows."""
_COLUMNS = {"display": "grid", "gridTemplateColumns": "repeat(auto-fill, minmax(min(11rem, 50% - 10px), 1fr))"}
"""Lists of one width, whatever their texts; two beside each other on a phone."""
_CAPTION = (
    "Each line is a trial, from its settings to what it came to; its colour and dashes are the change of the metric. "
    "Click a name below to hide its lines, a point to open its trial."
)
Find = Callable[[Sequence[str], str | None], TargetView | None]


def block(place: Place) -> Component:
    """The block; its lists are open where the address restricts something."""
    boxes = html.Div(id=BOXES, className="controls", style=_COLUMNS)
    is_open = any(map(_is_only, place.asked))
    only = html.Details([html.Summary("Only some of the lines"), boxes, dcc.Store(id=OFFERED)], open=is_open)
    return plot_block("parallel", "Settings and what they came to", _CAPTION, still=True, said=True, above=only)


def register(app: Dash, view_of: Find) -> None:
    """Adds what draws the lines and offers the bands of their axes."""
    controls = {"type": control("")["type"], "name": ALL}

    @app.callback(
        Output(BOXES, "children"),
        Output(OFFERED, "data"),
        Input(control("target"), "value"),
        Input(VERSION, "data"),
        State(controls, "value"),
        State(controls, "id"),
        State(OFFERED, "data"),
        State(PLACE, "data"),
    )
    def offer(
        target: str, _version: str, values: list[Any], ids: list[Any], before: str | None, where: list[str]
    ) -> tuple[Any, Any]:
        view = view_of(where, target)
        found = axes_of_lines(view, lines(view)) if view else []
        listed = {axis.title: {"": "all", **{band.name: band.text for band in bands(axis)}} for axis in found}
        stamp = content_key(listed)
        if stamp == before:
            # News that change no list must not close one that is open.
            return no_update, no_update
        asked = _asked(values, ids, where)
        boxes = [choice(f"{_ONLY}{title}", title, options, asked.get(title, "")) for title, options in listed.items()]
        return boxes, stamp

    @app.callback(
        *outputs("parallel"),
        Output("parallel-said", "children"),
        Input(control("target"), "value"),
        Input(VERSION, "data"),
        Input(SCHEME, "data"),
        Input(controls, "value"),
        State(controls, "id"),
        State(PLACE, "data"),
    )
    def draw(
        target: str, _version: str, scheme: str, values: list[Any], ids: list[Any], where: list[str]
    ) -> tuple[Any, ...]:
        view = view_of(where, target)
        asked = _asked(values, ids, where)
        figure = parallel_figure(view, palette_of(scheme), partial(kept, asked=asked)) if view else None
        if view is None or figure is None:
            return (*shown(None, None, "Drawn from two measured trials on."), "")
        figure.update_layout(uirevision=target)
        records = lines(view)
        left = kept(axes_of_lines(view, records), asked)
        said = "" if len(left) == len(records) else f"{len(left)} of {len(records)} lines; the others are faint."
        return (*shown(figure, tables.lines_table(view, Place.of(*where).study, left), ""), said)


def _asked(values: Sequence[Any], ids: Sequence[Any], where: Sequence[str]) -> Mapping[str, str]:
    """Title of an axis -> the band it is held to; what the address says before the page has its lists."""
    names = [str(each.get("name")) if isinstance(each, dict) else "" for each in ids]
    found = {name.removeprefix(_ONLY): value for name, value in zip(names, values, strict=False) if _is_only(name)}
    if not found:
        found = {name.removeprefix(_ONLY): value for name, value in Place.of(*where).asked.items() if _is_only(name)}
    return {title: value for title, value in found.items() if isinstance(value, str) and value}


def _is_only(name: str) -> bool:
    return name.startswith(_ONLY)
