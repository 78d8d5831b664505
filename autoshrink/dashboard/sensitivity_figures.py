"""Figures of what stages measured of layers: a row a layer, and what was expected against what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from autoshrink.dashboard.figures import hover, lay_out
from autoshrink.dashboard.formatting import Metric
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.sensitivity import (
    Foresight,
    Measurement,
    is_share,
    losses_by_option,
    most_sensitive,
    option_words,
    options_of,
    positive_floor,
)
from autoshrink.sensitivities import Sensitivities

MOST_LAYERS = 60
"""Layers in the figure, the most sensitive; more would make it longer than anybody looks."""
MOST_POINTS = 1000
"""Trials in the figure, the latest."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon")


def sensitivity_figure(measured: Sensitivities, shared: Measurement, palette: Palette) -> go.Figure | None:
    """A row a layer, and on it how far the outputs move with each option; None where no loss is over 0.

    Args:
        measured: the losses.
        shared: the trials that used them.
        palette: of the page.
    """
    layers = most_sensitive(measured, MOST_LAYERS)
    tried = {layer: losses_by_option(measured, layer) for layer in layers}
    names = options_of(measured)
    floor = positive_floor([loss for losses in tried.values() for _, loss in losses.values()])
    if floor is None:
        return None
    figure = go.Figure()
    for layer, losses in tried.items():
        places = [max(loss, floor) for name, (_, loss) in losses.items() if name in names]
        figure.add_trace(
            go.Scatter(
                x=[min(places), max(places)], y=[layer, layer], mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": palette.grid, "width": 3},
            )
        )  # fmt: skip
    for place, name in enumerate(names):
        rows = [(layer, *losses[name]) for layer, losses in tried.items() if name in losses]
        colour = palette.series[place % len(palette.series)]
        figure.add_trace(
            go.Scatter(
                x=[max(loss, floor) for _, _, loss in rows],
                y=[layer for layer, _, _ in rows],
                mode="markers",
                name=escape(name),
                marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9, "color": colour},
                text=[_words(measured, shared, layer, option, loss) for layer, option, loss in rows],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    lay_out(figure, palette, height=120 + 22 * len(layers))
    figure.update_xaxes(type="log", title_text=f"loss, {escape(measured.unit)}", exponentformat="power", dtick=1)
    figure.update_yaxes(
        categoryorder="array", categoryarray=layers[::-1], ticktext=[_short(layer) for layer in layers],
        tickvals=layers, tickfont={"size": 12.5, "color": palette.ink}, showgrid=False, title_text="",
    )  # fmt: skip
    return figure


def _words(measured: Sensitivities, shared: Measurement, layer: str, option: float, loss: float) -> str:
    words = option_words(measured, option)
    given = sum(count for other, count in shared.given(layer).items() if option_words(measured, other) == words)
    exact = f"{100 * option:.0f} % of the channels removed" if is_share(measured) else words
    chosen = f"<br>given to it by {given} of {len(shared.records)} trials" if given else ""
    return f"<b>{escape(layer)}</b><br>{escape(exact)}: loss {loss:.2g}{chosen}"


def _short(layer: str) -> str:
    """A long name without its beginning: what tells layers apart stands at the end."""
    return escape(layer if len(layer) <= 28 else f"…{layer[-27:]}")


def foresight_figure(found: Sequence[Foresight], metric: Metric, palette: Palette) -> go.Figure | None:
    """A point a trial: the loss that was expected, and the loss of the metric; None where nothing is over 0."""
    floor = positive_floor([value for each in found for value in each.expected])
    if floor is None:
        return None
    figure = go.Figure()
    for place, each in enumerate(found):
        rows = list(zip(each.records, each.expected, each.lost, strict=True))[-MOST_POINTS:]
        colour = palette.series[place % len(palette.series)]
        scale = metric.factor
        figure.add_trace(
            go.Scatter(
                x=[max(expected, floor) for _, expected, _ in rows],
                y=[scale * lost for _, _, lost in rows],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [scale * (r.drop_ci.high - lost) if r.drop_ci else 0 for r, _, lost in rows],
                    "arrayminus": [scale * (lost - r.drop_ci.low) if r.drop_ci else 0 for r, _, lost in rows],
                    "color": colour,
                    "thickness": 1,
                    "width": 0,
                },
                mode="markers",
                name=escape(each.name),
                customdata=[record.number for record, _, _ in rows],
                marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9, "color": colour},
                text=[f"{hover(record, metric)}<br>loss expected {expected:.2g}" for record, expected, _ in rows],
                hovertemplate="%{text}<extra></extra>",
                showlegend=len(found) > 1,
            )
        )
    lay_out(figure, palette, height=340)
    figure.update_xaxes(type="log", title_text="loss of the outputs that was expected", exponentformat="power", dtick=1)
    unit = ", points" if metric.percent else ""
    figure.update_yaxes(title_text=f"loss of {escape(metric.name)}{unit}", zeroline=True)
    return figure
