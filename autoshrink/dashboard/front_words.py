"""What is said beside a front: how to read it, what is not in it and why, and all of it in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.front_look import Axes, Look, Panel
from autoshrink.dashboard.front_traces import UNFINISHED
from autoshrink.dashboard.points import Points
from autoshrink.dashboard.quantities import ACCURACY, QUANTITIES, noun_of
from autoshrink.types import Outcome


def why_nothing(points: Points) -> str:
    """Why a target has no front to be drawn; empty where the reason is not known."""
    view = points.view
    if not len(points):
        return "No trial has ended yet. The first one is the baseline; it appears here by itself."
    baseline = view.baseline
    if baseline is None:
        return "The baseline is missing among the records. Without it there is nothing to compare with."
    if view.was_compiled and not points.knows(ACCURACY):
        why = view.why_not_measured or "compiled, not measured"
        return f"{why[:1].upper()}{why[1:]}. Sizes are in the table below."
    if baseline.outcome not in (Outcome.COMPLETE, Outcome.INFEASIBLE, Outcome.COMPILED):
        why = f": {baseline.reason}" if baseline.reason else ""
        return f"The baseline was not measured{why}. Without it there is nothing to compare with."
    if len(points) == 1:
        return "Only the baseline has ended so far. The front begins with the next trial."
    return "No trial but the baseline was measured. The table below says why of each."


def caption(axes: Axes) -> str:
    """How to read the figure, and what is not in it."""
    look, metric = axes.look, axes.metric
    up = "Down" if look.y.lower_is_better else "Up"
    side = "left" if look.x.lower_is_better else "right"
    area = noun_of(look.area, metric)
    parts = [
        f"{area[:1].upper()}{area[1:]} is the depth."
        if look.solid
        else f"{up} and to the {side} is better. Markers grow with the {area}; bars are 95 % intervals.",
        "Faint: dominated. Hollow: over a limit by its confidence bound.",
    ]
    if not look.solid:
        parts.append("The line joins what no other trial beats on these two axes.")
    return " ".join([*parts, *left_out(axes)])


def left_out(axes: Axes) -> list[str]:
    """How many trials are not in the figure, by how they ended."""
    found = []
    for panel in axes.panels:
        drawn = axes.drawn(panel)
        counts = []
        for outcome in Outcome:
            hidden = panel.points.outcomes == outcome.value
            if axes.look.unfinished or outcome not in UNFINISHED:
                hidden = hidden & ~drawn
            if hidden.any():
                counts.append(f"{int(hidden.sum())} {outcome.value}")
        if counts:
            found.append(f"{f'{panel.name} ' if len(axes.panels) > 1 else ''}{', '.join(counts)}")
    return [f"Not drawn: {'; '.join(found)}."] if found else []


def summary(axes: Axes) -> str:
    """The figure in a sentence, for those who hear the page."""
    look, metric = axes.look, axes.metric
    parts = [f"{noun_of(look.y, metric)} over {noun_of(look.x, metric)}"]
    for panel in axes.panels:
        points = panel.points
        members = points.members(points.keeps(panel.limits)) & axes.drawn(panel)
        said = f"{panel.name}: {counted(int(axes.drawn(panel).sum()), 'trial')}, {int(members.sum())} on the front"
        if panel.chosen is not None:
            row = points.row(panel.chosen)
            said += f", the pick is trial {panel.chosen}" + (f", {points.words[row]}" if row is not None else "")
        parts.append(said)
    return ". ".join(parts)


def replaced(points: Points, asked: Sequence[tuple[str, str]], look: Look) -> list[str]:
    """What was asked for and is not known of a target, and what is shown instead.

    Args:
        points: of the target.
        asked: (`x`, `y` or `area`, name of the quantity).
        look: what is shown.
    """
    found = []
    for axis, name in asked:
        quantity = QUANTITIES.get(name)
        if quantity is not None and not points.knows(quantity):
            shown = getattr(look, axis)
            noun = noun_of(quantity, points.view.metric)
            found.append(f"{noun[:1].upper()}{noun[1:]} was not measured on {points.view.name}: {shown.noun} is shown.")
    return found


def kept_count(panel: Panel) -> str:
    """How many trials keep the limits: `12 of 40 trials keep these limits`."""
    keeps = panel.points.keeps(panel.limits)
    whole = int(np.count_nonzero(panel.points.keeps(type(panel.limits)())))
    return f"{int(keeps.sum())} of {counted(whole, 'trial')} keep{'s' if int(keeps.sum()) == 1 else ''} these limits"
