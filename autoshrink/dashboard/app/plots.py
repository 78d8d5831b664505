"""A figure with all that belongs to it: its title, what it says, what saves it, and the same as a table."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from autoshrink.dashboard.app.exports import save_buttons
from autoshrink.dashboard.app.page import PLACE
from autoshrink.dashboard.app.place import Place, address, control
from autoshrink.dashboard.palette import DARK, LIGHT, Palette

_BUTTONS = {"displaylogo": False, "responsive": True, "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d"]]}
_STILL = {"displayModeBar": False, "responsive": True}


def plot_block(
    name: str,
    title: str,
    caption: str,
    controls: Component | None = None,
    still: bool = False,
    said: bool = False,
    above: Component | None = None,
) -> Component:
    """The block of the figure `name`; `shown` gives what fills it.

    Args:
        name: id of the graph; `NAME-none` and `NAME-table` are those of the sentence in its place and of its table.
        title: above it.
        caption: what one sees.
        controls: beside the title.
        still: neither zooms nor pans; on a phone it may scroll.
        above: what stands above the drawing.
        said: whether a sentence about what is drawn follows the caption; its id is `NAME-said`.
    """
    return html.Div(
        [
            html.Div([html.H3(title), *([controls] if controls else [])], className="plot-title"),
            html.P(id=f"{name}-none", className="note empty"),
            html.Div(
                [
                    *([above] if above else []),
                    # A drawing tells nothing to those who hear the page: the table does.
                    html.Div(
                        dcc.Graph(id=name, config=_STILL if still else _BUTTONS),
                        role="group",
                        tabIndex="0" if still else None,
                        className="drawing",
                        **{"aria-label": f"{title}, a drawing; the table below says the same."},
                    ),
                    html.P(caption, className="note"),
                    *([html.P(id=f"{name}-said", className="note")] if said else []),
                    save_buttons(name, title.lower(), table=True),
                    html.Details([html.Summary("The same as a table"), html.Div(id=f"{name}-table")]),
                ],
                id=f"{name}-block",
            ),
        ],
        className="plot-block",
    )


def outputs(name: str) -> list[Output]:
    """What a callback that returns `shown` writes."""
    return [
        Output(name, "figure"),
        # One that comes to be while it is hidden finds no height of its own.
        Output(name, "style"),
        Output(f"{name}-block", "hidden"),
        Output(f"{name}-none", "children"),
        Output(f"{name}-table", "children"),
    ]


def shown(figure: go.Figure | None, table: Component | None, nothing: str) -> tuple[Any, ...]:
    """A figure with its table, or the sentence that stands in their place when there is none."""
    if figure is None:
        return no_update, no_update, True, nothing, None
    return figure, {"height": f"{figure.layout.height}px"}, False, "", table


def palette_of(scheme: str | None) -> Palette:
    """The colours of a scheme, `light` or `dark`."""
    return DARK if scheme == "dark" else LIGHT


def opens_trials(app: Dash, name: str) -> None:
    """A click on a point of the graph `name` opens the trial whose number is its `customdata`."""

    @app.callback(
        Output("url", "href", allow_duplicate=True),
        Input(name, "clickData"),
        State(control("target"), "value"),
        State(PLACE, "data"),
        prevent_initial_call=True,
    )
    def open_trial(click: dict[str, Any] | None, target: str | None, where: list[str]) -> object:
        number = (click or {}).get("points", [{}])[0].get("customdata")
        if not isinstance(number, int):
            return no_update
        return address("trial", Place.of(*where).study, target=target, trial=number)
