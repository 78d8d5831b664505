"""Two or three trials side by side: what can be said of them, their recipes, every figure, and where they err."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from autoshrink.dashboard.compare_recipes import SettingRow, setting_rows
from autoshrink.dashboard.compare_verdicts import (
    Finding,
    Verdict,
    gzip_verdict,
    latency_verdict,
    size_verdict,
    verdict_on_test,
    verdict_on_val,
)
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.trial_accuracy import changes_drawing
from autoshrink.dashboard.trial_block import Block, Drawing, Listing, Part, Rows, heads, note, region
from autoshrink.dashboard.trial_classes import Answers, class_changes, read_answers
from autoshrink.dashboard.trial_summary import FigureRow, figure_rows
from autoshrink.dashboard.view import TargetView
from autoshrink.records import StudyFolder
from autoshrink.search.words import describe
from autoshrink.types import TrialRecord

MOST = 3
"""Trials that are compared at a time."""
VERDICT_NOTE = (
    "Better, faster: only where the 95 % interval of the difference says so. Latencies within 4 % are a tie in "
    "any case: copies of one model differ by as much when they are compiled again. Sizes are exact."
)

Judge = Callable[[TrialRecord, TrialRecord], Verdict]


@dataclass(frozen=True)
class Compared:
    """A trial among those that are compared.

    Attributes:
        name: `trial 7`, with its target where there are several.
        answers: what it says of each sample; else why that is not known.
    """

    record: TrialRecord
    view: TargetView
    name: str
    answers: Answers | str


def compared(study: StudyFolder, chosen: Sequence[tuple[TargetView, TrialRecord]]) -> list[Compared]:
    """The trials with their names and answers, at most `MOST` of them."""
    some = chosen[:MOST]
    several = len({view.name for view, _ in some}) > 1
    return [
        Compared(
            record,
            view,
            f"trial {record.number}{f' on {view.name}' if several else ''}",
            read_answers(study, record, view.baseline),
        )
        for view, record in some
    ]


def judges(trials: Sequence[Compared]) -> dict[str, Judge]:
    """Name of a figure, as `figure_rows` has it -> what compares two trials in it."""
    metric = trials[0].view.metric
    answers = {id(trial.record): trial.answers for trial in trials}
    return {
        f"{metric.name}, test": lambda first, second: verdict_on_test(first, second, metric),
        f"{metric.name}, val": lambda first, second: verdict_on_val(
            first, second, metric, (answers[id(first)], answers[id(second)])
        ),
        "latency": latency_verdict,
        "size": size_verdict,
        "size, gzip": gzip_verdict,
    }


def compare_blocks(study: StudyFolder, trials: Sequence[Compared], palette: Palette) -> list[Block]:
    """The sections of the page, for two trials or three."""
    blocks = [verdict_block(trials), figures_block(trials), recipes_block(study, trials)]
    differences = list(class_drawings(trials, palette))
    if differences:
        blocks.append(Block("compare-classes", "Where they differ", (tuple(differences),)))
    return blocks


def verdict_block(trials: Sequence[Compared]) -> Block:
    """For each pair of trials what can be said of accuracy, latency and size."""
    parts: list[Part] = [
        element("ul", [pair_markup(first, second) for first, second in combinations(trials, 2)], class_="verdicts")
    ]
    parts.append(note(VERDICT_NOTE))
    return Block("verdict", "Which one is better", tuple(parts))


def pair_markup(first: Compared, second: Compared) -> Markup:
    """What can be said of two trials: an element of a list."""
    found = judges((first, second))
    metric = first.view.metric.name
    said = []
    for name, judge in found.items():
        verdict = judge(first.record, second.record)
        if name in (f"{metric}, test", "size, gzip") and verdict.finding is Finding.UNKNOWN:
            continue
        said.append(element("li", element("b", name), " ", _sentence(verdict, first, second), class_=_class(verdict)))
    return element("li", element("h4", f"{_upper(first.name)} and {second.name}"), element("ul", said))


def _sentence(verdict: Verdict, first: Compared, second: Compared) -> Markup:
    mark = {Finding.BETTER: "✓", Finding.SAME: "=", Finding.TIE: "≈", Finding.UNKNOWN: "?"}[verdict.finding]
    why = element("small", verdict.why) if verdict.why and verdict.finding is not Finding.UNKNOWN else None
    words = verdict.sentence(first.name, second.name)
    return element("span", element("span", mark, class_="mark", aria_hidden="true"), _upper(words), why)


def _class(verdict: Verdict) -> str:
    return f"verdict is-{verdict.finding.name.lower()}"


def _upper(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def figures_block(trials: Sequence[Compared]) -> Block:
    """Every figure side by side; the one that is surely better than each other is marked."""
    own = [{row.name: row for row in figure_rows(trial.record, trial.view)} for trial in trials]
    found = judges(trials)
    names = list(dict.fromkeys(name for rows in own for name in rows))
    if not names:
        return Block("compare-figures", "Figures", (note("Nothing was measured of any of them."),))
    lines = [
        element(
            "tr",
            element("th", name, scope="row"),
            [_cell(rows.get(name), place == _best(found.get(name), trials)) for place, rows in enumerate(own)],
        )
        for name in names
    ]
    columns = [("figure", False), *((trial.name, True) for trial in trials)]
    table = element("table", heads(columns), element("tbody", lines), class_="figures")
    listing = Listing(
        "compare-figures", region(table, "Figures side by side"), "the figures", _values(trials, own, names)
    )
    words = "✓: surely better than each other one. In small print 95 % intervals, and the change against the baseline."
    return Block("compare-figures", "Every figure", (listing, note(words)))


def _best(judge: Judge | None, trials: Sequence[Compared]) -> int | None:
    """Place of the trial that is surely better than each of the others; None where there is none."""
    if judge is None:
        return None
    for place, trial in enumerate(trials):
        others = [other for other in trials if other is not trial]
        if all(judge(trial.record, other.record).first_wins is True for other in others):
            return place
    return None


def _cell(row: FigureRow | None, is_best: bool) -> Markup:
    if row is None:
        return element("td", "-", class_="number")
    change = " ".join(part for part in (row.change, row.change_text) if part)
    smalls = [element("small", text) for text in (row.interval_text, change) if text]
    mark = element("span", "✓ ", class_="best", role="img", aria_label="better than the others: ") if is_best else None
    return element("td", mark, row.text, smalls, class_="number")


def _values(trials: Sequence[Compared], own: Sequence[dict[str, FigureRow]], names: Sequence[str]) -> Rows:
    columns = [f"{trial.name}{part}" for trial in trials for part in ("", ", from", ", to")]
    rows = []
    for name in names:
        found = [rows_.get(name) for rows_ in own]
        unit = next((row.unit for row in found if row), "")
        values = [(row.value, *(row.interval or (None, None))) if row else (None, None, None) for row in found]
        rows.append((name, unit, *(value for each in values for value in each)))
    return Rows(("figure", "unit", *columns), tuple(rows))


def recipes_block(study: StudyFolder, trials: Sequence[Compared]) -> Block:
    """What differs of the recipes; what is equal is folded."""
    rows = setting_rows([trial.record.recipe for trial in trials])
    different = [row for row in rows if row.differs]
    equal = [row for row in rows if not row.differs]
    words = element(
        "dl",
        [[element("dt", t.name), element("dd", describe(t.record.recipe, study.meta.fidelity))] for t in trials],
        class_="list",
    )
    parts: list[Part] = [words]
    names = [trial.name for trial in trials]
    values = Rows(
        ("stage", "setting", *names, "differs"),
        tuple((row.stage, row.setting or "used", *row.values, row.differs) for row in rows),
    )
    if different:
        label = "What differs of the recipes"
        parts.append(Listing("compare-recipes", region(_settings(different, names), label), "the recipes", values))
    else:
        parts.append(note("The recipes are equal."))
    if equal:
        count = counted(len(equal), "setting")
        folded = region(_settings(equal, names), "What is equal of the recipes")
        parts.append(element("details", element("summary", f"{count} that all have alike"), folded))
    return Block("compare-recipes", "Recipes", tuple(parts))


def _settings(rows: Sequence[SettingRow], names: Sequence[str]) -> Markup:
    body = [
        element(
            "tr",
            element("th", f"{row.stage}: {row.setting.replace('_', ' ')}" if row.setting else row.stage, scope="row"),
            [element("td", value) for value in row.values],
        )
        for row in rows
    ]
    columns = [("stage, setting", False), *((name, False) for name in names)]
    return element("table", heads(columns), element("tbody", body))


def class_drawings(trials: Sequence[Compared], palette: Palette) -> Iterator[Drawing]:
    """By class, the change of every further trial from the first one, where the answers of both are known."""
    first = trials[0]
    if isinstance(first.answers, str):
        return
    for place, trial in enumerate(trials[1:], 1):
        if isinstance(trial.answers, str):
            continue
        pair = Answers(trial.answers.val, trial.answers.truth, trial.answers.given, first.answers.given)
        name_of = pair.val.class_name
        drawing = changes_drawing(
            class_changes(pair), name_of, palette, f"compare-classes-{place}", first.name, trial.name
        )
        yield drawing
