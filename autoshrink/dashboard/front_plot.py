"""The front as a figure: what a trial is worth over what it costs, for one target or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from autoshrink.dashboard.figure_json import Json
from autoshrink.dashboard.figures import BASELINE
from autoshrink.dashboard.front_look import Axes, Look, Panel, base_layout, log_ticks
from autoshrink.dashboard.front_solid import solid_figure
from autoshrink.dashboard.front_traces import FIELD, PAINTED, PanelTraces, target_keys
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.points import Points
from autoshrink.dashboard.quantities import ACCURACY, DROP, Quantity
from autoshrink.types import Outcome

HEIGHT = 460
GAP = 0.07
"""Between panels, a share of the figure."""
ROOM = 0.03
"""Beyond the largest of many trials, a share of it."""


def front_plot(panels: Sequence[Panel], look: Look, palette: Palette, colours: Mapping[str, str]) -> Json | None:
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
    # A target of which nothing is known on these axes gets no empty panel; what is said beside the figure tells of it.
    panels = [panel for panel in panels if axes.drawn(panel).any()]
    if sum(int(axes.drawn(panel).sum()) for panel in panels) < 2:
        return None
    axes = Axes(look, panels)
    if look.solid:
        return solid_figure(axes, palette, colours)
    drawers = [PanelTraces(axes, panel, place, palette, colours) for place, panel in enumerate(panels)]
    data = [trace for drawer in drawers for trace in drawer.all()]
    if len(panels) > 1 and look.apart == "overlay":
        data += target_keys(panels, palette)
    layout = _layout(axes, drawers, palette)
    layout |= {
        "shapes": limit_lines(drawers),
        "annotations": notes(layout, drawers),
        "uirevision": revision(axes),
    }
    return {"data": data, "layout": layout}


Change = tuple[tuple[Any, ...], Any]
"""Path in a figure's JSON, and what stands there now."""


def limit_patch(figure: Json) -> list[Change]:
    """What limits and a selection change in a figure that shows the same trials on the same axes.

    Of the many trials only how they are drawn: neither their places nor what is said of them.
    """
    changes: list[Change] = []
    for place, trace in enumerate(figure["data"]):
        meta = trace.get("meta", {})
        if PAINTED in meta:
            changes.append((("data", place, "meta", PAINTED, "keeps"), meta[PAINTED]["keeps"]))
        elif FIELD in meta:
            changes += [(("data", place, "marker", name), trace["marker"][name]) for name in ("symbol", "opacity")]
        else:
            changes.append((("data", place), trace))
    return changes + _annotated(figure)


def news_patch(figure: Json) -> list[Change]:
    """What further trials change in a figure on the same axes; never what a reader moves: ranges and the camera."""
    layout = figure["layout"]
    changes: list[Change] = [(("data",), figure["data"]), *_annotated(figure)]
    for axis in layout:
        if axis.startswith(("xaxis", "yaxis")):
            kept = ("title", "autorangeoptions")
            changes += [(("layout", axis, name), layout[axis][name]) for name in kept if name in layout[axis]]
    return changes


def _annotated(figure: Json) -> list[Change]:
    layout = figure["layout"]
    return [(("layout", name), layout[name]) for name in ("shapes", "annotations") if name in layout]


def groups(points: Sequence[Points], look: Look) -> list[str]:
    """What colours tell apart: the families of the recipes that were scored, or the outcomes, each sorted."""
    if look.colour == "outcome":
        return [outcome.value for outcome in Outcome]
    found: set[str] = set()
    for each in points:
        found.update(np.unique(each.families[each.column(ACCURACY).known]).tolist())
    return sorted(found - {BASELINE})


def revision(axes: Axes) -> str:
    """Changes when a zoom makes no sense any more: with the axes, never with news."""
    look = axes.look
    scales = [axes.is_log(quantity, scale) for quantity, scale in ((look.x, look.x_scale), (look.y, look.y_scale))]
    chosen = [look.x.name, look.y.name, *scales, look.relative, look.solid, look.apart]
    return " ".join(map(str, [*chosen, *(panel.name for panel in axes.panels)]))


def _layout(axes: Axes, drawers: Sequence[PanelTraces], palette: Palette) -> Json:
    look = axes.look
    layout = base_layout(palette, HEIGHT)
    plain_x, plain_y = layout.pop("xaxis"), layout.pop("yaxis")
    count = len({drawer.subplot for drawer in drawers})
    share = (1 - GAP * (count - 1)) / count
    for place in range(count):
        suffix = "" if place == 0 else str(place + 1)
        start = place * (share + GAP)
        across = plain_x | _axis(axes, drawers, look.x, look.x_scale) | {"anchor": f"y{suffix}"}
        up = plain_y | _axis(axes, drawers, look.y, look.y_scale) | {"anchor": f"x{suffix}"}
        if count > 1 and look.apart == "columns":
            across["domain"] = [start, start + share]
            up["title"] = plain_y["title"] | {"text": _title(up) if place == 0 else ""}
        elif count > 1:
            up["domain"] = [max(1 - start - share, 0.0), 1 - start]
            across["title"] = plain_x["title"] | {"text": _title(across) if place == count - 1 else ""}
        if place:
            across["matches"], up["matches"] = "x", "y"
        across["title"] = plain_x["title"] | across["title"]
        up["title"] = plain_y["title"] | up["title"]
        layout |= {f"xaxis{suffix}": across, f"yaxis{suffix}": up}
    if count > 1 and look.apart == "rows":
        layout["height"] = int(0.8 * HEIGHT * count)
    return layout


def _title(axis: Json) -> str:
    return str(axis["title"]["text"])


def _axis(axes: Axes, drawers: Sequence[PanelTraces], quantity: Quantity, scale: Any) -> Json:
    # No range of its own: plotly keeps a reader's zoom over news only while the figure asks for the same range.
    found: Json = {"title": {"text": escape(axes.title(quantity), quote=False)}, "type": "linear", "autorange": True}
    if axes.is_log(quantity, scale):
        found |= log_ticks()
    elif quantity in (ACCURACY, DROP):
        far = focus(axes, drawers, quantity)
        found["autorangeoptions"] = {"clipmax" if quantity.lower_is_better else "clipmin": far}
    else:
        found["rangemode"] = "tozero"
    if any(drawer.many for drawer in drawers) and quantity not in (ACCURACY, DROP):
        # Plotly leaves no room beside markers that it does not draw.
        found["autorangeoptions"] = {"include": [(1 + ROOM) * float(axes.values(quantity).max())]}
    return found


def focus(axes: Axes, drawers: Sequence[PanelTraces], quantity: Quantity) -> float:
    """The end of the axis of a metric on its worse side.

    It holds the front and the baselines with their intervals, and trials that are worse by as much as those are apart.
    """
    columns = [(axes.column(drawer.panel, quantity), drawer) for drawer in drawers]
    rows = [(drawer.members | drawer.special) & drawer.drawn for drawer in drawers]
    low = min(float(np.nanmin(column.low[of])) for (column, _), of in zip(columns, rows, strict=True) if of.any())
    high = max(float(np.nanmax(column.high[of])) for (column, _), of in zip(columns, rows, strict=True) if of.any())
    apart = (high - low) or 1.0
    values = np.concatenate([column.value[drawer.drawn] for column, drawer in columns])
    if quantity.lower_is_better:
        return max(high, float(values[values <= high + apart].max())) + 0.06 * apart
    return min(low, float(values[values >= low - apart].min())) - 0.06 * apart


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


def notes(layout: Json, drawers: Sequence[PanelTraces]) -> list[dict[str, Any]]:
    """What is written into the figure: limits, the pick, the selected trial, how many trials are far below."""
    found: list[dict[str, Any]] = []
    for drawer in drawers:
        if len(drawers) > 1 and drawer.axes.look.apart != "overlay":
            found.append(_corner(drawer, f"<b>{escape(drawer.panel.name)}</b>", "left", "top", drawer.palette.ink))
        found += _limit_notes(layout, drawer)
        found += _out_of_sight(layout, drawer)
        selected = drawer.panel.selected
        if drawer.panel.chosen is not None:
            text = "pick" if selected != drawer.panel.chosen else "pick, selected"
            found += _pointer(layout, drawer, drawer.panel.chosen, text, left=True)
        if selected is not None and selected != drawer.panel.chosen:
            found += _pointer(layout, drawer, selected, f"trial {selected}", left=False)
    return found


def _is_log(layout: Json, axis: str) -> bool:
    return bool(layout[axis].get("type") == "log")


def _limit_notes(layout: Json, drawer: PanelTraces) -> list[dict[str, Any]]:
    label = {"showarrow": False, "font": {"color": drawer.palette.limit, "size": 12}}
    x, y = f"x{drawer.subplot}", f"y{drawer.subplot}"
    look = drawer.axes.look
    across, up = drawer.axes.limit(drawer.panel, look.x), drawer.axes.limit(drawer.panel, look.y)
    found: list[dict[str, Any]] = []
    # Plotly takes logarithms for the places of annotations on a logarithmic axis.
    if across is not None:
        at, text = across
        place = float(np.log10(at)) if _is_log(layout, "xaxis") else at
        found.append(
            {"x": place, "xref": x, "y": 0, "yref": f"{y} domain", "yanchor": "bottom", "xanchor": "left",
             "textangle": -90, "text": f"limit {text}", **label}
        )  # fmt: skip
    if up is not None:
        at, text = up
        place = float(np.log10(at)) if _is_log(layout, "yaxis") else at
        found.append(
            {"x": 1, "xref": f"{x} domain", "y": place, "yref": y, "xanchor": "right", "yanchor": "bottom",
             "text": f"limit {text}", **label}
        )  # fmt: skip
    return found


def _out_of_sight(layout: Json, drawer: PanelTraces) -> list[dict[str, Any]]:
    look = drawer.axes.look
    if look.y not in (ACCURACY, DROP):
        return []
    end = layout["yaxis"]["autorangeoptions"]
    values = drawer.y.value[drawer.drawn & ~drawer.unfinished]
    count = int(((values < end.get("clipmin", -np.inf)) | (values > end.get("clipmax", np.inf))).sum())
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


def _pointer(layout: Json, drawer: PanelTraces, number: int, text: str, left: bool) -> list[dict[str, Any]]:
    row = drawer.points.row(number)
    if row is None or not drawer.drawn[row]:
        return []
    x, y = float(drawer.x.value[row]), float(drawer.y.value[row])
    return [
        {
            "x": float(np.log10(x)) if _is_log(layout, "xaxis") else x,
            "y": float(np.log10(y)) if _is_log(layout, "yaxis") else y,
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
