"""Where a trial errs: change by class against the baseline, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from autoshrink.dashboard.figures import lay_out
from autoshrink.dashboard.formatting import Metric
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.trial_block import Block, Drawing, Part, Rows, note
from autoshrink.dashboard.trial_classes import Answers, ClassChange, class_changes, confusion
from autoshrink.dashboard.trial_flips import flips
from autoshrink.types import Interval, TrialRecord

MOST_CLASSES = 20
"""Classes of which each pair is drawn, and whose changes are."""
MOST_PAIRS = 30
"""Confusions that are listed where there are more classes."""
NAME = 14
"""Characters of a class name on an axis."""
POINTS = Metric(percent=True)


def accuracy_block(record: TrialRecord, answers: Answers | str, palette: Palette) -> Block:
    """The section."""
    title = "What it gets wrong"
    if isinstance(answers, str):
        return Block("accuracy", title, (note(f"Not known sample by sample: {answers}."),))
    parts: list[Part | tuple[Part, ...]] = []
    if answers.before is None and record.recipe.stages:
        parts.append(note("The baseline's predictions are not known, so nothing is compared with them."))
    changes = class_changes(answers)
    figures = [_confusion(answers, palette)]
    if changes:
        figures.insert(0, changes_drawing(changes, answers.val.class_name, palette))
    parts.append(tuple(figures))
    parts.extend(flips(answers))
    return Block("accuracy", title, tuple(parts))


def changes_drawing(
    changes: Sequence[ClassChange],
    name_of: Callable[[int], str],
    palette: Palette,
    name: str = "classes",
    against: str = "the baseline",
    trial: str = "the trial",
) -> Drawing:
    """The change of each class with its interval, the greatest loss on top.

    Args:
        changes: greatest loss first.
        name_of: number of a class -> its name.
        palette: of the page.
        name: of the drawing.
        against: what the change is from, in words.
        trial: whose it is.
    """
    shown = list(changes)
    if len(shown) > MOST_CLASSES:
        most = sorted(shown, key=lambda each: -abs(each.change))[:MOST_CLASSES]
        shown = [each for each in shown if each in most]
    figure = go.Figure()
    labels = [_short(name_of(each.number)) for each in shown]
    spans = [_ends(each) for each in shown]
    figure.add_trace(
        go.Scatter(
            x=[100 * each.change for each in shown],
            y=list(range(len(shown))),
            mode="markers",
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - 100 * each.change for each, (_, high) in zip(shown, spans, strict=True)],
                "arrayminus": [100 * each.change - low for each, (low, _) in zip(shown, spans, strict=True)],
                "color": palette.muted,
                "thickness": 1.2,
                "width": 3,
            },
            marker={
                "size": 10,
                "symbol": ["diamond" if each.is_certain else "circle-open" for each in shown],
                "color": [_colour(each, palette) for each in shown],
                "line": {"width": 1.8, "color": [_colour(each, palette) for each in shown]},
            },
            text=[
                f"{escape(name_of(each.number))}: {each.before} → {each.right} of {each.count} right"
                f"<br>{POINTS.change(-each.change)}{_span(each)}"
                for each in shown
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    lay_out(figure, palette, 90 + 28 * len(shown))
    figure.add_vline(x=0, line={"color": palette.muted, "width": 1})
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="change of right answers, points", zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(shown))),
        ticktext=labels,
        range=[len(shown) - 0.4, -0.6],
        ticks="",
        showgrid=False,
        zeroline=False,
    )
    certain = sum(each.is_certain for each in changes)
    differ = f"{certain or 'None'} of {len(changes)} differ{'s' if certain == 1 else ''} by more than chance allows"
    left_out = f" The {len(shown)} of {len(changes)} classes that change most." if len(shown) < len(changes) else ""
    return Drawing(
        name,
        figure,
        f"Change of the share of right answers by class, from {against} to {trial}",
        Rows(
            ("class", "samples", f"right, {against}", f"right, {trial}", "change, points", "from", "to"),
            tuple(
                (name_of(each.number), each.count, each.before, each.right, 100 * each.change, *_ends(each))
                for each in changes
            ),
        ),
        f"By class, from {against} to {trial}, on the same samples; bars are 95 % intervals. "
        f"{differ} (filled); one in twenty would by chance.{left_out}",
    )


def _ends(change: ClassChange) -> tuple[float, float]:
    """The interval of the change in points; its own value where there is none."""
    found = change.interval or Interval(change.change, change.change)
    return 100 * found.low, 100 * found.high


def _colour(change: ClassChange, palette: Palette) -> str:
    if not change.is_certain:
        return palette.muted
    return palette.limit if change.change < 0 else palette.series[2]


def _span(change: ClassChange) -> str:
    if change.interval is None:
        return ""
    return f" [{POINTS.signed(change.interval.low)}, {POINTS.signed(change.interval.high)}]"


def _confusion(answers: Answers, palette: Palette) -> Drawing:
    """The matrix; of many classes the pairs that are confused most."""
    counts = confusion(answers.truth, answers.given, answers.classes)
    before = None if answers.before is None else confusion(answers.truth, answers.before, answers.classes)
    name_of = answers.val.class_name
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    places = sorted(zip(*np.nonzero(counts), strict=True), key=lambda place: -int(counts[place]))
    pairs = tuple(
        (
            *(name_of(int(true)), name_of(int(taken)), int(counts[true, taken])),
            None if before is None else int(before[true, taken]),
        )
        for true, taken in places
    )
    table = Rows(("true class", "taken for", "samples", "by the baseline"), pairs)
    if len(counts) > MOST_CLASSES:
        figure = _worst_pairs(wrong, before, name_of, palette)
        return Drawing(
            "confusion",
            figure,
            "The classes that are confused most",
            table,
            "The pairs of classes confused most often.",
        )
    names = [_short(name_of(number)) for number in range(len(counts))]
    off = np.where(np.eye(len(counts), dtype=bool), np.nan, counts.astype(float))
    diagonal = np.where(np.eye(len(counts), dtype=bool), 1.0, np.nan)
    figure = go.Figure()
    texts = [[str(value) if value else "" for value in row] for row in counts]
    hovers = [
        [
            f"{escape(name_of(true))}, taken for {escape(name_of(taken))}: {counts[true, taken]}"
            + ("" if before is None else f"<br>by the baseline: {before[true, taken]}")
            for taken in range(len(counts))
        ]
        for true in range(len(counts))
    ]
    # Errors are what one looks for: the right answers, which are many times as many, have a ground of their own.
    for values, scale in (
        (off, [[0, _faded(palette.series[1], 0.0)], [1, _faded(palette.series[1], 0.75)]]),
        (diagonal, [[0, _faded(palette.muted, 0.18)], [1, _faded(palette.muted, 0.18)]]),
    ):
        figure.add_trace(
            go.Heatmap(
                z=values,
                colorscale=scale,
                zmin=0,
                zmax=max(1.0, float(wrong.max())) if values is off else 1,
                showscale=False,
                hoverongaps=False,
                customdata=hovers,
                text=texts,
                texttemplate="%{text}",
                textfont={"size": 11, "color": palette.ink},
                hovertemplate="%{customdata}<extra></extra>",
                xgap=1,
                ygap=1,
            )
        )
    lay_out(figure, palette, 110 + 28 * len(counts))
    axis = {"tickvals": list(range(len(counts))), "ticktext": names, "ticks": "", "showgrid": False, "zeroline": False}
    figure.update_xaxes(title_text="taken for", tickangle=-45, **axis)
    figure.update_yaxes(title_text="true class", autorange="reversed", **axis)
    return Drawing(
        "confusion",
        figure,
        "Confusion matrix: true classes as rows, what they were taken for as columns",
        table,
        "Confusion matrix of the trial. The diagonal is right; the stronger the colour, the more errors.",
    )


def _worst_pairs(
    wrong: np.ndarray, before: np.ndarray | None, name_of: Callable[[int], str], palette: Palette
) -> go.Figure:
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    places = [divmod(int(place), len(wrong)) for place in order if wrong.flat[place] > 0]
    labels = [f"{_short(name_of(true))} → {_short(name_of(taken))}" for true, taken in places]
    figure = go.Figure()
    sides = [("trial", wrong, palette.series[1], "diamond")]
    if before is not None:
        sides.insert(0, ("baseline", before, palette.muted, "circle-open"))
    for name, counts, colour, symbol in sides:
        figure.add_trace(
            go.Scatter(
                x=[int(counts[place]) for place in places],
                y=list(range(len(places))),
                mode="markers",
                name=name,
                marker={"size": 9, "color": colour, "symbol": symbol, "line": {"width": 1.6, "color": colour}},
                hovertemplate=f"{name}: %{{x}}<extra></extra>",
            )
        )
    lay_out(figure, palette, 100 + 20 * len(places))
    figure.update_xaxes(title_text="samples", rangemode="tozero", zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(places))), ticktext=labels, range=[len(places) - 0.4, -0.6], showgrid=False
    )
    return figure


def _short(name: str) -> str:
    return escape(name if len(name) <= NAME else f"{name[: NAME - 1]}…")


def _faded(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
