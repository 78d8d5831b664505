"""What a report's reader sees of the search, and of two trials side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoshrink.dashboard.report import write_report
from autoshrink.records import StudyFolder
from tests.fake_study import make_fake_study
from tests.report_page import OpenedReport


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return make_fake_study(tmp_path_factory.mktemp("study") / "fake-study", targets=1)


@pytest.fixture(scope="module")
def report(study: StudyFolder) -> Path:
    return write_report(study, study.path / "report.html")


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[OpenedReport]:
    found = OpenedReport(browser, report)
    yield found
    found.check_quiet()
    found.close()


def shown_pairs(opened: OpenedReport) -> list[str]:
    lists = "lists => lists.filter(each => !each.hidden).map(each => each.dataset.pair)"
    return list(opened.page.locator(".r-pairs [data-pair]").evaluate_all(lists))


def test_two_trials_are_set_side_by_side_the_pick_first(opened: OpenedReport) -> None:
    page = opened.page
    pick = page.locator("#limits-0 .r-ship b").inner_text().removeprefix("Trial ")
    room = page.locator("#target-0 .r-pairs")
    room.locator("> summary").click()
    first, second = (room.get_by_label(f"{name} trial", exact=True) for name in ("First", "Second"))
    assert first.input_value() == pick
    (pair,) = shown_pairs(opened)
    assert set(pair.split()) == {pick, second.input_value()}
    other = next(
        value
        for value in second.locator("option").evaluate_all("all => all.map(each => each.value)")
        if value not in pair.split()
    )
    second.select_option(value=other)
    assert set(shown_pairs(opened)[0].split()) == {pick, other}
    for table in room.locator("table").all():
        heads = [head.inner_text() for head in table.locator("th[scope=col]:visible").all()]
        assert {"trial " + pick, "trial " + other} == set(heads) - {""}
    settings = room.locator("table").last.locator("tbody tr:visible")
    assert settings.count() > 0
    for row in settings.all():
        values = row.locator("td:visible").all_inner_texts()
        assert len(set(values)) == 2, "what both have alike is no difference"
    # What a reader has chosen stays when the limits lead to another trial.
    page.get_by_label("Latency at most", exact=True).fill("0.3")
    assert page.locator("#limits-0 .r-ship b").inner_text() != f"Trial {pick}"
    assert first.input_value() == pick


def test_the_pair_follows_the_pick_until_one_is_chosen(opened: OpenedReport) -> None:
    page = opened.page
    page.get_by_label("Latency at most", exact=True).fill("0.3")
    pick = page.locator("#limits-0 .r-ship b").inner_text().removeprefix("Trial ")
    options = page.locator("#target-0 .r-pairs select").first
    assert options.locator(f"option[value='{pick}']").count() == 1
    assert options.input_value() == pick


def test_progress_is_switched_to_time_and_lines_say_which_trial_they_are(opened: OpenedReport) -> None:
    page = opened.page
    title = "document.getElementById('progress-0').layout.xaxis.title.text"
    assert page.evaluate(title) == "trial"
    page.locator("#target-0 .r-over select").select_option(label="time")
    page.wait_for_function(f"{title} === 'minutes of search, pauses left out'")
    texts = page.evaluate(
        """() => document.getElementById('lines-0').data.flatMap(trace =>
          trace.customdata.map((number, i) => [number, trace.text[i]])).filter(([number]) => number !== null)"""
    )
    assert len({number for number, _ in texts}) > 10
    for number, text in texts:
        assert f"trial {number}<" in text
        assert "layers in int8" in text
