"""What trials can be drawn over: accuracy, latency, sizes, memory, throughput; absolute or relative to the baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoshrink.dashboard.formatting import Metric
from autoshrink.search.words import human_bytes, human_ms, human_rate
from autoshrink.target import Limits
from autoshrink.types import TrialRecord

Span = tuple[float, float, float]
"""Low end, value and high end of a 95 % interval; three times the value where a figure is exact."""


@dataclass(frozen=True)
class Quantity:
    """A figure of trials.

    Attributes:
        name: in the address of a page.
        noun: as an axis says it.
        lower_is_better: which way is better.
        absolute: (trial, rows of one call) -> the figure in its own unit (milliseconds, bytes, rows a second); None
            where it is not known.
        relative: (trial, baseline) -> the same relative to the baseline; absent where a ratio would say nothing.
        limit: (limits, rows of one call) -> the limit on it, in its own unit.
    """

    name: str
    noun: str
    lower_is_better: bool
    absolute: Callable[[TrialRecord, int], Span | None]
    relative: Callable[[TrialRecord, TrialRecord], Span | None] | None = None
    limit: Callable[[Limits, int], float | None] = lambda _limits, _batch: None


@dataclass(frozen=True)
class Unit:
    """How an axis shows a quantity.

    Attributes:
        factor: what a figure is multiplied with before it is shown.
        name: of the unit; empty for a plain number.
        text: writes a figure (not multiplied) with its unit.
    """

    factor: float
    name: str
    text: Callable[[float], str]


def _exact(value: float | None) -> Span | None:
    return None if value is None else (value, value, value)


def _accuracy(record: TrialRecord, _batch: int) -> Span | None:
    return None if record.val is None else (record.val.ci.low, record.val.value, record.val.ci.high)


def _drop(record: TrialRecord, _batch: int) -> Span | None:
    if record.drop is None or record.drop_ci is None:
        return None
    return record.drop_ci.low, record.drop, record.drop_ci.high


def _latency(record: TrialRecord, _batch: int) -> Span | None:
    latency = record.latency
    return None if latency is None else (latency.ms_ci.low, latency.ms, latency.ms_ci.high)


def _latency_ratio(record: TrialRecord, _baseline: TrialRecord) -> Span | None:
    latency = record.latency
    return None if latency is None else (latency.ratio_ci.low, latency.ratio, latency.ratio_ci.high)


def _throughput(record: TrialRecord, batch: int) -> Span | None:
    span = _latency(record, batch)
    return None if span is None else _inverse(span, 1000.0 * batch)


def _throughput_ratio(record: TrialRecord, baseline: TrialRecord) -> Span | None:
    span = _latency_ratio(record, baseline)
    return None if span is None else _inverse(span, 1.0)


def _inverse(span: Span, over: float) -> Span | None:
    low, value, high = span
    return (over / high, over / value, over / low) if low > 0 else None


def _size(record: TrialRecord, _batch: int = 1) -> Span | None:
    return _exact(float(record.artifact.size_bytes) if record.artifact else None)


def _gzip(record: TrialRecord, _batch: int = 1) -> Span | None:
    return _exact(record.artifact.compressed_bytes if record.artifact else None)


def _memory(record: TrialRecord, _batch: int = 1) -> Span | None:
    return _exact(record.peak_memory_bytes)


def _to_baseline(
    figure: Callable[[TrialRecord, int], Span | None],
) -> Callable[[TrialRecord, TrialRecord], Span | None]:
    def relative(record: TrialRecord, baseline: TrialRecord) -> Span | None:
        own, base = figure(record, 1), figure(baseline, 1)
        return None if own is None or base is None or base[1] <= 0 else _exact(own[1] / base[1])

    return relative


def _throughput_limit(limits: Limits, batch: int) -> float | None:
    of_latency = None if limits.latency_ms is None else 1000.0 * batch / limits.latency_ms
    known = [value for value in (limits.throughput, of_latency) if value is not None]
    return max(known, default=None)


def _latency_limit(limits: Limits, batch: int) -> float | None:
    of_throughput = None if limits.throughput is None else 1000.0 * batch / limits.throughput
    known = [value for value in (limits.latency_ms, of_throughput) if value is not None]
    return min(known, default=None)


ACCURACY = Quantity("accuracy", "accuracy", False, _accuracy)
DROP = Quantity("drop", "accuracy drop", True, _drop, limit=lambda limits, _: limits.drop)
LATENCY = Quantity("latency", "latency", True, _latency, _latency_ratio, _latency_limit)
THROUGHPUT = Quantity("throughput", "throughput", False, _throughput, _throughput_ratio, _throughput_limit)
SIZE = Quantity("size", "size", True, _size, _to_baseline(_size), lambda limits, _: limits.size_bytes)
GZIP = Quantity("gzip", "compressed size", True, _gzip, _to_baseline(_gzip))
MEMORY = Quantity("memory", "peak memory", True, _memory, _to_baseline(_memory))
QUANTITIES = {each.name: each for each in (ACCURACY, DROP, LATENCY, THROUGHPUT, SIZE, GZIP, MEMORY)}
"""Name -> quantity, in the order in which a reader chooses among them."""


def noun_of(quantity: Quantity, metric: Metric) -> str:
    """What a quantity is called where the metric has a name of its own."""
    return quantity.noun.replace("accuracy", metric.name)


def unit_of(quantity: Quantity, values: Sequence[float], metric: Metric) -> Unit:
    """How the figures `values` of a quantity are shown together, in the unit that suits the largest."""
    largest = max(values, default=0.0)
    if quantity is ACCURACY:
        return Unit(metric.factor, metric.unit.strip(), metric.value)
    if quantity is DROP:
        return Unit(metric.factor, "points" if metric.percent else "", metric.change)
    if quantity is LATENCY:
        return Unit(1.0, "ms", human_ms)
    if quantity is THROUGHPUT:
        return Unit(1.0, "rows/s", human_rate)
    factor, name = (1e-6, "MB") if largest >= 1e6 else (1e-3, "kB")
    return Unit(factor, name, human_bytes)
