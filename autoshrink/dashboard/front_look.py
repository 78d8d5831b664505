"""How a front is looked at: which quantities on the axes, in which scale, and what is drawn of which targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from autoshrink.dashboard.figure_json import Json
from autoshrink.dashboard.figures import BASELINE, lay_out
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.points import Column, Floats, Mask, Points
from autoshrink.dashboard.quantities import (
    ACCURACY,
    DROP,
    LATENCY,
    QUANTITIES,
    SIZE,
    THROUGHPUT,
    Quantity,
    Unit,
    noun_of,
    unit_of,
)
from autoshrink.dashboard.view import TargetView
from autoshrink.target import Limits

Scale = Literal["auto", "linear", "log"]
LOGARITHMIC = 3.0
"""An axis whose figures span such a factor or more is logarithmic unless told otherwise."""


@dataclass(frozen=True)
class Look:
    """What a reader chose.

    Attributes:
        x: on the x axis.
        y: on the y axis; the height in 3-D.
        area: what the area of a marker stands for; the depth in 3-D.
        relative: whether costs are relative to the baseline.
        x_scale: `auto` goes by the figures.
        y_scale: the same.
        colour: what colours tell apart, `technique` or `outcome`.
        unfinished: whether trials that were stopped, rejected or failed are drawn where they have coordinates.
        solid: whether it is 3-D.
        apart: several targets: `overlay`, or each for itself in `columns` or `rows`.
    """

    x: Quantity = LATENCY
    y: Quantity = ACCURACY
    area: Quantity = SIZE
    relative: bool = True
    x_scale: Scale = "auto"
    y_scale: Scale = "auto"
    colour: Literal["technique", "outcome"] = "technique"
    unfinished: bool = False
    solid: bool = False
    apart: Literal["overlay", "columns", "rows"] = "overlay"


@dataclass(frozen=True)
class Panel:
    """A target as it is drawn.

    Attributes:
        points: its trials.
        limits: that trials are held against; lines.
        chosen: number of the trial to point at; None of none.
        selected: number of the trial that the reader chose.
    """

    points: Points
    limits: Limits = field(default_factory=Limits)
    chosen: int | None = None
    selected: int | None = None

    @property
    def name(self) -> str:
        """Of the target."""
        return self.points.view.name


def default_x(view: TargetView) -> Quantity:
    """What a target's front is drawn over first."""
    return (THROUGHPUT if view.shows_throughput else LATENCY) if view.is_timed else SIZE


def look_of(view: TargetView, points: Points, x: str, y: str, area: str, look: Look) -> Look:
    """`look` with the quantities of these names, those that are not known of the target replaced by ones that are."""

    def known(name: str, instead: Quantity) -> Quantity:
        found = QUANTITIES.get(name)
        return found if found is not None and points.knows(found) else instead

    across = known(x, default_x(view))
    up = known(y, ACCURACY)
    return replace(look, x=across, y=up, area=known(area, _other_cost(view, across)))


def _other_cost(view: TargetView, x: Quantity) -> Quantity:
    """The area of a marker tells what the x axis does not: size, or latency where it is known."""
    return LATENCY if x is SIZE and view.is_timed else SIZE


class Axes:
    """Quantities as the panels of one figure show them: in the same units, on the same scales."""

    def __init__(self, look: Look, panels: Sequence[Panel]) -> None:
        self.look = look
        self.panels = panels
        self.metric = panels[0].points.view.metric
        self._columns: dict[tuple[int, str], Column] = {}
        self._units: dict[str, Unit] = {}

    def is_relative(self, quantity: Quantity) -> bool:
        """Whether it is shown relative to the baseline."""
        return self.look.relative and quantity.relative is not None

    def unit(self, quantity: Quantity) -> Unit:
        """The unit of its absolute figures."""
        if quantity.name not in self._units:
            self._units[quantity.name] = self._unit_of(quantity)
        return self._units[quantity.name]

    def _unit_of(self, quantity: Quantity) -> Unit:
        known = [column.value[column.known] for column in self._absolute(quantity)]
        return unit_of(quantity, [float(values.max()) for values in known if len(values)], self.metric)

    def _absolute(self, quantity: Quantity) -> Iterable[Column]:
        return (panel.points.column(quantity) for panel in self.panels)

    def column(self, panel: Panel, quantity: Quantity) -> Column:
        """A quantity of all trials of a panel as the axis has it."""
        key = id(panel), quantity.name
        if key not in self._columns:
            self._columns[key] = self._column_of(panel, quantity)
        return self._columns[key]

    def _column_of(self, panel: Panel, quantity: Quantity) -> Column:
        column = panel.points.column(quantity, self.is_relative(quantity))
        factor = 1.0 if self.is_relative(quantity) else self.unit(quantity).factor
        return column if factor == 1 else Column(column.low * factor, column.value * factor, column.high * factor)

    def values(self, quantity: Quantity) -> Floats:
        """All that is known of it, of every panel."""
        columns = [self.column(panel, quantity) for panel in self.panels]
        return np.concatenate([column.value[column.known] for column in columns])

    def is_log(self, quantity: Quantity, scale: Scale) -> bool:
        """Whether its axis is logarithmic."""
        if scale == "linear" or quantity in (ACCURACY, DROP):
            return False
        values = self.values(quantity)
        if not len(values) or values.min() <= 0:
            return False
        return bool(scale == "log" or values.max() >= LOGARITHMIC * values.min())

    def title(self, quantity: Quantity) -> str:
        """What the axis says."""
        noun = noun_of(quantity, self.metric)
        unit = self.unit(quantity)
        if self.is_relative(quantity):
            of_baselines = [self._baseline_text(panel, quantity, unit) for panel in self.panels]
            known = f" ({of_baselines[0]})" if len(of_baselines) == 1 and of_baselines[0] else ""
            return f"{noun}, 1 = {BASELINE}{known}"
        if quantity in (ACCURACY, DROP):
            elsewhere = sorted({name for panel in self.panels for name in scored_on(panel.points)})
            noun = f"{noun} on val" + (f", of the same recipes on {', '.join(elsewhere)}" if elsewhere else "")
        return f"{noun}, {unit.name}" if unit.name else noun

    def _baseline_text(self, panel: Panel, quantity: Quantity, unit: Unit) -> str:
        row = panel.points.baseline
        value = float("nan") if row is None else float(panel.points.column(quantity).value[row])
        return unit.text(value) if np.isfinite(value) else ""

    def limit(self, panel: Panel, quantity: Quantity) -> tuple[float, str] | None:
        """Where the limit on a quantity lies on its axis, and in words; None where there is none.

        On the axis of the metric it is the most that may be lost, below the baseline.
        """
        limits, points = panel.limits, panel.points
        batch = points.view.target.batch
        row = points.baseline
        if quantity is ACCURACY:
            level = np.nan if row is None else points.column(ACCURACY).value[row]
            if limits.drop is None or not np.isfinite(level):
                return None
            return float(level - limits.drop) * self.metric.factor, self.metric.change(limits.drop)
        most = quantity.limit(limits, batch)
        if most is None:
            return None
        unit = self.unit(quantity)
        if not self.is_relative(quantity):
            return most * unit.factor, unit.text(most)
        base = np.nan if row is None else points.column(quantity).value[row]
        return (float(most / base), unit.text(most)) if np.isfinite(base) and base > 0 else None

    def drawn(self, panel: Panel) -> Mask:
        """[trials]: which have coordinates."""
        wanted = (self.look.x, self.look.y, self.look.area) if self.look.solid else (self.look.x, self.look.y)
        known = np.ones(len(panel.points), dtype=np.bool_)
        for quantity in wanted:
            known &= panel.points.column(quantity, self.is_relative(quantity)).known
        return known


def scored_on(points: Points) -> list[str]:
    """The other targets whose accuracies speak for a target that only compiles."""
    if points.view.is_scored:
        return []
    found = (points.view.elsewhere(record) for record in points.records)
    return sorted({record.target for record in found if record is not None})


def base_layout(palette: Palette, height: int) -> Json:
    """Fonts, margins, grid and legend as all figures of the report have them, as plotly's JSON."""
    return deepcopy(_base_layout(palette, height))


def log_ticks() -> Json:
    """What makes an axis logarithmic, with 1, 2 and 5 of each power of ten as its ticks."""
    ticks = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}


@lru_cache(8)
def _base_layout(palette: Palette, height: int) -> Json:
    figure = go.Figure(go.Scatter(x=[0], y=[0]), layout={"xaxis": {}, "yaxis": {}})
    lay_out(figure, palette, height)
    layout: Json = figure.layout.to_plotly_json()
    # The template "none", as Python's plotly has it: nothing at all.
    layout["template"] = {}
    return layout
