"""The Pareto front of a target's trials in what is known of them, and the hypervolume it dominates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
