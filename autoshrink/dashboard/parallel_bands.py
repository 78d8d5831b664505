"""Restricting the lines of parallel coordinates: each axis can be held to one of its bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoshrink.dashboard.parallel import Axis

MOST_VALUES = 8
"""Values of an axis that are bands of their own; of more there are quarters and halves."""


@dataclass(frozen=True)
class Band:
    """A part of an axis: its name in the address, how it is called, and the lines in it, by index."""

    name: str
    text: str
    members: frozenset[int]


def bands(axis: Axis) -> list[Band]:
    """From the foot of the axis to its top: its values where there are few, else quarters and halves of the lines."""
    known = {index: place for index, place in enumerate(axis.places) if place is not None}
    distinct = sorted(set(known.values()))
    if len(distinct) <= MOST_VALUES:
        return [
            Band(axis.text_at(at), axis.text_at(at), frozenset(index for index, place in known.items() if place == at))
            for at in distinct
        ]
    low, middle, high = (float(value) for value in np.quantile(list(known.values()), (0.25, 0.5, 0.75)))
    parts = (
        ("lowest-quarter", f"lowest quarter, to {axis.text_at(low)}", 0.0, low),
        ("lower-half", f"lower half, to {axis.text_at(middle)}", 0.0, middle),
        ("upper-half", f"upper half, from {axis.text_at(middle)}", middle, 1.0),
        ("highest-quarter", f"highest quarter, from {axis.text_at(high)}", high, 1.0),
    )
    return [
        Band(name, text, frozenset(index for index, place in known.items() if begin <= place <= end))
        for name, text, begin, end in parts
    ]


def kept(axes: Sequence[Axis], asked: Mapping[str, str]) -> frozenset[int]:
    """The lines within the band that is asked of each axis; what there is no such axis or band of restricts nothing.

    Args:
        axes: of the lines.
        asked: title of an axis -> name of a band.
    """
    lines = frozenset(range(len(axes[0].places))) if axes else frozenset()
    for axis in axes:
        for band in bands(axis) if asked.get(axis.title) else ():
            if band.name == asked[axis.title]:
                lines &= band.members
    return lines
