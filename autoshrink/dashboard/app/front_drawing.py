"""The front as the page shows it: the figure that controls and limits ask for, and what is said beside it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import Patch

from autoshrink.dashboard.answer import Answer, answer_of
from autoshrink.dashboard.app import front_controls
from autoshrink.dashboard.app.page import Screen
from autoshrink.dashboard.app.place import Place
from autoshrink.dashboard.app.plots import palette_of
from autoshrink.dashboard.figure_json import Json
from autoshrink.dashboard.front_look import Axes, Look, Panel
from autoshrink.dashboard.front_plot import Change, front_plot, groups, limit_patch, news_patch
from autoshrink.dashboard.front_words import caption, replaced, summary, why_nothing
from autoshrink.dashboard.kept import Kept
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.dashboard.limit_boxes import asked_limits, shown_boxes
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.points import Points
from autoshrink.dashboard.view import TargetView
from autoshrink.target import Limits

EMPTY: Json = {"data": [], "layout": {}}
"""The figure of nothing."""


class Records:
    """What the page reads, computed once for each version of a study."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.points = Kept(Points, 12)
        self._answers: Kept[TargetView, dict[str, Answer]] = Kept(lambda _: {}, 12)
        # Several browsers may ask at once.
        self._lock = threading.Lock()

    def snapshot(self, where: Sequence[str]) -> Snapshot:
        """The study that an address names."""
        return self.library.snapshot(Place.of(*where).study)

    def answer(self, view: TargetView, asked: Limits) -> Answer:
        """The trial to ship under these limits."""
        known = self._answers.of(view)
        key = repr(asked)
        with self._lock:
            if key not in known:
                if len(known) > 64:
                    known.clear()
                known[key] = answer_of(view, asked)
            return known[key]


@dataclass(frozen=True)
class Wanted:
    """What the page's controls ask for.

    Attributes:
        target: that is looked at.
        beside: another one, or `front_controls.ALL`.
        looks: control of the figure's look -> its value.
        limits: box -> its text.
        trial: number of the selected trial.
        on: the target of that trial; the first one where it is empty.
    """

    target: str
    beside: str | None
    looks: Mapping[str, Any]
    limits: Mapping[str, str | None]
    trial: int | None
    on: str | None


@dataclass(frozen=True)
class Drawing:
    """What the page shows of it.

    Attributes:
        figure: as plotly's JSON; None where there is nothing to draw.
        key: of all it shows; of its trials and look; of the axes on which a zoom makes sense.
        caption: below it.
        nothing: stands in its place.
        height: that it needs at least, pixels.
        said: the figure in a sentence.
    """

    figure: Json | None
    key: tuple[str, str, str] | None
    caption: str
    nothing: str
    height: int
    said: str

    @property
    def frame(self) -> dict[str, str]:
        """Style of what is around the figure; plotly draws in nothing that is not displayed."""
        if self.figure is None:
            return {"visibility": "hidden", "minHeight": "0", "height": "0", "flex": "none"}
        return {"minHeight": f"{self.height}px"}

    def since(self, before: Sequence[str] | None) -> Any:
        """The figure, or what makes it of the one with the key `before`; None where there is nothing to do."""
        if self.key is None:
            return None if before is None else EMPTY
        if before is None or before[2] != self.key[2]:
            return self.figure
        if before[0] == self.key[0]:
            return None
        # Dash writes a reader's zoom into the figure, so that one sent anew would take it away.
        changes = limit_patch(self.figure or {}) if before[1] == self.key[1] else news_patch(self.figure or {})
        return _patch(changes)


def asked_of(view: TargetView, texts: Mapping[str, str | None]) -> tuple[Limits, dict[str, str]]:
    """The limits that boxes ask for, and what is wrong with which text."""
    shown = {box.name for box in shown_boxes(view)}
    return asked_limits({name: text for name, text in texts.items() if name in shown}, view.metric.percent)


def drawing(records: Records, snapshot: Snapshot, wanted: Wanted, screen: Screen) -> Drawing:
    """The front of the targets that are looked at, under the limits of a reader."""
    view = snapshot.views[wanted.target]
    names = front_controls.targets_of(wanted.target, wanted.beside, list(snapshot.views))
    asked, _ = asked_of(view, wanted.limits)
    panels = []
    for name in names:
        each = snapshot.views[name]
        answer = records.answer(each, asked)
        selected = wanted.trial if (wanted.on or names[0]) == name else None
        panels.append(Panel(records.points.of(each), answer.limits, answer.number, selected))
    look = front_controls.look_from(wanted.looks, view, panels[0].points, len(names) > 1, screen.narrow)
    palette = palette_of(screen.scheme)
    figure = front_plot(panels, look, palette, _colours(look, snapshot, records, palette))
    if figure is None:
        said = why_nothing(panels[0].points)
        return Drawing(None, None, "", said, 0, said)
    axes = Axes(look, panels)
    other = replaced(panels[0].points, [(axis, str(wanted.looks[axis])) for axis in ("x", "y", "area")], look)
    zoom = f"{figure['layout']['uirevision']} {look.colour} {screen.scheme}"
    trials = f"{snapshot.version} {look} {names}"
    # The page has room for a figure of this height or more.
    height = figure["layout"].pop("height")
    return Drawing(
        figure,
        (f"{zoom} {trials} {asked} {wanted.trial} {wanted.on}", f"{zoom} {trials}", zoom),
        " ".join([*other, caption(axes)]),
        "",
        height,
        summary(axes),
    )


def _patch(changes: Sequence[Change]) -> Patch:
    found = Patch()
    for path, value in changes:
        part = found
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value
    return found


def _colours(look: Look, snapshot: Snapshot, records: Records, palette: Palette) -> dict[str, str]:
    """The colour of each group, the same for all targets of a study; the baseline has none of its own."""
    series = palette.series
    if look.colour == "outcome":
        return {
            "complete": series[0], "compiled": series[2], "infeasible": palette.limit, "stopped": palette.muted,
        }  # fmt: skip
    names = groups([records.points.of(view) for view in snapshot.views.values()], look)
    return {name: series[place % len(series)] for place, name in enumerate(names)}
