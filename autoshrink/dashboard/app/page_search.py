"""How a study's search goes: what runs, its progress, what the settings do, how trials ended, where the time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.ages import age_seconds
from autoshrink.dashboard.app import search_lines, search_sensitivity
from autoshrink.dashboard.app import search_tables as tables
from autoshrink.dashboard.app.choice import choice
from autoshrink.dashboard.app.exports import Table, on_csv
from autoshrink.dashboard.app.notices import notices_slot
from autoshrink.dashboard.app.page import PLACE, SCHEME, VERSION, Page, Screen
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.app.plots import opens_trials, outputs, palette_of, plot_block, shown
from autoshrink.dashboard.app.tables import small_table
from autoshrink.dashboard.figures import progress_figure, time_figure
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.importance import LEAST_TRIALS, importance_figure, importances
from autoshrink.dashboard.library import Library, Snapshot, StudyState
from autoshrink.dashboard.pace import in_order_of_end, roughly, seconds_left, worked_seconds
from autoshrink.dashboard.search_facts import reused_in_all, stage_uses
from autoshrink.dashboard.standing import trials_so_far
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import ConfigError
from autoshrink.search.words import describe, human_seconds
from autoshrink.types import TrialRecord

NOW_MS = 5000
"""Milliseconds between two looks at the clock for what runs now."""
TRIALS, TIME = "trials", "time"
_PROGRESS = (
    "Hypervolume of loss, latency and size: 0 is the baseline, 1 would be a model without loss that takes no time and "
    "no space. Flat at the end: more trials may not help."
)
_TIME = "Seconds of each trial by stage, with the share of all trials. A stage from the cache costs nothing."
_IMPORTANCE = (
    "How much of the order of the trials each setting explains by itself, among the trials that have it. Hatched: that "
    "much may be chance. What settings do only together is not seen."
)


def _layout(place: Place, library: Library, _screen: Screen) -> Component:
    targets = list(library.snapshot(place.study).views)
    over = choice("over", "Over", {TRIALS: "trials", TIME: "time"}, place.get("over", TRIALS))
    target = choice("target", "Target", {name: name for name in targets}, place.get("target"))
    return html.Div(
        [
            html.Section(
                [
                    html.Div([html.H2("Search"), html.Div(target, hidden=len(targets) < 2)], className="plot-title"),
                    notices_slot(),
                    html.Div(id="search-now"),
                    html.P(id="search-facts", className="facts"),
                    dcc.Interval(id="search-clock", interval=NOW_MS),
                ]
            ),
            html.Section(
                html.Div(
                    [
                        plot_block("progress", "Progress", _PROGRESS, over),
                        plot_block("time", "Where the time went", _TIME),
                    ],
                    className="pair",
                )
            ),
            html.Section(
                [
                    plot_block("importance", "What the settings explain", _IMPORTANCE, still=True),
                    search_lines.block(place),
                ]
            ),
            search_sensitivity.section(place),
            html.Section([html.H3("How the trials ended"), html.Div(id="search-ends")]),
            html.Section([html.H3("Stages and the cache"), html.Div(id="search-stages")]),
        ]
    )


def _register(app: Dash, library: Library) -> None:
    def view_of(where: Sequence[str], target: str | None) -> TargetView | None:
        """The view that is looked at; None when the study cannot be read any more."""
        try:
            views = library.snapshot(Place.of(*where).study).views
        except ConfigError:
            return None
        return views.get(target or "") or next(iter(views.values()), None)

    looked = (Input(control("target"), "value"), Input(VERSION, "data"), Input(SCHEME, "data"), State(PLACE, "data"))

    @app.callback(*outputs("progress"), Input(control("over"), "value"), *looked)
    def progress(over: str, target: str, _version: str, scheme: str, where: list[str]) -> object:
        view = view_of(where, target)
        if view is None:
            return shown(None, None, "")
        records, minutes = _over(view, over)
        figure = progress_figure(records, view.target.limits, palette_of(scheme), minutes)
        if figure is not None:
            figure.update_layout(uirevision=f"{target} {over}")
        name = Place.of(*where).study
        return shown(
            figure,
            tables.progress_table(view, name) if figure is not None else None,
            "Drawn from two trials on, once the baseline is measured.",
        )

    @app.callback(*outputs("time"), *looked)
    def time(target: str, _version: str, scheme: str, where: list[str]) -> object:
        view = view_of(where, target)
        figure = time_figure(view.records, palette_of(scheme)) if view else None
        if view is None or figure is None:
            return shown(None, None, "No time was recorded yet.")
        figure.update_layout(uirevision=target)
        return shown(figure, tables.time_table(view, Place.of(*where).study), "")

    @app.callback(*outputs("importance"), *looked)
    def importance(target: str, _version: str, scheme: str, where: list[str]) -> object:
        view = view_of(where, target)
        found = importances(view) if view else []
        few = f"Too early to say: a setting is judged from {LEAST_TRIALS} measured trials on that have it."
        return shown(importance_figure(found, palette_of(scheme)), tables.importance_table(found), few)

    search_lines.register(app, view_of)

    known: dict[str, tuple[str, list[Component]]] = {}

    @app.callback(
        Output("search-now", "children"),
        Output("search-facts", "children"),
        Input("search-clock", "n_intervals"),
        Input(VERSION, "data"),
        State(PLACE, "data"),
    )
    def now(_count: int, _version: str, where: list[str]) -> tuple[object, object]:
        try:
            snapshot = library.snapshot(Place.of(*where).study)
        except ConfigError:
            return None, None
        # Asked every few seconds: what the trials came to is counted once a version.
        version, facts = known.get(snapshot.name, ("", []))
        if version != snapshot.version:
            facts = _facts(snapshot)
            known[snapshot.name] = snapshot.version, facts
        return _now(snapshot), [*facts, *_left(snapshot)]

    @app.callback(Output("search-ends", "children"), Output("search-stages", "children"), *looked)
    def ends(target: str, _version: str, _scheme: str, where: list[str]) -> tuple[object, object]:
        view = view_of(where, target)
        if view is None:
            return None, None
        return tables.ends(view, Place.of(*where).study), tables.stages(view)

    search_sensitivity.register(app, library, view_of)
    states = (State(control("target"), "value"), State(PLACE, "data"))
    rows: Mapping[str, Callable[[TargetView], Table]] = {
        "progress": tables.progress_csv,
        "time": tables.time_csv,
        "importance": tables.importance_csv,
        "parallel": tables.lines_csv,
    }
    for name, make in rows.items():

        def saved(target: str, where: list[str], make: Callable[[TargetView], Table] = make) -> Table | None:
            view = view_of(where, target)
            return make(view) if view else None

        on_csv(app, name, saved, *states)
    for name in ("progress", "time", "parallel"):
        opens_trials(app, name)


def _over(view: TargetView, over: str) -> tuple[list[TrialRecord], list[float] | None]:
    """The records in the order of the axis, and for one of time the minutes."""
    if over != TIME:
        return list(view.records), None
    records = in_order_of_end(view.records)
    return records, [seconds / 60 for seconds in worked_seconds(records)]


def _now(snapshot: Snapshot) -> Component | None:
    """What a search is doing, trial by trial."""
    activity = snapshot.activity
    if snapshot.state is not StudyState.RUNNING or activity is None:
        return None
    rows = [
        [
            target,
            str(trial.number),
            describe(trial.recipe, snapshot.meta.fidelity),
            trial.stage or "begins",
            _for(trial.since),
            trial.device or "this machine",
        ]
        for target, trials in activity.targets.items()
        for trial in trials
    ]
    heads = [("target", False), ("trial", True), ("recipe", False), ("now in", False), ("for", True), ("on", False)]
    return small_table(heads, rows, "What runs now") if rows else None


def _for(moment: str) -> str:
    seconds = age_seconds(moment)
    return "" if seconds is None else human_seconds(seconds)


def _facts(snapshot: Snapshot) -> list[Component]:
    """How trials ended, and what was spent and saved."""
    records = [record for view in snapshot.views.values() for record in view.records]
    counts = Counter(record.outcome.value for record in records)
    facts: list[Any] = [[html.B(trials_so_far(snapshot)), "".join(f", {counts[name]} {name}" for name in counts)]]
    uses = stage_uses(records)
    facts.append([html.B(human_seconds(sum(use.seconds for use in uses))), " of work"])
    cached = reused_in_all(uses)
    if cached.reused:
        about = f", about {human_seconds(cached.saved)} saved" if cached.saved >= 1 else ""
        facts.append([html.B(f"{cached.reused} of {counted(cached.wanted, 'stage')}"), f" from the cache{about}"])
    return [html.Span(fact) for fact in facts]


def _left(snapshot: Snapshot) -> list[Component]:
    left = seconds_left(snapshot)
    return [] if left is None else [html.Span([html.B(roughly(left)), " left"])]


SEARCH = Page("search", "Search", _layout, _register)
