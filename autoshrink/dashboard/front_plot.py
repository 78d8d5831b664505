"""The front as a figure: what a trial is worth over what it costs, for one target or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from autoshrink.dashboard.figures import lay_out
from autoshrink.dashboard.front_look import Axes, Look, Panel
from autoshrink.dashboard.front_solid import solid_figure
from autoshrink.dashboard.front_traces import FIELD, PanelTraces, target_keys
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.points import Floats, Points
from autoshrink.dashboard.quantities import ACCURACY, DROP, Quantity
from autoshrink.types import Outcome

HEIGHT = 460
GAP = 0.07
"""Between panels, a share of the figure."""
TICKS = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]


def front_plot(panels: Sequence[Panel], look: Look, palette: Palette, colours: Mapping[str, str]) -> go.Figure | None:
    """Measured trials, front and limits of some targets; None when nothing has coordinates, or no baseline has.

    The line steps along the members of the front that no other beats on the two axes. Trials that are dominated are
    faint, those that do not keep the limits by their confidence bounds hollow. Of trials far below the front there is
    only a count.

    Args:
        panels: the targets, the first of them the one that is looked at.
        look: what on which axis.
        palette: of the page.
        colours: group of trials (see `groups`) -> colour.
    """
    if not panels:
        return None
    axes = Axes(look, panels)
    baseline = panels[0].points.baseline
    if baseline is None or not axes.drawn(panels[0])[baseline]:
        return None
    if sum(int(axes.drawn(panel).sum()) for panel in panels) < 2:
        return None
    if look.solid:
        return solid_figure(axes, palette, colours)
    figure = go.Figure()
    drawers = [PanelTraces(axes, panel, place, palette, colours) for place, panel in enumerate(panels)]
    for drawer in drawers:
        figure.add_traces(list(drawer.all()))
    if len(panels) > 1 and look.apart == "overlay":
        figure.add_traces(list(target_keys(panels, palette)))
    lay_out(figure, palette, HEIGHT)
    _draw_axes(figure, axes, drawers)
    figure.update_layout(
        shapes=limit_lines(drawers), annotations=notes(figure, drawers), uirevision=revision(look, panels)
    )
    return figure


def limit_patch(figure: go.Figure) -> list[tuple[tuple[Any, ...], Any]]:
    """(Path, value) of what limits and a selection change in a figure that shows the same trials on the same axes.

    Of the many trials only how they are drawn: neither their places nor what is said of them.
    """
    changes: list[tuple[tuple[Any, ...], Any]] = []
    for place, trace in enumerate(figure.data):
        if trace.meta == FIELD:
            changes += [
                (("data", place, "marker", "symbol"), trace.marker.symbol),
                (("data", place, "marker", "opacity"), trace.marker.opacity),
                (("data", place, "showlegend"), trace.showlegend),
            ]
        else:
            changes.append((("data", place), trace))
    for name in ("shapes", "annotations"):
        changes.append((("layout", name), [each.to_plotly_json() for each in figure.layout[name]]))
    return changes


def groups(points: Sequence[Points], look: Look) -> list[str]:
    """What colours tell apart: the families of the recipes that were scored, or the outcomes, each sorted."""
    if look.colour == "outcome":
        return [outcome.value for outcome in Outcome]
    return sorted({str(name) for each in points for name in np.unique(each.families)})


def revision(look: Look, panels: Sequence[Panel]) -> str:
    """Changes when a zoom makes no sense any more: with the axes, never with news."""
    axes = [look.x.name, look.y.name, look.x_scale, look.y_scale, look.relative, look.solid, look.apart]
    return " ".join(map(str, [*axes, *(panel.name for panel in panels)]))


def _draw_axes(figure: go.Figure, axes: Axes, drawers: Sequence[PanelTraces]) -> None:
    look = axes.look
    x_range, y_range = (reach(axes, drawers, quantity) for quantity in (look.x, look.y))
    count = len({drawer.subplot for drawer in drawers})
    share = (1 - GAP * (count - 1)) / count
    for place in range(count):
        suffix = "" if place == 0 else str(place + 1)
        start = place * (share + GAP)
        across: dict[str, Any] = _axis(axes, look.x, look.x_scale, x_range)
        up: dict[str, Any] = _axis(axes, look.y, look.y_scale, y_range)
        if count > 1 and look.apart == "columns":
            across |= {"domain": [start, start + share], "anchor": f"y{suffix}"}
            up |= {"anchor": f"x{suffix}"}
            up["title_text"] = up["title_text"] if place == 0 else None
        elif count > 1:
            top = 1 - start
            up |= {"domain": [max(top - share, 0.0), top], "anchor": f"x{suffix}"}
            across |= {"anchor": f"y{suffix}"}
            across["title_text"] = across["title_text"] if place == count - 1 else None
        if place:
            across["matches"], up["matches"] = "x", "y"
        template = {"xaxis": figure.layout.xaxis.to_plotly_json(), "yaxis": figure.layout.yaxis.to_plotly_json()}
        figure.update_layout({f"xaxis{suffix}": template["xaxis"], f"yaxis{suffix}": template["yaxis"]})
        figure.update_layout({f"xaxis{suffix}": across, f"yaxis{suffix}": up})
    if count > 1 and look.apart == "rows":
        figure.update_layout(height=int(0.8 * HEIGHT * count))


def _axis(axes: Axes, quantity: Quantity, scale: Any, span: tuple[float, float]) -> dict[str, Any]:
    found: dict[str, Any] = {"title_text": escape(axes.title(quantity), quote=False), "range": list(span)}
    if axes.is_log(quantity, scale):
        found |= {"type": "log", "tickvals": TICKS, "ticktext": [f"{tick:,g}" for tick in TICKS]}
    return found


def reach(axes: Axes, drawers: Sequence[PanelTraces], quantity: Quantity) -> tuple[float, float]:
    """The ends of an axis, as plotly wants them.

    That of a metric holds the front and the baselines with their intervals, and as much on the worse side of them as
    those are high; that of a cost holds everything.
    """
    look = axes.look
    scale = look.x_scale if quantity is look.x else look.y_scale
    columns = [(axes.column(drawer.panel, quantity), drawer) for drawer in drawers]
    all_values = np.concatenate([column.value[drawer.drawn] for column, drawer in columns])
    if axes.is_log(quantity, scale):
        low, high = float(all_values.min()), float(all_values.max())
        return float(np.log10(low * 0.75)), float(np.log10(high * 1.25))
    if quantity not in (ACCURACY, DROP):
        low, high = min(0.0, float(all_values.min())), float(all_values.max())
        return low, high + 0.06 * ((high - low) or 1.0)
    low, high, inside = focus(columns, all_values, quantity.lower_is_better)
    margin = 0.06 * ((high - low) or 1.0)
    return min(low, float(inside.min())) - margin, max(high, float(inside.max())) + margin


def focus(
    columns: Sequence[tuple[Any, PanelTraces]], all_values: Floats, lower_is_better: bool
) -> tuple[float, float, Floats]:
    """Low and high end of the front and the baselines with their intervals, and the values that are not far worse."""
    lows, highs = [], []
    for column, drawer in columns:
        rows = drawer.members | drawer.special
        rows = rows & drawer.drawn
        lows.append(column.low[rows])
        highs.append(column.high[rows])
    low, high = float(np.nanmin(np.concatenate(lows))), float(np.nanmax(np.concatenate(highs)))
    far = (high - low) or 1.0
    near = all_values <= high + far if lower_is_better else all_values >= low - far
    return low, high, all_values[near]


def limit_lines(drawers: Sequence[PanelTraces]) -> list[dict[str, Any]]:
    """The limits as dashed lines."""
    shapes = []
    for drawer in drawers:
        line = {"dash": "dash", "color": drawer.palette.limit, "width": 1.4}
        x, y = f"x{drawer.subplot}", f"y{drawer.subplot}"
        look = drawer.axes.look
        across, up = drawer.axes.limit(drawer.panel, look.x), drawer.axes.limit(drawer.panel, look.y)
        if across is not None:
            at = across[0]
            shapes.append(
                {"type": "line", "line": line, "xref": x, "yref": f"{y} domain", "x0": at, "x1": at, "y0": 0, "y1": 1}
            )
        if up is not None:
            at = up[0]
            shapes.append(
                {"type": "line", "line": line, "xref": f"{x} domain", "yref": y, "x0": 0, "x1": 1, "y0": at, "y1": at}
            )
    return shapes


def notes(figure: go.Figure, drawers: Sequence[PanelTraces]) -> list[dict[str, Any]]:
    """What is written into the figure: limits, the pick, the selected trial, how many trials are far below."""
    found: list[dict[str, Any]] = []
    for drawer in drawers:
        if len(drawers) > 1 and drawer.axes.look.apart != "overlay":
            found.append(_corner(drawer, f"<b>{escape(drawer.panel.name)}</b>", "left", "top", drawer.palette.ink))
        found += _limit_notes(figure, drawer)
        found += _out_of_sight(figure, drawer)
        selected = drawer.panel.selected
        if drawer.panel.chosen is not None:
            text = "pick" if selected != drawer.panel.chosen else "pick, selected"
            found += _pointer(figure, drawer, drawer.panel.chosen, text, left=True)
        if selected is not None and selected != drawer.panel.chosen:
            found += _pointer(figure, drawer, selected, f"trial {selected}", left=False)
    return found


def _is_log(figure: go.Figure, axis: str) -> bool:
    return bool(figure.layout[axis].type == "log")


def _limit_notes(figure: go.Figure, drawer: PanelTraces) -> list[dict[str, Any]]:
    label = {"showarrow": False, "font": {"color": drawer.palette.limit, "size": 12}}
    x, y = f"x{drawer.subplot}", f"y{drawer.subplot}"
    look = drawer.axes.look
    across, up = drawer.axes.limit(drawer.panel, look.x), drawer.axes.limit(drawer.panel, look.y)
    found: list[dict[str, Any]] = []
    # Plotly takes logarithms for the places of annotations on a logarithmic axis.
    if across is not None:
        at, text = across
        place = float(np.log10(at)) if _is_log(figure, "xaxis") else at
        found.append(
            {"x": place, "xref": x, "y": 0, "yref": f"{y} domain", "yanchor": "bottom", "xanchor": "left",
             "textangle": -90, "text": f"limit {text}", **label}
        )  # fmt: skip
    if up is not None:
        at, text = up
        place = float(np.log10(at)) if _is_log(figure, "yaxis") else at
        found.append(
            {"x": 1, "xref": f"{x} domain", "y": place, "yref": y, "xanchor": "right", "yanchor": "bottom",
             "text": f"limit {text}", **label}
        )  # fmt: skip
    return found


def _out_of_sight(figure: go.Figure, drawer: PanelTraces) -> list[dict[str, Any]]:
    look = drawer.axes.look
    if look.y not in (ACCURACY, DROP):
        return []
    low, high = figure.layout.yaxis.range
    values = drawer.y.value[drawer.drawn & ~drawer.unfinished]
    count = int(((values < low) | (values > high)).sum())
    if not count:
        return []
    side = "above" if look.y.lower_is_better else "below"
    text = f"{count} trial{'s' if count > 1 else ''} {side}"
    return [_corner(drawer, text, "right", "top" if look.y.lower_is_better else "bottom", drawer.palette.muted)]


def _corner(drawer: PanelTraces, text: str, across: str, up: str, colour: str) -> dict[str, Any]:
    return {
        "text": text,
        "showarrow": False,
        "xref": f"x{drawer.subplot} domain",
        "yref": f"y{drawer.subplot} domain",
        "x": 1 if across == "right" else 0,
        "y": 1 if up == "top" else 0,
        "xanchor": across,
        "yanchor": up,
        "font": {"color": colour, "size": 12},
    }


def _pointer(figure: go.Figure, drawer: PanelTraces, number: int, text: str, left: bool) -> list[dict[str, Any]]:
    row = drawer.points.row(number)
    if row is None or not drawer.drawn[row]:
        return []
    x, y = float(drawer.x.value[row]), float(drawer.y.value[row])
    return [
        {
            "x": float(np.log10(x)) if _is_log(figure, "xaxis") else x,
            "y": float(np.log10(y)) if _is_log(figure, "yaxis") else y,
            "xref": f"x{drawer.subplot}",
            "yref": f"y{drawer.subplot}",
            "text": text,
            # Nothing lies up and to the left of a trial on the front.
            "ax": -38 if left else 40,
            "ay": -46 if left else 44,
            "arrowhead": 2,
            "arrowwidth": 1.2,
            "arrowcolor": drawer.palette.ink,
            "standoff": 12,
            "font": {"color": drawer.palette.ink, "size": 12.5},
        }
    ]
