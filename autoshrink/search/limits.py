"""Limits as they are held against a trial and written on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from autoshrink import units
from autoshrink.target import Limits


@dataclass(frozen=True)
class _Kind:
    """How the limits of one field are written."""

    option: str
    noun: str
    parse: Callable[[str], float]
    # Beside a limit of 0 every excess would be infinite; a drop is then counted in points instead.
    least_scale: float = 0.0
    at_least: bool = False


_KINDS = {
    "latency_ms": _Kind("--max-latency", "latency", units.milliseconds),
    "size_bytes": _Kind("--max-size", "size", units.size_bytes),
    "drop": _Kind("--max-drop", "drop", units.share, least_scale=0.01),
    "throughput": _Kind("--min-throughput", "throughput", units.rate, at_least=True),
}


@dataclass(frozen=True)
class Limit:
    """A limit that is set.

    Attributes:
        name: the field of `Limits`, or the name of a figure.
        value: milliseconds, bytes, a loss in the metric's unit, rows a second, or in the figure's own unit.
        is_figure: whether `name` is that of a figure.
    """

    name: str
    value: float
    is_figure: bool = False

    def option(self, text: str) -> str:
        """The option of the command line that sets the limit to a value, as `--max-size 1MB`."""
        return f"--max-figure {self.name}={text}" if self.is_figure else f"{_KINDS[self.name].option} {text}"

    @property
    def noun(self) -> str:
        """What is limited."""
        return self.name if self.is_figure else _KINDS[self.name].noun

    @property
    def at_least(self) -> bool:
        """Whether it is a least, not a most."""
        return not self.is_figure and _KINDS[self.name].at_least

    def allows(self, found: float) -> bool:
        """Whether `found` keeps it."""
        return found >= self.value if self.at_least else found <= self.value

    def excess(self, found: float) -> float:
        """By which share of the limit `found` is over it; 0 or less where it keeps it."""
        if self.at_least:
            return self.value / found - 1
        least = 0.0 if self.is_figure else _KINDS[self.name].least_scale
        scale = max(self.value, least)
        return (found - self.value) / scale if scale else math.copysign(math.inf, found) if found else 0.0

    def parse(self, text: str) -> float:
        """What the command line reads."""
        return float(text) if self.is_figure else _KINDS[self.name].parse(text)

    def text(self, value: float) -> str:
        """A value of this limit, exactly, as the command line takes it."""
        factor, unit = self._unit(value)
        return f"{value / factor:.12g}{unit}"

    def enough_for(self, found: float) -> str:
        """Three significant digits, rounded away from `found`: as the command line reads it, `found` keeps it."""
        factor, unit = self._unit(found)
        if found <= 0:
            return f"0{unit}"
        step = 10.0 ** (math.floor(math.log10(found / factor)) - 2)
        # Counted in steps from the other side, since a quotient a hair over a whole number must not cost a step.
        if self.at_least:
            steps = math.ceil(found / factor / step)
            while self.parse(f"{steps * step:.12g}{unit}") > found:
                steps -= 1
        else:
            steps = math.floor(found / factor / step)
            while self.parse(f"{steps * step:.12g}{unit}") < found:
                steps += 1
        return f"{steps * step:.12g}{unit}"

    def miss(self, found: float) -> str:
        """How a value that breaks the limit does, as `size 2.5MB is 500kB over 2MB`."""
        apart = self.text(float(f"{abs(found - self.value):.3g}"))
        side = "under" if self.at_least else "over"
        return f"{self.noun} {self.enough_for(found)} is {apart} {side} {self.text(self.value)}"

    def _unit(self, value: float) -> tuple[float, str]:
        """The factor and the name of the unit in which the command line would write `value`."""
        if self.is_figure:
            return 1.0, ""
        if self.name == "latency_ms":
            return 1.0, "ms"
        if self.name == "drop":
            return 0.01, "%"
        if self.name == "throughput":
            return 1.0, "/s"
        return (1e6, "MB") if value >= 1e6 else (1e3, "kB") if value >= 1e3 else (1.0, "B")


def given(limits: Limits) -> list[Limit]:
    """Those that are set."""
    fields = {name: getattr(limits, name) for name in _KINDS}
    return [
        *(Limit(name, float(value)) for name, value in fields.items() if value is not None),
        *(Limit(name, float(value), is_figure=True) for name, value in limits.figures.items()),
    ]


def relaxed(limits: Limits, values: Mapping[Limit, float | None]) -> Limits:
    """The limits with other values in the place of some; None takes one out."""
    fields = {limit.name: value for limit, value in values.items() if not limit.is_figure}
    size = fields.get("size_bytes")
    figures = {
        **limits.figures,
        **{limit.name: value for limit, value in values.items() if limit.is_figure},
    }
    kept = {name: value for name, value in figures.items() if value is not None}
    return Limits(
        latency_ms=fields.get("latency_ms", limits.latency_ms),
        size_bytes=(None if size is None else round(size)) if "size_bytes" in fields else limits.size_bytes,
        drop=fields.get("drop", limits.drop),
        throughput=fields.get("throughput", limits.throughput),
        figures=kept,
    )


def merged(first: Limits, then: Limits) -> Limits:
    """The limits of `first` where it sets them, of `then` elsewhere."""
    names = ("latency_ms", "size_bytes", "drop", "throughput")
    taken = {name: getattr(first, name) for name in names if getattr(first, name) is not None}
    return replace(then, **taken, figures={**then.figures, **first.figures})
