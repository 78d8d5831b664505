"""The studies of the results folder: how each stands, what it has found, and where to go on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dash import Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.ages import ago
from autoshrink.dashboard.app.choice import choice, labelled
from autoshrink.dashboard.app.page import VERSION, Page, Screen
from autoshrink.dashboard.app.place import Place, address, control
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.library import Library
from autoshrink.dashboard.studies import BROKEN, ORDERS, STATES, StudyRow, StudyRows, TargetRow, chosen_rows
from autoshrink.types import Outcome

FEW = 2
"""So many studies need no filter."""
AGE_MS = 30_000
"""Milliseconds after which the ages are written anew."""
VOLUME = (
    "Hypervolume is of loss, latency and size of the feasible trials: 0 is the baseline, 1 would be a model without "
    "loss that takes no time and no space."
)


def _layout(place: Place, _library: Library, _screen: Screen) -> Component:
    states = {"": "All states", **{str(state): str(state).capitalize() for state in STATES}}
    find = dcc.Input(id=control("find"), type="search", value=place.get("find"), placeholder="name, task or target")
    return html.Section(
        [
            html.Div(
                [html.H2("Studies"), html.P(id="studies-count", className="count", role="status")], className="title"
            ),
            html.Div(
                [
                    labelled("Find", find),
                    choice("state", "State", states, place.get("state")),
                    choice(
                        "order", "Order", {name: label for name, (label, _, _) in ORDERS.items()}, place.get("order")
                    ),
                ],
                id="studies-controls",
                className="controls",
            ),
            html.Div(id="studies"),
            dcc.Interval(id="ages", interval=AGE_MS),
        ]
    )


def _register(app: Dash, library: Library) -> None:
    known = StudyRows(library)

    @app.callback(
        Output("studies", "children"),
        Output("studies-count", "children"),
        Output("studies-controls", "hidden"),
        Input(control("find"), "value"),
        Input(control("state"), "value"),
        Input(control("order"), "value"),
        Input(VERSION, "data"),
        Input("ages", "n_intervals"),
    )
    def show(find: str | None, state: str | None, order: str | None, *_: object) -> tuple[object, str, bool]:
        rows = known.all()
        if not rows:
            return _none_yet(library.results), "", True
        chosen = chosen_rows(rows, find or "", state or "", order or "")
        count = counted(len(rows), "study").replace("studys", "studies")
        if len(chosen) < len(rows):
            count = f"{len(chosen)} of {count}"
        return _listed(chosen), count, len(rows) <= FEW and len(chosen) == len(rows)


def _none_yet(results: Path) -> Component:
    place = [] if results == Path("results") else ["--results", str(results)]
    command = shlex.join(["autoshrink", "search", "fashion-mini", "--target", "onnxruntime-cpu", *place])
    return html.Div(
        [
            html.P(["There is no study in ", html.Code(str(results)), " yet. A search makes one:"]),
            html.Pre(command),
            html.P(
                ["Your own model comes as a Python file in the place of ", html.Code("fashion-mini"), "; ",
                 html.Code("autoshrink targets"), " lists the devices."],
                className="note",
            ),
        ]
    )  # fmt: skip


def _listed(rows: Sequence[StudyRow]) -> list[Component]:
    if not rows:
        return [html.P("No study matches. Clear what is to be found, or choose all states.", className="note")]
    items = [html.Li(list(_study(row)), className="study") for row in rows]
    return [html.Ul(items, className="studies"), html.P(VOLUME, className="note")]


def _study(row: StudyRow) -> Iterator[Component]:
    title: Component = (
        html.H3(row.name) if row.state == BROKEN else html.H3(dcc.Link(row.name, href=address("front", row.name)))
    )
    yield html.Div([title, html.Span(row.state, className=f"badge {row.state}"), _facts(row)], className="study-head")
    if row.problems:
        yield html.Div([html.P(problem, className="problem") for problem in row.problems], className="study-rest")
        return
    yield html.Div(list(_outcomes(row)), className="study-trials")
    yield html.Ul([_target(row.name, target) for target in row.targets], className="study-targets")


def _facts(row: StudyRow) -> Component:
    facts = []
    if row.task:
        facts.append(f"task {row.task}")
    if row.begun:
        facts.append(f"begun {ago(row.begun)}")
    if row.latest:
        facts.append(f"latest trial {ago(row.latest)}")
    return html.P([html.Span(fact) for fact in facts], className="facts", title=row.begun)


def _outcomes(row: StudyRow) -> Iterator[Component]:
    planned = row.planned if row.planned is not None and row.planned >= row.trials else None
    count = (
        counted(row.trials, "trial")
        if planned in (None, row.trials)
        else f"{row.trials} of {counted(planned or 0, 'trial')}"
    )
    yield html.P(count, className="study-count")
    yield _bar(row.outcomes, planned or row.trials)
    yield html.Ul(
        [
            html.Li(
                [html.Span(className=f"swatch {outcome.value}", **{"aria-hidden": "true"}), f"{number} {outcome.value}"]
            )
            for outcome, number in row.outcomes.items()
        ],
        className="outcome-counts",
    )
    if row.unreadable:
        yield html.P(f"{counted(row.unreadable, 'file')} cannot be read", className="bad-words")


def _bar(outcomes: Mapping[Outcome, int], whole: int) -> Component:
    """The share of each outcome; what is still to come is left empty. The numbers stand below it, in words."""
    parts = [
        html.Span(className=outcome.value, style={"width": f"{100 * number / whole:.2f}%"})
        for outcome, number in outcomes.items()
        if whole
    ]
    return html.Div(parts, className="outcome-bar", **{"aria-hidden": "true"})


def _target(study: str, target: TargetRow) -> Component:
    best: list[object] = [target.best]
    if target.chosen is not None:
        where = address("trial", study, target=target.name, trial=target.chosen)
        best = [dcc.Link(f"trial {target.chosen}", href=where), f": {target.best}" if target.recipe else ""]
    volume = "" if target.hypervolume is None else f"hypervolume {target.hypervolume:.3f}"
    return html.Li(
        [
            html.Span(dcc.Link(target.name, href=address("front", study, target=target.name)), className="target"),
            html.Span([html.Span(best, className="best"), html.Small(target.recipe)], className="what"),
            html.Span(volume, className="volume"),
        ]
    )


STUDIES = Page("", "Studies", _layout, _register)
