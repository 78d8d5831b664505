"""What the page Search shows of the layers' sensitivities, and of what was expected by them, where there are any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.exports import Table, on_csv
from autoshrink.dashboard.app.page import PLACE, SCHEME, VERSION
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.app.plots import opens_trials, outputs, palette_of, plot_block, shown
from autoshrink.dashboard.app.search_tables import cut, trial_link
from autoshrink.dashboard.app.tables import Cell
from autoshrink.dashboard.factors import technique_name
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.library import Library
from autoshrink.dashboard.sensitivity import (
    Foresight,
    Measurement,
    foresight_words,
    foresights,
    is_share,
    losses_by_option,
    measurements,
    option_words,
    options_of,
)
from autoshrink.dashboard.sensitivity_figures import MOST_LAYERS, foresight_figure, sensitivity_figure
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import ConfigError
from autoshrink.search.words import describe
from autoshrink.sensitivities import Sensitivities
from autoshrink.types import Interval

SECTION, LIST = "search-layers", "sensitivity-list"
_SENSITIVITY = (
    "How far the model's outputs move when one layer alone is treated: right is more sensitive. By this the allocator "
    "gives more to some layers than to others."
)
_FORESIGHT = (
    "Each point is a trial: the loss that its allocation was expected to bring, before any training, and the loss that "
    "was measured, with its 95 % interval. Where they rise together, the sensitivities are worth following. What other "
    "stages do to a trial is in its measured loss too."
)
Find = Callable[[Sequence[str], str | None], TargetView | None]


def section(place: Place) -> Component:
    """The section, hidden until a trial has something for it."""
    value = place.get("measured")
    chosen = html.Label(
        [
            html.Span("Measured for"),
            html.Select(id=LIST, **{"data-control": "measured", "aria-label": "Measured for"}),
            dcc.Input(id=control("measured"), type="hidden", value=value),
        ],
        id=f"{LIST}-label",
        className="control",
        hidden=True,
    )
    return html.Section(
        [
            plot_block("sensitivity", "How sensitive the layers are", _SENSITIVITY, chosen, still=True, said=True),
            plot_block("foresight", "Expected and measured", _FORESIGHT, said=True),
        ],
        id=SECTION,
        hidden=True,
    )


def register(app: Dash, library: Library, view_of: Find) -> None:
    """Adds what fills the section; `view_of` gives the view of a place and a target, None when there is none."""
    looked = (Input(control("target"), "value"), Input(VERSION, "data"), Input(SCHEME, "data"), State(PLACE, "data"))

    def read(
        view: TargetView | None, key: str | None, where: Sequence[str]
    ) -> tuple[Measurement, Sensitivities] | None:
        chosen = _chosen(measurements(view) if view else [], key)
        if chosen is None:
            return None
        return chosen, library.snapshot(Place.of(*where).study).folder.sensitivities(chosen.allocations[0])

    @app.callback(
        Output(SECTION, "hidden"),
        Output(LIST, "children"),
        Output(f"{LIST}-label", "hidden"),
        *outputs("sensitivity"),
        Output("sensitivity-said", "children"),
        Input(control("measured"), "value"),
        *looked,
    )
    def sensitivity(key: str | None, target: str, _version: str, scheme: str, where: list[str]) -> object:
        view = view_of(where, target)
        all_ = measurements(view) if view else []
        chosen = _chosen(all_, key)
        listed = [html.Option(each.title, value=each.key, selected=each is chosen) for each in all_]
        around = (not all_, listed, len(all_) < 2)
        try:
            found = read(view, key, where)
        except ConfigError as error:
            why = "; ".join(error.problems)
            return (*around, *shown(None, None, f"What was measured cannot be read: {why}"), "")
        if found is None:
            return (*around, *shown(None, None, ""), "")
        shared, measured = found
        figure = sensitivity_figure(measured, shared, palette_of(scheme))
        table = sensitivity_table(measured, shared)
        nothing = "No layer moves the outputs at all."
        return (*around, *shown(figure, table, nothing), _said(measured, shared) if figure is not None else "")

    @app.callback(*outputs("foresight"), Output("foresight-said", "children"), *looked)
    def foresight(target: str, _version: str, scheme: str, where: list[str]) -> object:
        view = view_of(where, target)
        found = foresights(view) if view else []
        figure = foresight_figure(found, view.metric, palette_of(scheme)) if view else None
        if view is None or figure is None:
            return (*shown(None, None, "Drawn once a trial that was allocated so is measured."), "")
        figure.update_layout(uirevision=target)
        table = foresight_table(view, found, Place.of(*where).study)
        return (*shown(figure, table, ""), foresight_words(found))

    def saved_sensitivity(target: str, key: str | None, where: list[str]) -> Table | None:
        found = read(view_of(where, target), key, where)
        return None if found is None else sensitivity_csv(found[1], found[0])

    def saved_foresight(target: str, where: list[str]) -> Table | None:
        view = view_of(where, target)
        return foresight_csv(view) if view else None

    target = State(control("target"), "value")
    on_csv(app, "sensitivity", saved_sensitivity, target, State(control("measured"), "value"), State(PLACE, "data"))
    on_csv(app, "foresight", saved_foresight, target, State(PLACE, "data"))
    opens_trials(app, "foresight")


def _chosen(all_: Sequence[Measurement], key: str | None) -> Measurement | None:
    return next((each for each in all_ if each.key == key), all_[0] if all_ else None)


def _said(measured: Sensitivities, shared: Measurement) -> str:
    """How it was measured, and for how many trials."""
    count, name = len(measured.losses), technique_name(measured.technique)
    drawn = f" Drawn are the {MOST_LAYERS} most sensitive of {count} layers." if count > MOST_LAYERS else ""
    method = measured.method[:1].upper() + measured.method[1:]
    return f"{method}. Measured once for {counted(len(shared.records), 'trial')} with {name}.{drawn}"


def sensitivity_table(measured: Sensitivities, shared: Measurement) -> Component:
    """A row a layer: its loss with each option, and what the trials gave it."""
    names = options_of(measured)
    rows: list[list[Cell]] = []
    for layer in measured.losses:
        losses = losses_by_option(measured, layer)
        given = ", ".join(
            f"{option_words(measured, option)}{f' ({count})' if len(shared.records) > 1 else ''}"
            for option, count in sorted(shared.given(layer).items(), reverse=not is_share(measured))
        )
        rows.append([layer, *(f"{losses[name][1]:.2g}" if name in losses else "-" for name in names), given or "-"])
    heads = [("layer", False), *((name, True) for name in names), ("given to it", False)]
    return cut(heads, rows, "Loss of each layer with each option")


def sensitivity_csv(measured: Sensitivities, shared: Measurement) -> Table:
    """A row for each layer and option."""
    heads = ("layer", measured.option, f"loss, {measured.unit}", "trials that gave it", "of trials")
    rows = [
        (layer, option, loss, shared.given(layer)[option], len(shared.records))
        for layer, losses in measured.losses.items()
        for option, loss in losses
    ]
    return Table(heads, rows)


def foresight_table(view: TargetView, found: Sequence[Foresight], study: str) -> Component:
    """A row a trial, the least expected first."""
    all_ = [(*row, each.name) for each in found for row in zip(each.expected, each.lost, each.records, strict=True)]
    rows: list[list[Cell]] = [
        [trial_link(study, record), name, f"{expected:.2g}", view.metric.change(lost), describe(record.recipe)]
        for expected, lost, record, name in sorted(all_, key=lambda row: row[:2])
    ]
    heads = [("trial", True), ("by", False), ("expected", True), (f"{view.metric.name}, val", True), ("recipe", False)]
    return cut(heads, rows, "Loss expected and measured")


def foresight_csv(view: TargetView) -> Table:
    """A row a trial."""
    heads = ("trial", "expected by", "loss expected", f"loss of {view.metric.name}, val", "low", "high", "recipe")
    rows = [
        (record.number, each.name, expected, lost, *_ends(record.drop_ci), describe(record.recipe))
        for each in foresights(view)
        for record, expected, lost in zip(each.records, each.expected, each.lost, strict=True)
    ]
    return Table(heads, rows)


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)
