"""The front of a study's targets, the limits, and the trial to ship: where one looks first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update, set_props
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from autoshrink.dashboard.app import exports, front_controls
from autoshrink.dashboard.app.exports import Table
from autoshrink.dashboard.app.front_cards import RELAX, SELECT, answer_card, selected_card
from autoshrink.dashboard.app.front_drawing import EMPTY, Records, Wanted, asked_of, drawing
from autoshrink.dashboard.app.front_table import TRIALS, columns, csv_table, rows, trials_grid
from autoshrink.dashboard.app.notices import notices_slot
from autoshrink.dashboard.app.page import NARROW, PLACE, SCHEME, VERSION, Page, Screen
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.front_look import Panel
from autoshrink.dashboard.front_words import kept_count
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.dashboard.limit_boxes import BOXES, scales
from autoshrink.dashboard.points import Points
from autoshrink.dashboard.view import TargetView
from autoshrink.target import Limits

FRONT_ID = "front-plot"
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d", "autoScale2d"],
}
SCRIPT = "front"


def _layout(place: Place, library: Library, screen: Screen) -> Component:
    records = _records(library)
    snapshot = library.snapshot(place.study)
    targets = list(snapshot.views)
    first = place.get("target") if place.get("target") in targets else targets[0]
    view = snapshot.views[first]
    # The figure comes with the page: asked for later, plotly would draw an empty one before it.
    wanted = _wanted(place, view)
    drawn = drawing(records, snapshot, wanted, screen)
    said = _said(records, snapshot, wanted)
    plot = html.Section(
        [
            html.Div(front_controls.toolbar(place, view), className="toolbar"),
            html.P(drawn.nothing, id="front-nothing", className="said nothing"),
            html.Div(
                dcc.Graph(
                    id=FRONT_ID,
                    figure=drawn.since(None) or EMPTY,
                    config=CONFIG,
                    responsive=True,
                    className="front-graph",
                ),
                id="front-frame",
                className="front-frame",
                role="group",
                style=drawn.frame,
            ),
            html.P(drawn.caption, id="front-caption", className="note"),
            exports.save_buttons(FRONT_ID, "the front", table=True),
        ],
        className="front-figure",
    )
    answer = html.Section(said["answer"], id="front-answer", className="front-answer", **{"aria-live": "polite"})
    limits = html.Section(
        [
            html.H3("Limits", className="first"),
            html.P(said["kept"], id="front-kept", className="note"),
            *front_controls.limits_form(place),
            html.Div(said["problems"], id="front-problems", role="alert"),
        ],
        className="front-limits",
    )
    trial = place.number("selected")
    selected = html.Section(
        [
            html.Div(
                [
                    html.Label("Selected trial", htmlFor=front_controls.dom_id(control("selected"))),
                    dcc.Input(
                        type="number", min=0, step=1, value=trial, id=control("selected"), debounce=True,
                        placeholder="click a point", className="trial-number",
                    ),
                    dcc.Input(type="hidden", value=place.get("on") or None, id=control("on")),
                ],
                className="selected-head",
            ),
            html.Div(said["selected"], id="front-selected"),
        ],
        className="front-selected",
    )  # fmt: skip
    table = html.Section(
        [
            html.Div(
                [html.H3("All trials", className="first"), exports.save_buttons(TRIALS, "the trials", False, True)],
                className="table-head",
            ),
            # Mounted when the figure is drawn, which one looks at first.
            html.Div(id="front-trials"),
        ],
        className="front-table",
    )
    return html.Div(
        [
            dcc.Store(id="limit-scales"),
            dcc.Store(id="front-drawn", data=drawn.key),
            dcc.Store(id="front-said", data=drawn.said),
            dcc.Store(id="front-shown"),
            dcc.Store(id="front-listed"),
            html.H2("Front", className="heard"),
            notices_slot(),
            front_controls.targets_row(place, targets, view),
            html.Div([answer, plot, limits, selected], className="front-grid"),
            table,
        ],
        className="front-page",
    )


_records = lru_cache(4)(Records)
"""Of a library."""


def _wanted(place: Place, view: TargetView) -> Wanted:
    """What the address asks for, as the page's controls are set when it is opened."""
    return Wanted(
        view.name,
        place.get("beside"),
        front_controls.looks_of(place, view),
        {name: place.get(name) or None for name in front_controls.LIMITS},
        place.number("selected"),
        place.get("on") or None,
    )


def _said(records: Records, snapshot: Snapshot, wanted: Wanted) -> dict[str, Any]:
    """Beside the figure: the trial to ship, how many keep the limits, what is wrong with which, the selected trial."""
    view = snapshot.views[wanted.target]
    asked, problems = asked_of(view, wanted.limits)
    found = records.answer(view, asked)
    return {
        "answer": answer_card(snapshot, view, found),
        "kept": kept_count(Panel(records.points.of(view), found.limits)) if view.candidates else "",
        "problems": [html.P(text, className="problem") for text in problems.values()],
        "selected": _selected(records, snapshot, wanted, asked),
    }


def _selected(records: Records, snapshot: Snapshot, wanted: Wanted, asked: Limits) -> Any:
    if wanted.trial is None:
        return html.P("Click a point or a row to see what it is.", className="note")
    view = snapshot.views.get(wanted.on or wanted.target, snapshot.views[wanted.target])
    points = records.points.of(view)
    row = points.row(int(wanted.trial))
    if row is None:
        return html.P(f"{view.name} has no trial {wanted.trial} yet.", className="note")
    found = records.answer(view, asked)
    members = points.members(points.keeps(found.limits))
    return selected_card(snapshot, view, points.records[row], found.number, bool(members[row]))


def _register(app: Dash, library: Library) -> None:
    records = _records(library)

    def view_of(where: Sequence[str], target: str) -> tuple[Snapshot, TargetView]:
        snapshot = records.snapshot(where)
        return snapshot, snapshot.views[target]

    @app.callback(
        output={
            "figure": Output(FRONT_ID, "figure"),
            "drawn": Output("front-drawn", "data"),
            "caption": Output("front-caption", "children"),
            "nothing": Output("front-nothing", "children"),
            "frame": Output("front-frame", "style"),
            "said": Output("front-said", "data"),
            "answer": Output("front-answer", "children"),
            "kept": Output("front-kept", "children"),
            "problems": Output("front-problems", "children"),
            "selected": Output("front-selected", "children"),
        },
        inputs={
            "target": Input(control("target"), "value"),
            "beside": Input(control("beside"), "value"),
            "looks": front_controls.look_inputs(),
            "limits": front_controls.limit_inputs(),
            "trial": Input(control("selected"), "value"),
            "on": Input(control("on"), "value"),
            "narrow": Input(NARROW, "data"),
            "_version": Input(VERSION, "data"),
            "scheme": Input(SCHEME, "data"),
            "where": State(PLACE, "data"),
            "drawn": State("front-drawn", "data"),
        },
    )
    def draw(
        scheme: str, narrow: bool, _version: str, where: list[str], drawn: list[str] | None, **wanted: Any
    ) -> dict[str, Any]:
        # One call for all that follows a limit: each costs the browser a tenth of a second.
        snapshot, asked = records.snapshot(where), Wanted(**wanted)
        found = drawing(records, snapshot, asked, Screen(scheme, narrow))
        figure = found.since(drawn)
        if figure is None and drawn is not None:
            # The page was opened with it.
            raise PreventUpdate
        return {
            "figure": no_update if figure is None else figure,
            "drawn": found.key,
            "caption": found.caption,
            "nothing": found.nothing,
            "frame": found.frame,
            "said": found.said,
            **_said(records, snapshot, asked),
        }

    @app.callback(
        Output("limit-scales", "data"),
        *(Output(front_controls.row_id(box), "className") for box in BOXES),
        *(Output(control(box.name), "placeholder") for box in BOXES),
        Input(control("target"), "value"),
        Input(VERSION, "data"),
        State(PLACE, "data"),
    )
    def limits_of(target: str, _version: str, where: list[str]) -> tuple[Any, ...]:
        _, view = view_of(where, target)
        found = scales(records.points.of(view))
        names = ["limit" if box.name in found else "limit hidden" for box in BOXES]
        return found, *names, *(front_controls.hint(view, box) for box in BOXES)

    def listing(target: str, where: list[str]) -> tuple[Points, list[str]]:
        snapshot, view = view_of(where, target)
        return records.points.of(view), [snapshot.version, target]

    @app.callback(
        Output("front-trials", "children"),
        Output("front-listed", "data", allow_duplicate=True),
        Input("front-shown", "data"),
        State(control("target"), "value"),
        State(PLACE, "data"),
        prevent_initial_call=True,
    )
    def mount(_shown: bool, target: str, where: list[str]) -> tuple[Component, list[str]]:
        points, listed = listing(target, where)
        return trials_grid(points), listed

    @app.callback(
        Output("front-listed", "data"),
        Input(VERSION, "data"),
        Input(control("target"), "value"),
        State(PLACE, "data"),
        State("front-listed", "data"),
    )
    def fill(_version: str, target: str, where: list[str], listed: list[str] | None) -> list[str]:
        points, now = listing(target, where)
        # Dash refuses outputs that are not on the page, as the table is not at first.
        if listed is None or listed == now:
            raise PreventUpdate
        set_props(TRIALS, {"columnDefs": columns(points), "rowData": rows(points)})
        return now

    def table(target: str, where: list[str]) -> Table | None:
        points = records.points.of(view_of(where, target)[1])
        return csv_table(points) if len(points) else None

    for name in (FRONT_ID, TRIALS):
        exports.on_csv(app, name, table, State(control("target"), "value"), State(PLACE, "data"))
    _register_scripts(app)


def _register_scripts(app: Dash) -> None:
    """What happens in the browser alone."""
    app.clientside_callback(
        ClientsideFunction(SCRIPT, "whenDrawn"), Output("front-shown", "data"), Input("front-shown", "id")
    )
    for box in BOXES:
        app.clientside_callback(
            ClientsideFunction(SCRIPT, "couple"),
            Output(control(box.name), "value"),
            Output(front_controls.slider_id(box), "value"),
            Input(control(box.name), "value"),
            Input(front_controls.slider_id(box), "value"),
            Input("limit-scales", "data"),
            State(control(box.name), "id"),
        )
    app.clientside_callback(
        ClientsideFunction(SCRIPT, "say"),
        Output("front-frame", "role"),
        Input("limit-scales", "data"),
        Input("front-said", "data"),
        *(Input(control(box.name), "value") for box in BOXES),
    )
    app.clientside_callback(
        ClientsideFunction(SCRIPT, "chosen"),
        Output(control("selected"), "value"),
        Output(control("on"), "value"),
        Input(FRONT_ID, "clickData"),
        State(control("target"), "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction(SCRIPT, "chosenRow"),
        Output(control("selected"), "value", allow_duplicate=True),
        Output(control("on"), "value", allow_duplicate=True),
        Input(TRIALS, "selectedRows"),
        State(control("selected"), "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction(SCRIPT, "chosenMiss"),
        Output(control("selected"), "value", allow_duplicate=True),
        Output(control("on"), "value", allow_duplicate=True),
        Input({"type": SELECT, "number": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction(SCRIPT, "relax"),
        *(Output(control(box.name), "value", allow_duplicate=True) for box in BOXES),
        Input({"type": RELAX, "to": ALL}, "n_clicks"),
        State({"type": RELAX, "to": ALL}, "id"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction(SCRIPT, "several"), Output("apart-field", "className"), Input(control("beside"), "value")
    )


FRONT = Page("front", "Front", _layout, _register)
