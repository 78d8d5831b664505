"""What the page of a trial is made of, for the dashboard and for the report: text, tables, and figures to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from autoshrink.dashboard.markup import Markup, element

MOST_ROWS = 400
"""Rows of a table that stands for a figure; the file has all."""


@dataclass(frozen=True)
class Rows:
    """A table as values, for a file and for those who do not see the figure.

    Attributes:
        heads: of the columns, units in them.
        rows: of each column a value; None where there is none.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: of its element, and of the files it is saved as.
        label: what it shows, for those who do not see it.
        caption: how it is read; empty without one.
        table: the same in numbers.
        raw: what its file of values holds, where that is more than `table`.
    """

    name: str
    figure: go.Figure
    label: str
    table: Rows
    caption: str = ""
    raw: Rows | None = None


@dataclass(frozen=True)
class Listing:
    """A table, and its values for a file."""

    name: str
    markup: Markup
    label: str
    table: Rows


Part = Markup | Drawing | Listing


@dataclass(frozen=True)
class Block:
    """A section of the page: its parts stand below each other, those of an inner tuple side by side."""

    name: str
    title: str
    parts: tuple[Part | tuple[Part, ...], ...]

    def drawings(self) -> list[Drawing]:
        """Its figures."""
        return [part for part in self._flat() if isinstance(part, Drawing)]

    def rows(self) -> dict[str, Rows]:
        """Name -> what its file of values holds, of figures and tables."""
        found = {part.name: part.raw or part.table for part in self._flat() if isinstance(part, Drawing)}
        return found | {part.name: part.table for part in self._flat() if isinstance(part, Listing)}

    def _flat(self) -> list[Part]:
        return [each for part in self.parts for each in (part if isinstance(part, tuple) else (part,))]


def note(*children: object) -> Markup:
    """A line in small print."""
    return element("p", *children, class_="note")


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Names and values; those without a value are left out."""
    listed = [[element("dt", name), element("dd", value)] for name, value in pairs if value not in ("", None)]
    return element("dl", listed, class_="list")


def region(table: Markup, label: str) -> Markup:
    """A table that scrolls sideways where it is wider than the page."""
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def table_of(rows: Rows, label: str) -> Markup:
    """`rows` as a plain table; the first `MOST_ROWS` of many."""
    head = element("tr", [element("th", name, scope="col") for name in rows.heads])
    body = [element("tr", [_cell(value) for value in row]) for row in rows.rows[:MOST_ROWS]]
    shown = region(element("table", element("thead", head), element("tbody", body)), label)
    if len(rows.rows) <= MOST_ROWS:
        return shown
    return element("div", shown, note(f"The first {MOST_ROWS} of {len(rows.rows):,} rows; the CSV file has all."))


def _cell(value: object) -> Markup:
    if value is None or isinstance(value, str):
        return element("td", "-" if value is None else value)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return element("td", text, class_="number")


def meter(share: float, kind: str = "") -> Markup:
    """A small bar; what it shows stands in words beside it."""
    width = 100 * min(1.0, max(0.0, share))
    bar = element("span", style=f"width: {width:.2f}%", class_=kind or None)
    return element("span", bar, class_="meter", aria_hidden="true")


def heads(names: Sequence[tuple[str, bool]]) -> Markup:
    """The head of a table: (name, whether the column holds figures)."""
    cells = [element("th", name, scope="col", class_="number" if figures else None) for name, figures in names]
    return element("thead", element("tr", cells))
