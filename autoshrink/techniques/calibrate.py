"""Calibration: the range of values that each activation of an ONNX model takes on a set of samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from autoshrink.errors import StageError
from autoshrink.onnx_graph import fixed_batches, quiet_session
from autoshrink.task import Arrays

METHODS = ("minmax", "percentile")
TAIL = 1e-4
"""Share of an activation's values that `percentile` cuts off at each end (Wu et al. 2020, section 5, use 99.99 %)."""

BINS = 4096
SPREAD = 8192
UNBOUNDED = 1e30
"""An activation that goes beyond this, a masked attention score, is no quantity that 8 bits could span."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ranges:
    """Lowest and highest value by activation, and the activations that have none because they are unbounded."""

    of: dict[str, tuple[float, float]]
    unbounded: frozenset[str]


def collect_ranges(
    model: onnx.ModelProto, samples: Arrays, batch: int, method: str, progress: Progress = lambda _done, _total: None
) -> Ranges:
    """Runs `model` on `samples` and gives the range of each float32 activation and input.

    Args:
        model: with shapes inferred (`onnx.shape_inference`).
        samples: input name -> array [N, ...].
        batch: rows of a call; an incomplete last batch is filled up with the first rows again.
        method: `minmax` takes the extremes; `percentile` cuts `TAIL` of the values off at each end, read from a
            histogram of 4096 bins that a second pass fills with at most 8192 values of each activation and call.
        progress: called with calls done and calls in all.

    Raises:
        StageError: an activation is NaN.
    """
    watched = _activations(model.graph)
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    already = {value.name for value in model.graph.output}
    observed.graph.output.extend(value for name, value in watched.items() if name not in already)
    session = quiet_session(observed.SerializeToString())
    names = list(watched)
    calls = -(-len(next(iter(samples.values()))) // batch)
    passes = 1 + (method == "percentile")

    def each(visit: Callable[[str, npt.NDArray[Any]], None], before: int) -> None:
        for done, rows in enumerate(fixed_batches(samples, batch), 1):
            results = session.run(names, rows) if names else []
            for name, values in zip(names, results, strict=True):
                visit(name, values)
            for name, array in rows.items():
                if array.dtype == np.float32:
                    visit(name, array)
            progress(before + done, passes * calls)

    extremes = _Extremes()
    each(extremes.add, 0)
    if method == "minmax":
        return extremes.ranges()
    histograms = _Histograms(extremes.ranges())
    each(histograms.add, calls)
    return histograms.ranges()


def _activations(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    produced = {name for node in graph.node for name in node.output}
    return {
        value.name: value
        for value in (*graph.value_info, *graph.output)
        if value.name in produced and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }


class _Extremes:
    def __init__(self) -> None:
        self._of: dict[str, tuple[float, float]] = {}

    def add(self, name: str, values: npt.NDArray[Any]) -> None:
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if np.isnan(low):
            raise StageError(
                "quantize",
                f"activation {name!r} is NaN on a calibration sample; float32 outputs must be finite before quantizing",
            )
        before = self._of.get(name, (low, high))
        self._of[name] = min(low, before[0]), max(high, before[1])

    def ranges(self) -> Ranges:
        unbounded = frozenset(name for name, ends in self._of.items() if max(map(abs, ends)) > UNBOUNDED)
        return Ranges({name: ends for name, ends in self._of.items() if name not in unbounded}, unbounded)


class _Histograms:
    def __init__(self, extremes: Ranges) -> None:
        self._extremes = extremes
        self._counts = {name: np.zeros(BINS, np.int64) for name in extremes.of}

    def add(self, name: str, values: npt.NDArray[Any]) -> None:
        if name in self._counts:
            self._counts[name] += histogram(spread(values), *self._extremes.of[name])

    def ranges(self) -> Ranges:
        return Ranges(
            {name: tail_range(counts, *self._extremes.of[name]) for name, counts in self._counts.items()},
            self._extremes.unbounded,
        )


def spread(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """At most 8192 of the values, evenly spread over the array, its rows, columns and channels alike."""
    flat = values.reshape(-1)
    step = max(1, -(-flat.size // SPREAD))
    # A step that shares a divisor with the size would meet the same columns again and again.
    while math.gcd(step, flat.size) > 1:
        step += 1
    return flat[::step]


def histogram(values: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.int64]:
    """Counts of `values` in 4096 equally wide bins from `low` to `high`; all in the first when both are equal."""
    scale = np.float32(BINS / (high - low)) if high > low else np.float32(0)
    bins = ((values - np.float32(low)) * scale).astype(np.int64)
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)


def tail_range(counts: npt.NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """The narrowest range of whole bins that leaves at most `TAIL` of the counts out on each side.

    Args:
        counts: of equally wide bins from `low` to `high`.
        low: lower edge of the first bin.
        high: upper edge of the last bin.
    """
    allowed = TAIL * counts.sum()
    width = (high - low) / len(counts)
    first = int(np.argmax(np.cumsum(counts) > allowed))
    last = int(np.argmax(np.cumsum(counts[::-1]) > allowed))
    return low + first * width, high - last * width
