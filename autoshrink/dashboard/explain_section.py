"""The part of a report about where the time of trials goes: those that `autoshrink explain` was run on."""

from __future__ import annotations

from collections.abc import Iterator

from autoshrink.dashboard.explain_words import (
    beside,
    brought,
    changes_of,
    dearest,
    expected,
    expected_of,
    layers_of,
    ms,
    share,
    summary,
)
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.view import TargetView
from autoshrink.explain.explanation import Explanation, read
from autoshrink.explain.findings import Finding
from autoshrink.records import StudyFolder
from autoshrink.search.words import describe

ROWS = 30
"""Kernels that are shown of a trial; the rest is one row."""


def explain_section(study: StudyFolder, view: TargetView) -> Iterator[Markup]:
    """For the baseline and the members of the front that were explained: their kernels, and what costs time.

    Raises:
        ConfigError: what was kept of an explanation is damaged.
    """
    baseline = [view.baseline] if view.baseline is not None and view.baseline not in view.members else []
    found = [
        (record, explanation)
        for record in (*baseline, *view.members)
        if (explanation := read(study.trial_folder(view.name, record.number))) is not None
    ]
    if not found:
        return
    yield element("h3", "Where the time goes")
    yield element(
        "p",
        "Kernel by kernel, as the runtime's own profiler tells it, for the trials that ",
        element("code", "autoshrink explain"),
        " was run on. A profiled call takes longer than a plain one: shares are what to go by.",
        class_="note",
    )
    for place, (record, explanation) in enumerate(found):
        title = f"trial {record.number}: {describe(record.recipe, study.meta.fidelity)}"
        yield element(
            "details",
            element("summary", title),
            element("p", f"{summary(explanation)}.", class_="note"),
            _kernels(explanation) if explanation.rows else None,
            _findings(explanation),
            _tried(explanation),
            element("p", "; ".join([explanation.source, *explanation.notes]), class_="note"),
            open=place == len(found) - 1,
            class_="explain",
        )


def _kernels(explanation: Explanation) -> Markup:
    rows = dearest(explanation, ROWS)
    heads = [("layer or kernel", False), ("kind", False), ("runs in", False), ("channels", False), ("time", True)]
    cells = [
        element(
            "tr",
            element("td", row.name),
            element("td", row.kind),
            element("td", row.precision),
            element("td", row.channels, class_="number"),
            _time(row.ms),
            _share(row.share, row.is_conversion),
        )
        for row in rows
    ]
    total = explanation.total_ms
    left = len(explanation.rows) - len(rows)
    if left:
        rest = sum(row.ms or 0.0 for row in explanation.rows) - sum(row.ms or 0.0 for row in rows)
        cells.append(_other(f"{left} more kernels", rest if total else None, total))
    if explanation.overhead_ms:
        cells.append(_other("outside every kernel", explanation.overhead_ms, total))
    head = [element("th", name, scope="col", class_="number" if is_figure else None) for name, is_figure in heads]
    head.append(element("th", "share of the call", scope="col"))
    table = element("table", element("thead", element("tr", head)), element("tbody", cells))
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label="Kernels of the call")


def _other(name: str, value: float | None, total: float | None) -> Markup:
    part = value / total if value is not None and total else None
    blank = [element("td") for _ in range(3)]
    return element("tr", element("td", name), blank, _time(value), _share(part, True), class_="rest")


def _time(value: float | None) -> Markup:
    return element("td", ms(value) or "-", class_="number")


def _share(value: float | None, is_other: bool) -> Markup:
    if value is None:
        return element("td", "-")
    bar = element("span", style=f"width: {100 * min(1.0, value):.2f}%", class_="other" if is_other else None)
    return element("td", element("span", bar, class_="meter", aria_hidden="true"), share(value), class_="share")


def _findings(explanation: Explanation) -> Markup:
    if not explanation.findings:
        return element("p", "Nothing was found that costs time for nothing.", class_="note")
    return element("ol", [_finding(each) for each in explanation.findings], class_="findings")


def _finding(finding: Finding) -> Markup:
    facts = [
        ("layers", layers_of(finding)),
        ("why", finding.why),
        ("change", finding.advice),
        ("expected", expected(finding)),
    ]
    listed = [[element("dt", name), element("dd", text)] for name, text in facts if text]
    return element("li", element("b", finding.what), element("dl", listed, class_="list"))


def _tried(explanation: Explanation) -> Markup | None:
    if not explanation.tried:
        return None
    heads = ("tried", "expected", "really brought", "beside it", "where")
    rows = [
        element(
            "tr",
            [
                element("td", text)
                for text in (changes_of(each), expected_of(each), brought(each), beside(each), each.where)
            ],
        )
        for each in explanation.tried
    ]
    head = element("tr", [element("th", name, scope="col") for name in heads])
    table = element("table", element("thead", head), element("tbody", rows))
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label="What was tried")
