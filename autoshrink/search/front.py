"""The Pareto front of measured trials, and the hypervolume it dominates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoshrink.types import Outcome, TrialRecord

Points = npt.NDArray[np.float64]


def non_dominated(points: Points) -> npt.NDArray[np.bool_]:
    """Which rows of `points` [N, D] no other row dominates; every column is to be small.

    A row dominates another when it is at most as large everywhere and smaller somewhere; equal rows all stay.
    """
    less_equal = (points[:, None, :] <= points[None, :, :]).all(2)
    less = (points[:, None, :] < points[None, :, :]).any(2)
    dominated = (less_equal & less).any(0)
    return np.asarray(~dominated, dtype=np.bool_)


def hypervolume(points: Points, reference: npt.NDArray[np.float64]) -> float:
    """The volume between `points` [N, D] and `reference` [D] that is dominated; every column is to be small.

    By slicing along the last objective (Zitzler and Thiele 1999): exact, meant for the some hundred points of a study.
    """
    points = points[(points < reference).all(1)]
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1])]
    heights = np.diff(np.append(points[:, -1], reference[-1]))
    return float(
        sum(
            hypervolume(points[: i + 1, :-1], reference[:-1]) * height for i, height in enumerate(heights) if height > 0
        )
    )


def objectives(records: Sequence[TrialRecord]) -> Points:
    """[N, 3]: minus the metric, latency ratio, bytes, of measured records."""
    rows = []
    for record in records:
        if record.val is None or record.latency is None or record.artifact is None:
            raise ValueError(f"trial {record.number} of {record.target} was not measured")
        rows.append((-record.val.value, record.latency.ratio, float(record.artifact.size_bytes)))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials that none other dominates in metric, latency ratio and size, smallest latency first."""
    feasible = [record for record in records if record.outcome is Outcome.COMPLETE and record.is_measured]
    if not feasible:
        return []
    keep = non_dominated(objectives(feasible))
    members = [record for record, kept in zip(feasible, keep, strict=True) if kept]
    return sorted(members, key=lambda record: record.latency.ratio if record.latency else 0.0)
