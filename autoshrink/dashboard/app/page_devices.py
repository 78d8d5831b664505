"""Targets and devices: what is known of them, how steady they measured, and what to do. The page itself asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.ages import ago
from autoshrink.dashboard.app.exports import Table, on_csv, save_buttons
from autoshrink.dashboard.app.page import VERSION, Page, Screen
from autoshrink.dashboard.app.place import Place, address
from autoshrink.dashboard.app.tables import Cell, small_table
from autoshrink.dashboard.library import Library
from autoshrink.dashboard.machines import LATEST, KnownTarget, Steadiness, known_targets, steadiness
from autoshrink.devices.seen import Seen, all_seen
from autoshrink.measure.identity import describe_identity
from autoshrink.target_states import TargetState

LOOK_MS = 10_000
"""Milliseconds between two looks at what the cache knows."""
ASKING = [
    "Nothing is started or asked by this page. ",
    html.Code("autoshrink doctor"),
    " asks all targets, ",
    html.Code("autoshrink doctor --target NAME"),
    " one; a search asks its own.",
]
MEANINGS = {
    "ready": "compiles, measures and scores",
    "untimed": "compiles and scores; its speed here says nothing",
    "compile-only": "compiles; the device is not here",
    "unavailable": "cannot be used here",
}


def _layout(_place: Place, _library: Library, _screen: Screen) -> Component:
    return html.Div(
        [
            html.Section(
                [html.H2("Targets"), html.Div(id="targets-known"), dcc.Interval(id="devices-look", interval=LOOK_MS)]
            ),
            html.Section([html.H3("Devices elsewhere"), html.Div(id="devices-seen")]),
            html.Section(
                [
                    html.H3("How steady the latest measurements were"),
                    html.Div(id="devices-steady"),
                    save_buttons("steadiness", "how steady the measurements were", image=False, table=True),
                ]
            ),
        ]
    )


def _register(app: Dash, library: Library) -> None:
    @app.callback(
        Output("targets-known", "children"),
        Output("devices-seen", "children"),
        Output("devices-steady", "children"),
        Input("devices-look", "n_intervals"),
        Input(VERSION, "data"),
    )
    def show(_count: int, _version: str | None) -> tuple[object, object, object]:
        return _targets(known_targets(library)), _devices(all_seen()), _steady(steadiness(library))

    on_csv(app, "steadiness", lambda: _csv(steadiness(library)))


def _targets(targets: Sequence[KnownTarget]) -> list[Component]:
    asked = [(target, target.state) for target in targets if target.state is not None]
    rest = [target for target in targets if target.state is None]
    parts: list[Component] = []
    if asked:
        parts.append(html.Ul([_target(target, state) for target, state in asked], className="machines"))
    if rest:
        said = f"{len(rest)} targets that nobody has asked about" if asked else "No target was asked about yet"
        parts.append(html.P(ASKING, className="note"))
        rows: list[list[Cell]] = [
            [
                html.B(target.name),
                target.summary,
                _studies(target.studies),
                html.Code(f"autoshrink doctor --target {target.name}"),
            ]
            for target in rest
        ]
        heads = [("target", False), ("what it is", False), ("studies", False), ("asks", False)]
        table = small_table(heads, rows, "Targets that nobody has asked about")
        parts.append(html.Details([html.Summary(said), table], open=not asked))
    return parts


def _target(target: KnownTarget, state: TargetState) -> Component:
    detail: list[Any] = []
    if state.runtime:
        detail.append(html.P(state.runtime))
    if state.why:
        detail.append(html.P(state.why))
    if state.fix:
        detail.append(html.P(["To do: ", *_with_code(state.fix)]))
    return html.Li(
        [
            html.Div([html.B(target.name), html.Small(target.summary)]),
            html.Div(
                [
                    html.Span(state.state, className=f"badge {state.state}"),
                    html.Small(f"{MEANINGS.get(state.state, '')}"),
                    html.Small(f"{state.asked_by}, {ago(state.when)}", title=state.when),
                ]
            ),
            html.Div(
                [*detail, html.P(["in ", _studies(target.studies)]) if target.studies else None], className="detail"
            ),
        ]
    )


def _with_code(fix: str) -> list[Component | str]:
    """What stands between backticks as code; where none do, the whole is a command."""
    parts = fix.split("`")
    if len(parts) == 1:
        return [html.Code(fix)]
    return [html.Code(part) if place % 2 else part for place, part in enumerate(parts)]


def _studies(names: Sequence[str]) -> Component:
    links = [dcc.Link(name, href=address("front", name)) for name in names]
    return html.Span([part for link in links for part in (", ", link)][1:])


def _devices(seen: Sequence[Seen]) -> list[Component]:
    if not seen:
        none = (
            "No search on this machine has used a device elsewhere: an agent, a phone's page, adb or ssh. "
            "A target's profile names one under "
        )
        return [html.P([none, html.Code("device"), "; docs/devices.md says how."], className="note empty")]
    items = [
        html.Li(
            [
                html.Div([html.B(each.name), html.Small(f"for target {each.target}")]),
                html.Div([html.Span(f"seen {ago(each.when)}", title=each.when), html.Small(_latest(each))]),
                html.Div(html.P(describe_identity(each.identity)), className="detail"),
            ]
        )
        for each in seen
    ]
    asks = html.P(["As they were seen last; ", html.Code("autoshrink devices"), " asks them."], className="note")
    return [asks, html.Ul(items, className="machines")]


def _latest(seen: Seen) -> str:
    latest = seen.latest
    try:
        if not latest:
            return "no measurement yet"
        if latest.get("unrest"):
            return f"unstable: {latest['unrest']}"
        return f"steady, ±{100 * float(latest['interval']):.1f} %"
    except (KeyError, TypeError, ValueError):
        return ""


def _steady(found: Sequence[Steadiness]) -> Component:
    if not found:
        return html.P("No study has measured a latency yet.", className="note empty")
    rows: list[list[Cell]] = [
        [
            html.B(each.target, className="whole"),
            html.Span(each.device, className="whole"),
            ["steady" if each.is_steady else "unsteady", html.Small(f"of {each.count}")],
            f"±{100 * each.interval:.1f} %",
            f"{each.unstable} of {each.count}",
            f"{each.contended} of {each.count}",
            "0 %" if abs(each.drift) < 0.005 else f"{100 * each.drift:+.0f} %",
            html.Span(ago(each.when), title=each.when),
            _studies(each.studies),
        ]
        for each in found
    ]
    heads = [
        ("target", False), ("device", False), ("in all", False), ("interval", True), ("too wide", True),
        ("disturbed", True), ("drift", True), ("last", True), ("studies", False),
    ]  # fmt: skip
    note = (
        f"Of the {LATEST} latest measurements of each. Interval: half the 95 % interval of the ratio to the reference, "
        "the median. Too wide: wider than the target asks. Disturbed: other processes held the processor. Drift: how "
        "far the device's own pace changed while it measured, at most; the ratio is not touched by it."
    )
    return html.Div(
        [small_table(heads, rows, "How steady the latest measurements were"), html.P(note, className="note")]
    )


def _csv(found: Sequence[Steadiness]) -> Table | None:
    heads = (
        "target", "device", "measurements", "interval, share", "too wide", "disturbed", "drift, share", "last",
        "studies",
    )  # fmt: skip
    rows = [
        (
            each.target, each.device, each.count, each.interval, each.unstable, each.contended, each.drift, each.when,
            ", ".join(each.studies),
        )
        for each in found
    ]  # fmt: skip
    return Table(heads, rows) if found else None


DEVICES = Page("devices", "Devices", _layout, _register)
