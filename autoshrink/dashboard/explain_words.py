"""Parts of an explanation as people read them, in the terminal and in the report."""

from __future__ import annotations

from autoshrink.explain.explanation import Explanation, Row, Tried
from autoshrink.explain.findings import Finding
from autoshrink.search.words import human_ms

NAMES = 4
"""Layers that are named one by one."""


def ms(value: float | None) -> str:
    """Milliseconds down to a tenth of a microsecond; empty where there are none."""
    if value is None:
        return ""
    return f"{value:.4f} ms" if value < 0.1 else human_ms(value)


def share(value: float | None) -> str:
    """`12.3 %`; empty where it is not known."""
    return "" if value is None else f"{100 * value:.1f} %"


def layers_of(finding: Finding) -> str:
    """The names of its layers, the first few of many."""
    names = finding.layers
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def expected(finding: Finding) -> str:
    """What its advice is expected to bring."""
    known = finding.expected.ms
    return finding.expected.basis if known is None else f"{ms(known)} less: {finding.expected.basis}"


def summary(explanation: Explanation) -> str:
    """Where the time goes, in a line."""
    if explanation.call_ms is None and explanation.total_ms is None:
        return "no times: " + "; ".join(explanation.notes)
    took = "a call takes {}" if explanation.call_ms is not None else "estimated: {} in all"
    parts = [took.format(ms(explanation.call_ms if explanation.call_ms is not None else explanation.total_ms))]
    if explanation.total_ms is None:
        parts.append("no time per kernel")
    else:
        layers = sum(row.ms or 0.0 for row in explanation.rows if row.precision)
        conversions = sum(row.ms or 0.0 for row in explanation.rows if row.is_conversion)
        parts.append(f"layers with weights {share(layers / explanation.total_ms)}")
        parts.append(f"conversions {share(conversions / explanation.total_ms)}")
        parts.append(f"outside kernels {share((explanation.overhead_ms or 0.0) / explanation.total_ms)}")
    return ", ".join(parts)


def dearest(explanation: Explanation, count: int | None) -> list[Row]:
    """The rows by their time, dearest first; in their order where there are no times."""
    rows = sorted(explanation.rows, key=lambda row: -(row.ms or 0.0))
    return rows if count is None else rows[:count]


def brought(tried: Tried) -> str:
    """What a change really brought, with its interval."""
    if tried.ratio is None or tried.ratio_ci is None:
        return tried.verdict
    interval = f"{tried.ratio:.2f} [{tried.ratio_ci.low:.2f}, {tried.ratio_ci.high:.2f}]"
    return f"{tried.verdict}; time x {interval}: {ms(tried.before_ms)} → {ms(tried.after_ms)}"


def beside(tried: Tried) -> str:
    """What else changed: layers in 8 bit, outputs, the metric."""
    parts = []
    if tried.int8_before and tried.int8_after:
        parts.append("{} of {} layers in 8 bit → {} of {}".format(*tried.int8_before, *tried.int8_after))
    if tried.agreement_db is not None:
        parts.append(f"outputs agree to {tried.agreement_db:.0f} dB")
    if tried.figure_change is not None:
        parts.append(f"metric {tried.figure_change:+.4f}")
    if tried.ratio is not None and tried.why:
        parts.append(tried.why)
    return "; ".join(parts)


def changes_of(tried: Tried) -> str:
    """What was changed."""
    return " + ".join(change.text for change in tried.changes)


def expected_of(tried: Tried) -> str:
    """What was expected of it."""
    return "not known" if tried.expected_ms is None else f"{ms(tried.expected_ms)} less"
