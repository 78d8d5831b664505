"""The front of a study's targets: where one looks first."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.page import PLACE, SCHEME, VERSION, Page
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.figures import families
from autoshrink.dashboard.front_figure import LATENCY, SIZE, front_figure
from autoshrink.dashboard.library import Library
from autoshrink.dashboard.palette import DARK, LIGHT


def _layout(place: Place, library: Library) -> Component:
    snapshot = library.snapshot(place.study)
    targets = list(snapshot.views)
    return html.Section(
        [
            html.H2("Front"),
            dcc.Dropdown(targets, place.get("target", targets[0]), id=control("target"), clearable=False),
            dcc.RadioItems(["latency", "size"], place.get("x", "latency"), id=control("x"), inline=True),
            dcc.Graph(id="front", config={"displaylogo": False}),
        ]
    )


def _register(app: Dash, library: Library) -> None:
    @app.callback(
        Output("front", "figure"),
        Input(control("target"), "value"),
        Input(control("x"), "value"),
        Input(VERSION, "data"),
        Input(SCHEME, "data"),
        State(PLACE, "data"),
    )
    def draw(target: str, axis: str, _version: str, scheme: str, where: list[str]) -> Any:
        view = library.snapshot(Place.of(*where).study).views[target]
        palette = DARK if scheme == "dark" else LIGHT
        colours = palette.colours(families(view.records))
        figure = front_figure(view.records, view.target.limits, palette, colours, SIZE if axis == "size" else LATENCY)
        if figure is None:
            return {}
        figure.update_layout(uirevision=f"{target} {axis}")
        return figure


FRONT = Page("front", "Front", _layout, _register)
