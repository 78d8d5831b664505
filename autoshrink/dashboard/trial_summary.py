"""The head of a trial's page: how it ended, its figures against the baseline, its recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from autoshrink.dashboard.formatting import gain, speed_up, speed_up_interval
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.report_tables import OUTCOMES, UNTIMED
from autoshrink.dashboard.tables import size_ratio
from autoshrink.dashboard.trial_block import Block, Listing, Part, Rows, heads, note, region
from autoshrink.dashboard.view import NOT_MEASURED, TargetView
from autoshrink.search.words import describe, human_bytes, human_figure, human_ms, human_rate, rows_per_second
from autoshrink.types import Interval, Outcome, Score, TrialRecord

Ends = tuple[float, float] | None


@dataclass(frozen=True)
class FigureRow:
    """A figure of a trial beside the baseline's, in words and as numbers.

    Attributes:
        name: with the split where there are several.
        unit: of the numbers.
        value: of the trial; None where it is not known.
        interval: 95 %, of it.
        before: the baseline's.
        text: the trial's value as people read it; says why where there is none.
        interval_text: its interval.
        before_text: the baseline's value.
        change: against the baseline, in words.
        change_text: interval of the change.
        before_note: what is to be known of the baseline's value.
    """

    name: str
    unit: str
    value: float | None
    interval: Ends
    before: float | None
    text: str
    interval_text: str = ""
    before_text: str = ""
    change: str = ""
    change_text: str = ""
    before_note: str = ""


def title_of(record: TrialRecord, fidelity: float) -> Markup:
    """The recipe in words, as the heading of a trial."""
    return element("p", describe(record.recipe, fidelity), class_="headline")


def badges(record: TrialRecord, view: TargetView, chosen: TrialRecord | None) -> Markup:
    """How it ended, whether it is on the front, whether it is the one to ship."""
    meanings = OUTCOMES if view.is_timed else {**OUTCOMES, **UNTIMED}
    outcome = record.outcome
    on_front = view.is_scored and any(record is member for member in view.members)
    return element(
        "p",
        element("span", outcome.value, class_=f"badge {outcome.value}"),
        element("span", "front", class_="badge front") if on_front else None,
        element("span", "recommended", class_="badge pick") if record is chosen else None,
        element("span", meanings[outcome], class_="meaning"),
        class_="badges",
    )


def reason(record: TrialRecord) -> Markup | None:
    """Why it ended so."""
    if not record.reason:
        return None
    is_problem = record.outcome in (Outcome.FAILED, Outcome.INFEASIBLE)
    return element("p", record.reason, class_="problem reason" if is_problem else "unknown reason")


def gains(record: TrialRecord, view: TargetView) -> Markup | None:
    """What it gains over the baseline in large letters; None of the baseline itself, and where nothing was measured."""
    baseline = view.baseline
    if baseline is None or record is baseline:
        return None
    found: list[tuple[str, str]] = []
    latency = record.latency
    if latency and baseline.latency:
        # What the interval does not tell from the baseline is not said to be faster.
        is_tie = latency.ratio_ci.low <= 1 <= latency.ratio_ci.high
        words = "same speed" if is_tie else gain(latency.ratio, "faster", "slower", "same speed")
        ends = speed_up_interval(latency.ratio_ci)
        found.append((words, f"{human_ms(latency.ms)} a call, {ends} times as fast"))
    ratio = size_ratio(record, baseline)
    if ratio is not None and record.artifact:
        found.append((gain(ratio, "smaller", "larger", "same size"), human_bytes(record.artifact.size_bytes)))
    drop, ci, split = record.test_drop, record.test_drop_ci, "test"
    if drop is None or ci is None:
        drop, ci, split = record.drop, record.drop_ci, "val"
    if drop is not None and ci is not None:
        metric = view.metric
        found.append((metric.change(drop), f"{metric.name}, {metric.change_interval(ci)} on {split}"))
    tiles = [element("span", element("b", large), element("small", small)) for large, small in found]
    return element("div", tiles, class_="gains") if tiles else None


def figures_block(record: TrialRecord, view: TargetView) -> Block:
    """Every figure of the trial against the baseline."""
    rows = list(figure_rows(record, view))
    title = "Against the baseline" if record.recipe.stages else "The figures of the baseline"
    if not rows:
        return Block("figures", title, (note("Nothing was measured: the trial ended before anything was compiled."),))
    compares = bool(record.recipe.stages) and view.baseline is not None
    columns = [("figure", False), ("this trial", True)]
    columns += [("baseline", True), ("against the baseline", True)] if compares else []

    def cell(text: str, small: str) -> Markup:
        return element("td", text or "-", element("small", small) if small else None, class_="number")

    lines = [
        element(
            "tr",
            element("th", row.name, scope="row"),
            cell(row.text, row.interval_text),
            [cell(row.before_text, row.before_note), cell(row.change, row.change_text)] if compares else None,
        )
        for row in rows
    ]
    parts: list[Part] = []
    table = element("table", heads(columns), element("tbody", lines), class_="figures")
    parts.append(Listing("figures", region(table, "Figures"), "the figures", _values(rows)))
    parts.append(
        note(
            "Brackets are 95 % intervals. Those of a change are of the same samples through both models; the speed-up "
            "is against the baseline in turns with it."
        )
    )
    return Block("figures", title, tuple(parts))


def _values(rows: list[FigureRow]) -> Rows:
    return Rows(
        ("figure", "unit", "value", "from", "to", "baseline", "change"),
        tuple(
            (row.name, row.unit, row.value, *(row.interval or (None, None)), row.before, row.change or None)
            for row in rows
        ),
    )


def figure_rows(record: TrialRecord, view: TargetView) -> Iterator[FigureRow]:
    """Accuracy, latency, size and what else is known of a trial; what was not measured says why."""
    baseline = view.baseline if record is not view.baseline else None
    if record.artifact is None and record.val is None:
        return
    yield from _scores(record, baseline, view)
    yield from _speeds(record, baseline, view)
    yield from _sizes(record, baseline)
    for name, figure in record.figures.items():
        other = baseline.figures.get(name) if baseline else None
        yield FigureRow(
            name, figure.unit, figure.value, None, other.value if other else None, human_figure(figure),
            f"by {figure.source}", human_figure(other) if other else "",
            _share(figure.value, other.value) if other else "",
        )  # fmt: skip
    if record.peak_memory_bytes is not None:
        own = record.peak_memory_bytes
        other_bytes = baseline.peak_memory_bytes if baseline else None
        yield FigureRow(
            "memory of the process", "bytes", own, None, other_bytes, human_bytes(own), "at its most",
            human_bytes(other_bytes) if other_bytes else "", _share(own, other_bytes) if other_bytes else "",
        )  # fmt: skip


def _scores(record: TrialRecord, baseline: TrialRecord | None, view: TargetView) -> Iterator[FigureRow]:
    metric = view.metric

    def row(split: str, own: Score, other: Score | None, drop: float | None, drop_ci: Interval | None) -> FigureRow:
        return FigureRow(
            f"{metric.name}, {split}", metric.unit.strip(), metric.factor * own.value, _ends(own.ci, metric.factor),
            metric.factor * other.value if other else None, metric.value(own.value),
            f"[{metric.number(own.ci.low)}, {metric.number(own.ci.high)}]", metric.value(other.value) if other else "",
            metric.change(drop) if drop is not None and baseline else "",
            metric.change_interval(drop_ci) if drop_ci and baseline else "",
        )  # fmt: skip

    if record.test is not None:
        other = baseline.test if baseline else None
        yield row("test", record.test, other, record.test_drop, record.test_drop_ci)
    if record.val is not None:
        yield row("val", record.val, baseline.val if baseline else None, record.drop, record.drop_ci)
        return
    elsewhere = view.elsewhere(record)
    where = ""
    if elsewhere is not None and elsewhere.val is not None:
        where = f"{metric.value(elsewhere.val.value)} on {elsewhere.target}, val"
    yield FigureRow(metric.name, "", None, None, None, NOT_MEASURED, where)


def _speeds(record: TrialRecord, baseline: TrialRecord | None, view: TargetView) -> Iterator[FigureRow]:
    latency, other = record.latency, baseline.latency if baseline else None
    if latency is None:
        yield FigureRow("latency", "ms", None, None, None, NOT_MEASURED)
        return
    # The baseline's own record is of another minute, and of another pace of the machine.
    beside = replace(other, ms=latency.ms / latency.ratio) if other and latency.ratio > 0 else None
    in_turns = "in turns with it" if beside else ""
    yield FigureRow(
        "latency", "ms", latency.ms, _ends(latency.ms_ci), beside.ms if beside else None, human_ms(latency.ms),
        f"[{latency.ms_ci.low:.4g}, {latency.ms_ci.high:.4g}]", human_ms(beside.ms) if beside else "",
        f"{speed_up(latency.ratio)} as fast" if baseline else "",
        speed_up_interval(latency.ratio_ci) if baseline else "", in_turns,
    )  # fmt: skip
    rate, before = (rows_per_second(each, view.target.batch) if each else None for each in (latency, beside))
    yield FigureRow(
        "throughput", "rows/s", rate, None, before, view.rate(record), "", human_rate(before) if before else "",
        before_note=in_turns,
    )  # fmt: skip


def _sizes(record: TrialRecord, baseline: TrialRecord | None) -> Iterator[FigureRow]:
    if record.artifact is None:
        return
    own, other = record.artifact, baseline.artifact if baseline else None
    ratio = size_ratio(record, baseline)
    yield FigureRow(
        "size", "bytes", own.size_bytes, None, other.size_bytes if other else None,
        human_bytes(own.size_bytes), "exact",
        human_bytes(other.size_bytes) if other else "", gain(ratio, "smaller", "larger") if ratio else "",
    )  # fmt: skip
    packed, packed_before = own.compressed_bytes, other.compressed_bytes if other else None
    if packed is not None:
        change = gain(packed / packed_before, "smaller", "larger") if packed_before else ""
        yield FigureRow(
            "size, gzip", "bytes", packed, None, packed_before, human_bytes(packed), "exact",
            human_bytes(packed_before) if packed_before else "", change,
        )  # fmt: skip


def _ends(interval: Interval, factor: float = 1.0) -> Ends:
    return factor * interval.low, factor * interval.high


def _share(value: float, before: float) -> str:
    return gain(value / before, "less", "more") if before > 0 and value > 0 else ""


def recipe_json(record: TrialRecord) -> str:
    """The recipe as the record has it, a stage a line."""
    stages = [json.dumps(stage) for stage in record.recipe.to_json()]
    return "[\n  {}\n]".format(",\n  ".join(stages)) if stages else "[]"
