"""What a report's page computes with when its reader moves a limit or switches an axis, as JSON values."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autoshrink.dashboard.commands import pick_words
from autoshrink.dashboard.figures import BASELINE
from autoshrink.dashboard.headline import Headline, gains_of
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.view import TargetView
from autoshrink.package.candidates import Candidate, drop_interval
from autoshrink.records import StudyFolder
from autoshrink.search.front import is_known
from autoshrink.search.limits import Limit, given
from autoshrink.search.words import describe, human_bytes, human_ms
from autoshrink.types import TrialRecord

LEAST_SPAN = 3.0
"""A slider over values that span such a factor or more goes by their logarithm."""
POINTS_SHOWN = 0.02
"""The least reach of the slider of the drop, in the metric's unit."""

Json = dict[str, Any]


def target_data(study: StudyFolder, view: TargetView, answer: Headline, palette: Palette) -> Json | None:
    """What the page needs of one target; None where there is nothing to choose among.

    Returns:
        `candidates` (see `candidate_rows`), `controls` (see `controls_of`), `axes` (see `_axes`), numbers of the trial
        that the page names at first (`pick`), of the `baseline` and of the `members` of the front, `command` (the words
        of `pick` before and after its limits) and `colours` of what is drawn over the figure.
    """
    rows = candidate_rows(view)
    if len(rows) < 2:
        return None
    baseline = view.baseline
    val = baseline.val if baseline else None
    return {
        "candidates": rows,
        "controls": controls_of(view),
        "axes": _axes(view),
        "values": {str(r.number): r.val.value * view.metric.factor for r in view.records if r.val},
        "pick": answer.chosen.number if answer.chosen else None,
        "baseline": baseline.number if baseline else None,
        "members": [record.number for record in view.members],
        "command": [shlex.join(part) for part in pick_words(study, view.name)],
        "level": {"of": val.value if val else None, "factor": view.metric.factor},
        "batch": view.target.batch,
        "colours": {"ink": palette.ink, "limit": palette.limit},
    }


def candidate_rows(view: TargetView) -> list[Json]:
    """The candidates of a target (see `autoshrink.package.candidates`) as `limits.js` takes them.

    A drop without an upper bound is None, as is what was not measured; `loss` is the drop with both ends of its
    interval; `gains` are for people.
    """
    return [_row(candidate, view) for candidate in view.candidates]


def _row(candidate: Candidate, view: TargetView) -> Json:
    loss = drop_interval(candidate.scored)
    return {
        "number": candidate.number,
        "words": describe(candidate.record.recipe),
        "size_bytes": candidate.size_bytes,
        "drop": _finite(candidate.drop),
        "accuracy": candidate.accuracy,
        "latency_ms": candidate.latency_ms,
        "throughput": candidate.throughput,
        "ratio": candidate.ratio,
        "loss": None if loss is None else [loss[0], loss[1].low, loss[1].high],
        "figures": dict(candidate.figures),
        "gains": _gains(candidate.record, view),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _gains(record: TrialRecord, view: TargetView) -> list[tuple[str, str]]:
    baseline = view.baseline
    if baseline is None or record is baseline:
        return []
    return list(gains_of(record, baseline, view))


def controls_of(view: TargetView) -> list[Json]:
    """The limits that can be moved: those on what is known of a candidate, in the order of `given`.

    Each has `name` and `figure` as a `Limit` has them, `label`, `unit`, `factor` (what one unit is in the limit's own),
    `low` and `high` of its slider (in units, `log` where it goes by logarithms), `least` (whether it is a least, not a
    most) and `start`, the target's own limit in units, or None.
    """
    own = {limit.name: limit.value for limit in given(view.applicable(view.target.limits)[0])}
    controls = []
    for name, label, unit, factor in _kinds(view):
        limit = Limit(name, 1.0, is_figure=name not in _FIELDS)
        known = (candidate.bound(limit) for candidate in view.candidates)
        bounds = [bound for bound in known if bound is not None and math.isfinite(bound)]
        if not bounds and name not in own:
            continue
        start = own.get(name)
        low, high, is_log = _reach(name, bounds, start, view)
        controls.append({
            "name": name, "figure": limit.is_figure, "label": label, "unit": unit, "factor": factor,
            "low": low / factor, "high": high / factor, "log": is_log, "least": limit.at_least,
            "start": None if start is None else float(f"{start / factor:.12g}"),
        })  # fmt: skip
    return controls


_FIELDS = ("latency_ms", "size_bytes", "drop", "throughput")


def _kinds(view: TargetView) -> list[tuple[str, str, str, float]]:
    points = ("points", 0.01) if view.metric.percent else ("", 1.0)
    kinds = [
        ("latency_ms", "Latency", "ms", 1.0),
        ("size_bytes", "Size", "MB", 1e6),
        ("drop", "Loss", *points),
    ]
    if view.shows_throughput or view.target.limits.throughput is not None:
        kinds.append(("throughput", "Throughput", "rows/s", 1.0))
    figures = {name: figure for record in view.records for name, figure in record.figures.items()}
    for name, figure in figures.items():
        in_bytes = figure.unit in ("bytes", "byte", "B")
        kinds.append((name, name, "kB" if in_bytes else figure.unit, 1e3 if in_bytes else 1.0))
    return kinds


def _reach(name: str, bounds: Iterable[float], start: float | None, view: TargetView) -> tuple[float, float, bool]:
    if name == "drop":
        # A trial that guesses would stretch the slider over losses that nobody accepts: the front says how far to go.
        members = {record.number for record in view.members}
        shown = [c.drop for c in view.candidates if c.number in members]
        most = max([*filter(math.isfinite, shown), POINTS_SHOWN, 2 * (start or 0.0)])
        return 0.0, _rounded(1.05 * most), False
    values = [*bounds, *([] if start is None else [start])]
    low, high = min(values), max(values) or 1.0
    is_log = low > 0 and high >= LEAST_SPAN * low
    return _rounded(0.8 * low), _rounded(1.1 * high), is_log


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _axes(view: TargetView) -> list[Json]:
    """What the metric can be drawn over.

    Each has a `name`, the `titles` of its axis as a ratio and as it is, of each trial the `ratio` to the baseline and
    the value (`own`, in a `unit` that is `factor` in the limit's own), the `limit` that is drawn on it and the value of
    the baseline (`of_baseline`).
    """
    baseline = view.baseline
    if baseline is None or not view.is_scored or not is_known(baseline, view.axes):
        return []
    measured = [record for record in view.records if is_known(record, view.axes)]
    axes = [
        _axis("size", "MB", 1e6, human_bytes, _size, "size_bytes", measured, baseline),
        _axis("size, gzip", "MB", 1e6, human_bytes, _compressed, None, measured, baseline),
    ]
    if view.is_timed:
        axes.insert(0, _axis("latency", "ms", 1.0, human_ms, _latency, "latency_ms", measured, baseline))
    return [axis for axis in axes if axis is not None]


def _axis(
    name: str,
    unit: str,
    factor: float,
    text: Callable[[float], str],
    value: Callable[[TrialRecord], float | None],
    limit: str | None,
    measured: Iterable[TrialRecord],
    baseline: TrialRecord,
) -> Json | None:
    of_baseline = value(baseline)
    values = {record.number: found for record in measured if (found := value(record)) is not None}
    if not of_baseline or len(values) < 2:
        return None
    ratios: Mapping[int, float] = {number: found / of_baseline for number, found in values.items()}
    if name == "latency":
        # Measured in turn with the baseline: the two latencies on their own are of different hours.
        ratios = {record.number: record.latency.ratio for record in measured if record.latency}
    return {
        "name": name,
        "titles": [f"{name}, 1 = {BASELINE} ({text(of_baseline)})", f"{name}, {unit}"],
        "ratio": {str(number): _short(found) for number, found in ratios.items()},
        "own": {str(number): _short(found / factor) for number, found in values.items()},
        "limit": limit,
        "unit": unit,
        "factor": factor,
        "of_baseline": of_baseline,
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _latency(record: TrialRecord) -> float | None:
    return record.latency.ms if record.latency else None


def _size(record: TrialRecord) -> float | None:
    return float(record.artifact.size_bytes) if record.artifact else None


def _compressed(record: TrialRecord) -> float | None:
    compressed = record.artifact.compressed_bytes if record.artifact else None
    return None if compressed is None else float(compressed)
