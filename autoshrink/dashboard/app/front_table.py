"""The table of all trials below the front: sortable, filterable, only the rows in sight are drawn."""

from __future__ import annotations

import math
from typing import Any

import dash_ag_grid as dag
from dash.development.base_component import Component

from autoshrink.dashboard.app.exports import Table
from autoshrink.dashboard.points import Points
from autoshrink.dashboard.quantities import ACCURACY, DROP, GZIP, LATENCY, MEMORY, SIZE, THROUGHPUT, Quantity, noun_of
from autoshrink.types import Outcome

TRIALS = "trials"
SHOWN = ((ACCURACY, 3), (DROP, 3), (LATENCY, 4), (THROUGHPUT, 4), (SIZE, 4), (GZIP, 4), (MEMORY, 4))
"""Quantity -> significant digits in its column."""
THEME = (
    "themeQuartz.withParams({backgroundColor: 'var(--surface)', foregroundColor: 'var(--ink)', "
    "borderColor: 'var(--line)', accentColor: 'var(--accent)', headerBackgroundColor: 'var(--page)', "
    "headerTextColor: 'var(--muted)', fontFamily: 'inherit', fontSize: 13.5, spacing: 6, "
    "browserColorScheme: 'inherit'})"
)
_NUMBER = {"filter": "agNumberColumnFilter", "type": "rightAligned", "width": 126}


def trials_grid(points: Points) -> Component:
    """The table; `columns` and `rows` are what changes in it."""
    return dag.AgGrid(
        id=TRIALS,
        columnDefs=columns(points),
        rowData=rows(points),
        getRowId="params.data.id",
        defaultColDef={
            "sortable": True,
            "filter": True,
            "resizable": True,
            "wrapHeaderText": True,
            "autoHeaderHeight": True,
        },
        dashGridOptions={
            "theme": {"function": THEME},
            "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
            "animateRows": False,
            "tooltipShowDelay": 300,
            "localeText": {"noRowsToShow": "No trial has ended yet."},
        },
        className="trials-grid",
        style={"height": "26rem"},
    )


def columns(points: Points) -> list[dict[str, Any]]:
    """Those of what is known of a target."""
    metric = points.view.metric
    listed: list[dict[str, Any]] = [
        {"field": "number", "headerName": "trial", "width": 84, "pinned": "left", **_narrow()},
        # Widths of their own: AG Grid now and then never shows columns whose width it has to share out (`flex`).
        {"field": "recipe", "headerName": "recipe", "width": 380, "tooltipField": "recipe"},
        {"field": "outcome", "headerName": "outcome", "width": 128},
        {"field": "front", "headerName": "front", "width": 92},
    ]
    for quantity, digits in SHOWN:
        if points.knows(quantity):
            head = f"{noun_of(quantity, metric)}, {_unit(points, quantity)}".rstrip(", ")
            text = {"function": f"params.value == null ? '' : d3.format('.{digits}~r')(params.value)"}
            if quantity in (ACCURACY, DROP):
                text = {"function": "params.value == null ? '' : d3.format('.2f')(params.value)"}
            if not metric.percent and quantity in (ACCURACY, DROP):
                text = {"function": "params.value == null ? '' : d3.format('.4~r')(params.value)"}
            listed.append({"field": quantity.name, "headerName": head, "valueFormatter": text, **_NUMBER})
    listed.append({"field": "reason", "headerName": "reason", "width": 320, "tooltipField": "reason"})
    return listed


def _narrow() -> dict[str, Any]:
    return {"filter": "agNumberColumnFilter", "type": "rightAligned"}


def _unit(points: Points, quantity: Quantity) -> str:
    """One unit for a whole column, so that it sorts and compares by eye."""
    if quantity is ACCURACY:
        return points.view.metric.unit.strip()
    if quantity is DROP:
        return "points" if points.view.metric.percent else ""
    return {LATENCY.name: "ms", THROUGHPUT.name: "rows/s"}.get(quantity.name, "MB")


def _factor(points: Points, quantity: Quantity) -> float:
    if quantity in (ACCURACY, DROP):
        return points.view.metric.factor
    return 1.0 if quantity in (LATENCY, THROUGHPUT) else 1e-6


def rows(points: Points) -> list[dict[str, Any]]:
    """One a trial, by number."""
    members = points.members(points.keeps(points.view.target.limits))
    found: list[dict[str, Any]] = [
        {
            "id": str(record.number),
            "number": record.number,
            "recipe": points.words[row],
            "outcome": record.outcome.value,
            "front": "yes" if members[row] and record.outcome is not Outcome.COMPILED else "",
            "reason": record.reason,
        }
        for row, record in enumerate(points.records)
    ]
    for quantity, _ in SHOWN:
        if points.knows(quantity):
            factor = _factor(points, quantity)
            values = points.column(quantity).value.tolist()
            for row, value in zip(found, values, strict=True):
                row[quantity.name] = None if math.isnan(value) else float(f"{value * factor:.6g}")
    return found


def csv_table(points: Points) -> Table:
    """The same for a file."""
    listed = columns(points)
    names = [column["field"] for column in listed]
    return Table(
        [column["headerName"] for column in listed], [[row.get(name) for name in names] for row in rows(points)]
    )
