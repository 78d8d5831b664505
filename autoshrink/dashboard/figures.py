"""Figures of one target, made from its records: the hypervolume over the trials, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from autoshrink.dashboard.formatting import Metric, speed_up, speed_up_interval
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.view import baseline_of
from autoshrink.search.front import METRIC, Volume, axes_of, is_known, objectives
from autoshrink.search.words import describe, human_bytes, human_figure, human_ms, human_seconds
from autoshrink.target import Limits
from autoshrink.types import Interval, Outcome, Recipe, TrialRecord

TOLERATED = 0.05
"""The loss, as a share of the baseline's metric, at which a trial is worth nothing when the target sets no limit."""
BASELINE = "fp32 baseline"
LEAST_SHARE = 0.005
"""Share of all time that a stage must take to get a colour of its own."""
MOST_MARKS = 1000
"""Trials over this many are marked on the line of the hypervolume only where they raised it."""
MOST_BARS = 240
"""More trials than this share bars with those beside them."""
LEAST_BARS = 11
"""A figure of fewer trials keeps room for so many more, or its bars would be as wide as the page."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
STAGES = (
    *("student", "prune", "factorize", "finetune", "sparsify", "cluster", "binarize", "qat", "export", "quantize"),
    *("pack", "prepare", "compile", "audit", "measure", "evaluate", "score"),
)
"""In the order of a trial; stages that are not named here come before `export`, `other` is the last."""


def family(recipe: Recipe) -> str:
    """The techniques of a recipe without their settings, as `prune + int8`; fine-tuning goes with what it mends."""
    names = [
        _precision(recipe.precision) if stage.technique == "quantize" else stage.technique
        for stage in recipe.stages
        if stage.technique != "finetune" or len(recipe.stages) == 1
    ]
    return " + ".join(names) or BASELINE


def _precision(name: str) -> str:
    """`int8` for both kinds of 8-bit activations, `int4 weights` where only the weights are integers."""
    return name.replace("_", " ") if name.endswith("_weights") else name.partition("_")[0]


def families(records: Iterable[TrialRecord]) -> list[str]:
    """The families of the recipes that were scored, sorted, so that the targets of a study share their colours."""
    return sorted({family(record.recipe) for record in records if record.is_scored} - {BASELINE})


def hover(record: TrialRecord, metric: Metric) -> str:
    """Everything about a trial, for plotly's hover box."""
    lines = [f"<b>trial {record.number}</b>  {escape(describe(record.recipe))}"]
    if record.val is not None:
        lines.append(f"{metric.name} on val {metric.value(record.val.value)} {_interval(record.val.ci, metric)}")
    if record.test is not None:
        lines.append(f"{metric.name} on test {metric.value(record.test.value)} {_interval(record.test.ci, metric)}")
    if record.recipe.stages and record.drop is not None and record.drop_ci is not None:
        lines.append(f"{metric.change(record.drop)} {metric.change_interval(record.drop_ci)} against the baseline, val")
    if record.latency is not None:
        latency = record.latency
        lines.append(f"{human_ms(latency.ms)}, {speed_up(latency.ratio)} {speed_up_interval(latency.ratio_ci)}")
        if latency.unrest:
            lines.append(f"unstable: {latency.unrest}")
    if record.artifact is not None:
        lines.append(human_bytes(record.artifact.size_bytes))
    lines.extend(f"{escape(name)} {escape(human_figure(figure))}" for name, figure in record.figures.items())
    if record.audit is not None:
        lines.append(f"{record.audit.int8_layers} of {len(record.audit.layers)} layers in int8")
    if record.agreement_db is not None:
        lines.append(f"agrees with the float model to {record.agreement_db:.0f} dB")
    if record.reason:
        lines.append(f"{record.outcome.value}: {escape(record.reason[:120])}")
    return "<br>".join(lines)


def _interval(interval: Interval, metric: Metric) -> str:
    return f"[{metric.number(interval.low)}, {metric.number(interval.high)}]"


def lay_out(figure: go.Figure, palette: Palette, height: int) -> None:
    """Fonts, margins, grid and legend as all figures of the report have them."""
    axis = {
        "gridcolor": palette.grid,
        "zerolinecolor": palette.grid,
        "linecolor": palette.grid,
        "tickfont": {"color": palette.muted, "size": 12},
        "title": {"font": {"color": palette.muted, "size": 13}, "standoff": 10},
        "automargin": True,
    }
    layout = {
        "template": "none",
        "height": height,
        "margin": {"l": 12, "r": 12, "t": 12, "b": 12},
        "font": {"family": FONT, "size": 13, "color": palette.ink},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "orientation": "h",
            "yanchor": "bottom",
            "y": 1.03,
            "x": 0,
            "itemsizing": "constant",
            "traceorder": "normal",
            "font": {"size": 12.5, "color": palette.muted},
        },
        "hoverlabel": {
            "bgcolor": palette.surface,
            "bordercolor": palette.muted,
            "align": "left",
            "font": {"family": FONT, "color": palette.ink},
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.ink},
        "hovermode": "closest",
        "dragmode": "zoom",
    }
    before = {name: value for name, value in figure.layout.to_plotly_json().items() if name != "template"}
    drawn = {name for name in before if name.startswith(("xaxis", "yaxis"))}
    # Given whole, since plotly takes ten times as long for its updates, which look at every key of the figure again.
    figure.layout = _over(before, {**layout, **dict.fromkeys(sorted({"xaxis", "yaxis"} | drawn), axis)})


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both together; where both have a value, that of `above`."""
    return {**below, **{key: _over(below.get(key) or {}, v) if isinstance(v, dict) else v for key, v in above.items()}}


def progress(records: Sequence[TrialRecord], limits: Limits) -> list[float]:
    """The hypervolume of the feasible trials after each of `records`; empty without a measured baseline.

    A trial is a point of (loss, latency, size) relative to the baseline, where the loss counts from 0 at the
    baseline's metric to 1 at the limit of the drop (or at `TOLERATED`). The volume is that between these points and
    (1, 1, 1): 0 is the baseline, 1 would be a model without loss that takes no time and no space. Where nothing was
    timed it is the area of (loss, size).
    """
    baseline, axes = baseline_of(records), axes_of(records)
    if baseline is None or baseline.val is None or METRIC not in axes or not is_known(baseline, axes):
        return []
    scale = objectives([baseline], axes)[0]
    worst = limits.drop or TOLERATED * abs(baseline.val.value) or 1.0
    counted = [r for r in records if r.outcome is Outcome.COMPLETE and is_known(r, axes) and r is not baseline]
    points = objectives(counted, axes)
    points[:, 0] = np.maximum(0.0, points[:, 0] - scale[0]) / worst
    points[:, -1] /= max(scale[-1], 1.0)
    volume, volumes, coming = Volume(np.ones(len(axes))), [], iter(zip(counted, points, strict=True))
    following = next(coming, None)
    for record in records:
        if following is not None and record is following[0]:
            volume.add(following[1])
            following = next(coming, None)
        volumes.append(volume.value)
    return volumes


def progress_figure(
    records: Sequence[TrialRecord], limits: Limits, palette: Palette, minutes: Sequence[float] | None = None
) -> go.Figure | None:
    """`progress` as a step line, with a mark for each trial by its outcome; None with fewer than two trials.

    Args:
        records: of one target, in the order in which they ended.
        limits: of the target.
        palette: of the page.
        minutes: for each record what the search had worked when it ended, for an axis of time; by number otherwise.
    """
    metric, volumes = Metric.of(records), progress(records, limits)
    if len(volumes) < 2:
        return None
    places = [float(record.number) for record in records] if minutes is None else list(minutes)
    figure = go.Figure(
        go.Scatter(
            x=places,
            y=volumes,
            mode="lines",
            line={"shape": "hv", "color": palette.series[0], "width": 2},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    marked = list(zip(places, volumes, records, strict=True))
    if len(marked) > MOST_MARKS:
        marked = [each for each, before in zip(marked, [0.0, *volumes], strict=False) if each[1] > before]
    symbols = {"complete": "circle", "infeasible": "x-thin", "rejected": "circle-open", "stopped": "square-open"}
    for outcome in Outcome:
        chosen = [each for each in marked if each[2].outcome is outcome]
        if not chosen:
            continue
        colour = palette.series[0] if outcome is Outcome.COMPLETE else palette.limit
        colour = palette.muted if outcome is Outcome.REJECTED else colour
        figure.add_trace(
            go.Scatter(
                x=[place for place, _, _ in chosen],
                y=[volume for _, volume, _ in chosen],
                customdata=[record.number for _, _, record in chosen],
                mode="markers",
                name=outcome.value,
                marker={
                    "symbol": symbols.get(outcome.value, "diamond"),
                    "size": 8,
                    "color": colour,
                    "line": {"color": colour, "width": 1.8},
                },
                text=[f"{hover(record, metric)}<br>hypervolume {volume:.3f}" for _, volume, record in chosen],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    lay_out(figure, palette, height=320)
    if minutes is None:
        few = max(record.number for record in records) <= LEAST_BARS
        figure.update_xaxes(title_text="trial", tickformat="d", dtick=1 if few else None)
    else:
        figure.update_xaxes(title_text="minutes of search, pauses left out", rangemode="tozero")
    figure.update_yaxes(title_text="hypervolume", rangemode="tozero")
    return figure


def stage_seconds(records: Iterable[TrialRecord]) -> dict[str, float]:
    """Wall seconds of each stage over `records`, in the order of a trial."""
    totals: dict[str, float] = {}
    for record in records:
        for stage, seconds in record.seconds.items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    return dict(sorted(totals.items(), key=lambda item: stage_place(item[0])))


def stage_place(stage: str) -> tuple[int, str]:
    """Where a stage, or a technique, stands in a trial: a key to sort by."""
    if stage in STAGES:
        return STAGES.index(stage), stage
    return (len(STAGES) if stage == "other" else STAGES.index("export") - 1, stage)


def time_figure(records: Sequence[TrialRecord], palette: Palette) -> go.Figure | None:
    """Seconds of each trial by stage, stacked, small stages in `other`; None when no time was recorded."""
    totals = stage_seconds(records)
    whole = sum(totals.values())
    if whole <= 0:
        return None
    shown = [stage for stage, seconds in totals.items() if stage != "other" and seconds >= LEAST_SHARE * whole]
    colours = palette.colours(shown)
    size = -(-len(records) // MOST_BARS)
    bars = [records[start : start + size] for start in range(0, len(records), size)]
    figure = go.Figure()
    for stage in [*shown, "other"]:
        heights = [sum(_of_stage(record, stage, shown) for record in bar) for bar in bars]
        share = f"{sum(heights) / whole:.0%}".replace("%", " %")
        figure.add_trace(
            go.Bar(
                x=[(bar[0].number + bar[-1].number) / 2 for bar in bars],
                y=heights,
                customdata=[bar[0].number for bar in bars],
                name=f"{escape(stage)} {share}",
                marker={"color": colours.get(stage, palette.muted), "line": {"width": 0}},
                text=[
                    f"{_numbers(bar)}, {escape(stage)}: {_seconds(height)}"
                    for bar, height in zip(bars, heights, strict=True)
                ],
                textposition="none",
                hovertemplate="%{text}<extra></extra>",
            )
        )
    lay_out(figure, palette, height=320)
    figure.update_layout(barmode="stack", bargap=0.15)
    last = max(record.number for record in records)
    figure.update_xaxes(title_text="trial", tickformat="d", range=[-0.6, max(last, LEAST_BARS) + 0.6])
    figure.update_yaxes(title_text="seconds")
    return figure


def _of_stage(record: TrialRecord, stage: str, shown: Sequence[str]) -> float:
    """Seconds of a stage; of `other` those of every stage that has no colour of its own."""
    if stage != "other":
        return record.seconds.get(stage, 0.0)
    return sum(seconds for name, seconds in record.seconds.items() if name not in shown)


def _numbers(bar: Sequence[TrialRecord]) -> str:
    return f"trial {bar[0].number}" if len(bar) == 1 else f"trials {bar[0].number} to {bar[-1].number}"


def _seconds(value: float) -> str:
    return human_seconds(value) if value >= 1 else f"{value:.2f} s"
