"""The front of a target as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from autoshrink.dashboard.formatting import Metric, counted, factor, gain
from autoshrink.dashboard.tables import gzipped, latency_ties, size_ratio
from autoshrink.dashboard.view import NOT_MEASURED, TargetView, absent
from autoshrink.records import StudyFolder
from autoshrink.search.words import describe, human_bytes, human_figure, human_ms
from autoshrink.types import Interval, Outcome, Score, TrialRecord


def front_table(study: StudyFolder, target: str) -> Table:
    """`table_of` a target of a study.

    Raises:
        ConfigError: the study has no such target, or a record cannot be read.
    """
    return table_of(TargetView.of(study, target))


def table_of(view: TargetView) -> Table:
    """The front for the terminal: the baseline, then the members, smallest latency first; 76 to 100 columns wide.

    Accuracy is of the test split where that was scored, otherwise of val, and says which; of a target that only
    compiles it is that of the same recipe on another target, and says which. A latency whose interval overlaps that of
    the row above is marked as a tie. Without a front, every trial is listed with its reason.
    """
    baseline, members = view.baseline, view.members
    rest = [record for record in (members or view.records) if record is not baseline]
    table = Table(
        title=Text.assemble((view.name, "bold"), f"  {_count(view)}"),
        title_justify="left",
        caption=_caption(view),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        leading=1,
    )
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("recipe", min_width=9, max_width=44, overflow="fold")
    speed = "throughput" if view.shows_throughput else "latency"
    # In a narrow terminal a cell breaks between its figures, never within one.
    for name, width in ((view.metric.name, 8), (speed, 8), ("size", 7), ("int8", 5)):
        table.add_column(name, justify="right", min_width=width, overflow="fold")
    ties = latency_ties(rest) if members else set()
    for record in ([baseline] if baseline else []) + rest:
        cells = _cells(record, view, record.number in ties, with_reason=not members)
        table.add_row(*cells, style="dim" if record is baseline else "")
    return table


def _cells(record: TrialRecord, view: TargetView, tie: bool, with_reason: bool) -> Iterator[Text]:
    recipe = Text(describe(record.recipe))
    if with_reason and record.reason:
        recipe.append(f"\n{record.outcome.value}: {record.reason}", "red")
    audit = record.audit
    smaller = size_ratio(record, view.baseline)
    is_baseline = record is view.baseline
    yield Text(str(record.number))
    yield recipe
    yield _accuracy(record, view)
    yield _speed(record, view, tie)
    yield _two_lines(
        human_bytes(record.artifact.size_bytes) if record.artifact else "-",
        gain(smaller, "smaller", "larger") if smaller is not None and not is_baseline else "",
        "green" if smaller is not None and smaller < 1 else "",
    ).append(gzipped(record, "\n"), "dim")
    yield Text(f"{audit.int8_layers}/{len(audit.layers)}" if audit else "-")


def _accuracy(record: TrialRecord, view: TargetView) -> Text:
    if record.val is not None:
        score, split = (record.test, "test") if record.test else (record.val, "val")
        return _two_lines(view.metric.value(score.value), f"±{_half(score, view.metric)} {split}")
    other = view.elsewhere(record)
    if other is None or other.val is None:
        return Text(absent(record), "dim")
    return _two_lines(NOT_MEASURED, f"{view.metric.value(other.val.value)} on {other.target}")


def _half(score: Score, metric: Metric) -> str:
    return metric.number((score.ci.high - score.ci.low) / 2)


def _speed(record: TrialRecord, view: TargetView, tie: bool) -> Text:
    latency = record.latency
    if latency is None:
        return Text(absent(record), "dim")
    style = "green" if latency.ratio_ci.high < 1 else "red" if latency.ratio > 1 else ""
    below = "" if record is view.baseline else _speed_up(latency.ratio, latency.ratio_ci)
    same = "≈ " if tie else ""
    if not view.shows_throughput:
        return _two_lines(f"{same}{human_ms(latency.ms)}", below, style)
    return _two_lines(f"{same}{view.rate(record)}", below, style).append(f"\n{human_ms(latency.ms)}", "dim")


def _speed_up(ratio: float, ci: Interval) -> str:
    half = (1 / ci.low - 1 / ci.high) / 2 if ci.low > 0 else 0.0
    return f"{factor(1 / ratio)}x ±{half:.2f}"


def _two_lines(value: str, below: str, style: str = "dim") -> Text:
    return Text.assemble((value, "dim" if value in (NOT_MEASURED, "-") else ""), "\n" if below else "", (below, style))


def _count(view: TargetView) -> str:
    trials = counted(len(view.records), "trial")
    if not view.members:
        return f"no front: none of {trials} is feasible"
    if not view.is_scored:
        return f"{len(view.members)} of {trials}: compiled, {NOT_MEASURED}"
    return f"{len(view.members)} of {trials} on the front{'' if view.is_timed else f', latency {NOT_MEASURED}'}"


def _caption(view: TargetView) -> Text:
    if not view.records:
        return Text("no trial has finished")
    lines = []
    if view.is_timed:
        lines.append(
            "± is half the 95 % interval; x is the gain over the fp32 baseline on this target, measured interleaved"
        )
        if view.shows_throughput:
            lines.append(f"throughput is of calls of {counted(view.target.batch, 'row')}, one after the other")
        if latency_ties([record for record in view.members if record is not view.baseline]):
            lines.append("≈ as fast as the row above, as far as anybody can tell")
        unstable = [str(record.number) for record in view.members if record.latency and not record.latency.stable]
        if unstable:
            lines.append(f"latency wider than the target asks: trial {', '.join(unstable)}")
        drifting = [f"{r.number} ({r.latency.drift:+.0%})" for r in view.members if r.latency and r.latency.drifts]
        if drifting:
            lines.append(f"the device's own pace changed meanwhile, as heat does it: trial {', '.join(drifting)}")
    elif view.is_scored:
        lines.append("± is half the 95 % interval; x is the gain over the fp32 baseline on this target")
    if view.why_not_measured:
        lines.append(view.why_not_measured)
    if view.was_compiled:
        lines.append(_what_is_listed(view))
    shown = [*([view.baseline] if view.baseline else []), *(view.members or view.records)]
    for record in dict(zip((record.number for record in shown), shown, strict=True)).values():
        if record.figures:
            # Below the table: a target may have more of them than a terminal has columns.
            found = ", ".join(f"{name} {human_figure(figure)}" for name, figure in record.figures.items())
            lines.append(f"trial {record.number}: {found}")
    for note, numbers in view.notes.items():
        lines.append(f"trial {', '.join(map(str, numbers))}: {note}")
    if view.baseline is None:
        lines.append("the baseline was not run, so there is nothing to compare with")
    return Text("\n".join(lines), "dim")


def _what_is_listed(view: TargetView) -> str:
    built = sum(record.outcome is Outcome.COMPILED for record in view.records)
    if len(view.members) < built:
        return "listed are the recipes that are on the front of a target which measured them, smallest first"
    return "listed is what was compiled, smallest first; nothing measured says which is the best"
