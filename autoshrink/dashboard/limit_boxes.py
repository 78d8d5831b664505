"""The boxes in which a reader sets limits, and the sliders beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from autoshrink import units
from autoshrink.dashboard.points import Floats, Points
from autoshrink.dashboard.view import TargetView
from autoshrink.search.limits import Limit, relaxed
from autoshrink.target import Limits

_BARE = re.compile(r"\s*[0-9.]+\s*")
LEAST_DROP = 0.02
"""The slider of the drop reaches at least as far, in the metric's unit."""


@dataclass(frozen=True)
class Box:
    """A limit that can be set.

    Attributes:
        name: of the control, and in the address.
        field: of `Limits`.
        label: what is limited, as the page says it.
        parse: reads what was typed.
        logarithmic: whether its slider is.
    """

    name: str
    field: str
    label: str
    parse: Callable[[str], float]
    logarithmic: bool = True

    @property
    def at_least(self) -> bool:
        """Whether it is a least, not a most."""
        return Limit(self.field, 0.0).at_least


LATENCY_BOX = Box("max_latency", "latency_ms", "Latency at most", units.milliseconds)
THROUGHPUT_BOX = Box("min_throughput", "throughput", "Throughput at least", units.rate)
SIZE_BOX = Box("max_size", "size_bytes", "Size at most", units.size_bytes)
DROP_BOX = Box("max_drop", "drop", "Drop at most", units.share, logarithmic=False)
BOXES = (LATENCY_BOX, THROUGHPUT_BOX, SIZE_BOX, DROP_BOX)


@dataclass(frozen=True)
class Range:
    """What the slider of a box goes over, and how the box writes a value.

    Attributes:
        low: left end, in the unit of `Limits`.
        high: right end.
        logarithmic: whether equal steps are equal factors.
        at_least: whether the left end, not the right one, is no limit.
        own: the target's own limit, which holds while the box is empty; None is none.
        units: (factor, name): a value is written in the first unit whose factor it reaches; the last one is for all.
    """

    low: float
    high: float
    logarithmic: bool
    at_least: bool
    own: float | None
    units: tuple[tuple[float, str], ...]


def shown_boxes(view: TargetView) -> tuple[Box, ...]:
    """Those of what is known of a target: what goes first of latency and throughput, size, drop."""
    first = THROUGHPUT_BOX if view.shows_throughput else LATENCY_BOX
    return (*((first,) if view.is_timed else ()), SIZE_BOX, *((DROP_BOX,) if view.candidates else ()))


def asked_limits(texts: Mapping[str, str | None], percent: bool = True) -> tuple[Limits, dict[str, str]]:
    """What boxes say, and of each that cannot be read why.

    Args:
        texts: name of a box -> what stands in it; empty or None is no limit.
        percent: whether the metric is written in percent: a bare number in the box of the drop is then in points.
    """
    values: dict[str, float] = {}
    problems: dict[str, str] = {}
    for box in BOXES:
        text = (texts.get(box.name) or "").strip()
        if not text:
            continue
        try:
            value = box.parse(with_unit(text, box, percent))
            # Limits that nothing can keep are refused there.
            relaxed(Limits(), {Limit(box.field, 0.0): value})
            values[box.field] = value
        except ValueError as error:
            problems[box.name] = str(error)
    return relaxed(Limits(), {Limit(name, 0.0): value for name, value in values.items()}), problems


def with_unit(text: str, box: Box, percent: bool) -> str:
    """A bare number with the unit that the box means."""
    if not _BARE.fullmatch(text):
        return text
    unit = {LATENCY_BOX: "ms", SIZE_BOX: "MB", THROUGHPUT_BOX: "/s", DROP_BOX: "%" if percent else ""}[box]
    return f"{text.strip()}{unit}"


def box_text(box: Box, value: float) -> str:
    """A value as a box holds it."""
    return Limit(box.field, value).text(value)


def range_of(points: Points, box: Box) -> Range | None:
    """The range of a slider: all that trials reach; None where nothing is known."""
    view = points.view
    values = points.bound(box.field)
    if not len(values):
        return None
    own = getattr(view.target.limits, box.field)
    if box is DROP_BOX:
        low, high = 0.0, _drop_reach(points, values)
    else:
        low, high = _rounded(float(values.min()), math.floor), _rounded(float(values.max()), math.ceil)
    if own is not None:
        low, high = min(low, own), max(high, own)
    return Range(low, high, box.logarithmic, box.at_least, own, _written(box, view.metric.percent))


def _written(box: Box, percent: bool) -> tuple[tuple[float, str], ...]:
    if box is DROP_BOX:
        return ((0.01, "%"),) if percent else ((1.0, ""),)
    if box is SIZE_BOX:
        return (1e6, "MB"), (1e3, "kB"), (1.0, "B")
    return ((1.0, "ms" if box is LATENCY_BOX else "/s"),)


def _drop_reach(points: Points, drops: Floats) -> float:
    """The largest drop on the front: what lies beyond it buys nothing."""
    members = {member.number for member in points.view.members}
    of_front = [each.drop for each in points.view.candidates if each.number in members and math.isfinite(each.drop)]
    reach = max(of_front or [float(np.median(drops))])
    return _rounded(max(reach, LEAST_DROP), math.ceil)


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    """Two significant digits."""
    if value <= 0:
        return value
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return towards(value / step) * step


def scales(points: Points) -> dict[str, object]:
    """Name of a box -> its range as JSON, for the script that couples box and slider."""
    found = {box.name: range_of(points, box) for box in shown_boxes(points.view)}
    return {name: asdict(each) for name, each in found.items() if each is not None}
