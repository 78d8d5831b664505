"""A front as rows for JSON and as a pandas table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from autoshrink.dashboard.view import TargetView
from autoshrink.records import StudyFolder
from autoshrink.search.words import describe, human_bytes
from autoshrink.target import Precision, Target
from autoshrink.types import Interval, Outcome, Recipe, TrialRecord

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]

_INTERVALS = ("accuracy_ci", "test_accuracy_ci", "test_drop_ci", "drop_ci", "latency_ci_ms", "latency_ratio_ci")
_JSON_TEXT = ("elsewhere", "figures", "notes")
_COLUMN_TYPES = {
    **dict.fromkeys(("number", "size_bytes", "gzip_bytes", "int8_layers", "layers"), "Int64"),
    **dict.fromkeys(("target", "recipe", "recipe_text", "outcome", "reason", "device", *_JSON_TEXT), "str"),
    **dict.fromkeys(("stable", "on_front"), "boolean"),
}


def front_rows(study: StudyFolder, target: str) -> dict[str, Any]:
    """`rows_of` a target of a study.

    Raises:
        ConfigError: the study has no such target, or a record cannot be read.
    """
    return rows_of(TargetView.of(study, target))


def rows_of(view: TargetView) -> dict[str, Any]:
    """The baseline, the front and all trials of a target, as JSON values.

    Returns:
        `target`, `metric_name`, `axes` (in what trials are compared: of metric, latency, size those that are known
        here), `baseline` (a row, None when it was not run), `front` (rows, smallest latency first; smallest file first
        where nothing was timed), `compiled` (rows of a target that only compiles, smallest first; it has no front) and
        `trials` (rows, by number). What was not measured is None; `reason` says why. In a row: `accuracy`, `drop` and
        their 95 % intervals are of the val split; `latency_ratio` and `size_ratio` are to the baseline on the same
        target, under 1 is faster or smaller; `throughput` is rows a second; `gzip_bytes` is what `size_bytes` becomes
        when each file is compressed with gzip; `elsewhere` is the accuracy of the same recipe on another target, where
        it is not known of this; `figures` are the backend's own, `notes` what the target does other than the recipe
        says; `seconds` is wall time of the whole trial.
    """
    members = [record.number for record in view.members]
    rows = {record.number: _row(record, view, view.is_scored and record.number in members) for record in view.records}
    listed = [rows[number] for number in members]
    return {
        "target": view.name,
        "metric_name": view.metric.name,
        "axes": list(view.axes),
        "baseline": rows[view.baseline.number] if view.baseline else None,
        "front": listed if view.is_scored else [],
        "compiled": [] if view.is_scored else listed,
        "trials": list(rows.values()),
    }


def size_ratio(record: TrialRecord, baseline: TrialRecord | None) -> float | None:
    """Bytes of the artifact over those of the baseline's; None when either is not known."""
    if record.artifact is None or baseline is None or not baseline.artifact or not baseline.artifact.size_bytes:
        return None
    return record.artifact.size_bytes / baseline.artifact.size_bytes


def gzipped(record: TrialRecord, before: str = "") -> str:
    """The compressed size as `1.14 MB gzip`, with `before` in front of it; empty when it is not known."""
    size = record.artifact.compressed_bytes if record.artifact else None
    return "" if size is None else f"{before}{human_bytes(size)} gzip"


def _row(record: TrialRecord, view: TargetView, on_front: bool) -> Row:
    val, test, latency, artifact, audit = record.val, record.test, record.latency, record.artifact, record.audit
    return {
        "number": record.number,
        "target": record.target,
        "recipe": record.recipe.to_json(),
        "recipe_text": describe(record.recipe),
        "outcome": record.outcome.value,
        "reason": record.reason,
        "accuracy": val.value if val else None,
        "accuracy_ci": _ends(val.ci if val else None),
        "test_accuracy": test.value if test else None,
        "test_accuracy_ci": _ends(test.ci if test else None),
        "test_drop": record.test_drop,
        "test_drop_ci": _ends(record.test_drop_ci),
        "drop": record.drop,
        "drop_ci": _ends(record.drop_ci),
        "latency_ms": latency.ms if latency else None,
        "latency_ci_ms": _ends(latency.ms_ci if latency else None),
        "latency_ratio": latency.ratio if latency else None,
        "latency_ratio_ci": _ends(latency.ratio_ci if latency else None),
        "throughput": view.throughput(record),
        "size_bytes": artifact.size_bytes if artifact else None,
        "gzip_bytes": artifact.compressed_bytes if artifact else None,
        "size_ratio": size_ratio(record, view.baseline),
        "int8_layers": audit.int8_layers if audit else None,
        "layers": len(audit.layers) if audit else None,
        "stable": latency.stable if latency else None,
        "drift": latency.drift if latency else None,
        "device": record.device,
        "on_front": on_front,
        "elsewhere": _elsewhere(view.elsewhere(record)),
        "figures": {name: asdict(figure) for name, figure in record.figures.items()},
        "notes": list(audit.notes) if audit else [],
        "seconds": sum(record.seconds.values()),
    }


def _elsewhere(record: TrialRecord | None) -> Row | None:
    if record is None or record.val is None:
        return None
    return {
        "target": record.target,
        "number": record.number,
        "accuracy": record.val.value,
        "accuracy_ci": _ends(record.val.ci),
        "drop": record.drop,
        "drop_ci": _ends(record.drop_ci),
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def front_frame(study: StudyFolder, target: str | None = None) -> pandas.DataFrame:
    """The front as a data frame, one row a trial, smallest latency first; of every target when none is named.

    The columns are those of `front_rows`, each interval in two (`accuracy_ci` becomes `accuracy_low`, `accuracy_high`,
    `latency_ci_ms` becomes `latency_ms_low`, `latency_ms_high`); `recipe`, `elsewhere`, `figures` and `notes` are JSON
    text. They are there also when the front is empty. A target that only compiles has no front, and no rows.

    Raises:
        ConfigError: the study has no such target, or a record cannot be read.
    """
    import pandas

    targets = [target] if target is not None else list(study.meta.targets)
    rows = [_flat(row) for name in targets for row in front_rows(study, name)["front"]]
    nothing = TrialRecord(0, "", Recipe(), Outcome.FAILED)
    names = list(_flat(_row(nothing, TargetView(Target("", "", {"fp32": Precision()}), [nothing]), False)))
    return pandas.DataFrame({name: _column(name, [row[name] for row in rows]) for name in names})


def _column(name: str, values: list[Any]) -> pandas.Series[Any]:
    import pandas

    return pandas.Series(values, dtype=_COLUMN_TYPES.get(name, "float64"))


def _flat(row: Row) -> Row:
    flat: Row = {}
    for name, value in row.items():
        if name in _INTERVALS:
            low, high = value or (None, None)
            stem = name.replace("_ci", "")
            flat |= {f"{stem}_low": low, f"{stem}_high": high}
        else:
            flat[name] = json.dumps(value) if name in ("recipe", *_JSON_TEXT) else value
    return flat


def latency_ties(records: Sequence[TrialRecord]) -> set[int]:
    """Numbers of the trials that are as fast as the one before them: the intervals of their latency ratios overlap.

    Args:
        records: smallest latency first.
    """
    return {
        slower.number
        for faster, slower in pairwise(records)
        if faster.latency and slower.latency and slower.latency.ratio_ci.low <= faster.latency.ratio_ci.high
    }
