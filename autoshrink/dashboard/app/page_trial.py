"""A trial: what it is, how good it is, layer by layer, call by call, sample by sample, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from autoshrink.dashboard.app.blocks import csv_table, section
from autoshrink.dashboard.app.exports import Table, copyable, on_csv
from autoshrink.dashboard.app.nodes import components
from autoshrink.dashboard.app.notices import notices_slot
from autoshrink.dashboard.app.page import PLACE, SCHEME, VERSION, Page
from autoshrink.dashboard.app.place import Place, address, control
from autoshrink.dashboard.app.trial_choice import options_of, stamp_of
from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.dashboard.palette import DARK, LIGHT, Palette
from autoshrink.dashboard.trial_page import TrialPage, trial_page
from autoshrink.dashboard.trial_summary import badges, gains, reason, recipe_json, title_of
from autoshrink.dashboard.view import TargetView
from autoshrink.types import TrialRecord

CONTENT, SHOWN = "trial-content", "trial-shown"
FILES = (*("figures", "layers", "latency-calls", "latency-rounds", "classes", "confusion", "lost", "gained", "stages"),)
"""Names of what the page can save as CSV."""


def _layout(place: Place, library: Library) -> Component:
    snapshot = library.snapshot(place.study)
    target = place.get("target")
    if target not in snapshot.views:
        target = next(iter(snapshot.views))
    view = snapshot.views[target]
    number = place.number("trial")
    if number is None:
        number = _recommended(view)
    return html.Div(
        [
            notices_slot(),
            html.Section(html.Div(_controls(snapshot, view, number), className="controls"), className="bar"),
            dcc.Store(id=SHOWN),
            html.Div(id=CONTENT),
        ]
    )


def _controls(snapshot: Snapshot, view: TargetView, number: int | None) -> list[Component]:
    targets = dcc.Dropdown(list(snapshot.views), view.name, id=control("target"), clearable=False)
    trials = dcc.Dropdown(options_of(view, "", [number]), number, id=control("trial"), clearable=False)
    return [html.Label(["Target", targets]), html.Label(["Trial", trials], className="wider")]


def _recommended(view: TargetView) -> int | None:
    chosen = headline(view).chosen
    if chosen is not None:
        return chosen.number
    return view.records[0].number if view.records else None


def _register(app: Dash, library: Library) -> None:
    @app.callback(
        Output(control("trial"), "options"),
        Output(control("trial"), "value"),
        Input(control("target"), "value"),
        Input(control("trial"), "search_value"),
        Input(VERSION, "data"),
        State(control("trial"), "value"),
        State(PLACE, "data"),
    )
    def choices(
        target: str, search: str | None, _version: str, number: int | None, where: list[str]
    ) -> tuple[Any, Any]:
        view = library.snapshot(Place.of(*where).study).views[target]
        known = number is not None and any(record.number == number for record in view.records)
        wanted = number if known else _recommended(view)
        return options_of(view, search or "", [wanted]), no_update if wanted == number else wanted

    @app.callback(
        Output(CONTENT, "children"),
        Output(SHOWN, "data"),
        Input(control("target"), "value"),
        Input(control("trial"), "value"),
        Input(VERSION, "data"),
        Input(SCHEME, "data"),
        State(PLACE, "data"),
        State(SHOWN, "data"),
    )
    def show(
        target: str, number: int | None, _version: str, scheme: str, where: list[str], shown: str | None
    ) -> tuple[Any, Any]:
        snapshot = library.snapshot(Place.of(*where).study)
        view = snapshot.views[target]
        record = _record(view, number)
        if record is None:
            return _missing(snapshot, target, number), None
        chosen = headline(view).chosen
        # News of other trials must not close what was opened on the page, nor move it.
        stamp = f"{scheme} {stamp_of(snapshot.folder, view, record, chosen)}"
        if stamp == shown:
            return no_update, no_update
        page = trial_page(snapshot.folder, view, record, _palette(scheme))
        return list(_content(snapshot, view, page, chosen)), stamp

    def table(name: str) -> Any:
        def rows(target: str, number: int | None, where: list[str]) -> Table | None:
            snapshot = library.snapshot(Place.of(*where).study)
            view = snapshot.views[target]
            record = _record(view, number)
            if record is None:
                return None
            return csv_table(trial_page(snapshot.folder, view, record, LIGHT).rows().get(name))

        return rows

    states = State(control("target"), "value"), State(control("trial"), "value"), State(PLACE, "data")
    for name in FILES:
        on_csv(app, name, table(name), *states)


def _record(view: TargetView, number: int | None) -> TrialRecord | None:
    return next((record for record in view.records if record.number == number), None)


def _palette(scheme: str) -> Palette:
    return DARK if scheme == "dark" else LIGHT


def _missing(snapshot: Snapshot, target: str, number: int | None) -> Component:
    broken = [
        each
        for each in snapshot.broken
        if number is not None and each.file.endswith(f"{target}/trials/{number:04d}.json")
    ]
    if broken:
        words = [f"The record of trial {number} on {target} cannot be read: {each.why}" for each in broken]
    elif number is None:
        words = [f"No trial on {target} has ended yet. The first will be here some seconds after its end."]
    else:
        words = [f"There is no trial {number} on {target}; choose one above."]
    return html.Section([html.H2("Trial"), *(html.P(line, className="problem") for line in words)])


def _content(snapshot: Snapshot, view: TargetView, page: TrialPage, chosen: TrialRecord | None) -> Iterator[Component]:
    yield _head(snapshot, view, page, chosen)
    for block in page.blocks:
        yield section(block)


def _head(snapshot: Snapshot, view: TargetView, page: TrialPage, chosen: TrialRecord | None) -> Component:
    record = page.record
    parts = [
        title_of(record, snapshot.meta.fidelity),
        badges(record, view, chosen),
        gains(record, view),
        reason(record),
    ]
    others = _others(view, record, chosen)
    links = [
        dcc.Link(words, href=address("compare", snapshot.name, target=view.name, trials=f"{record.number},{other}"))
        for words, other in others
    ]
    return html.Section(
        [
            html.H2(f"Trial {record.number}"),
            *(component for part in parts if part is not None for component in components(part)),
            html.Div(links, className="links") if links else None,
            _pick(page),
            html.Details(
                [html.Summary("The recipe as JSON"), copyable("recipe", recipe_json(record), "the recipe as JSON")]
            ),
        ],
        className="head",
    )


def _others(view: TargetView, record: TrialRecord, chosen: TrialRecord | None) -> list[tuple[str, int]]:
    """What a trial is worth comparing with."""
    found = []
    if chosen is not None and chosen is not record:
        found.append((f"Compare with trial {chosen.number}, the recommended one", chosen.number))
    if view.baseline is not None and view.baseline is not record:
        found.append(("Compare with the baseline", view.baseline.number))
    return found


def _pick(page: TrialPage) -> Component:
    if not page.pick:
        return html.P("There is no artifact, so nothing can be picked.", className="note")
    return html.Div(
        [html.P("Write it as a package for the device:", className="note"), copyable("pick", page.pick, "the command")],
        className="ship",
    )


TRIAL = Page("trial", "Trial", _layout, _register)
