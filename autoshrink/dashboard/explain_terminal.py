"""An explanation in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

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
from autoshrink.explain.explanation import Explanation

ROWS = 20
BAR = 20
"""Characters of a share of 100 %."""
EIGHTHS = " ▏▎▍▌▋▊▉█"


def explain_renderables(explanation: Explanation, every: bool = False) -> Iterator[RenderableType]:
    """The parts in their order: where the time goes, what costs it, what was tried.

    Args:
        explanation: of a file or a trial.
        every: all kernels, and not only the dearest.
    """
    yield Text(f"{explanation.subject} on {explanation.target} ({explanation.runtime})", "bold")
    yield Text(summary(explanation))
    if explanation.rows:
        yield kernels_table(explanation, None if every else ROWS)
    if explanation.source:
        yield Text(f"times: {explanation.source}" if explanation.total_ms else f"from: {explanation.source}", "dim")
    if explanation.call_ms is not None or explanation.total_ms is not None:
        for note in explanation.notes:
            yield Text(f"note: {note}", "dim")
    yield Text("")
    if not explanation.findings:
        yield Text("Nothing found that costs time for nothing.", "green")
    for number, finding in enumerate(explanation.findings, 1):
        yield Text.assemble((f"{number}. {finding.what}", "bold"), (f"  [{finding.rule}]", "dim"))
        if finding.layers:
            yield Text(f"   layers:   {layers_of(finding)}")
        yield Text(f"   why:      {finding.why}")
        yield Text(f"   change:   {finding.advice}")
        if finding.change:
            yield Text(f"   --apply:  {finding.change.text}", "cyan")
        yield Text(f"   expected: {expected(finding)}")
    if explanation.tried:
        yield Text("")
        yield Text("Tried, each turn by turn with what it was made from:", "bold")
    for tried in explanation.tried:
        style = "green" if tried.verdict.endswith("as fast") else "yellow"
        yield Text(changes_of(tried), "cyan")
        yield Text(f"   expected: {expected_of(tried)}")
        yield Text.assemble("   brought:  ", (brought(tried), style))
        if beside(tried):
            yield Text(f"   beside:   {beside(tried)}")
        if tried.where:
            yield Text(f"   where:    {tried.where}")


def kernels_table(explanation: Explanation, most: int | None) -> Table:
    """The kernels, dearest first, with a bar for each one's share."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer or kernel", overflow="fold")
    table.add_column("kind", overflow="fold")
    table.add_column("runs in")
    table.add_column("channels")
    for name in ("time", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    rows = dearest(explanation, most)
    for row in rows:
        style = "yellow" if row.precision in ("fp32", "fp64") and _is_mixed(explanation) else ""
        table.add_row(
            Text(row.name, "dim" if row.is_conversion else style),
            Text(row.kind, "dim"),
            Text(row.precision, style),
            row.channels,
            ms(row.ms),
            share(row.share),
            Text(bar(row.share), "blue"),
        )
    left = len(explanation.rows) - len(rows)
    if left:
        rest = sum(row.ms or 0.0 for row in explanation.rows) - sum(row.ms or 0.0 for row in rows)
        value = rest / explanation.total_ms if explanation.total_ms else None
        table.add_row(Text(f"{left} more (--all shows them)", "dim"), "", "", "", ms(rest), share(value), bar(value))
    if explanation.overhead_ms and explanation.total_ms:
        value = explanation.overhead_ms / explanation.total_ms
        table.add_row(
            Text("outside every kernel", "dim"), "", "", "", ms(explanation.overhead_ms), share(value), bar(value)
        )
    return table


def bar(value: float | None) -> str:
    """A share, 0 to 1, as a bar of blocks."""
    if not value:
        return ""
    eighths = round(8 * BAR * min(1.0, value))
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _is_mixed(explanation: Explanation) -> bool:
    return any(row.precision in ("int8", "uint8") for row in explanation.rows)
