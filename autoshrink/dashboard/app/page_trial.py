"""A trial: what it is, how good it is, layer by layer, call by call, sample by sample, and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, set_props
from dash.development.base_component import Component

from autoshrink.dashboard.app.blocks import csv_table, section
from autoshrink.dashboard.app.choice import choice
from autoshrink.dashboard.app.downloads import package_button
from autoshrink.dashboard.app.exports import Table, command_words, copyable, on_csv
from autoshrink.dashboard.app.nodes import components
from autoshrink.dashboard.app.notices import notices_slot
from autoshrink.dashboard.app.page import PLACE, VERSION, Page, Screen
from autoshrink.dashboard.app.place import Place, address, control
from autoshrink.dashboard.app.plots import palette_of
from autoshrink.dashboard.app.shows import content, shows
from autoshrink.dashboard.app.trial_choice import MOST_OPTIONS, option_nodes, recommended, stamp_of, trial_options
from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.dashboard.palette import LIGHT
from autoshrink.dashboard.trial_page import TrialPage, trial_page
from autoshrink.dashboard.trial_summary import badges, gains, reason, recipe_json, title_of
from autoshrink.dashboard.view import TargetView
from autoshrink.types import TrialRecord

LIST, NUMBER = "trial-list", "trial-number"
FILES = (*("figures", "layers", "latency-calls", "latency-rounds", "classes", "confusion", "lost", "gained", "stages"),)
"""Names of what the page can save as CSV."""


def _layout(place: Place, library: Library, _screen: Screen) -> Component:
    snapshot = library.snapshot(place.study)
    view = _view(snapshot, place.get("target"))
    controls = list(_controls(snapshot, view, place.number("trial", recommended(view))))
    return html.Div(
        [
            notices_slot(),
            html.Section(html.Div(controls, className="controls"), className="trial-bar"),
            content("trial"),
        ]
    )


def _view(snapshot: Snapshot, target: str) -> TargetView:
    return snapshot.views.get(target) or next(iter(snapshot.views.values()))


def _controls(snapshot: Snapshot, view: TargetView, number: int | None) -> Iterator[Component]:
    yield choice("target", "Target", {name: name for name in snapshot.views}, view.name)
    yield html.Label(
        [
            html.Span("Trial"),
            html.Select(_options(view, number), id=LIST, **{"data-control": "trial", "aria-label": "Trial"}),
            dcc.Input(id=control("trial"), type="hidden", value=_text(number)),
        ],
        className="control wider",
    )
    # A list of ten thousand is none to choose from.
    hidden = len(view.records) <= MOST_OPTIONS
    field = dcc.Input(id=NUMBER, type="number", min=0, step=1, debounce=True, placeholder="of the trial")
    yield html.Label([html.Span("Number"), field], className="control", hidden=hidden)


def _options(view: TargetView, number: int | None) -> list[Component]:
    offered = trial_options(view, () if number is None else (number,))
    return option_nodes(((str(each), text) for each, text in offered.items()), _text(number))


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 10 else None


def _register(app: Dash, library: Library) -> None:
    @app.callback(
        Output(LIST, "children"),
        Input(control("target"), "value"),
        Input(control("trial"), "value"),
        Input(NUMBER, "value"),
        Input(VERSION, "data"),
        State(PLACE, "data"),
    )
    def choices(target: str, text: str, typed: int | None, _version: str, where: list[str]) -> Any:
        view = _view(library.snapshot(Place.of(*where).study), target)
        known = {record.number for record in view.records}
        number = typed if ctx.triggered_id == NUMBER and typed is not None else _number(text)
        if number not in known and ctx.triggered_id == control("target"):
            number = recommended(view)
        if _text(number) != text:
            # No output of this callback: the front has a control of this name too, and there this would be called.
            set_props(control("trial"), {"value": _text(number)})
        return _options(view, number)

    def show(snapshot: Snapshot, target: str, text: str | None, scheme: str) -> tuple[str, Callable[[], Any]]:
        view = _view(snapshot, target)
        record = _record(view, _number(text))
        if record is None:
            # A record that is broken is another once it is mended or gone.
            return f"{snapshot.version} {view.name} {text}", lambda: _missing(snapshot, view.name, _number(text))
        chosen = headline(view).chosen

        def made() -> list[Component]:
            page = trial_page(snapshot.folder, view, record, palette_of(scheme))
            return list(_content(snapshot, view, page, chosen))

        return stamp_of(snapshot.folder, view, record, chosen), made

    shows(app, library, "trial", "trial", show)

    def table(name: str) -> Any:
        def rows(target: str, text: str, where: list[str]) -> Table | None:
            snapshot = library.snapshot(Place.of(*where).study)
            view = _view(snapshot, target)
            record = _record(view, _number(text))
            if record is None:
                return None
            return csv_table(trial_page(snapshot.folder, view, record, LIGHT).rows().get(name))

        return rows

    states = State(control("target"), "value"), State(control("trial"), "value"), State(PLACE, "data")
    for name in FILES:
        on_csv(app, name, table(name), *states)


def _record(view: TargetView, number: int | None) -> TrialRecord | None:
    return next((record for record in view.records if record.number == number), None)


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
            _pick(snapshot, page),
            html.Details(
                [html.Summary("The recipe as JSON"), copyable("recipe", recipe_json(record), "the recipe as JSON")]
            ),
        ],
        className="trial-head",
    )


def _others(view: TargetView, record: TrialRecord, chosen: TrialRecord | None) -> list[tuple[str, int]]:
    """What a trial is worth comparing with."""
    found = []
    if chosen is not None and chosen is not record:
        found.append((f"Compare with trial {chosen.number}, the recommended one", chosen.number))
    if view.baseline is not None and view.baseline is not record:
        found.append(("Compare with the baseline", view.baseline.number))
    return found


def _pick(snapshot: Snapshot, page: TrialPage) -> Component:
    record = page.record
    if not page.pick:
        return html.P("There is no artifact, so nothing can be packed.", className="note")
    return html.Div(
        [
            package_button(snapshot.name, record.target, record.number),
            html.P("The same on the command line:", className="note"),
            copyable("pick", command_words(page.pick), "the command"),
        ],
        className="trial-ship",
    )


TRIAL = Page("trial", "Trial", _layout, _register)
