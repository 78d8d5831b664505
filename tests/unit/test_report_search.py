"""What a report says of the search and of two trials side by side: that of the functions behind the dashboard."""

from __future__ import annotations

import re
from pathlib import Path

import plotly.graph_objects as go
import pytest

from autoshrink.dashboard.compare_section import compared, pair_markup
from autoshrink.dashboard.figures import progress
from autoshrink.dashboard.markup import Markup
from autoshrink.dashboard.pace import in_order_of_end, worked_seconds
from autoshrink.dashboard.palette import LIGHT
from autoshrink.dashboard.report_pairs import MOST_PAIRED, pairs_section
from autoshrink.dashboard.report_search import PACE, PROGRESS, search_figures, stages_table
from autoshrink.dashboard.view import TargetView
from autoshrink.records import StudyFolder
from tests.fake_study import fake_meta, fake_trial, fake_view, make_fake_study

INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
TARGET = "onnxruntime-cpu"


def text_of(markup: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", markup).split())


def line_of(figure: go.Figure | None) -> tuple[list[float], list[float]]:
    assert figure is not None
    trace = figure.data[0]
    return list(trace.x), list(trace.y)


def test_progress_is_over_trials_and_over_the_minutes_that_the_search_worked(tmp_path: Path) -> None:
    view = TargetView.of(make_fake_study(tmp_path / "fake-study", targets=1), TARGET)
    figures = search_figures(view, LIGHT)
    volumes = progress(view.records, view.target.limits)
    assert line_of(figures[PROGRESS]) == ([record.number for record in view.records], volumes)
    minutes = [seconds / 60 for seconds in worked_seconds(in_order_of_end(view.records))]
    assert line_of(figures[PACE]) == (minutes, volumes)
    assert minutes == sorted(minutes)
    lines = figures["lines"]
    assert lines is not None
    drawn = {number for trace in lines.data for number in trace.customdata if number is not None}
    assert drawn == {record.number for record in view.records if record.is_scored}
    assert all(trace.text is None for trace in lines.data)


def test_figures_of_a_search_that_gave_nothing_are_left_out() -> None:
    figures = search_figures(fake_view([]), LIGHT)
    assert set(figures.values()) == {None}
    assert stages_table(fake_view([])) == []


def test_the_table_of_stages_says_what_the_cache_gave() -> None:
    records = [
        fake_trial(0, seconds={"export": 4.0, "measure": 6.0}),
        fake_trial(1, INT8, seconds={"export": 2.0, "quantize": 30.0, "measure": 6.0}),
        fake_trial(2, INT8, seconds={"export": 0.01, "measure": 12.0}, reused=("export", "quantize")),
    ]
    text = text_of("".join(stages_table(fake_view(records))))
    assert "export 6 s 10.0 % 2 1 (33 %) ~3 s" in text
    assert "quantize 30 s 50.0 % 1 1 (50 %) ~30 s" in text
    assert "measure 24 s 40.0 % 3 - -" in text
    assert "In all 1 min 00 s. The cache had 2 of 5 stages that it can have, which saved about 33 s." in text


def test_any_two_trials_say_what_the_comparison_of_them_says(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "fake-study", targets=1)
    view = TargetView.of(study, TARGET)
    records = list(view.members)[:4]
    section = pairs_section(study, view, records)
    pairs = re.findall(r'<ul class="verdicts" data-pair="(\d+) (\d+)">(.*?)</ul></li></ul>', section)
    assert len(pairs) == 6
    trials = {str(record.number): compared(study, [(view, record)])[0] for record in records}
    for first, second, words in pairs:
        assert f"{words}</ul></li>" == pair_markup(trials[first], trials[second])
    for table in re.findall(r"<table>.*?</table>", section):
        heads = re.findall(r'<th scope="col">([^<]*)</th>', table)
        assert heads == ["", *(f"trial {record.number}" for record in records)]


def test_few_enough_trials_are_set_side_by_side(tmp_path: Path) -> None:
    study = StudyFolder.create(tmp_path / "fake-study", fake_meta({TARGET: fake_view([fake_trial(0)]).target}))
    records = [fake_trial(number, INT8 if number else ()) for number in range(MOST_PAIRED + 3)]
    view = fake_view(records)
    assert pairs_section(study, view, records).count("data-pair") == MOST_PAIRED * (MOST_PAIRED - 1) // 2
    assert pairs_section(study, view, records[:1]) == Markup("")


@pytest.mark.parametrize("nasty", ["</select><script>alert(1)</script>", '"><img src=x onerror=alert(2)>'])
def test_recipes_that_are_html_stay_text(tmp_path: Path, nasty: str) -> None:
    study = StudyFolder.create(tmp_path / "fake-study", fake_meta({TARGET: fake_view([fake_trial(0)]).target}))
    records = [fake_trial(0), fake_trial(1, [{"technique": nasty, "scheme": nasty}], seconds={nasty: 9.0})]
    view = fake_view(records)
    for markup in (pairs_section(study, view, records), "".join(stages_table(view))):
        assert "alert" in markup
        assert "<script" not in markup
        assert "<img" not in markup
