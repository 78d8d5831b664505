"""The trials of one target as columns: what a figure of ten thousand of them is drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from html import escape

import numpy as np
import numpy.typing as npt

from autoshrink.dashboard.figures import family, hover
from autoshrink.dashboard.quantities import ACCURACY, DROP, LATENCY, THROUGHPUT, Quantity, Span
from autoshrink.dashboard.view import TargetView
from autoshrink.search.front import is_known, non_dominated, objectives
from autoshrink.search.limits import given
from autoshrink.search.words import describe
from autoshrink.target import Limits
from autoshrink.types import Outcome, Recipe, TrialRecord

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PLAIN_INT8 = describe(Recipe.from_json([{"technique": "quantize", "scheme": "int8_static"}]))
"""What everybody tries first by hand: 8-bit weights and activations, nothing else."""

# The same records are met again in each version of a study that grows.
_words = lru_cache(1 << 16)(describe)
_family = lru_cache(1 << 16)(family)


@dataclass(frozen=True)
class Column:
    """A quantity of all trials, each an array [trials]; NaN where it is not known."""

    low: Floats
    value: Floats
    high: Floats

    @property
    def known(self) -> Mask:
        """Of which trials it is known."""
        return np.asarray(np.isfinite(self.value), dtype=np.bool_)


class Points:
    """The trials of a target, in the order of the records; all that does not depend on what a reader asks for."""

    def __init__(self, view: TargetView) -> None:
        self.view = view
        self.records = view.records
        self._columns: dict[tuple[str, bool], Column] = {}

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """[trials]: the trials' numbers."""
        return np.array([record.number for record in self.records], dtype=np.int64)

    @cached_property
    def families(self) -> npt.NDArray[np.str_]:
        """[trials]: the techniques of each."""
        return np.array([_family(record.recipe) for record in self.records], dtype=np.str_)

    @cached_property
    def outcomes(self) -> npt.NDArray[np.str_]:
        """[trials]: how each ended."""
        return np.array([record.outcome.value for record in self.records], dtype=np.str_)

    @cached_property
    def words(self) -> list[str]:
        """Of each trial its recipe."""
        return [_words(record.recipe) for record in self.records]

    @cached_property
    def escaped_words(self) -> list[str]:
        """The same for plotly, which takes a text for markup."""
        return [escape(words) for words in self.words]

    @cached_property
    def hovers(self) -> list[str]:
        """Of each trial everything, for plotly's hover box."""
        return [self.hover(record) for record in self.records]

    def hover(self, record: TrialRecord) -> str:
        """Everything about one trial, for plotly's hover box."""
        return hover(record, self.view.metric)

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {record.number: row for row, record in enumerate(self.records)}

    def row(self, number: int | None) -> int | None:
        """Where a trial stands; None when there is none of this number."""
        return None if number is None else self._rows.get(number)

    @cached_property
    def baseline(self) -> int | None:
        """Where the baseline stands."""
        return None if self.view.baseline is None else self.row(self.view.baseline.number)

    @cached_property
    def plain_int8(self) -> int | None:
        """Where the recipe stands that is 8-bit quantization alone."""
        return next((row for row, words in enumerate(self.words) if words == PLAIN_INT8), None)

    @cached_property
    def special(self) -> Mask:
        """[trials]: which have a mark of their own, the baseline and the one of plain 8 bit."""
        found = np.zeros(len(self), dtype=np.bool_)
        found[[row for row in (self.baseline, self.plain_int8) if row is not None]] = True
        return found

    def column(self, quantity: Quantity, relative: bool = False) -> Column:
        """A quantity of all trials; relative to the baseline where that is asked for and means something.

        On a target that only compiles, accuracies are those of the same recipes on the study's other targets.
        """
        relative = relative and quantity.relative is not None
        key = quantity.name, relative
        if key not in self._columns:
            spans = list(map(self._reader(quantity, relative), self.records))
            unknown = (math.nan, math.nan, math.nan)
            table = np.array([span or unknown for span in spans], dtype=np.float64).reshape(-1, 3)
            self._columns[key] = Column(table[:, 0], table[:, 1], table[:, 2])
        return self._columns[key]

    def _reader(self, quantity: Quantity, relative: bool) -> Callable[[TrialRecord], Span | None]:
        baseline, batch = self.view.baseline, self.view.target.batch
        if relative and quantity.relative is not None:
            ratio = quantity.relative
            return lambda record: None if baseline is None else ratio(record, baseline)
        if quantity in (ACCURACY, DROP) and not self.view.is_scored:
            return lambda record: quantity.absolute(self.view.elsewhere(record) or record, batch)
        if quantity in (LATENCY, THROUGHPUT) and not self.view.is_timed:
            return lambda _: None
        return lambda record: quantity.absolute(record, batch)

    def knows(self, quantity: Quantity) -> bool:
        """Whether a quantity is known of any trial."""
        return bool(self.column(quantity).known.any())

    @cached_property
    def _candidate_rows(self) -> npt.NDArray[np.int64]:
        return np.array([self._rows[each.number] for each in self.view.candidates], dtype=np.int64)

    @cached_property
    def _bounds(self) -> dict[str, Floats]:
        """Name of a limit -> what is held against it, of each candidate; NaN where it is not known."""
        found = self.view.candidates

        def column(name: str) -> Floats:
            return np.array([getattr(each, name) for each in found], dtype=np.float64)

        return {name: column(name) for name in ("latency_ms", "size_bytes", "drop", "throughput")}

    def bound(self, name: str) -> Floats:
        """Those that are known and finite of what is held against a limit, a field of `Limits`."""
        values = self._bounds[name]
        return np.asarray(values[np.isfinite(values)], dtype=np.float64)

    def keeps(self, limits: Limits) -> Mask:
        """[trials]: which may be shipped under the limits, by their confidence bounds."""
        fits = np.ones(len(self._candidate_rows), dtype=np.bool_)
        for limit in given(limits):
            if limit.is_figure:
                fits &= np.array([each.excess(limit) <= 0 for each in self.view.candidates], dtype=np.bool_)
            else:
                bound = self._bounds[limit.name]
                fits &= bound >= limit.value if limit.at_least else bound <= limit.value
        kept = np.zeros(len(self), dtype=np.bool_)
        kept[self._candidate_rows[fits]] = True
        return kept

    @cached_property
    def _members(self) -> Mask:
        return np.isin(self.numbers, [member.number for member in self.view.members])

    @cached_property
    def _feasible(self) -> Mask:
        axes = self.view.axes
        return np.array(
            [record.outcome is Outcome.COMPLETE and is_known(record, axes) for record in self.records], dtype=np.bool_
        )

    def members(self, keeps: Mask) -> Mask:
        """[trials]: the front of the trials that the search calls feasible, and of those that wider limits let in.

        On a target that only compiles there is no front: the trials that are worth a look.
        """
        if not self.view.is_scored or not (keeps & ~self._feasible).any():
            return self._members
        rows = np.flatnonzero(keeps | self._feasible)
        points = objectives([self.records[row] for row in rows], self.view.axes)
        front = np.zeros(len(self), dtype=np.bool_)
        front[rows[non_dominated(points)]] = True
        return front
