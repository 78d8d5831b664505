"""A report of every kind of study: large, failed, broken, unfinished; for everybody, and small enough to mail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoshrink.dashboard.report import write_report
from autoshrink.dashboard.report_trials import Room
from autoshrink.records import StudyFolder
from autoshrink.types import Outcome
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_trial, make_fake_study
from tests.report_page import KeptReport, OpenedReport

TARGET = FAKE_TARGETS["onnxruntime-cpu"]
INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
MAILED = 6_000_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "fake-study"
    return write_report(make_fake_study(folder), folder / "report.html")


@pytest.fixture(scope="module")
def kept(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptReport]:
    folder = tmp_path_factory.mktemp("one") / "fake-study"
    found = KeptReport(browser, write_report(make_fake_study(folder, targets=1), folder / "report.html"))
    yield found
    found.close()


def opened_of(browser: Any, study: StudyFolder, width: int = 1200, scheme: str = "light") -> OpenedReport:
    return OpenedReport(browser, write_report(study, study.path / "report.html"), width, scheme)


def small_study(path: Path, *numbers: int) -> StudyFolder:
    study = StudyFolder.create(path / "fake-study", fake_meta({TARGET.name: TARGET}))
    for number in numbers:
        study.write(fake_trial(number, INT8 if number else (), accuracy=0.9 - number / 1000, ratio=1 / (1 + number)))
    return study


def test_two_hundred_trials_on_two_targets_can_be_mailed_and_open_from_a_file(browser: Any, tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "fake-study", targets=2, trials=200)
    opened = opened_of(browser, study)
    assert (study.path / "report.html").stat().st_size < MAILED
    assert opened.page.locator("#target-1 tbody tr[data-trial]").count() > 200
    assert opened.page.locator("#front-0 .point").count() > 100
    opened.check_quiet()
    opened.close()


def test_the_trials_of_the_front_are_folded_and_drawn_when_opened(opened: OpenedReport) -> None:
    trials = opened.page.locator("#target-0 .trials")
    chosen = opened.page.locator("#target-0 table.front tr.chosen").get_attribute("data-trial")
    folded = trials.locator(f"xpath=./details[starts-with(./summary, 'Trial {chosen}:')]")
    assert folded.locator("svg.main-svg").count() == 0
    folded.locator("> summary").click()
    opened.page.wait_for_function(
        "() => [...document.querySelectorAll('.trials details[open] .plot')].every(p => p.querySelector('svg'))"
    )
    assert folded.locator("svg.main-svg").count() > 0
    text = folded.inner_text()
    for words in ("Against the baseline", "Layer by layer", "Latency", "How it was made"):
        assert words in text


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_fake_study(tmp_path / "fake-study", targets=1)
    whole = write_report(study, tmp_path / "whole.html").read_text(encoding="utf-8")
    monkeypatch.setattr("autoshrink.dashboard.report.LARGEST", 0)
    least = write_report(study, tmp_path / "least.html").read_text(encoding="utf-8")
    assert len(least) < len(whole)
    said = "Some trials say less here than"
    assert said in least
    assert said not in whole
    assert least.count("<summary>Trial ") == whole.count("<summary>Trial ") > 3
    assert '"trial-0-' in whole
    assert '"trial-0-' not in least


def test_room_is_taken_until_it_is_full() -> None:
    room = Room(100)
    assert room.takes(60)
    assert not room.takes(41)
    assert room.takes(40)
    assert not room.takes(1)


def test_a_broken_record_is_named_and_hides_no_other(browser: Any, tmp_path: Path) -> None:
    study = small_study(tmp_path, 0, 1, 2)
    file = study.path / TARGET.name / "trials" / "0001.json"
    file.write_text(file.read_text()[:100])
    opened = opened_of(browser, study)
    notice = opened.page.locator(".notice.bad").inner_text()
    assert "1 file cannot be read" in notice
    assert "fake-study/onnxruntime-cpu/trials/0001.json" in notice
    shown = opened.page.locator("#target-0 details table tr[data-trial]").evaluate_all(
        "rows => rows.map(row => row.dataset.trial)"
    )
    assert shown == ["0", "2"]
    opened.check_quiet()
    opened.close()


def test_a_study_whose_trials_all_failed_says_why(browser: Any, tmp_path: Path) -> None:
    study = StudyFolder.create(tmp_path / "fake-study", fake_meta({TARGET.name: TARGET}))
    for number in range(3):
        record = fake_trial(number, INT8 if number else ())
        values: dict[str, Any] = dict.fromkeys(
            ("val", "drop", "drop_ci", "latency", "artifact", "audit", "agreement_db")
        )
        study.write(replace(record, outcome=Outcome.FAILED, reason=f"compile: died {number} times", **values))
    opened = opened_of(browser, study)
    text = opened.page.locator("#target-0").inner_text()
    assert "The baseline was not measured: compile: died 0 times" in text
    for number in range(3):
        assert f"compile: died {number} times" in text
    assert opened.page.locator("form").count() == 0
    opened.check_quiet()
    opened.check_accessible()
    opened.close()


def test_a_study_that_was_interrupted_says_how_far_it_came(browser: Any, tmp_path: Path) -> None:
    opened = opened_of(browser, small_study(tmp_path, 0, 1))
    assert "Interrupted after 2 of 24 trials" in opened.page.locator(".notices").inner_text()
    opened.check_quiet()
    opened.close()


def test_names_that_are_html_stay_text(browser: Any, tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>"
    meta = fake_meta({TARGET.name: TARGET}, name=nasty)
    study = StudyFolder.create(tmp_path / "nasty", meta)
    study.write(fake_trial(0))
    study.write(fake_trial(1, INT8, accuracy=0.899, ratio=0.3))
    opened = opened_of(browser, study)
    assert opened.page.locator("h1").inner_text() == nasty
    assert nasty in json.dumps(opened.page.title())
    assert opened.page.locator("img").count() == 0
    opened.check_quiet()
    opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1200, "dark")])
def test_it_is_readable_by_everybody(browser: Any, report: Path, width: int, scheme: str) -> None:
    opened = OpenedReport(browser, report, width, scheme)
    for summary in opened.page.locator("#target-0 .trials > details > summary").all()[:2]:
        summary.click()
    opened.check_fits()
    opened.check_accessible()
    opened.check_quiet()
    opened.close()


def test_the_keyboard_reaches_what_can_be_moved(opened: OpenedReport) -> None:
    opened.page.locator("#target-0 select").first.focus()
    reached = []
    for _ in range(24):
        reached.append(opened.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        opened.page.keyboard.press("Tab")
    for expected in ("PNG", "SVG", "limit-0-0", "limit-0-1", "limit-0-2", "No limits", "Copy"):
        assert expected in reached


def test_on_paper_there_is_nothing_to_press(opened: OpenedReport) -> None:
    opened.page.emulate_media(media="print")
    pressed = """() => [...document.querySelectorAll("button")]
      .filter(button => button.checkVisibility() && !button.closest("th")).map(button => button.textContent)"""
    assert opened.page.evaluate(pressed) == []
    opened.page.set_viewport_size({"width": 794, "height": 1123})
    drawn = opened.page.locator("#front-0 svg.main-svg").first
    opened.page.wait_for_function("document.querySelector('#front-0 svg.main-svg').clientWidth < 794")
    below = opened.page.locator("#target-0 figcaption").first
    assert drawn.bounding_box()["y"] + drawn.bounding_box()["height"] <= below.bounding_box()["y"]
    assert len(opened.page.pdf()) > 20_000
