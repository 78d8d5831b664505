"""A trial in a few lines: what was done, what came of it, with intervals."""

from __future__ import annotations

from collections.abc import Iterator

from autoshrink.dashboard.formatting import gain
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.tables import size_ratio
from autoshrink.dashboard.view import TargetView
from autoshrink.search.words import describe, human_bytes, human_figure, human_ms
from autoshrink.types import TrialRecord


def trial_card(view: TargetView, record: TrialRecord, badges: tuple[str, ...] = ()) -> Iterator[Markup]:
    """The card.

    Args:
        view: of the trial's target.
        record: the trial.
        badges: what it is beside its outcome: `pick`, `front`.
    """
    marks = [element("span", text, class_=f"badge {text}") for text in (record.outcome.value, *badges)]
    yield element("h3", f"Trial {record.number} ", marks, class_="answer-title")
    yield element("p", describe(record.recipe), class_="answer-recipe")
    pairs = [element("div", element("dt", name), element("dd", text)) for name, text in figures_of(view, record)]
    yield element("dl", pairs, class_="list")
    if record.reason:
        yield element("p", record.reason, class_="note")


def figures_of(view: TargetView, record: TrialRecord) -> Iterator[tuple[str, str]]:
    """(Name, figure with its interval) of all that is known of a trial."""
    metric, baseline = view.metric, view.baseline
    elsewhere = view.elsewhere(record)
    scored = elsewhere or record
    place = f", on {elsewhere.target}" if elsewhere else ""
    for split, score, drop, interval in (
        ("val", scored.val, scored.drop, scored.drop_ci),
        ("test", scored.test, scored.test_drop, scored.test_drop_ci),
    ):
        if score is not None:
            ends = f"[{metric.number(score.ci.low)}, {metric.number(score.ci.high)}]"
            yield f"{metric.name}, {split}{place}", f"{metric.value(score.value)} {ends}"
        if drop is not None and interval is not None and record.recipe.stages:
            yield f"change, {split}{place}", f"{metric.change(drop)} {metric.change_interval(interval)}"
    latency = record.latency
    if latency is not None and view.is_timed:
        unrest = f"; unstable: {latency.unrest}" if latency.unrest else ""
        yield "latency", f"{human_ms(latency.ms)} [{latency.ms_ci.low:.3g}, {latency.ms_ci.high:.3g}]{unrest}"
        if record.recipe.stages:
            ends = f"[{latency.ratio_ci.low:.3f}, {latency.ratio_ci.high:.3f}]"
            ratio = f"{gain(latency.ratio, 'faster', 'slower', 'same speed')} (ratio {latency.ratio:.3f} {ends})"
            yield "against the baseline", ratio
        yield "throughput", view.rate(record)
    if record.artifact is not None:
        share = size_ratio(record, baseline)
        words = "" if share is None or not record.recipe.stages else f", {gain(share, 'smaller', 'larger', 'same')}"
        yield "size", f"{human_bytes(record.artifact.size_bytes)}{words}"
        if record.artifact.compressed_bytes is not None:
            yield "size with gzip", human_bytes(record.artifact.compressed_bytes)
    if record.peak_memory_bytes is not None:
        yield "peak memory", human_bytes(record.peak_memory_bytes)
    for name, figure in record.figures.items():
        yield name, human_figure(figure)
    if record.audit is not None:
        yield "in 8 bit", f"{record.audit.int8_layers} of {len(record.audit.layers)} layers"
