"""The HTML tables of a report: the front, what runs in 8 bit, and every trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from autoshrink.dashboard.formatting import Metric, counted, gain, speed_up, speed_up_interval
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.tables import baseline_of, gzipped, latency_ties, size_ratio
from autoshrink.search.front import front
from autoshrink.search.words import describe, human_bytes, human_ms, human_seconds
from autoshrink.types import LOW_BIT_WEIGHTS, Interval, Outcome, Score, TrialRecord

OUTCOMES = {
    Outcome.COMPLETE: "measured, and within every limit",
    Outcome.INFEASIBLE: "measured, and over a limit",
    Outcome.REJECTED: "the target cannot run it, so it cost nothing",
    Outcome.STOPPED: "cut early",
    Outcome.FAILED: "an error ended it; the log says which",
}
FLOAT_LAYERS_SHOWN = 4


def front_table(records: Sequence[TrialRecord], chosen: TrialRecord | None) -> Markup:
    """The baseline, then the front, smallest latency first; `chosen` is marked."""
    metric, baseline, members = Metric.of(records), baseline_of(records), front(records)
    rest = [record for record in members if record is not baseline]
    ties = latency_ties(rest)
    head = [
        ("trial", True), ("recipe", False), (f"{metric.name}, test", True), (f"{metric.name}, val", True),
        ("change, val", True), ("latency", True), ("speed-up", True), ("size", True), ("smaller", True), ("int8", True),
    ]  # fmt: skip

    def row(record: TrialRecord) -> Markup:
        first, latency = record is baseline, record.latency
        ratio = size_ratio(record, baseline)
        audit = record.audit
        return element(
            "tr",
            _cell(str(record.number), record.number),
            _recipe(record, element("span", "chosen", class_="badge pick") if record is chosen else None),
            _score(record.test, metric),
            _score(record.val, metric),
            _cell("-", None)
            if first or record.drop is None
            else _cell(metric.change(record.drop), -record.drop, _change_interval(record.drop_ci, metric)),
            _cell(
                f"{'≈ ' if record.number in ties else ''}{human_ms(latency.ms)}" if latency else "-",
                latency.ms if latency else None,
                "" if latency is None or latency.stable else "unstable",
            ),
            _cell("-", 1.0)
            if first or not latency
            else _cell(speed_up(latency.ratio), 1 / latency.ratio, speed_up_interval(latency.ratio_ci)),
            _bytes(record),
            _cell("-", 1.0) if first or ratio is None else _cell(gain(ratio, "", "larger").strip(), 1 / ratio),
            _cell(f"{audit.int8_layers}/{len(audit.layers)}", audit.int8_layers) if audit else _cell("-", None),
            class_="chosen" if record is chosen else None,
        )

    pinned = [element("tbody", row(baseline), class_="pinned")] if baseline else []
    return _table(head, [*pinned, element("tbody", map(row, rest))], "The Pareto front")


def audit_table(records: Sequence[TrialRecord]) -> Markup:
    """For the front: the share of layers in 8 bit, those that stayed float, and the kernels between the layers."""
    members = [record for record in front(records) if record.audit is not None]
    head = [
        ("trial", True), ("recipe", False), ("layers in int8", True), ("conversions", True), ("kernels", True),
        ("trained weight bits", False), ("layers in float", False),
    ]  # fmt: skip

    def row(record: TrialRecord) -> Markup | None:
        if record.audit is None:
            return None
        audit = record.audit
        share = audit.int8_layers / len(audit.layers) if audit.layers else 0.0
        meter = element("span", element("span", style=f"width:{100 * share:.0f}%"), class_="meter", aria_hidden="true")
        return element(
            "tr",
            _cell(str(record.number), record.number),
            _recipe(record),
            _cell(f"{audit.int8_layers} of {len(audit.layers)}", share, meter),
            _cell(str(audit.conversions), audit.conversions),
            _cell(str(audit.kernels), audit.kernels),
            element("td", _weight_bits(record)),
            element("td", _float_layers(record)),
        )

    return _table(head, [element("tbody", map(row, members))], "What runs in 8 bit")


def _weight_bits(record: TrialRecord) -> object:
    """How many layers have how many bits; opened, which."""
    if not record.weight_bits:
        return ""
    widths = Counter(record.weight_bits.values())
    text = ", ".join(f"{bits} bits: {counted(widths[bits], 'layer')}" for bits in sorted(widths, reverse=True))
    listed = ", ".join(f"{layer} {bits}" for layer, bits in record.weight_bits.items())
    return element("details", element("summary", text), listed)


def _float_layers(record: TrialRecord) -> object:
    audit = record.audit
    if audit is None or audit.int8_layers == len(audit.layers):
        return "none"
    if not record.recipe.precision.startswith(("int8", "int4")):
        return "all: the recipe asks for no 8 bit"
    floats = [layer for layer in audit.layers if not layer.is_int8 and layer.precision != LOW_BIT_WEIGHTS]
    names = [f"{layer.name} ({layer.kind}, {layer.precision})" for layer in floats]
    if not names:
        return "none"
    if len(names) <= FLOAT_LAYERS_SHOWN:
        return ", ".join(names)
    return element("details", element("summary", f"{len(names)} layers"), ", ".join(names))


def trials_table(records: Sequence[TrialRecord]) -> Markup:
    """Every trial with its outcome, figures and reason."""
    metric, baseline = Metric.of(records), baseline_of(records)
    members = {record.number for record in front(records)}
    head = [
        ("trial", True), ("outcome", False), ("recipe, reason", False), (f"{metric.name}, val", True),
        ("change, val", True), ("latency", True), ("speed-up", True), ("size", True), ("time", True),
    ]  # fmt: skip

    def row(record: TrialRecord) -> Markup:
        latency, seconds = record.latency, sum(record.seconds.values())
        drop = record.drop if record is not baseline else None
        on_front = element("span", "front", class_="badge front") if record.number in members else None
        return element(
            "tr",
            _cell(str(record.number), record.number),
            element("td", element("span", record.outcome.value, class_=f"badge {record.outcome.value}"), on_front),
            _recipe(
                record,
                element("small", record.reason, class_="reason") if record.reason else None,
                element("small", element("code", record.log)) if record.log and not record.is_measured else None,
            ),
            _score(record.val, metric),
            _cell(metric.change(drop), -drop) if drop is not None else _cell("-", None),
            _cell(human_ms(latency.ms), latency.ms) if latency else _cell("-", None),
            _cell(speed_up(latency.ratio), 1 / latency.ratio) if latency else _cell("-", None),
            _bytes(record),
            _cell(human_seconds(seconds), seconds),
        )

    return _table(head, [element("tbody", map(row, records))], "All trials")


def outcome_list(records: Sequence[TrialRecord]) -> Markup:
    """How many trials ended in each way, and what that means."""
    counts = [(outcome, sum(record.outcome is outcome for record in records)) for outcome in Outcome]
    return element(
        "ul",
        [
            element(
                "li", element("span", f"{count} {outcome.value}", class_=f"badge {outcome.value}"), OUTCOMES[outcome]
            )
            for outcome, count in counts
            if count
        ],
        class_="outcomes",
    )


def _score(score: Score | None, metric: Metric) -> Markup:
    if score is None:
        return _cell("-", None)
    return _cell(
        metric.value(score.value), score.value, f"[{metric.number(score.ci.low)}, {metric.number(score.ci.high)}]"
    )


def _recipe(record: TrialRecord, *below: object) -> Markup:
    return element("td", describe(record.recipe), *below, class_="recipe")


def _change_interval(interval: Interval | None, metric: Metric) -> str:
    return metric.change_interval(interval) if interval else ""


def _bytes(record: TrialRecord) -> Markup:
    if record.artifact is None:
        return _cell("-", None)
    return _cell(human_bytes(record.artifact.size_bytes), record.artifact.size_bytes, gzipped(record))


def _cell(text: str, value: float | None, below: object = "") -> Markup:
    """A cell of a figure: what is shown, what it is sorted by (None sorts last), and a small second line."""
    small = element("small", below) if below else None
    return element("td", text, small, class_="number", data_value="" if value is None else repr(value))


def _table(head: Iterable[tuple[str, bool]], bodies: Iterable[Markup], label: str) -> Markup:
    """A table whose columns sort by a click; `head` is (name, whether its column holds figures)."""
    cells = [element("th", name, scope="col", class_="number" if figures else None) for name, figures in head]
    table = element("table", element("thead", element("tr", cells)), list(bodies), class_="sortable")
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
