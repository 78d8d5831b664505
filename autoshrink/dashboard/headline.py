"""What a target's search came to, in one sentence: the trial that `pick` would ship, and what it gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoshrink.dashboard.formatting import Metric, gain
from autoshrink.dashboard.tables import baseline_of, size_ratio
from autoshrink.errors import NothingFits
from autoshrink.package.choose import DEFAULT_DROP, choose
from autoshrink.search.words import human_bytes, human_ms
from autoshrink.target import Limits
from autoshrink.types import TrialRecord


@dataclass(frozen=True)
class Headline:
    """The answer of one target.

    Attributes:
        chosen: the trial to ship; None when none can be.
        sentence: what it gains, or why there is none.
        gains: what stands in large letters, each with the figures behind it; empty when nothing is compared.
        why: how the trial was chosen.
    """

    chosen: TrialRecord | None
    sentence: str
    gains: tuple[tuple[str, str], ...] = ()
    why: str = ""


def headline(records: Sequence[TrialRecord], limits: Limits) -> Headline:
    """The headline of one target's records under its limits."""
    baseline = baseline_of(records)
    if not records:
        return Headline(None, "No trial has finished yet.")
    if baseline is None or not baseline.is_measured:
        why = f": {baseline.reason}" if baseline is not None and baseline.reason else ""
        return Headline(None, f"The baseline was not measured{why}. Without it there is nothing to compare with.")
    try:
        chosen = choose(records, limits)
    except NothingFits as error:
        return Headline(None, str(error))
    if chosen is baseline:
        others = sum(record.is_measured for record in records) - 1
        return Headline(
            chosen,
            "Ship the baseline: no other trial was measured."
            if others == 0
            else f"Ship the baseline: none of {others} other trials gains more and surely keeps the limits.",
            why=_why(limits, Metric.of(records)),
        )
    return _of_trial(chosen, baseline, limits, Metric.of(records))


def _of_trial(chosen: TrialRecord, baseline: TrialRecord, limits: Limits, metric: Metric) -> Headline:
    gains = []
    ratio = size_ratio(chosen, baseline)
    if ratio is not None and chosen.artifact and baseline.artifact:
        sizes = f"{human_bytes(chosen.artifact.size_bytes)}, was {human_bytes(baseline.artifact.size_bytes)}"
        gains.append((gain(ratio, "smaller", "larger", "same size"), sizes))
    if chosen.latency and baseline.latency:
        times = f"{human_ms(chosen.latency.ms)}, was {human_ms(baseline.latency.ms)}"
        gains.append((gain(chosen.latency.ratio, "faster", "slower", "same speed"), times))
    if chosen.test_drop is not None and chosen.test_drop_ci is not None:
        interval = metric.change_interval(chosen.test_drop_ci)
        gains.append((metric.change(chosen.test_drop), f"{interval} on the test split"))
    elif chosen.drop is not None and chosen.drop_ci is not None:
        gains.append((metric.change(chosen.drop), f"{metric.change_interval(chosen.drop_ci)} on the val split"))
    words = ", ".join(large for large, _ in gains)
    behind = f" {gains[-1][1]}" if len(gains) == 3 else ""
    return Headline(chosen, f"Trial {chosen.number}: {words}{behind}", tuple(gains), _why(limits, metric))


def _why(limits: Limits, metric: Metric) -> str:
    if limits == Limits():
        return (
            "Chosen as `autoshrink pick` does without limits: the greatest gain, speed-up times size reduction, "
            f"among the trials whose 95 % interval on val stays above {metric.change(DEFAULT_DROP)}."
        )
    kept = []
    if limits.latency_ms is not None:
        kept.append(f"latency at most {human_ms(limits.latency_ms)}")
    if limits.size_bytes is not None:
        kept.append(f"size at most {human_bytes(limits.size_bytes)}")
    if limits.drop is not None:
        kept.append(f"{metric.name} change no worse than {metric.change(limits.drop)}")
    return f"Chosen as `autoshrink pick` does under the limits of this target, kept by 95 % bounds: {', '.join(kept)}."
