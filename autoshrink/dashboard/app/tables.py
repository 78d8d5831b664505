"""Small tables of the pages; large ones are dash-ag-grid's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

Cell = Any
"""What Dash takes for children: a text, a component, or a list of them."""


def small_table(heads: Sequence[tuple[str, bool]], rows: Iterable[Sequence[Cell]], label: str) -> Component:
    """A table that scrolls sideways where it must.

    Args:
        heads: (name, whether the column holds figures, which stand right).
        rows: cells in the order of the heads.
        label: what it is, for those who hear the page.
    """
    classes = ["number" if figures else "" for _, figures in heads]
    head = html.Tr([html.Th(name, scope="col", className=kind) for (name, _), kind in zip(heads, classes, strict=True)])
    body = [html.Tr([html.Td(cell, className=kind) for cell, kind in zip(row, classes, strict=True)]) for row in rows]
    table = html.Table([html.Thead(head), html.Tbody(body)])
    return html.Div(table, className="scroll", tabIndex="0", role="region", **{"aria-label": label})
