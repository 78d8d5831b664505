"""Any two trials of a front side by side, for a report: all of it is in the page, which shows what its reader chose."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from autoshrink.dashboard.compare_recipes import setting_rows
from autoshrink.dashboard.compare_section import VERDICT_NOTE, Compared, compared, pair_markup
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.trial_block import heads, note, region
from autoshrink.dashboard.trial_summary import FigureRow, figure_rows
from autoshrink.dashboard.view import TargetView
from autoshrink.records import StudyFolder
from autoshrink.search.words import describe
from autoshrink.types import TrialRecord

MOST_PAIRED = 9
"""Trials that can be set side by side: what can be said of two grows with their square."""


def pairs_section(study: StudyFolder, view: TargetView, records: Sequence[TrialRecord]) -> Markup:
    """Two trials to choose, what can be said of them, their figures and their recipes; hidden without a script.

    Whatever is of one trial is a column of a table, and what is of two is named by both; the page's script shows those
    of the two that are chosen.

    Args:
        study: of the target.
        view: of the target.
        records: to choose from, at most `MOST_PAIRED`; nothing is made of fewer than two.
    """
    if len(records) < 2 or not view.is_scored:
        return Markup("")
    trials = [compared(study, [(view, record)])[0] for record in records[:MOST_PAIRED]]
    verdicts = [
        element("ul", pair_markup(*pair), class_="verdicts", data_pair=" ".join(str(t.record.number) for t in pair))
        for pair in combinations(trials, 2)
    ]
    return element(
        "details",
        element("summary", "Two trials side by side"),
        element("p", _choice("First", trials), _choice("Second", trials), class_="r-choices"),
        element("div", verdicts, aria_live="polite"),
        note(VERDICT_NOTE),
        _table("Figures", trials, _figures(trials)),
        _table("What differs of the recipes", trials, _settings(trials)),
        class_="folded r-pairs",
        hidden=True,
    )


def _choice(label: str, trials: Sequence[Compared]) -> Markup:
    options = [
        element("option", f"{t.record.number}: {describe(t.record.recipe)}", value=str(t.record.number)) for t in trials
    ]
    return element(
        "label",
        element("span", f"{label} "),
        element("select", options, autocomplete="off", aria_label=f"{label} trial"),
    )


def _table(label: str, trials: Sequence[Compared], rows: Sequence[Markup]) -> tuple[Markup, Markup]:
    columns = [("", False), *((trial.name, False) for trial in trials)]
    table = element("table", heads(columns), element("tbody", rows))
    return element("h4", label), region(table, f"{label}, side by side")


def _figures(trials: Sequence[Compared]) -> list[Markup]:
    own = [{row.name: row for row in figure_rows(trial.record, trial.view)} for trial in trials]
    names = dict.fromkeys(name for rows in own for name in rows)
    return [
        element("tr", element("th", name, scope="row"), [_figure(rows.get(name)) for rows in own]) for name in names
    ]


def _figure(row: FigureRow | None) -> Markup:
    if row is None:
        return element("td", "-")
    change = " ".join(part for part in (row.change, row.change_text) if part)
    return element("td", row.text, [element("small", text) for text in (row.interval_text, change) if text])


def _settings(trials: Sequence[Compared]) -> list[Markup]:
    """What differs between any of the trials."""
    return [
        element(
            "tr",
            element("th", f"{row.stage}: {row.setting.replace('_', ' ')}" if row.setting else row.stage, scope="row"),
            [element("td", value) for value in row.values],
        )
        for row in setting_rows([trial.record.recipe for trial in trials])
        if row.differs
    ]
