"""The front drawn in characters: accuracy over latency, or over size where nothing was timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.view import TargetView
from autoshrink.search.words import human_bytes, human_ms
from autoshrink.types import Outcome, TrialRecord

WIDTH, HEIGHT = 80, 16
"""Columns in all, and rows of the area itself, where nobody says otherwise."""
LEAST_WIDTH, WIDEST = 48, 110
"""Columns that a picture takes at least, and at most."""
LOGARITHMIC = 8.0
"""The largest over the smallest from which the axis is logarithmic."""
BASELINE, MEMBER, PICK, OTHER, OVER = "B", "o", "X", ".", "x"
MEANINGS = {
    PICK: "what `pick` ships",
    BASELINE: "baseline",
    MEMBER: "front",
    OTHER: "dominated",
    OVER: "over a limit",
}
"""In the order in which they are drawn over each other, the first on top; without colour they are told apart."""
COLOURS = {PICK: "bold green", BASELINE: "bold", MEMBER: "cyan", OTHER: "dim", OVER: "yellow"}
TICKS_X, TICKS_Y = 5, 4
TICK_COLUMNS = 12
"""Columns that a mark of the axis below needs for its label."""


@dataclass(frozen=True)
class Picture:
    """Lines of characters, and (line, column) -> the mark that stands there."""

    lines: tuple[str, ...]
    marks: dict[tuple[int, int], str]


def front_picture(view: TargetView, width: int = WIDTH, height: int = HEIGHT) -> Picture | None:
    """The front of a target in `width` columns; None when fewer than two trials were measured.

    The line of dashes joins the trials that no other beats in the two that are drawn. Marks that fall on one place show
    the one that matters most.
    """
    points = _points(view)
    if len(points) < 2:
        return None
    return _Drawing(view, points, max(width, LEAST_WIDTH), height).picture()


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    mark: str
    record: TrialRecord


def _points(view: TargetView) -> list[_Point]:
    chosen = headline(view).chosen
    members = {record.number for record in view.members}
    found = []
    for record in view.records:
        x = _across(record, view)
        if x is None or record.val is None:
            continue
        mark = OVER if record.outcome is Outcome.INFEASIBLE else OTHER
        if record.number in members:
            mark = MEMBER
        if record is view.baseline:
            mark = BASELINE
        if chosen is not None and record.number == chosen.number:
            mark = PICK
        found.append(_Point(x, record.val.value * view.metric.factor, mark, record))
    return found


def _across(record: TrialRecord, view: TargetView) -> float | None:
    """Milliseconds, or bytes where nothing was timed."""
    if view.is_timed:
        return record.latency.ms if record.latency else None
    return float(record.artifact.size_bytes) if record.artifact else None


class _Drawing:
    """One picture: axes with marks at even places, the staircase of the front, then the points."""

    def __init__(self, view: TargetView, points: Sequence[_Point], width: int, height: int) -> None:
        self._view, self._points, self._height = view, points, height
        low, high = min(point.x for point in points), max(point.x for point in points)
        self._logarithmic = low > 0 and high >= LOGARITHMIC * low
        self._x = self._scale(low, high, self._logarithmic)
        self._y = self._scale(*_inner([point.y for point in points]), False)
        self._labels = [
            view.metric.number(value / view.metric.factor) for value in self._ticks(self._y, TICKS_Y, False)
        ]
        self._left = max(map(len, self._labels)) + 2
        self._wide = width - self._left - 1
        self._cells = [[" "] * self._wide for _ in range(height)]
        self._marks: dict[tuple[int, int], str] = {}

    @staticmethod
    def _scale(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
        """The ends of an axis with a little room, in logarithms on a logarithmic one."""
        low, high = (math.log(low), math.log(high)) if logarithmic else (low, high)
        room = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
        return low - room, high + room

    def _column(self, x: float) -> int:
        low, high = self._x
        return round((self._wide - 1) * ((math.log(x) if self._logarithmic else x) - low) / (high - low))

    def _row(self, y: float) -> int:
        low, high = self._y
        return min(self._height - 1, round((self._height - 1) * (high - y) / (high - low)))

    @staticmethod
    def _ticks(ends: tuple[float, float], count: int, logarithmic: bool) -> list[float]:
        places = np.linspace(*ends, count)
        return [math.exp(place) if logarithmic else float(place) for place in places]

    def picture(self) -> Picture:
        self._draw_line()
        for mark in reversed(MEANINGS):
            for point in self._points:
                if point.mark == mark:
                    row, column = self._row(point.y), self._column(point.x)
                    self._cells[row][column] = mark
                    self._marks[row, column] = mark
        return self._framed()

    def _draw_line(self) -> None:
        """From each trial of the line to the right until the next better one, then up to it."""
        feasible = [point for point in self._points if point.mark in (BASELINE, MEMBER, PICK)]
        best: list[_Point] = []
        for point in sorted(feasible, key=lambda each: (each.x, -each.y)):
            if not best or point.y > best[-1].y:
                best.append(point)
        for place, point in enumerate(best):
            row, column = self._row(point.y), self._column(point.x)
            following = best[place + 1] if place + 1 < len(best) else None
            until = self._column(following.x) if following else self._wide - 1
            for along in range(column, until + 1):
                self._cells[row][along] = "-"
            for up in range(self._row(following.y), row) if following else ():
                self._cells[up][until] = "|"

    def _framed(self) -> Picture:
        ticks = {
            self._row(value): label
            for value, label in zip(self._ticks(self._y, TICKS_Y, False), self._labels, strict=True)
        }
        metric = self._view.metric
        lines = [f"{metric.name} on val{',' if metric.percent else ''}{metric.unit}"]
        for row, cells in enumerate(self._cells):
            label = ticks.get(row, "")
            lines.append(f"{label:>{self._left - 1}}{'+' if label else '|'}{''.join(cells)}".rstrip())
        lines.append(" " * (self._left - 1) + "+" + self._rule())
        lines.append(self._below())
        lines.extend(self._legend())
        marks = {(row + 1, column + self._left): mark for (row, column), mark in self._marks.items()}
        return Picture(tuple(lines), marks)

    def _tick_columns(self) -> list[tuple[int, str]]:
        text: Callable[[float], str] = human_ms if self._view.is_timed else human_bytes
        count = max(2, min(TICKS_X, self._wide // TICK_COLUMNS))
        values = self._ticks(self._x, count, self._logarithmic)
        return [(self._column(value), text(value)) for value in values]

    def _rule(self) -> str:
        columns = {column for column, _ in self._tick_columns()}
        return "".join("+" if column in columns else "-" for column in range(self._wide))

    def _below(self) -> str:
        """The labels of the axis, each under its tick, the ends kept within the picture."""
        line = [" "] * (self._left + self._wide)
        free = 0
        for column, text in self._tick_columns():
            begin = min(max(free, self._left + column - len(text) // 2), len(line) - len(text))
            if begin >= free:
                line[begin : begin + len(text)] = text
                free = begin + len(text) + 1
        return "".join(line).rstrip()

    def _legend(self) -> Iterator[str]:
        axis = "latency of a call" if self._view.is_timed else "size of the file"
        scale = ", logarithmic" if self._logarithmic else ""
        yield from self._indented([f"{axis}{scale};", "up and to the left is better"], " ")
        present = {point.mark for point in self._points}
        yield from self._indented([f"{mark} {text}" for mark, text in MEANINGS.items() if mark in present], "   ")
        below = sum(point.y < self._y[0] for point in self._points)
        if below:
            yield from self._indented([f"{below} below the axis, drawn at its foot"], " ")

    def _indented(self, parts: Sequence[str], between: str) -> Iterator[str]:
        """The parts under the area, in as many lines as they need."""
        line = ""
        for part in parts:
            if line and len(line) + len(between) + len(part) > self._wide:
                yield " " * self._left + line
                line = ""
            line += f"{between if line else ''}{part}"
        yield " " * self._left + line


def _inner(values: Sequence[float]) -> tuple[float, float]:
    """The range without the few that lie far below the rest (Tukey's outer fence), or all would be one line."""
    first, third = np.quantile(values, [0.25, 0.75])
    fence = first - 3 * (third - first)
    kept = [value for value in values if value >= fence] or list(values)
    return min(kept), max(kept)
