"""The HTML tables of a report: the front, what runs in 8 bit, and every trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from autoshrink.dashboard.formatting import Metric, counted, gain, speed_up, speed_up_interval
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.tables import gzipped, latency_ties, size_ratio
from autoshrink.dashboard.view import NOT_MEASURED, TargetView, absent
from autoshrink.search.words import describe, human_bytes, human_figure, human_ms, human_seconds
from autoshrink.types import LOW_BIT_WEIGHTS, Interval, Outcome, Score, TrialRecord

OUTCOMES = {
    Outcome.COMPLETE: "measured, and within every limit",
    Outcome.COMPILED: "compiled for a device that is not here, so not measured",
    Outcome.INFEASIBLE: "over a limit",
    Outcome.REJECTED: "the target cannot run it, so it cost nothing",
    Outcome.STOPPED: "cut early",
    Outcome.FAILED: "an error ended it; the log says which",
}
UNTIMED = {Outcome.COMPLETE: "accuracy measured, and within every limit that can be checked"}
"""What is meant where latency is not measured."""
FLOAT_LAYERS_SHOWN = 4
UNITS = {
    "latency": "ms",
    "size": "bytes",
    "throughput": "rows/s",
    "time": "s",
    "speed-up": "x",
    "smaller": "x",
}
"""Heading -> unit of the number that a cell is sorted by, for a saved table."""

Column = tuple[str, bool, Callable[[TrialRecord], Markup]]
"""Heading, whether it holds figures, and the cell of a trial."""


def front_table(view: TargetView, chosen: TrialRecord | None) -> Markup:
    """The baseline, then the front, smallest latency first; `chosen` is marked."""
    rest = [record for record in view.members if record is not view.baseline]
    columns = [_number(), _recipes(lambda record: _chosen_badge(record is chosen))]
    columns += (
        _scores(view, with_test=any(record.test for record in view.members))
        + _speeds(view, latency_ties(rest))
        + _sizes(view)
    )
    columns += [("int8", True, _int8), *_figures([*rest, *([view.baseline] if view.baseline else [])])]
    row = _rows(columns, chosen)
    pinned = [element("tbody", row(view.baseline), class_="pinned")] if view.baseline else []
    label = "The Pareto front" if view.is_scored else "Compiled trials"
    return _table(columns, [*pinned, element("tbody", map(row, rest))], label, "front", _units(view.metric))


def trials_table(view: TargetView) -> Markup:
    """Every trial with its outcome, figures, reason and notes."""
    members = {record.number for record in view.members} if view.is_scored else set()

    def outcome(record: TrialRecord) -> Markup:
        on_front = element("span", "front", class_="badge front") if record.number in members else None
        name = record.outcome.value
        return element("td", element("span", name, class_=f"badge {name}"), on_front)

    columns: list[Column] = [_number(), ("outcome", False, outcome), _recipes(_said, "recipe, reason")]
    columns += _scores(view, with_test=False) + _speeds(view, set()) + _sizes(view)[:1] + _figures(view.records)
    columns.append(("time", True, _time))
    body = element("tbody", map(_rows(columns), view.records))
    return _table(columns, [body], "All trials", units=_units(view.metric))


def _units(metric: Metric) -> Mapping[str, str]:
    if not metric.percent:
        return UNITS
    of_metric = dict.fromkeys((metric.name, f"{metric.name}, val", f"{metric.name}, test"), "%")
    return {**UNITS, **of_metric, "change, val": "points"}


def _number() -> Column:
    return "trial", True, lambda record: figure_cell(str(record.number), record.number)


def _recipes(below: Callable[[TrialRecord], object], heading: str = "recipe") -> Column:
    return heading, False, lambda record: element("td", describe(record.recipe), below(record), class_="recipe")


def _chosen_badge(is_chosen: bool) -> Markup | None:
    return element("span", "chosen", class_="badge pick") if is_chosen else None


def _said(record: TrialRecord) -> list[object]:
    """Reason, log, and what the audit noted."""
    notes = record.audit.notes if record.audit else ()
    listed = element("ul", [element("li", note) for note in notes], class_="notes")
    has_log = record.log and not record.is_scored and record.outcome is not Outcome.COMPILED
    return [
        element("small", record.reason, class_="reason") if record.reason else None,
        element("details", element("summary", counted(len(notes), "note")), listed) if notes else None,
        element("small", element("code", record.log)) if has_log else None,
    ]


def _scores(view: TargetView, with_test: bool) -> list[Column]:
    metric = view.metric
    if not view.is_scored:
        return [(metric.name, True, lambda record: _score_elsewhere(record, view))]

    def cell(score: Score | None) -> Markup:
        if score is None:
            return figure_cell("-", None)
        return figure_cell(
            metric.value(score.value),
            score.value * metric.factor,
            f"[{metric.number(score.ci.low)}, {metric.number(score.ci.high)}]",
        )

    def change(record: TrialRecord) -> Markup:
        if record.drop is None or record is view.baseline:
            return figure_cell("-", None)
        return figure_cell(
            metric.change(record.drop), -record.drop * metric.factor, _change_interval(record.drop_ci, metric)
        )

    columns: list[Column] = [
        (f"{metric.name}, val", True, lambda record: cell(record.val)),
        ("change, val", True, change),
    ]
    if with_test:
        columns.insert(0, (f"{metric.name}, test", True, lambda record: cell(record.test)))
    return columns


def _score_elsewhere(record: TrialRecord, view: TargetView) -> Markup:
    """That nothing was measured here, and what the same recipe reaches on another target."""
    other = view.elsewhere(record)
    if other is None or other.val is None:
        return figure_cell(absent(record), None)
    # On val, which every target has: where two tell, their figures can be compared.
    score, metric = other.val, view.metric
    interval = f"[{metric.number(score.ci.low)}, {metric.number(score.ci.high)}]"
    below = f"{metric.value(score.value)} {interval} on {other.target}, val"
    return figure_cell(NOT_MEASURED, score.value * metric.factor, below)


def _speeds(view: TargetView, ties: set[int]) -> list[Column]:
    def same(record: TrialRecord) -> str:
        return "≈ " if record.number in ties else ""

    def unstable(record: TrialRecord) -> str:
        steady = record.latency is None or (record.latency.stable and not record.latency.drifts)
        return "" if steady else "unstable"

    def rate(record: TrialRecord) -> Markup:
        rows = view.throughput(record)
        return (
            figure_cell(absent(record), None)
            if rows is None
            else figure_cell(f"{same(record)}{view.rate(record)}", rows)
        )

    def latency(record: TrialRecord) -> Markup:
        if record.latency is None:
            return figure_cell(absent(record), None)
        mark = "" if view.shows_throughput else same(record)
        return figure_cell(f"{mark}{human_ms(record.latency.ms)}", record.latency.ms, unstable(record))

    def gained(record: TrialRecord) -> Markup:
        found = record.latency
        if found is None or record is view.baseline:
            return figure_cell("-", 1.0 if record is view.baseline else None)
        return figure_cell(speed_up(found.ratio), 1 / found.ratio, speed_up_interval(found.ratio_ci))

    columns: list[Column] = [("throughput", True, rate)] if view.shows_throughput else []
    columns.append(("latency", True, latency))
    return [*columns, ("speed-up", True, gained)] if view.is_timed else columns


def _sizes(view: TargetView) -> list[Column]:
    def size(record: TrialRecord) -> Markup:
        if record.artifact is None:
            return figure_cell("-", None)
        return figure_cell(human_bytes(record.artifact.size_bytes), record.artifact.size_bytes, gzipped(record))

    def smaller(record: TrialRecord) -> Markup:
        ratio = size_ratio(record, view.baseline)
        if ratio is None or record is view.baseline:
            return figure_cell("-", 1.0 if record is view.baseline else None)
        return figure_cell(gain(ratio, "", "larger").strip(), 1 / ratio)

    return [("size", True, size), ("smaller", True, smaller)]


def _int8(record: TrialRecord) -> Markup:
    audit = record.audit
    return (
        figure_cell(f"{audit.int8_layers}/{len(audit.layers)}", audit.int8_layers) if audit else figure_cell("-", None)
    )


def _figures(records: Iterable[TrialRecord]) -> list[Column]:
    """A column for each figure that the backend found in compiling any of the trials."""

    def column(name: str) -> Column:
        def cell(record: TrialRecord) -> Markup:
            figure = record.figures.get(name)
            return (
                figure_cell("-", None)
                if figure is None
                else figure_cell(human_figure(figure), figure.value, figure.source)
            )

        return name, True, cell

    return [column(name) for name in dict.fromkeys(name for record in records for name in record.figures)]


def _time(record: TrialRecord) -> Markup:
    seconds = sum(record.seconds.values())
    return figure_cell(human_seconds(seconds), seconds)


def _rows(columns: Sequence[Column], chosen: TrialRecord | None = None) -> Callable[[TrialRecord], Markup]:
    def row(record: TrialRecord) -> Markup:
        cells = [cell(record) for _, _, cell in columns]
        return element("tr", cells, class_="chosen" if record is chosen else None, data_trial=record.number)

    return row


def audit_table(view: TargetView) -> Markup:
    """For the front: the share of layers in 8 bit, those that stayed float, and the kernels between the layers."""
    members = [record for record in view.members if record.audit is not None]
    columns: list[Column] = [
        _number(),
        _recipes(lambda _: None),
        ("layers in int8", True, _share),
        ("conversions", True, lambda record: _count(record.audit.conversions if record.audit else 0)),
        ("kernels", True, lambda record: _count(record.audit.kernels if record.audit else 0)),
        ("layers in float", False, lambda record: element("td", _float_layers(record))),
    ]
    if any(record.weight_bits for record in members):
        columns.insert(5, ("trained weight bits", False, lambda record: element("td", _weight_bits(record))))
    if view.notes:
        columns.append(("what else the target does", False, _notes))
    return _table(columns, [element("tbody", map(_rows(columns), members))], "What runs in 8 bit")


def _share(record: TrialRecord) -> Markup:
    if record.audit is None:
        return figure_cell("-", None)
    layers = len(record.audit.layers)
    share = record.audit.int8_layers / layers if layers else 0.0
    meter = element("span", element("span", style=f"width:{100 * share:.0f}%"), class_="meter", aria_hidden="true")
    return figure_cell(f"{record.audit.int8_layers} of {layers}", share, meter)


def _count(count: int) -> Markup:
    return figure_cell(str(count), count)


def _notes(record: TrialRecord) -> Markup:
    notes = record.audit.notes if record.audit else ()
    return element("td", element("ul", [element("li", note) for note in notes], class_="notes") if notes else None)


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


def outcome_list(view: TargetView) -> Markup:
    """How many trials ended in each way, and what that means."""
    counts = [(outcome, sum(record.outcome is outcome for record in view.records)) for outcome in Outcome]
    meanings = OUTCOMES if view.is_timed else {**OUTCOMES, **UNTIMED}
    return element(
        "ul",
        [
            element(
                "li", element("span", f"{count} {outcome.value}", class_=f"badge {outcome.value}"), meanings[outcome]
            )
            for outcome, count in counts
            if count
        ],
        class_="outcomes",
    )


def _change_interval(interval: Interval | None, metric: Metric) -> str:
    return metric.change_interval(interval) if interval else ""


def figure_cell(text: str, value: float | None, below: object = "") -> Markup:
    """A cell of a figure: what is shown, what it is sorted by (None sorts last), and a small second line."""
    small = element("small", below) if below else None
    return element("td", text, small, class_="number", data_value="" if value is None else repr(value))


def _table(
    columns: Sequence[Column],
    bodies: Iterable[Markup],
    label: str,
    kind: str = "",
    units: Mapping[str, str] = UNITS,
) -> Markup:
    return sortable_table([(name, figures) for name, figures, _ in columns], bodies, label, kind, units)


def sortable_table(
    heads: Iterable[tuple[str, bool]],
    bodies: Iterable[Markup],
    label: str,
    kind: str = "",
    units: Mapping[str, str] = UNITS,
) -> Markup:
    """A table whose columns sort by a click.

    Args:
        heads: (name, whether the column holds figures).
        bodies: `tbody` elements; each is sorted on its own.
        label: for readers of the screen, and the name of its file when it is saved.
        kind: a class of the table.
        units: see `UNITS`.
    """
    cells = [
        element("th", name, scope="col", class_="number" if figures else None, data_unit=units.get(name))
        for name, figures in heads
    ]
    table = element("table", element("thead", element("tr", cells)), list(bodies), class_=f"sortable {kind}".strip())
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
