"""Colours of the report's figures, for a light and a dark page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Palette:
    """Colours of one page.

    Attributes:
        ink: text and the baseline.
        muted: axis text and what is not on the front.
        grid: grid lines.
        surface: what the figure stands on; rings of markers.
        limit: lines of limits, and trials over them.
        series: told apart also by colour-blind readers (after Okabe and Ito 2008), each at 3 : 1 or more to `surface`.
    """

    ink: str
    muted: str
    grid: str
    surface: str
    limit: str
    series: tuple[str, ...]

    def colours(self, names: Sequence[str]) -> dict[str, str]:
        """A colour for each name, in their order; they repeat after the last."""
        return {name: self.series[i % len(self.series)] for i, name in enumerate(names)}


LIGHT = Palette(
    ink="#1b2430",
    muted="#5c6773",
    grid="#e6e9ee",
    surface="#ffffff",
    limit="#b3261e",
    series=("#0072b2", "#c2570c", "#00805f", "#a8447f", "#8a6d00", "#4b5fc4", "#5b6b2f", "#7a4b2e"),
)
DARK = Palette(
    ink="#e8ecf1",
    muted="#9aa5b3",
    grid="#2c3440",
    surface="#171c23",
    limit="#ff8a80",
    series=("#56b4e9", "#f0a04b", "#3ecf9f", "#e58fc0", "#e3c84a", "#9aa8ff", "#b5c77a", "#d0a183"),
)


def recoloured(text: str, old: Palette, new: Palette) -> str:
    """`text`, such as a figure's JSON, with each colour of one palette in the place of the other's."""
    colours = counterparts(old, new)
    return re.sub("|".join(map(re.escape, colours)), lambda found: colours[found[0]], text)


def counterparts(old: Palette, new: Palette) -> dict[str, str]:
    """Each colour of one palette -> the other's in its place."""
    return dict(zip(_flat(old), _flat(new), strict=True))


def _flat(palette: Palette) -> list[str]:
    *single, series = astuple(palette)
    return [*single, *series]
