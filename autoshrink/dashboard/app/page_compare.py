"""Two or three trials side by side, of one target or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.blocks import csv_table, section
from autoshrink.dashboard.app.choice import choice
from autoshrink.dashboard.app.exports import Table, on_csv
from autoshrink.dashboard.app.notices import notices_slot
from autoshrink.dashboard.app.page import PLACE, VERSION, Page, Screen
from autoshrink.dashboard.app.place import Place, address, control
from autoshrink.dashboard.app.plots import palette_of
from autoshrink.dashboard.app.shows import content, shows
from autoshrink.dashboard.app.trial_choice import (
    MOST_OPTIONS,
    found_lines,
    lines_of,
    option_nodes,
    stamp_of,
    trial_options,
)
from autoshrink.dashboard.compare_section import MOST, compare_blocks, compared
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.dashboard.palette import LIGHT
from autoshrink.dashboard.view import TargetView
from autoshrink.search.words import describe
from autoshrink.types import TrialRecord, content_key

FIND, FOUND = "compare-find", "compare-found"
FILES = ("compare-figures", "compare-recipes", *(f"compare-classes-{place}" for place in range(1, MOST)))
"""Names of what the page can save as CSV."""
SLOTS = ("First trial", "Second trial", "Third trial")
MOST_OF_OTHERS = 40
"""Trials of each further target that a list offers."""
FEW = 12
"""Trials that are not searched."""
APART = ":"
"""Between target and number in the value of a trial that is of another target than the page's."""

Chosen = list[tuple[TargetView, TrialRecord]]


def _layout(place: Place, library: Library, _screen: Screen) -> Component:
    snapshot = library.snapshot(place.study)
    view = snapshot.views.get(place.get("target")) or next(iter(snapshot.views.values()))
    values = _split(place.get("trials")) or _usual(view)
    lists = _lists(snapshot, view.name, values)
    # Few trials are sooner read than searched.
    is_small = sum(len(each.records) for each in snapshot.views.values()) <= FEW
    slots = [
        html.Label(
            [
                html.Span(words),
                html.Select(options, id=f"slot-{slot}", **{"data-slot": str(slot), "aria-label": words}),
            ],
            className="control wider",
        )
        for slot, (words, options) in enumerate(zip(SLOTS, lists, strict=True))
    ]
    return html.Div(
        [
            notices_slot(),
            html.Section(
                [
                    html.Div(
                        [
                            choice("target", "Target", {name: name for name in snapshot.views}, view.name),
                            html.Label([html.Span("Find trials"), _find()], className="control", hidden=is_small),
                            *slots,
                            dcc.Input(id=control("trials"), type="hidden", value=",".join(values)),
                        ],
                        className="controls",
                    ),
                    html.P(id=FOUND, role="status", className="note empty"),
                ],
                className="trial-bar",
            ),
            content("compare"),
        ]
    )


def _find() -> Component:
    """The field whose words the lists are searched for."""
    return dcc.Input(id=FIND, type="search", debounce=0.3, placeholder="number, recipe or front")


def _split(text: str | None) -> list[str]:
    return list(dict.fromkeys(value for value in (text or "").split(",") if value))


def _usual(view: TargetView) -> list[str]:
    """The recommended trial and the baseline."""
    pair = [record for record in (headline(view).chosen, view.baseline) if record is not None]
    return list(dict.fromkeys(str(record.number) for record in pair))


def _lists(snapshot: Snapshot, target: str, values: Sequence[str], asked: str = "") -> list[list[Component]]:
    """What each list offers: the trials of the page's target, then some of the others; those with the words `asked`."""
    offered: dict[str, dict[str, str]] = {}
    for name in (target, *(name for name in snapshot.views if name != target)):
        prefix = "" if name == target else f"{name}{APART}"
        numbers = [value.removeprefix(prefix) for value in values if value.startswith(prefix)]
        current = {int(number) for number in numbers if number.isdecimal()}
        most = MOST_OPTIONS if name == target or asked else MOST_OF_OTHERS
        options = trial_options(snapshot.views[name], current, most, asked)
        offered[name] = {f"{prefix}{number}": text for number, text in options.items()}
    lists = []
    for slot in range(MOST):
        value = values[slot] if slot < len(values) else ""
        groups = [
            html.Optgroup(option_nodes(each.items(), value), label=name) for name, each in offered.items() if each
        ]
        lists.append([html.Option("none", value="", selected=not value), *groups])
    return lists


def _said(snapshot: Snapshot, asked: str) -> str:
    """How many trials the lists offer of all; empty where nothing is asked."""
    if not asked.strip():
        return ""
    whole = sum(len(view.records) for view in snapshot.views.values())
    found = [len(found_lines(lines_of(view), asked)) for view in snapshot.views.values()]
    offered = "the lists offer them" if max(found) <= MOST_OPTIONS else f"the lists offer {MOST_OPTIONS} of a target"
    return f"{sum(found)} of {counted(whole, 'trial')} found; {offered}"


def _chosen(snapshot: Snapshot, target: str, values: Sequence[str]) -> tuple[Chosen, list[str]]:
    """The trials that are named, and what cannot be found of them."""
    found: Chosen = []
    missing = []
    for value in values:
        name, _, number = value.rpartition(APART)
        view = snapshot.views.get(name or target)
        records = view.records if view else ()
        record = next((each for each in records if str(each.number) == number), None)
        if view is None or record is None:
            missing.append(f"There is no trial {number} on {name or target}.")
        else:
            found.append((view, record))
    return found, missing


def _register(app: Dash, library: Library) -> None:
    @app.callback(
        *(Output(f"slot-{slot}", "children") for slot in range(MOST)),
        Output(FOUND, "children"),
        Input(control("target"), "value"),
        Input(control("trials"), "value"),
        Input(FIND, "value"),
        Input(VERSION, "data"),
        State(PLACE, "data"),
    )
    def choices(target: str, text: str | None, asked: str | None, _version: str, where: list[str]) -> Any:
        snapshot = library.snapshot(Place.of(*where).study)
        return *_lists(snapshot, target, _split(text), asked or ""), _said(snapshot, asked or "")

    def show(snapshot: Snapshot, target: str, text: str | None, scheme: str) -> tuple[str, Callable[[], Any]]:
        chosen, missing = _chosen(snapshot, target, _split(text))
        stamps = [stamp_of(snapshot.folder, view, record, None) for view, record in chosen]
        stamp = content_key([target, missing, *stamps])
        return stamp, lambda: _content(snapshot, target, chosen, missing, scheme)

    shows(app, library, "compare", "trials", show)

    def table(name: str) -> Any:
        def rows(target: str, text: str | None, where: list[str]) -> Table | None:
            snapshot = library.snapshot(Place.of(*where).study)
            chosen, _ = _chosen(snapshot, target, _split(text))
            if len(chosen) < 2:
                return None
            blocks = compare_blocks(snapshot.folder, compared(snapshot.folder, chosen), LIGHT)
            return csv_table({key: found for block in blocks for key, found in block.rows().items()}.get(name))

        return rows

    states = State(control("target"), "value"), State(control("trials"), "value"), State(PLACE, "data")
    for name in FILES:
        on_csv(app, name, table(name), *states)


def _content(snapshot: Snapshot, target: str, chosen: Chosen, missing: Sequence[str], scheme: str) -> list[Component]:
    said: list[Component] = [html.P(line, className="problem") for line in missing]
    if len(chosen) > MOST:
        said.append(html.P(f"The first {MOST} of {len(chosen)} are compared; take some away to see the others."))
    if len(chosen) < 2:
        said.append(html.P("Choose two trials above, or three.", className="why"))
        return [html.Section([html.H2("Compare"), *said])]
    trials = compared(snapshot.folder, chosen)
    values = [_value(view, record, target) for view, record in chosen[:MOST]]
    cards = []
    for value, trial in zip(values, trials, strict=True):
        others = [each for each in values if each != value]
        links = [
            dcc.Link("Open", href=address("trial", snapshot.name, target=trial.view.name, trial=trial.record.number))
        ]
        if value != values[0]:
            links.append(_link("Put first", snapshot, target, [value, *others]))
        if len(values) > 2:
            links.append(_link("Take away", snapshot, target, others))
        cards.append(_card(snapshot, trial.name, trial.record, links))
    head = html.Section([html.H2("Compare"), *said, html.Div(cards, className="compared")], className="trial-head")
    blocks = compare_blocks(snapshot.folder, trials, palette_of(scheme))
    return [head, *(section(block) for block in blocks)]


def _link(words: str, snapshot: Snapshot, target: str, values: Sequence[str]) -> Component:
    return dcc.Link(words, href=address("compare", snapshot.name, target=target, trials=",".join(values)))


def _value(view: TargetView, record: TrialRecord, target: str) -> str:
    return str(record.number) if view.name == target else f"{view.name}{APART}{record.number}"


def _card(snapshot: Snapshot, name: str, record: TrialRecord, links: Sequence[Component]) -> Component:
    words = describe(record.recipe, snapshot.meta.fidelity)
    return html.Div(
        [
            html.B(f"{name[:1].upper()}{name[1:]}"),
            html.Span(words, className="recipe"),
            html.Span(record.outcome.value, className=f"badge {record.outcome.value}"),
            html.Div(links, className="links", role="group", **{"aria-label": name}),
        ],
        className="compared-card",
    )


COMPARE = Page("compare", "Compare", _layout, _register)
