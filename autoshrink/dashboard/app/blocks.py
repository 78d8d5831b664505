"""Blocks of a page about trials as components, and the files of their values."""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.exports import Table, save_buttons
from autoshrink.dashboard.app.nodes import components
from autoshrink.dashboard.trial_block import Block, Drawing, Listing, Part, Rows, table_of

CONFIG = {"displaylogo": False, "displayModeBar": False, "responsive": True}


def section(block: Block) -> Component:
    """A block as a section of the page."""
    return html.Section(
        [html.H3(block.title), *(_row(part) for part in block.parts)], className="trial-block", id=f"block-{block.name}"
    )


def _row(part: Part | tuple[Part, ...]) -> Component:
    if isinstance(part, tuple):
        return html.Div([_part(each) for each in part], className="pair")
    return _part(part)


def _part(part: Part) -> Component:
    if isinstance(part, Drawing):
        return drawing(part)
    if isinstance(part, Listing):
        return html.Div(
            [html.Div(components(part.markup)), save_buttons(part.name, part.label, image=False, table=True)],
            className="trial-listing",
        )
    return html.Div(components(part))


def drawing(part: Drawing) -> Component:
    """A figure with what reads it aloud, what saves it, and its table."""
    height = part.figure.layout.height
    graph = dcc.Graph(part.name, figure=part.figure, config=CONFIG, style={"height": f"{height}px"})
    return html.Figure(
        [
            html.Div(graph, role="img", **{"aria-label": part.label}),
            html.Figcaption(part.caption),
            html.Div(
                [
                    html.Details([html.Summary("As a table"), *components(table_of(part.table, part.label))]),
                    save_buttons(part.name, part.label, table=True),
                ],
                className="trial-under",
            ),
        ]
    )


def csv_table(rows: Rows | None) -> Table | None:
    """What a file of values holds."""
    return None if rows is None else Table(rows.heads, rows.rows)
