"""The front of a study's targets, the limits, and the trial to ship: where one looks first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, Patch, State, dcc, html
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from autoshrink.dashboard.answer import Answer, answer_of
from autoshrink.dashboard.app import exports, front_controls
from autoshrink.dashboard.app.exports import Table
from autoshrink.dashboard.app.front_cards import RELAX, SELECT, answer_card, selected_card
from autoshrink.dashboard.app.front_table import TRIALS, columns, csv_table, rows, trials_grid
from autoshrink.dashboard.app.notices import notices_slot
from autoshrink.dashboard.app.page import PLACE, SCHEME, VERSION, Page
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.front_look import Axes, Look, Panel
from autoshrink.dashboard.front_plot import Change, front_plot, groups, limit_patch, news_patch
from autoshrink.dashboard.front_words import caption, kept_count, replaced, summary, why_nothing
from autoshrink.dashboard.kept import Kept
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.dashboard.limit_boxes import BOXES, asked_limits, scales, shown_boxes
from autoshrink.dashboard.palette import DARK, LIGHT
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


def _layout(place: Place, library: Library) -> Component:
    snapshot = library.snapshot(place.study)
    targets = list(snapshot.views)
    first = place.get("target") if place.get("target") in targets else targets[0]
    view = snapshot.views[first]
    plot = html.Section(
        [
            html.H2("Front", className="heard"),
            html.Div(front_controls.toolbar(place, view), className="toolbar"),
            html.P(id="front-nothing", className="said nothing"),
            html.Div(
                dcc.Graph(id=FRONT_ID, config=CONFIG, responsive=True, className="front-graph"),
                id="front-frame",
                className="front-frame",
                role="group",
                # Plotly's empty figure is white, also on a dark page.
                style={"visibility": "hidden"},
            ),
            html.P(id="front-caption", className="note"),
            exports.save_buttons(FRONT_ID, "the front", table=True),
        ],
        className="front-figure",
    )
    answer = html.Section(id="front-answer", className="front-answer", **{"aria-live": "polite"})
    limits = html.Section(
        [
            html.H3("Limits", className="first"),
            html.P(id="front-kept", className="note"),
            *front_controls.limits_form(place),
            html.Div(id="front-problems", role="alert"),
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
            html.Div(id="front-selected"),
        ],
        className="front-selected",
    )  # fmt: skip
    table = html.Section(
        [
            html.Div(
                [html.H3("All trials", className="first"), exports.save_buttons(TRIALS, "the trials", False, True)],
                className="table-head",
            ),
            trials_grid(),
        ],
        className="front-table",
    )
    return html.Div(
        [
            dcc.Store(id="limit-scales"),
            dcc.Store(id="narrow"),
            dcc.Store(id="front-drawn"),
            dcc.Store(id="front-said"),
            notices_slot(),
            front_controls.targets_row(place, targets, first),
            html.Div([answer, plot, limits, selected], className="front-grid"),
            table,
        ],
        className="front-page",
    )


class _Records:
    """What the callbacks read, computed once for each version of a study."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.points = Kept(Points, 12)
        self._answers: Kept[TargetView, dict[str, Answer]] = Kept(lambda _: {}, 12)

    def snapshot(self, where: Sequence[str]) -> Snapshot:
        return self.library.snapshot(Place.of(*where).study)

    def answer(self, view: TargetView, asked: Limits) -> Answer:
        known = self._answers.of(view)
        key = repr(asked)
        if key not in known:
            if len(known) > 64:
                known.clear()
            known[key] = answer_of(view, asked)
        return known[key]

    def panels(
        self, snapshot: Snapshot, names: Sequence[str], asked: Limits, trial: int | None, on: str
    ) -> list[Panel]:
        """The panels of these targets under the limits of a reader."""
        found = []
        for name in names:
            view = snapshot.views[name]
            answer = self.answer(view, asked)
            selected = trial if (on or names[0]) == name else None
            found.append(Panel(self.points.of(view), answer.limits, answer.number, selected))
        return found


def _register(app: Dash, library: Library) -> None:
    records = _Records(library)

    def view_of(where: Sequence[str], target: str) -> tuple[Snapshot, TargetView]:
        snapshot = records.snapshot(where)
        return snapshot, snapshot.views[target]

    def asked_of(view: TargetView, texts: Mapping[str, str | None]) -> tuple[Limits, dict[str, str]]:
        shown = {box.name for box in shown_boxes(view)}
        return asked_limits({name: text for name, text in texts.items() if name in shown}, view.metric.percent)

    @app.callback(
        output={
            "figure": Output(FRONT_ID, "figure"),
            "drawn": Output("front-drawn", "data"),
            "caption": Output("front-caption", "children"),
            "nothing": Output("front-nothing", "children"),
            "frame": Output("front-frame", "style"),
            "said": Output("front-said", "data"),
        },
        inputs={
            "target": Input(control("target"), "value"),
            "beside": Input(control("beside"), "value"),
            "looks": front_controls.look_inputs(),
            "limits": front_controls.limit_inputs(),
            "trial": Input(control("selected"), "value"),
            "on": Input(control("on"), "value"),
            "narrow": Input("narrow", "data"),
            "version": Input(VERSION, "data"),
            "scheme": Input(SCHEME, "data"),
            "where": State(PLACE, "data"),
            "drawn": State("front-drawn", "data"),
        },
    )
    def draw(
        target: str,
        beside: str | None,
        looks: Mapping[str, Any],
        limits: Mapping[str, str | None],
        trial: int | None,
        on: str | None,
        narrow: bool | None,
        version: str,
        scheme: str | None,
        where: list[str],
        drawn: list[str] | None,
    ) -> dict[str, Any]:
        if scheme is None or narrow is None:
            # The browser has not told them yet, and will at once: a figure is not drawn three times.
            raise PreventUpdate
        snapshot, view = view_of(where, target)
        names = front_controls.targets_of(target, beside, list(snapshot.views))
        asked, _ = asked_of(view, limits)
        panels = records.panels(snapshot, names, asked, trial, on or "")
        look = front_controls.look_from(looks, view, panels[0].points, len(names) > 1, narrow)
        palette = DARK if scheme == "dark" else LIGHT
        colours = _colours(look, snapshot, records, palette.series, palette.muted, palette.limit)
        figure = front_plot(panels, look, palette, colours)
        if figure is None:
            said = why_nothing(panels[0].points)
            return {
                "figure": {},
                "drawn": None,
                "caption": "",
                "nothing": said,
                "frame": {"display": "none"},
                "said": said,
            }
        # The page has room for a figure of this height or more.
        room = figure["layout"].pop("height")
        key = [f"{figure['layout']['uirevision']} {look.colour} {scheme}", f"{version} {look} {names}"]
        shown: Any = figure
        if drawn is not None and drawn[0] == key[0]:
            # Dash writes a reader's zoom into the figure, so that one sent anew would take it away.
            shown = _patch(limit_patch(figure) if drawn[1] == key[1] else news_patch(figure))
        axes = Axes(look, panels)
        other = replaced(panels[0].points, [(axis, str(looks[axis])) for axis in ("x", "y", "area")], look)
        return {
            "figure": shown,
            "drawn": key,
            "caption": " ".join([*other, caption(axes)]),
            "nothing": "",
            "frame": {"minHeight": f"{room}px"},
            "said": summary(axes),
        }

    @app.callback(
        Output("front-answer", "children"),
        Output("front-kept", "children"),
        Output("front-problems", "children"),
        inputs={
            "target": Input(control("target"), "value"),
            "limits": front_controls.limit_inputs(),
            "_version": Input(VERSION, "data"),
            "where": State(PLACE, "data"),
        },
    )
    def answer(target: str, limits: Mapping[str, str | None], _version: str, where: list[str]) -> tuple[Any, Any, Any]:
        snapshot, view = view_of(where, target)
        asked, problems = asked_of(view, limits)
        found = records.answer(view, asked)
        kept = kept_count(Panel(records.points.of(view), found.limits)) if view.candidates else ""
        said = [html.P(text, className="problem") for text in problems.values()]
        return answer_card(snapshot, view, found), kept, said

    @app.callback(
        Output("front-selected", "children"),
        inputs={
            "target": Input(control("target"), "value"),
            "trial": Input(control("selected"), "value"),
            "on": Input(control("on"), "value"),
            "limits": front_controls.limit_inputs(),
            "_version": Input(VERSION, "data"),
            "where": State(PLACE, "data"),
        },
    )
    def select(
        target: str,
        trial: int | None,
        on: str | None,
        limits: Mapping[str, str | None],
        _version: str,
        where: list[str],
    ) -> Any:
        if trial is None:
            return html.P("Click a point or a row to see what it is.", className="note")
        snapshot, main = view_of(where, target)
        view = snapshot.views.get(on or target, main)
        points = records.points.of(view)
        row = points.row(int(trial))
        if row is None:
            return html.P(f"{view.name} has no trial {trial} yet.", className="note")
        found = records.answer(view, asked_of(main, limits)[0])
        members = points.members(points.keeps(found.limits))
        return selected_card(snapshot, view, points.records[row], found.number, bool(members[row]))

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

    @app.callback(
        Output(TRIALS, "columnDefs"),
        Output(TRIALS, "rowData"),
        Input(control("target"), "value"),
        Input(VERSION, "data"),
        State(PLACE, "data"),
    )
    def fill(target: str, _version: str, where: list[str]) -> tuple[Any, Any]:
        points = records.points.of(view_of(where, target)[1])
        return columns(points), rows(points)

    def table(target: str, where: list[str]) -> Table | None:
        points = records.points.of(view_of(where, target)[1])
        return csv_table(points) if len(points) else None

    for name in (FRONT_ID, TRIALS):
        exports.on_csv(app, name, table, State(control("target"), "value"), State(PLACE, "data"))
    _register_scripts(app)


def _register_scripts(app: Dash) -> None:
    """What happens in the browser alone."""
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
    app.clientside_callback(ClientsideFunction(SCRIPT, "narrow"), Output("narrow", "data"), Input("front-drawn", "id"))


def _patch(changes: Sequence[Change]) -> Patch:
    found = Patch()
    for path, value in changes:
        part = found
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value
    return found


def _colours(
    look: Look, snapshot: Snapshot, records: _Records, series: Sequence[str], muted: str, limit: str
) -> dict[str, str]:
    """The colour of each group, the same for all targets of a study; the baseline has none of its own."""
    if look.colour == "outcome":
        return {"complete": series[0], "compiled": series[2], "infeasible": limit, "stopped": muted}
    names = groups([records.points.of(view) for view in snapshot.views.values()], look)
    return {name: series[place % len(series)] for place, name in enumerate(names)}


FRONT = Page("front", "Front", _layout, _register)
