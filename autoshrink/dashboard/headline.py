"""What a target's search came to, in one sentence: the trial that `pick` would ship, and what it gains."""

from __future__ import annotations

from dataclasses import dataclass

from autoshrink.dashboard.formatting import Metric, counted, gain
from autoshrink.dashboard.tables import size_ratio
from autoshrink.dashboard.view import NOT_MEASURED, TargetView
from autoshrink.errors import NothingFits
from autoshrink.package.choose import DEFAULT_DROP
from autoshrink.package.shortfall import NoneKeeps, Shortfall
from autoshrink.search.front import is_known
from autoshrink.search.limits import given, merged
from autoshrink.search.words import human_bytes, human_figure, human_ms, human_rate
from autoshrink.target import Limits
from autoshrink.types import Figure, TrialRecord


@dataclass(frozen=True)
class Headline:
    """The answer of one target.

    Attributes:
        chosen: the trial to ship; None when none can be.
        sentence: what it gains, or why there is none.
        gains: what stands in large letters, each with the figures behind it; empty when nothing is compared.
        why: how the trial was chosen.
        unknown: what is not known of any trial here, and why; empty when all is.
        unmeasured: the same in three words.
        shortfall: what comes nearest when no trial keeps the limits.
    """

    chosen: TrialRecord | None
    sentence: str
    gains: tuple[tuple[str, str], ...] = ()
    why: str = ""
    unknown: str = ""
    unmeasured: str = ""
    shortfall: Shortfall | None = None


def headline(view: TargetView, asked: Limits | None = None) -> Headline:
    """The headline of one target under its limits, those left out that are on what was not measured there.

    Args:
        view: of the target.
        asked: limits that go before the target's own, where they are set.
    """
    baseline = view.baseline
    if not view.records:
        return Headline(None, "No trial has finished yet.")
    if baseline is None or not view.axes or not is_known(baseline, view.axes):
        why = f": {baseline.reason}" if baseline is not None and baseline.reason else ""
        return Headline(None, f"The baseline was not measured{why}. Without it there is nothing to compare with.")
    own, unchecked = view.applicable(view.target.limits)
    limits = merged(asked or Limits(), own)
    unknown = _unknown(view, unchecked)
    unmeasured = "" if view.is_timed else f"{'latency' if view.is_scored else 'compiled,'} {NOT_MEASURED}"
    try:
        chosen = view.choose(limits)
    except NothingFits as error:
        missed = error.shortfall if isinstance(error, NoneKeeps) else None
        return Headline(None, str(error), unknown=unknown, unmeasured=unmeasured, shortfall=missed)
    why = _why(view, limits, "the limits of this target" if limits == own else "these limits")
    if chosen is baseline:
        others = sum(is_known(record, view.axes) for record in view.records) - 1
        done = "measured" if view.is_scored else "compiled"
        return Headline(
            chosen,
            f"Ship the baseline: no other trial was {done}."
            if others == 0
            else f"Ship the baseline: none of {others} other trials gains more and surely keeps the limits.",
            why=why,
            unknown=unknown,
            unmeasured=unmeasured,
        )
    gains = gains_of(chosen, baseline, view)
    words = ", ".join(large for large, _ in gains)
    _, behind = gains[-1]
    return Headline(chosen, f"Trial {chosen.number}: {words} {behind}", gains, why, unknown, unmeasured)


def gains_of(chosen: TrialRecord, baseline: TrialRecord, view: TargetView) -> tuple[tuple[str, str], ...]:
    """What a trial gains over the baseline, each with the figures behind it.

    Size, speed where it was measured, and the change of the metric, which is known of everything that is chosen.
    """
    gains = []
    ratio = size_ratio(chosen, baseline)
    if ratio is not None and chosen.artifact and baseline.artifact:
        sizes = f"{human_bytes(chosen.artifact.size_bytes)}, was {human_bytes(baseline.artifact.size_bytes)}"
        gains.append((gain(ratio, "smaller", "larger", "same size"), sizes))
    if view.is_timed and chosen.latency and baseline.latency:
        times = f"{human_ms(chosen.latency.ms)}, was {human_ms(baseline.latency.ms)}"
        if view.shows_throughput:
            times = f"{view.rate(chosen)}, was {view.rate(baseline)}"
        gains.append((gain(chosen.latency.ratio, "faster", "slower", "same speed"), times))
    elsewhere = view.elsewhere(chosen)
    scored = elsewhere or chosen
    place = f" on {elsewhere.target}" if elsewhere else ""
    if scored.test_drop is not None and scored.test_drop_ci is not None:
        change, interval, split = scored.test_drop, scored.test_drop_ci, "test"
    elif scored.drop is not None and scored.drop_ci is not None:
        change, interval, split = scored.drop, scored.drop_ci, "val"
    else:
        return (*gains, ("accuracy", "not compared with the baseline"))
    metric = view.metric
    return (*gains, (metric.change(change), f"{metric.change_interval(interval)} on the {split} split{place}"))


def _unknown(view: TargetView, unchecked: list[str]) -> str:
    if view.is_timed and not unchecked:
        return ""
    texts = []
    if not view.is_timed:
        why = view.why_not_measured
        texts.append(f"{why[:1].upper()}{why[1:]}" if why else "Latency was not measured")
    if not view.is_scored:
        texts.append("Accuracy is that of the same recipes on the study's other targets")
    if unchecked:
        one = len(unchecked) == 1
        texts.append(f"The {'limit' if one else 'limits'} on {', '.join(unchecked)} could not be checked")
    return f"{'. '.join(texts)}."


def _why(view: TargetView, limits: Limits, whose: str) -> str:
    metric, asked = view.metric, given(limits)
    if not asked:
        gained = "speed-up times size reduction" if view.is_timed else "size reduction"
        return (
            f"Chosen as `autoshrink pick` does without limits: the greatest gain, {gained}, "
            f"among the trials whose 95 % interval on val stays above {metric.change(DEFAULT_DROP)}."
        )
    kept = [_kept(limits, view, metric, limit.name, limit.is_figure) for limit in asked]
    return f"Chosen as `autoshrink pick` does under {whose}, kept by 95 % bounds: {', '.join(kept)}."


def _kept(limits: Limits, view: TargetView, metric: Metric, name: str, is_figure: bool) -> str:
    if is_figure:
        known: Figure = next(record.figures[name] for record in view.records if name in record.figures)
        return f"{name} at most {human_figure(known, limits.figures[name])}{' (estimate)' if known.estimate else ''}"
    if name == "latency_ms" and limits.latency_ms is not None:
        return f"latency at most {human_ms(limits.latency_ms)}"
    if name == "size_bytes" and limits.size_bytes is not None:
        return f"size at most {human_bytes(limits.size_bytes)}"
    if name == "throughput" and limits.throughput is not None:
        return f"throughput at least {human_rate(limits.throughput)} ({counted(view.target.batch, 'row')} a call)"
    return f"{metric.name} change no worse than {metric.change(limits.drop or 0.0)}"
