"""The Pareto front of a target's trials in what is known of them, and the hypervolume it dominates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from autoshrink.types import Outcome, TrialRecord

Points = npt.NDArray[np.float64]


def non_dominated(points: Points) -> npt.NDArray[np.bool_]:
    """Which rows of `points` [N, D] no other row dominates; every column is to be small.

    A row dominates another when it is at most as large everywhere and smaller somewhere; equal rows all stay, and so
    do rows with NaN. O(N log N) for two columns, O(N * front) for more (Kung et al. 1975 take less for many).
    """
    kept = np.ones(len(points), dtype=np.bool_)
    comparable = ~np.isnan(points).any(1)
    if not points.shape[1] or not comparable.any():
        return kept
    # In lexicographic order only an earlier row can dominate a later one.
    rows, place = np.unique(points[comparable], axis=0, return_inverse=True)
    of_rows = _planar(rows) if rows.shape[1] == 2 else _successive(rows)
    kept[comparable] = of_rows[place.reshape(-1)]
    return kept


def _planar(rows: Points) -> npt.NDArray[np.bool_]:
    """`non_dominated` of different rows [N, 2] in lexicographic order: those lower than every one before."""
    kept = np.ones(len(rows), dtype=np.bool_)
    kept[1:] = rows[1:, 1] < np.minimum.accumulate(rows[:-1, 1])
    return kept


def _successive(rows: Points) -> npt.NDArray[np.bool_]:
    """`non_dominated` of different rows [N, D] in lexicographic order: the first one stays, what it dominates goes."""
    kept = np.zeros(len(rows), dtype=np.bool_)
    left = np.arange(len(rows))
    while len(left):
        first, left = left[0], left[1:]
        kept[first] = True
        left = left[(rows[left] < rows[first]).any(1)]
    return kept


def hypervolume(points: Points, reference: npt.NDArray[np.float64]) -> float:
    """The volume between `points` [N, D] and `reference` [D] that is dominated; every column is to be small.

    By slicing along the last objective (Zitzler and Thiele 1999): exact. O(N log N) for two columns, times N for each
    further one.
    """
    points = points[(points < reference).all(1)]
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1])]
    heights = np.diff(np.append(points[:, -1], reference[-1]))
    if points.shape[1] == 2:
        return float(((reference[0] - np.minimum.accumulate(points[:, 0])) * heights).sum())
    return float(
        sum(
            hypervolume(points[: i + 1, :-1], reference[:-1]) * height for i, height in enumerate(heights) if height > 0
        )
    )


class Volume:
    """The hypervolume of points that come one by one.

    What a point adds is the volume of its box less what the others dominate within that box: a hypervolume of a few
    points (While et al. 2012, IEEE Transactions on Evolutionary Computation 16, section III).

    Attributes:
        value: the volume so far, 0 without points.

    Args:
        reference: [D]; points that are not smaller in every column add nothing.
    """

    def __init__(self, reference: npt.NDArray[np.float64]) -> None:
        self.value = 0.0
        self._reference = reference
        self._front: Points = np.empty((0, len(reference)))

    def add(self, point: npt.NDArray[np.float64]) -> float:
        """The volume with `point` [D] as well."""
        front = self._front
        if not (point < self._reference).all() or (front <= point).all(1).any():
            return self.value
        within = np.maximum(front, point)
        covered = hypervolume(within[non_dominated(within)], self._reference)
        self.value += float(np.prod(self._reference - point)) - covered
        self._front = np.vstack([front[(front < point).any(1)], point])
        return self.value


METRIC, LATENCY, SIZE = "metric", "latency", "size"
AXES = (METRIC, LATENCY, SIZE)


def axes_of(records: Iterable[TrialRecord]) -> tuple[str, ...]:
    """In what the trials of a target can be compared: what is known of those of which the most is known.

    `AXES` where they were measured; metric and size where they ran on an imitation of the device, whose speed says
    nothing; size alone where they were only compiled; empty before anything was.
    """
    known: tuple[str, ...] = ()
    for record in records:
        if record.is_measured:
            return AXES
        if record.is_scored:
            known = (METRIC, SIZE)
        elif record.artifact is not None and not known:
            known = (SIZE,)
    return known


def is_known(record: TrialRecord, axes: Sequence[str]) -> bool:
    """Whether the record has a value on each of `axes`."""
    value = {METRIC: record.val, LATENCY: record.latency, SIZE: record.artifact}
    return all(value[axis] is not None for axis in axes)


def objectives(records: Sequence[TrialRecord], axes: Sequence[str] = AXES) -> Points:
    """[N, len(axes)]: of each record minus the metric, the latency ratio, the bytes; those of them in `axes`.

    Raises:
        ValueError: a record has no value on one of the axes.
    """
    rows = []
    for record in records:
        if not is_known(record, axes):
            raise ValueError(f"trial {record.number} of {record.target} was not measured in {', '.join(axes)}")
        values = {
            METRIC: -record.val.value if record.val else 0.0,
            LATENCY: record.latency.ratio if record.latency else 0.0,
            SIZE: float(record.artifact.size_bytes) if record.artifact else 0.0,
        }
        rows.append([values[axis] for axis in axes])
    return np.array(rows, dtype=np.float64).reshape(-1, len(axes))


def front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials of a target that none other dominates in its axes, smallest latency first.

    Where latency is not known: in metric and size, smallest first. Trials that were only compiled have no front: with
    the size alone it would be the smallest file, however bad (see `compiled`).
    """
    axes = axes_of(records)
    if METRIC not in axes:
        return []
    feasible = [record for record in records if record.outcome is Outcome.COMPLETE and is_known(record, axes)]
    keep = non_dominated(objectives(feasible, axes))
    members = [record for record, kept in zip(feasible, keep, strict=True) if kept]
    return sorted(members, key=lambda record: record.latency.ratio if record.latency else _bytes(record))


def compiled(records: Iterable[TrialRecord], others: Iterable[TrialRecord] = ()) -> list[TrialRecord]:
    """The trials of a target that were compiled within its limits and never ran there, smallest first.

    Of those only the ones whose recipe is on the front of a measured target among `others` (trials of the study's
    other targets), where there are any: nothing measured speaks for the rest.
    """
    found = sorted(
        (record for record in records if record.outcome is Outcome.COMPILED and record.artifact is not None),
        key=lambda record: (_bytes(record), record.number),
    )
    by_target: dict[str, list[TrialRecord]] = {}
    for other in others:
        by_target.setdefault(other.target, []).append(other)
    proved = {member.recipe for of_target in by_target.values() for member in front(of_target)}
    return [record for record in found if record.recipe in proved] or found


def _bytes(record: TrialRecord) -> float:
    return float(record.artifact.size_bytes) if record.artifact else 0.0
