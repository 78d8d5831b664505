"""The latency of a trial from its raw samples: every call, and round by round, with the baseline beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from autoshrink.dashboard.figures import lay_out
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.trial_block import Block, Drawing, Part, Rows, facts, note
from autoshrink.dashboard.view import NOT_MEASURED
from autoshrink.errors import ConfigError
from autoshrink.measure.timing import CANDIDATE, REFERENCE, Samples, quiet_rounds, round_quartiles
from autoshrink.records import StudyFolder
from autoshrink.search.words import human_ms
from autoshrink.types import Latency, TrialRecord

MOST_POINTS = 1500
"""Calls of an artifact that are drawn; statistics are of all."""
FAR_APART = 2.5
"""From this ratio on, each is shown relative to its own median."""
TAIL = 0.99
"""Calls up to this quantile fit on the axis; slower ones are counted."""
HEIGHT = 260
REFERENCE_NAME = "baseline"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calls:
    """What was measured, in milliseconds.

    Attributes:
        candidate: of every call, in their order [calls].
        reference: the same of the reference.
        quartiles: lower quartile of each round [rounds, 2], candidate first.
        kept: which rounds count [rounds].
        table: as `Samples.table`.
    """

    candidate: Floats
    reference: Floats
    quartiles: Floats
    kept: npt.NDArray[np.bool_]
    table: Floats

    @classmethod
    def of(cls, samples: Samples) -> Calls:
        """The same of raw samples.

        Raises:
            ValueError: fewer than three rounds, or an artifact is missing from one.
        """
        table = samples.table
        wall = [1000 * table[table[:, 1] == which, 2] for which in (CANDIDATE, REFERENCE)]
        quartiles = round_quartiles(table)
        return cls(wall[0], wall[1], 1000 * quartiles, quiet_rounds(quartiles), table)


def read_calls(study: StudyFolder, record: TrialRecord, why: str = "") -> Calls | str:
    """The raw samples of a trial; else why there are none, which is `why` where its target measures no latency."""
    if record.latency is None:
        return why or (record.reason if NOT_MEASURED in record.reason else "latency was not measured")
    if record.samples is None:
        return "the record names no file of raw samples"
    try:
        return Calls.of(Samples.load(study.file(record.samples)))
    except (OSError, ValueError, ConfigError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        return f"{Path(record.samples).name} cannot be read ({said})"


def latency_block(record: TrialRecord, calls: Calls | str, palette: Palette) -> Block:
    """The section."""
    latency = record.latency
    if latency is None:
        why = calls if isinstance(calls, str) else "latency was not measured"
        return Block("latency", "Latency", (note(f"Not measured: {_plain(why)}."),))
    parts: list[Part | tuple[Part, ...]] = [facts(_facts(latency, calls))]
    if isinstance(calls, str):
        parts.append(note(f"The distribution cannot be shown: {calls}."))
    else:
        name = f"trial {record.number}"
        parts.append((calls_drawing(calls, name, palette), rounds_drawing(calls, name, latency, palette)))
    return Block("latency", "Latency", tuple(parts))


def _plain(why: str) -> str:
    """A reason without the words that stand before it."""
    return why.removeprefix("latency not measured: ").removeprefix("compiled, not measured: ").rstrip(".")


def _facts(latency: Latency, calls: Calls | str) -> list[tuple[str, object]]:
    rounds = f"{latency.rounds} kept" + (f", {latency.dropped} slow ones left out" if latency.dropped else "")
    return [
        ("half of the calls", f"within {human_ms(latency.p50_ms)} (p50)"),
        ("nine of ten", f"within {human_ms(latency.p90_ms)} (p90)"),
        ("rounds", rounds if isinstance(calls, str) else f"{rounds}; {len(calls.candidate):,} calls"),
        ("unrest", latency.unrest or "none: the measurement was steady"),
    ]


def calls_drawing(calls: Calls, name: str, palette: Palette) -> Drawing:
    """Every call of both as a strip, with a box of the middle half and whiskers from p10 to p90."""
    both = ((REFERENCE_NAME, calls.reference, palette.muted), (name, calls.candidate, palette.series[0]))
    apart = _are_apart(calls)
    figure = go.Figure()
    low, high, beyond = math.inf, -math.inf, 0
    for row, (label, values, colour) in enumerate(both):
        p10, p25, p50, p75, p90 = np.quantile(values, (0.1, 0.25, 0.5, 0.75, 0.9))
        unit = p50 / 100 if apart else 1.0
        some = values[:: max(1, -(-len(values) // MOST_POINTS))]
        tail = float(np.quantile(values, TAIL))
        beyond += int((values > tail).sum())
        low, high = min(low, float(values.min() / unit)), max(high, float(tail / unit))
        figure.add_trace(
            go.Scatter(
                x=some / unit,
                y=row - 0.28 + 0.14 * _jitter(len(some)),
                mode="markers",
                marker={"size": 4, "color": colour, "opacity": 0.35},
                customdata=some,
                hovertemplate=f"{label}: %{{customdata:.4g}} ms<extra></extra>",
            )
        )
        figure.add_trace(
            go.Box(
                y=[row + 0.08],
                q1=[p25 / unit],
                median=[p50 / unit],
                q3=[p75 / unit],
                lowerfence=[p10 / unit],
                upperfence=[p90 / unit],
                orientation="h",
                width=0.26,
                line={"color": colour, "width": 2},
                fillcolor="rgba(0,0,0,0)",
                hoverinfo="skip",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[p10 / unit],
                y=[row + 0.36],
                mode="text",
                text=f"p50 {human_ms(p50)}, p90 {human_ms(p90)}",
                textposition="middle right",
                textfont={"size": 12, "color": palette.muted},
                hoverinfo="skip",
            )
        )
    lay_out(figure, palette, HEIGHT)
    reach = 0.05 * (high - low)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(
        title_text="% of its own median" if apart else "milliseconds a call", range=[low - reach, high + reach]
    )
    figure.update_yaxes(
        tickvals=[0, 1], ticktext=[name for name, _, _ in both], range=[-0.55, 1.6], showgrid=False, zeroline=False
    )
    return Drawing(
        "latency-calls",
        figure,
        f"Milliseconds of every call of {name} and of the baseline, measured in turns",
        _summary(both),
        "Every call, measured in turns with the baseline. Box: the middle half; whiskers: p10 to p90."
        + (f" The slowest {counted(beyond, 'call')} may lie beyond the axis." if beyond else ""),
        Rows(
            ("round", "artifact", "wall ms", "CPU ms"),
            tuple(
                (int(turn), name if which == CANDIDATE else REFERENCE_NAME, float(1000 * wall), float(1000 * cpu))
                for turn, which, wall, cpu in calls.table
            ),
        ),
    )


def rounds_drawing(calls: Calls, name: str, latency: Latency, palette: Palette) -> Drawing:
    """The lower quartile of each round of both, in their order; rounds that were left out hollow."""
    figure = go.Figure()
    numbers = np.arange(1, len(calls.quartiles) + 1)
    units = np.median(calls.quartiles[calls.kept], axis=0) / 100 if _are_apart(calls) else np.ones(2)
    for which, label, colour, symbol in (
        (CANDIDATE, name, palette.series[0], "circle"),
        (REFERENCE, REFERENCE_NAME, palette.muted, "square"),
    ):
        figure.add_trace(
            go.Scatter(
                x=numbers,
                y=calls.quartiles[:, which] / units[which],
                mode="lines+markers",
                name=label,
                line={"color": colour, "width": 1},
                marker={
                    "size": 8,
                    "symbol": [symbol if kept else f"{symbol}-open" for kept in calls.kept],
                    "color": colour,
                    "line": {"color": colour, "width": 1.5},
                },
                customdata=calls.quartiles[:, which],
                text=["" if kept else ", left out: a slow round" for kept in calls.kept],
                hovertemplate=f"round %{{x}}: {label} %{{customdata:.4g}} ms%{{text}}<extra></extra>",
            )
        )
    lay_out(figure, palette, HEIGHT)
    band = latency.ms_ci.low / units[CANDIDATE], latency.ms_ci.high / units[CANDIDATE]
    figure.add_hrect(y0=band[0], y1=band[1], fillcolor=palette.series[0], opacity=0.15, line_width=0)
    figure.update_xaxes(title_text="round", tickformat="d")
    figure.update_yaxes(title_text="% of its own median" if _are_apart(calls) else "milliseconds")
    rows = [
        (int(number), float(own), float(other), float(own / other), "kept" if kept else "left out")
        for number, (own, other), kept in zip(numbers, calls.quartiles, calls.kept, strict=True)
    ]
    left_out = ", hollow: slow rounds that were left out" if not calls.kept.all() else ""
    return Drawing(
        "latency-rounds",
        figure,
        f"Lower quartile of each round, {name} and baseline",
        Rows(("round", f"{name}, ms", "baseline, ms", "ratio", "kept"), tuple(rows)),
        f"Lower quartile of each round{left_out}. Band: the 95 % interval of the latency of {name}.",
    )


def _are_apart(calls: Calls) -> bool:
    """Whether one axis of milliseconds would show neither of the two."""
    own, other = np.median(calls.quartiles[calls.kept], axis=0)
    return bool(max(own, other) > FAR_APART * min(own, other) > 0)


def _jitter(count: int) -> Floats:
    """The same spread of points from -1 to 1 each time, without clumps (the golden ratio's sequence)."""
    spread: Floats = 2 * ((np.arange(count, dtype=np.float64) * 0.6180339887498949) % 1.0) - 1
    return spread


def _summary(both: Sequence[tuple[str, Floats, str]]) -> Rows:
    shares = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    return Rows(
        ("artifact", "calls", "p10, ms", "p25, ms", "p50, ms", "p75, ms", "p90, ms", "slowest, ms"),
        tuple((name, len(values), *map(float, np.quantile(values, shares))) for name, values, _ in both),
    )
