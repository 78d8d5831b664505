"""A front as rows for JSON, as a pandas table, and as a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from autoshrink.dashboard.formatting import Metric, factor, gain
from autoshrink.records import StudyFolder
from autoshrink.search.front import front
from autoshrink.search.words import describe, human_bytes, human_ms
from autoshrink.types import Interval, Outcome, Recipe, TrialRecord

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]

_INTERVALS = ("accuracy_ci", "test_accuracy_ci", "test_drop_ci", "drop_ci", "latency_ci_ms", "latency_ratio_ci")
_COLUMN_TYPES = {
    **dict.fromkeys(("number", "size_bytes", "gzip_bytes", "int8_layers", "layers"), "Int64"),
    **dict.fromkeys(("target", "recipe", "recipe_text", "outcome", "reason"), "str"),
    **dict.fromkeys(("stable", "on_front"), "boolean"),
}


def front_rows(study: StudyFolder, target: str) -> dict[str, Any]:
    """The baseline, the front and all trials of a target, as JSON values.

    Returns:
        `target`, `metric_name`, `baseline` (a row, None when it was not run), `front` (rows, smallest latency first)
        and `trials` (rows, by number). What was not measured is None; `reason` says why. In a row: `accuracy`, `drop`
        and their 95 % intervals are of the val split; `latency_ratio` and `size_ratio` are to the baseline on the
        same target, under 1 is faster or smaller; `gzip_bytes` is what `size_bytes` becomes when each file is
        compressed with gzip; `seconds` is wall time of the whole trial.

    Raises:
        ConfigError: the study has no such target, or a record cannot be read.
    """
    records = study.records(target)
    baseline = baseline_of(records)
    members = [record.number for record in front(records)]
    rows = {record.number: _row(record, baseline, record.number in members) for record in records}
    return {
        "target": target,
        "metric_name": Metric.of(records).name,
        "baseline": rows[baseline.number] if baseline else None,
        "front": [rows[number] for number in members],
        "trials": list(rows.values()),
    }


def baseline_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The record of the model as the user brought it, whether or not it could be measured."""
    return next((record for record in records if not record.recipe.stages), None)


def size_ratio(record: TrialRecord, baseline: TrialRecord | None) -> float | None:
    """Bytes of the artifact over those of the baseline's; None when either is not known."""
    if record.artifact is None or baseline is None or not baseline.artifact or not baseline.artifact.size_bytes:
        return None
    return record.artifact.size_bytes / baseline.artifact.size_bytes


def gzipped(record: TrialRecord, before: str = "") -> str:
    """The compressed size as `1.14 MB gzip`, with `before` in front of it; empty when it is not known."""
    size = record.artifact.compressed_bytes if record.artifact else None
    return "" if size is None else f"{before}{human_bytes(size)} gzip"


def _row(record: TrialRecord, baseline: TrialRecord | None, on_front: bool) -> Row:
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
        "size_bytes": artifact.size_bytes if artifact else None,
        "gzip_bytes": artifact.compressed_bytes if artifact else None,
        "size_ratio": size_ratio(record, baseline),
        "int8_layers": audit.int8_layers if audit else None,
        "layers": len(audit.layers) if audit else None,
        "stable": latency.stable if latency else None,
        "on_front": on_front,
        "seconds": sum(record.seconds.values()),
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def front_frame(study: StudyFolder, target: str | None = None) -> pandas.DataFrame:
    """The front as a data frame, one row a trial, smallest latency first; of every target when none is named.

    The columns are those of `front_rows`, each interval in two (`accuracy_ci` becomes `accuracy_low`, `accuracy_high`,
    `latency_ci_ms` becomes `latency_ms_low`, `latency_ms_high`); `recipe` is JSON text. They are there also when the
    front is empty.

    Raises:
        ConfigError: the study has no such target, or a record cannot be read.
    """
    import pandas

    targets = [target] if target is not None else list(study.meta.targets)
    rows = [_flat(row) for name in targets for row in front_rows(study, name)["front"]]
    names = list(_flat(_row(TrialRecord(0, "", Recipe(), Outcome.FAILED), None, False)))
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
            flat[name] = json.dumps(value) if name == "recipe" else value
    return flat


def front_table(study: StudyFolder, target: str) -> Table:
    """The front for the terminal: the baseline, then the members, smallest latency first; 76 to 100 columns wide.

    Accuracy is of the test split where that was scored, otherwise of val, and says which. A latency whose interval
    overlaps that of the row above is marked as a tie. Without a front, every trial is listed with its reason.

    Raises:
        ConfigError: the study has no such target, or a record cannot be read.
    """
    records = study.records(target)
    baseline, members = baseline_of(records), front(records)
    metric = Metric.of(records)
    rest = [record for record in (members or records) if record is not baseline]
    table = Table(
        title=Text.assemble((target, "bold"), f"  {_count(records, members)}"),
        title_justify="left",
        caption=_caption(records, members, baseline),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        leading=1,
    )
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("recipe", min_width=9, max_width=44, overflow="fold")
    # In a narrow terminal a cell breaks between its figures, never within one.
    for name, width in ((metric.name, 8), ("latency", 8), ("size", 7), ("int8", 5)):
        table.add_column(name, justify="right", min_width=width, overflow="fold")
    ties = latency_ties(rest) if members else set()
    for record in ([baseline] if baseline else []) + rest:
        style = "dim" if record is baseline else ""
        table.add_row(*_cells(record, baseline, metric, record.number in ties, with_reason=not members), style=style)
    return table


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


def _cells(
    record: TrialRecord, baseline: TrialRecord | None, metric: Metric, tie: bool, with_reason: bool
) -> Iterable[Text]:
    recipe = Text(describe(record.recipe))
    if with_reason and record.reason:
        recipe.append(f"\n{record.outcome.value}: {record.reason}", "red")
    score, split = (record.test, "test") if record.test else (record.val, "val")
    audit, latency = record.audit, record.latency
    smaller = size_ratio(record, baseline)
    is_baseline = record is baseline
    return (
        Text(str(record.number)),
        recipe,
        _two_lines(
            metric.value(score.value) if score else None,
            f"±{metric.number((score.ci.high - score.ci.low) / 2)} {split}" if score else "",
        ),
        _two_lines(
            f"{'≈ ' if tie else ''}{human_ms(latency.ms)}" if latency else None,
            f"{_speed_up(latency.ratio, latency.ratio_ci)}" if latency and not is_baseline else "",
            "green" if latency and latency.ratio_ci.high < 1 else "red" if latency and latency.ratio > 1 else "",
        ),
        _two_lines(
            human_bytes(record.artifact.size_bytes) if record.artifact else None,
            gain(smaller, "smaller", "larger") if smaller is not None and not is_baseline else "",
            "green" if smaller is not None and smaller < 1 else "",
        ).append(gzipped(record, "\n"), "dim"),
        Text(f"{audit.int8_layers}/{len(audit.layers)}" if audit else "-"),
    )


def _speed_up(ratio: float, ci: Interval) -> str:
    half = (1 / ci.low - 1 / ci.high) / 2 if ci.low > 0 else 0.0
    return f"{factor(1 / ratio)}x ±{half:.2f}"


def _two_lines(value: str | None, below: str, style: str = "dim") -> Text:
    if value is None:
        return Text("-", "dim")
    return Text.assemble(value, "\n" if below else "", (below, style))


def _count(records: Sequence[TrialRecord], members: Sequence[TrialRecord]) -> str:
    trials = f"{len(records)} trial{'' if len(records) == 1 else 's'}"
    return f"{len(members)} of {trials} on the front" if members else f"no front: none of {trials} is feasible"


def _caption(records: Sequence[TrialRecord], members: Sequence[TrialRecord], baseline: TrialRecord | None) -> Text:
    if not records:
        return Text("no trial has finished")
    lines = ["± is half the 95 % interval; x is the gain over the fp32 baseline on this target, measured interleaved"]
    if latency_ties([record for record in members if record is not baseline]):
        lines.append("≈ as fast as the row above, as far as anybody can tell")
    if any(record.latency and not record.latency.stable for record in members):
        unstable = ", ".join(str(r.number) for r in members if r.latency and not r.latency.stable)
        lines.append(f"latency wider than the target asks: trial {unstable}")
    if baseline is None:
        lines.append("the baseline was not run, so there is nothing to compare with")
    return Text("\n".join(lines), "dim")
