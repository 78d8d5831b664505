"""Figures as the tables and the report write them: metrics, drops, and ratios turned into gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoshrink.types import Interval, TrialRecord

SAME = 0.005
"""A ratio that is nearer to 1 than this is written as the same."""


@dataclass(frozen=True)
class Metric:
    """How a study writes its metric: a share between 0 and 1 in percent, anything else as a plain number."""

    percent: bool
    name: str = "accuracy"

    @classmethod
    def of(cls, records: Sequence[TrialRecord]) -> Metric:
        """Named as in `records`; in percent when every score of theirs lies within 0 and 1."""
        scores = [score for record in records for score in (record.val, record.test) if score is not None]
        percent = all(0 <= score.value <= 1 for score in scores)
        return cls(percent, scores[0].name) if scores else cls(percent)

    @property
    def factor(self) -> float:
        """What a value is multiplied with before it is shown."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """Stands behind a value, with its space; empty for plain numbers."""
        return " %" if self.percent else ""

    def number(self, value: float) -> str:
        """A value without its unit, as `88.26` or `-0.0312`."""
        return f"{100 * value:.2f}" if self.percent else f"{value:.4g}"

    def value(self, value: float) -> str:
        """A value, as `88.26 %`."""
        return f"{self.number(value)}{self.unit}"

    def change(self, drop: float) -> str:
        """A drop as the change that it is, as `-0.20 points` for a drop of 0.002."""
        return f"{self.signed(-drop)}{' points' if self.percent else ''}"

    def change_interval(self, drop: Interval) -> str:
        """The interval of a drop as that of the change, as `[-0.61, +0.21]`."""
        return f"[{self.signed(-drop.high)}, {self.signed(-drop.low)}]"

    def signed(self, value: float) -> str:
        """A difference with its sign; none before what rounds to zero."""
        text = f"{100 * value:+.2f}" if self.percent else f"{value:+.4g}"
        return text[1:] if float(text) == 0 else text


def gain(ratio: float, better: str, worse: str, same: str = "the same") -> str:
    """A ratio to the baseline in words, as `3.42x smaller` for 0.2924 and `1.08x larger` for 1.08."""
    if abs(ratio - 1) < SAME:
        return same
    return f"{factor(1 / ratio)}x {better}" if ratio < 1 else f"{factor(ratio)}x {worse}"


def factor(value: float) -> str:
    """A factor with three significant digits, at most two decimals: `3.42`, `12.1`, `105`."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def speed_up(ratio: float) -> str:
    """A latency ratio as a speed-up, as `3.42x`; under 1 it is a slow-down."""
    return f"{factor(1 / ratio)}x"


def speed_up_interval(ratio: Interval) -> str:
    """The interval of a latency ratio as that of the speed-up, as `[3.38, 3.47]`."""
    return f"[{factor(1 / ratio.high)}, {factor(1 / ratio.low)}]"


def counted(count: int, noun: str) -> str:
    """A number with its noun, as `1 trial` and `24 trials`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
