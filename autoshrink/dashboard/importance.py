"""Which settings go with what a trial comes to, by the rank-based share of variance that a setting explains.

The share is eta squared of the Kruskal-Wallis test (Kruskal and Wallis 1952; Tomczak and Tomczak 2014, `eta2[H]`): with
the trials ranked by a figure and grouped by a setting, `(H - k + 1) / (n - k)` for `n` trials in `k` groups, 0 where
that is negative. 1 says that the setting alone orders the trials, 0 that it tells nothing. It asks each setting for
itself: what two settings do only together it does not see. That a sampler tries good values more often makes the
groups uneven, which the test allows for, and lets settings go together that need not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from autoshrink.dashboard.factors import Factor, settings, uses
from autoshrink.dashboard.figures import lay_out
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.view import TargetView
from autoshrink.types import Scalar, TrialRecord

LEAST_TRIALS = 8
"""Trials that must have a setting before anything is said of it."""
LEAST_FREE = 4
"""So many more trials than groups there must be."""
MOST_GROUPS = 6
"""A number with more values than this is cut into `QUANTILES` groups of equal size."""
QUANTILES = 4
SHOWN = 12
"""Settings in the figure, the most telling ones."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """How much of a figure's order a setting explains.

    Attributes:
        value: 0 to 1.
        is_sure: whether chance alone would hardly give that much: the test rejects at 5 %.
    """

    value: float
    is_sure: bool


@dataclass(frozen=True)
class Importance:
    """Of one setting: how many trials have it, and figure -> its share."""

    name: str
    trials: int
    shares: Mapping[str, Share]

    @property
    def most(self) -> float:
        """The largest share, of those that are sure before all others."""
        return max(share.value + share.is_sure for share in self.shares.values())


def importances(view: TargetView) -> list[Importance]:
    """Of everything that the measured trials of a target differ in, the most telling first.

    A setting is judged among the trials that have it, and whether a technique is used among all. Too few trials for a
    setting leave it out. Settings that differ between the same trials are one: nothing tells them apart.
    """
    records = [record for record in view.records if record.is_scored]
    figures = objectives_of(view, records)
    named: dict[tuple[int | None, ...], list[str]] = {}
    for factor in [*uses(records), *settings(records)]:
        groups = grouped(factor)
        if groups is not None:
            named.setdefault(tuple(groups), []).append(factor.name)
    found = []
    for labelled, names in named.items():
        having = np.array([group is not None for group in labelled])
        labels = np.array([group for group in labelled if group is not None])
        shares = {name: rank_share(values[having], labels) for name, values in figures.items()}
        found.append(Importance(_joined(names), int(having.sum()), shares))
    return sorted(found, key=lambda each: -each.most)


def _joined(names: Sequence[str]) -> str:
    """What always goes together is one: `prune, fine-tune or not`."""
    end = " or not"
    if len(names) > 1 and all(name.endswith(end) for name in names):
        return ", ".join(name.removesuffix(end) for name in names) + end
    return ", ".join(names)


def objectives_of(view: TargetView, records: Sequence[TrialRecord]) -> dict[str, Array]:
    """Figure -> its value in each of `records`: loss of the metric, latency where it was measured, size."""
    found = {f"{view.metric.name}": [-record.val.value if record.val else math.nan for record in records]}
    if view.is_timed:
        found["latency"] = [record.latency.ratio if record.latency else math.nan for record in records]
    found["size"] = [float(record.artifact.size_bytes) if record.artifact else math.nan for record in records]
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def grouped(factor: Factor) -> list[int | None] | None:
    """The group of each record, None of one without the setting; None when there is too little to compare."""
    have = [value for value in factor.values if value is not None]
    places = _places(factor.distinct, have)
    groups = [None if value is None else places[value] for value in factor.values]
    counts = np.bincount([group for group in groups if group is not None])
    several = int((counts > 0).sum())
    if len(have) < max(LEAST_TRIALS, several + LEAST_FREE) or (counts > 1).sum() < 2:
        return None
    return groups


def _places(distinct: Sequence[Scalar], have: Sequence[Scalar]) -> dict[Scalar, int]:
    if len(distinct) > MOST_GROUPS and not any(isinstance(value, str) for value in distinct):
        edges = np.quantile([float(value) for value in have], np.linspace(0, 1, QUANTILES + 1)[1:-1])
        return {value: int(np.searchsorted(edges, float(value), side="left")) for value in distinct}
    return {value: place for place, value in enumerate(distinct)}


def rank_share(values: Array, groups: npt.NDArray[np.int_]) -> Share:
    """Eta squared of the Kruskal-Wallis test with ties corrected, see this module's docstring.

    Args:
        values: [N]; those that are not numbers are left out with their groups.
        groups: [N], the group of each.
    """
    known = np.isfinite(values)
    values, groups = values[known], groups[known]
    count, kinds = len(values), len(np.unique(groups))
    ranks = average_ranks(values)
    spread = float(((ranks - ranks.mean()) ** 2).sum()) if count else 0.0
    if kinds < 2 or count <= kinds or spread == 0:
        return Share(0.0, False)
    between = sum(
        float((groups == group).sum()) * float(ranks[groups == group].mean() - ranks.mean()) ** 2
        for group in np.unique(groups)
    )
    statistic = (count - 1) * between / spread
    share = (statistic - kinds + 1) / (count - kinds)
    return Share(min(1.0, max(0.0, share)), statistic > chi_square_95(kinds - 1))


def average_ranks(values: Array) -> Array:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def chi_square_95(freedom: int) -> float:
    """The 95 % point of the chi-square distribution, to 3 % and better (Wilson and Hilferty 1931)."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + 1.6449 * math.sqrt(part)) ** 3)


def importance_figure(found: Sequence[Importance], palette: Palette) -> go.Figure | None:
    """Bars for each setting, the most telling on top; what may be chance is faint and hatched. None without any."""
    shown = list(found[:SHOWN])[::-1]
    if not shown:
        return None
    figure = go.Figure()
    names = list(shown[0].shares)
    for name, colour in zip(names, palette.series, strict=False):
        for is_sure in (True, False):
            chosen = [each for each in shown if each.shares[name].is_sure is is_sure]
            pattern = {} if is_sure else {"shape": "/", "fgcolor": colour, "bgcolor": palette.surface, "size": 6}
            figure.add_trace(
                go.Bar(
                    y=[escape(each.name) for each in chosen],
                    x=[100 * each.shares[name].value for each in chosen],
                    orientation="h",
                    name=escape(name),
                    offsetgroup=name,
                    legendgroup=name,
                    showlegend=is_sure,
                    marker={
                        "color": colour,
                        "pattern": pattern,
                        "line": {"width": 0 if is_sure else 1, "color": colour},
                    },
                    customdata=[[each.trials, "" if is_sure else ", which may be chance"] for each in chosen],
                    hovertemplate=(
                        f"%{{y}} explains %{{x:.0f}} % of the order in {escape(name)}<br>"
                        "among %{customdata[0]} trials%{customdata[1]}<extra></extra>"
                    ),
                )
            )
    lay_out(figure, palette, height=90 + (14 * len(names) + 12) * len(shown))
    figure.update_layout(barmode="group", bargap=0.3, bargroupgap=0.1, legend={"traceorder": "normal"})
    figure.update_xaxes(title_text="share explained, %", range=[0, 100])
    order = [escape(each.name) for each in shown]
    figure.update_yaxes(
        tickfont={"size": 12.5, "color": palette.ink}, showgrid=False, categoryorder="array", categoryarray=order
    )
    return figure
