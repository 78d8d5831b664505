"""The traces of one target in a two-dimensional front, as plotly's JSON.

Plain values, not plotly's graph objects: those take half a second to check the figures of ten thousand trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from autoshrink.dashboard.figure_json import Json, binary, packed
from autoshrink.dashboard.figures import BASELINE
from autoshrink.dashboard.front_look import Axes, Panel
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.points import Column, Floats
from autoshrink.search.front import non_dominated
from autoshrink.types import Outcome

FAINT = 0.3
HOLLOW_FAINT = 0.45
MANY = 1500
"""Trials beyond which the dominated ones are painted by the page, and say less when they are pointed at."""
PLAIN_NAME = "hand-made int8"
UNFINISHED = {Outcome.STOPPED: "square-open", Outcome.REJECTED: "triangle-down-open", Outcome.FAILED: "x-thin-open"}
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagram")
FORMS = ("circle", "square", "triangle-up", "pentagon", "hexagram", "triangle-down")
"""Of groups, so that their colour is not their only sign; in an overlay the form tells the targets apart."""
FIELD = "field"
"""In the `meta` of a trace of trials whose places depend on no limit; see `limit_patch`."""
PAINTED = "painted"
"""In the `meta` of a trace that plotly does not draw: how it looks, for app/assets/plots_field.js."""
SHARES_OF_PIXEL = 10
"""Sizes of painted markers are whole tenths of a pixel."""


class PanelTraces:
    """Makes the traces of one panel. They are the same in number and order whatever limits and selection say."""

    def __init__(self, axes: Axes, panel: Panel, place: int, palette: Palette, colours: Mapping[str, str]) -> None:
        self.axes = axes
        self.panel = panel
        self.points = panel.points
        self.palette = palette
        self.colours = colours
        self.place = place
        look = axes.look
        overlaid = look.apart == "overlay"
        of_target = SYMBOLS[place % len(SYMBOLS)]
        several = overlaid and len(axes.panels) > 1
        self.symbols = {group: of_target if several else FORMS[k % len(FORMS)] for k, group in enumerate(self.colours)}
        self.key_symbols = dict.fromkeys(self.colours, SYMBOLS[0]) if several else self.symbols
        self.dash = DASHES[place % len(DASHES)] if overlaid else DASHES[0]
        self.subplot = "" if overlaid or place == 0 else str(place + 1)
        self.first = place == 0
        self.x = axes.column(panel, look.x)
        self.y = axes.column(panel, look.y)
        self.drawn = axes.drawn(panel)
        self.keeps = self.points.keeps(panel.limits)
        self.members = self.points.members(self.keeps) & self.drawn
        self.many = int(self.drawn.sum()) > MANY
        self.groups = self._groups_of(panel)
        self.special = self.points.special
        self.unfinished = np.isin(self.points.outcomes, [outcome.value for outcome in UNFINISHED])

    def all(self) -> Iterator[Json]:
        """Every trace, the faint ones first."""
        yield self.staircase()
        yield from (self._field(group) for group in self._groups())
        if self.axes.look.unfinished:
            yield from map(self._unfinished, UNFINISHED)
        yield from (self._front(group) for group in self._groups())
        if self.first:
            yield from map(self._key, self.colours)
        yield self._star()
        yield self._plain()
        yield self._ring(self.panel.chosen, "the pick", "circle-open", 12)
        yield self._ring(self.panel.selected, "selected", "square-open", 14)

    def _groups(self) -> list[str]:
        there = set(np.unique(self.groups[self.drawn & ~self.unfinished & ~self.special]).tolist())
        return [name for name in self.colours if name in there]

    def _key(self, group: str) -> Json:
        """A group in the legend, with a full marker whatever becomes of its trials."""
        there = any(
            ((self._groups_of(panel) == group) & self.axes.drawn(panel) & ~panel.points.special).any()
            for panel in self.axes.panels
        )
        return {
            "type": "scatter",
            "x": [None],
            "y": [None],
            "mode": "markers",
            "name": escape(group),
            "legendgroup": escape(group),
            "showlegend": there,
            "hoverinfo": "skip",
            "marker": {"color": self.colours[group], "symbol": self.key_symbols[group], "size": 10},
        }

    def _groups_of(self, panel: Panel) -> Any:
        return panel.points.families if self.axes.look.colour == "technique" else panel.points.outcomes

    def staircase(self) -> Json:
        """The line along the members of the front that no other beats on the two axes."""
        rows = np.flatnonzero(self.members) if self.points.view.is_scored else np.empty(0, dtype=np.int64)
        x, y = self.x.value[rows], self.y.value[rows]
        look = self.axes.look
        signed = np.column_stack(
            [x if look.x.lower_is_better else -x, y if look.y.lower_is_better else -y],
        )
        kept = non_dominated(signed) if len(rows) else np.empty(0, dtype=np.bool_)
        order = np.lexsort((y[kept], x[kept]))
        return {
            "type": "scatter",
            "x": packed(x[kept][order]),
            "y": packed(y[kept][order]),
            "mode": "lines",
            "name": "front",
            "hoverinfo": "skip",
            "showlegend": False,
            # Between two corners the better one on the x axis is what can be had.
            "line": {
                "shape": "hv" if look.x.lower_is_better else "vh",
                "width": 1.5,
                "color": self.palette.muted,
                "dash": self.dash,
            },
            **self._subplot,
        }

    def _field(self, group: str) -> Json:
        """All measured trials of a group, faint: hollow those that do not keep the limits."""
        chosen = self.drawn & ~self.special & ~self.unfinished & (self.groups == group)
        rows = np.flatnonzero(chosen)
        return {
            "type": "scatter",
            "x": packed(self.x.value[rows]),
            "y": packed(self.y.value[rows]),
            "name": escape(group),
            "legendgroup": escape(group),
            "showlegend": False,
            **(self._painted(group, rows) if self.many else self._faint(group, rows)),
            **self._texts(rows),
            **self._subplot,
        }

    def _faint(self, group: str, rows: Any) -> Json:
        colour = self.colours[group]
        return {
            "mode": "markers",
            "meta": {FIELD: True},
            "marker": {
                "color": colour,
                "symbol": self._symbols(group, rows),
                "size": packed(self._sizes(rows)),
                "opacity": packed(np.where(self.keeps[rows], FAINT, HOLLOW_FAINT)),
                "line": {"color": colour, "width": 1.2},
            },
        }

    def _painted(self, group: str, rows: Any) -> Json:
        look = {
            "sizes": binary(np.round(SHARES_OF_PIXEL * self._sizes(rows)).astype(np.uint8)),
            "keeps": binary(self.keeps[rows].astype(np.uint8)),
            "colour": self.colours[group],
            "symbol": self.symbols[group],
            "faint": [HOLLOW_FAINT, FAINT],
        }
        return {"mode": "none", "hoveron": "points", "meta": {FIELD: True, PAINTED: look}}

    def _unfinished(self, outcome: Outcome) -> Json:
        rows = np.flatnonzero(self.drawn & (self.points.outcomes == outcome.value))
        return {
            "type": "scatter",
            "x": packed(self.x.value[rows]),
            "y": packed(self.y.value[rows]),
            "mode": "markers",
            "name": outcome.value,
            "legendgroup": outcome.value,
            "showlegend": self.first and len(rows) > 0,
            "marker": {
                "symbol": UNFINISHED[outcome],
                "size": 8,
                "color": self.palette.muted,
                "line": {"color": self.palette.muted, "width": 1.5},
            },
            **self._texts(rows),
            **self._subplot,
        }

    def _front(self, group: str) -> Json:
        """The members of the front in a group, with their intervals."""
        rows = np.flatnonzero(self.members & ~self.special & (self.groups == group))
        colour = self.colours[group]
        fits = self.keeps[rows]
        return {
            "type": "scatter",
            "x": packed(self.x.value[rows]),
            "y": packed(self.y.value[rows]),
            "error_x": _errors(self.x, rows, colour),
            "error_y": _errors(self.y, rows, colour),
            "mode": "markers",
            "name": escape(group),
            "legendgroup": escape(group),
            "showlegend": False,
            "marker": {
                "color": colour,
                "symbol": self._symbols(group, rows),
                "size": packed(self._sizes(rows)),
                "opacity": packed(np.where(fits, 1.0, 0.75)),
                "line": {"color": self.palette.surface, "width": 1.5},
            },
            **self._texts(rows, whole=True),
            **self._subplot,
        }

    def _star(self) -> Json:
        return self._single(self.points.baseline, BASELINE, {"symbol": "star", "size": 15, "color": self.palette.ink})

    def _plain(self) -> Json:
        row = self.points.plain_int8
        colour = self.palette.muted if row is None else self.colours.get(str(self.groups[row]), self.palette.muted)
        symbol = "diamond" if row is None or self.keeps[row] else "diamond-open"
        line = {"color": self.palette.ink, "width": 2}
        return self._single(row, PLAIN_NAME, {"symbol": symbol, "size": 12, "color": colour, "line": line})

    def _single(self, row: int | None, name: str, marker: dict[str, Any]) -> Json:
        rows = np.array([] if row is None or not self.drawn[row] else [row], dtype=np.int64)
        return {
            "type": "scatter",
            "x": packed(self.x.value[rows]),
            "y": packed(self.y.value[rows]),
            "error_x": _errors(self.x, rows, self.palette.ink),
            "error_y": _errors(self.y, rows, self.palette.ink),
            "mode": "markers",
            "name": escape(name),
            "legendgroup": escape(name),
            "showlegend": self.first and len(rows) > 0,
            "marker": marker,
            **self._texts(rows, whole=True),
            **self._subplot,
        }

    def _ring(self, number: int | None, name: str, symbol: str, more: float) -> Json:
        """A ring around a trial, or nowhere."""
        row = self.points.row(number)
        rows = np.array([] if row is None or not self.drawn[row] else [row], dtype=np.int64)
        return {
            "type": "scatter",
            "x": packed(self.x.value[rows]),
            "y": packed(self.y.value[rows]),
            "mode": "markers",
            "name": name,
            "showlegend": False,
            "hoverinfo": "skip",
            "marker": {
                "symbol": symbol,
                "size": packed(self._sizes(rows) + more),
                "color": self.palette.ink,
                "line": {"color": self.palette.ink, "width": 2},
            },
            **self._subplot,
        }

    @property
    def _subplot(self) -> dict[str, str]:
        return {"xaxis": f"x{self.subplot}", "yaxis": f"y{self.subplot}"}

    def _symbols(self, group: str, rows: Any) -> list[str]:
        full, hollow = self.symbols[group], f"{self.symbols[group]}-open"
        return [full if keeps else hollow for keeps in self.keeps[rows].tolist()]

    def _sizes(self, rows: Any) -> Floats:
        """Diameters in pixels; the area stands for the quantity. What is not known is small."""
        quantity = self.axes.look.area
        values = self.axes.column(self.panel, quantity).value[rows]
        everything = self.axes.values(quantity)
        largest = float(everything.max()) if len(everything) else 1.0
        least, more = (5.0, 9.0) if self.many else (8.0, 16.0)
        share = np.clip(np.nan_to_num(values) / (largest or 1.0), 0.0, 1.0)
        return np.asarray(np.round(least + more * np.sqrt(share), 1), dtype=np.float64)

    def _texts(self, rows: Any, whole: bool = False) -> dict[str, Any]:
        """What is said of a trial that is pointed at, and which it is for those that ask."""
        points, target = self.points, self.points.view.name
        numbers = points.numbers[rows].tolist()
        if whole or not self.many:
            known = points.hovers if not self.many else None
            text = [known[row] if known else points.hover(points.records[row]) for row in rows]
            template = "%{text}<extra></extra>"
        else:
            text = [points.escaped_words[row] for row in rows.tolist()]
            template = "<b>trial %{customdata[0]}</b>  %{text}<br>%{yaxis.title.text} %{y:.4g}<br>"
            template += "%{xaxis.title.text} %{x:.4g}<extra></extra>"
        return {
            "text": text,
            "hovertemplate": template,
            "customdata": [[number, target] for number in numbers],
        }


def _errors(column: Column, rows: Any, colour: str) -> dict[str, Any] | None:
    value, low, high = column.value[rows], column.low[rows], column.high[rows]
    above, below = np.nan_to_num(high - value), np.nan_to_num(value - low)
    if not ((above > 0) | (below > 0)).any():
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": packed(above),
        "arrayminus": packed(below),
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def target_keys(panels: Sequence[Panel], palette: Palette) -> Iterator[Json]:
    """For the legend of an overlay: which symbol is which target."""
    for place, panel in enumerate(panels):
        yield {
            "type": "scatter",
            "x": [None],
            "y": [None],
            "mode": "markers+lines",
            "name": escape(panel.name),
            "legendgroup": f"target {place}",
            "line": {"color": palette.muted, "width": 1.5, "dash": DASHES[place % len(DASHES)]},
            "marker": {"symbol": SYMBOLS[place % len(SYMBOLS)], "color": palette.muted, "size": 10},
        }
