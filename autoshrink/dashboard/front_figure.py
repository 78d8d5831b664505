"""The front of one target as a figure: the metric over latency or over size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from autoshrink.dashboard.figures import BASELINE, family, hover, lay_out
from autoshrink.dashboard.formatting import Metric
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.view import baseline_of
from autoshrink.search import front as known
from autoshrink.search.front import axes_of, front, is_known, non_dominated
from autoshrink.search.words import human_bytes, human_ms
from autoshrink.target import Limits
from autoshrink.types import Outcome, TrialRecord

HEIGHT = 460
FAINT = 0.28
LOGARITHMIC = 3.0


@dataclass(frozen=True)
class Axis:
    """A cost on the x axis, relative to the baseline, and the other cost as the area of the markers.

    Attributes:
        name: of the cost, one of the axes of `autoshrink.search.front`.
        ratio: (trial, baseline) -> cost relative to the baseline's.
        absolute: trial -> the cost itself, milliseconds or bytes.
        text: writes an absolute cost.
        limit: its limit among a target's limits.
        area: trial -> what the area of its marker stands for.
    """

    name: str
    ratio: Callable[[TrialRecord, TrialRecord], float]
    absolute: Callable[[TrialRecord], float]
    text: Callable[[float], str]
    limit: Callable[[Limits], float | None]
    area: Callable[[TrialRecord], float]


def _milliseconds(record: TrialRecord) -> float:
    return record.latency.ms if record.latency else 0.0


def _bytes(record: TrialRecord) -> float:
    return float(record.artifact.size_bytes) if record.artifact else 0.0


LATENCY = Axis(
    known.LATENCY,
    lambda record, _: record.latency.ratio if record.latency else 0.0,
    _milliseconds,
    human_ms,
    lambda limits: limits.latency_ms,
    _bytes,
)
SIZE = Axis(
    known.SIZE,
    lambda record, baseline: _bytes(record) / max(_bytes(baseline), 1.0),
    _bytes,
    human_bytes,
    lambda limits: limits.size_bytes,
    _milliseconds,
)


def front_figure(
    records: Sequence[TrialRecord],
    limits: Limits,
    palette: Palette,
    colours: Mapping[str, str],
    axis: Axis = LATENCY,
    chosen: TrialRecord | None = None,
) -> go.Figure | None:
    """Measured trials, front and limits of a target; None when its baseline or nothing else was measured on the axis.

    The line steps along the members of the front that no other beats in the two axes. Trials that are dominated are
    faint, trials over a limit are crosses. Of trials far below the front there is only a count.

    Args:
        records: every trial of the target.
        limits: the target's; dashed lines.
        palette: of the page.
        colours: family of recipes -> colour.
        axis: what to draw the metric over; logarithmic where it spans a factor of `LOGARITHMIC` or more.
        chosen: a trial to point at.
    """
    axes, baseline = axes_of(records), baseline_of(records)
    measured = [record for record in records if is_known(record, axes)]
    if baseline is None or baseline not in measured or len(measured) < 2 or not {known.METRIC, axis.name} <= set(axes):
        return None
    plot = _Plot(axis, Metric.of(records), palette, baseline, measured)
    members = front(records)
    numbers = {record.number for record in members}
    figure = go.Figure(plot.steps(members))
    complete = [r for r in measured if r.outcome is Outcome.COMPLETE and r is not baseline]
    for name, colour in colours.items():
        faint = [r for r in complete if family(r.recipe) == name and r.number not in numbers]
        strong = [r for r in complete if family(r.recipe) == name and r.number in numbers]
        if faint:
            figure.add_trace(plot.points(faint, name, colour, opacity=FAINT, legend=not strong))
        if strong:
            figure.add_trace(plot.points(strong, name, colour, ring=palette.surface, errors=True))
    over = [r for r in measured if r.outcome is Outcome.INFEASIBLE and r is not baseline]
    if over:
        figure.add_trace(plot.points(over, "over a limit", palette.limit, symbol="x-thin"))
    figure.add_trace(plot.points([baseline], BASELINE, palette.ink, symbol="star", errors=True))
    lay_out(figure, palette, HEIGHT)
    plot.draw_axes(figure, [baseline, *members])
    plot.draw_limits(figure, limits)
    if chosen is not None and chosen is not baseline and chosen in measured:
        plot.point_at(figure, chosen)
    return figure


class _Plot:
    """What the traces of one figure share."""

    def __init__(
        self, axis: Axis, metric: Metric, palette: Palette, baseline: TrialRecord, measured: Sequence[TrialRecord]
    ) -> None:
        self._measured = measured
        self._axis = axis
        self._metric = metric
        self._palette = palette
        self._baseline = baseline
        self._largest = max(map(axis.area, measured)) or 1.0

    def _x(self, record: TrialRecord) -> float:
        return self._axis.ratio(record, self._baseline)

    def _y(self, record: TrialRecord) -> tuple[float, float, float]:
        """Low end, value and high end of the metric on val, as the axis shows them."""
        if record.val is None:
            raise ValueError(f"trial {record.number} of {record.target} was not measured")
        factor = self._metric.factor
        return record.val.ci.low * factor, record.val.value * factor, record.val.ci.high * factor

    def steps(self, members: Sequence[TrialRecord]) -> go.Scatter:
        """The staircase along the members that no other beats in the two axes."""
        points = np.array([(self._x(r), -self._y(r)[1]) for r in members], dtype=np.float64).reshape(-1, 2)
        corners = sorted((x, -y) for x, y in points[non_dominated(points)].tolist())
        return go.Scatter(
            x=[x for x, _ in corners],
            y=[y for _, y in corners],
            mode="lines",
            name="front",
            hoverinfo="skip",
            showlegend=False,
            line={"shape": "hv", "width": 1.5, "color": self._palette.muted},
        )

    def points(
        self,
        records: Sequence[TrialRecord],
        name: str,
        colour: str,
        *,
        symbol: str = "circle",
        ring: str | None = None,
        opacity: float = 1.0,
        errors: bool = False,
        legend: bool = True,
    ) -> go.Scatter:
        """Trials as markers, with the interval of the metric where asked; `customdata` has their numbers."""
        fixed = {"star": 15.0, "x-thin": 8.0}.get(symbol)
        areas = [8 + 16 * (self._axis.area(record) / self._largest) ** 0.5 for record in records]
        return go.Scatter(
            x=[self._x(record) for record in records],
            y=[self._y(record)[1] for record in records],
            customdata=[record.number for record in records],
            error_y=self._errors(records, colour) if errors else None,
            mode="markers",
            name=escape(name),
            legendgroup=escape(name),
            showlegend=legend,
            marker={
                "color": colour,
                "symbol": symbol,
                "size": areas if fixed is None else fixed,
                "opacity": opacity,
                "line": {"color": ring or colour, "width": 1.5},
            },
            text=[hover(record, self._metric) for record in records],
            hovertemplate="%{text}<extra></extra>",
        )

    def _errors(self, records: Sequence[TrialRecord], colour: str) -> dict[str, Any]:
        ends = [self._y(record) for record in records]
        return {
            "type": "data",
            "symmetric": False,
            "array": [high - value for _, value, high in ends],
            "arrayminus": [value - low for low, value, _ in ends],
            "color": colour,
            "thickness": 1,
            "width": 3,
        }

    def draw_axes(self, figure: go.Figure, shown: Sequence[TrialRecord]) -> None:
        """Titles, and a range that holds `shown` with its intervals and as much below them as those are high."""
        unit = self._axis.text(self._axis.absolute(self._baseline))
        figure.update_xaxes(title_text=f"{self._axis.name}, 1 = {BASELINE} ({unit})")
        metric = escape(self._metric.name, quote=False)
        figure.update_yaxes(title_text=f"{metric} on val{',' if self._metric.percent else ''}{self._metric.unit}")
        ratios = [self._x(record) for record in self._measured]
        if self._is_logarithmic:
            ticks = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)]
            figure.update_xaxes(
                type="log",
                range=[float(np.log10(min(ratios) * 0.7)), float(np.log10(max(ratios) * 1.2))],
                tickvals=ticks,
                ticktext=[f"{tick:g}" for tick in ticks],
            )
        low, high = min(self._y(r)[0] for r in shown), max(self._y(r)[2] for r in shown)
        reach = (high - low) or 1.0
        inside = [y for y in (self._y(record)[1] for record in self._measured) if y >= low - reach]
        bottom = min([low, *inside]) - 0.06 * reach
        figure.update_yaxes(range=[bottom, high + 0.06 * reach])
        below = len(self._measured) - len(inside)
        if below:
            figure.add_annotation(
                text=f"{below} trial{'s' if below > 1 else ''} below",
                showarrow=False,
                xref="paper",
                yref="paper",
                x=1,
                y=0,
                xanchor="right",
                yanchor="bottom",
                font={"color": self._palette.muted, "size": 12},
            )

    @property
    def _is_logarithmic(self) -> bool:
        ratios = [self._x(record) for record in self._measured]
        return min(ratios) > 0 and max(ratios) >= LOGARITHMIC * min(ratios)

    def point_at(self, figure: go.Figure, chosen: TrialRecord) -> None:
        """An arrow at the chosen trial."""
        figure.add_annotation(
            x=self._place(self._x(chosen)),
            y=self._y(chosen)[1],
            text="chosen",
            # Nothing lies up and to the left of a trial on the front.
            ax=-38,
            ay=-46,
            arrowhead=2,
            arrowwidth=1.2,
            arrowcolor=self._palette.ink,
            standoff=9,
            font={"color": self._palette.ink, "size": 12.5},
        )

    def draw_limits(self, figure: go.Figure, limits: Limits) -> None:
        """The target's limits as dashed lines."""
        line = {"line_dash": "dash", "line_color": self._palette.limit, "line_width": 1.4}
        label = {"showarrow": False, "font": {"color": self._palette.limit, "size": 12}}
        most, of_baseline = self._axis.limit(limits), self._axis.absolute(self._baseline)
        if most is not None and of_baseline > 0:
            ratio = most / of_baseline
            figure.add_vline(ratio, **line)
            figure.add_annotation(
                x=self._place(ratio), y=1, yref="paper", yanchor="top", xanchor="left", textangle=-90,
                text=f"limit {self._axis.text(most)}", **label,
            )  # fmt: skip
        if limits.drop is not None and self._baseline.val is not None:
            level = (self._baseline.val.value - limits.drop) * self._metric.factor
            figure.add_hline(level, **line)
            figure.add_annotation(
                x=1, xref="paper", y=level, xanchor="right", yanchor="bottom",
                text=f"limit {self._metric.change(limits.drop)}", **label,
            )  # fmt: skip

    def _place(self, x: float) -> float:
        """Where plotly wants an annotation: it takes logarithms on a logarithmic axis."""
        return float(np.log10(x)) if self._is_logarithmic else x
