"""The report in a real browser: it draws, sorts, follows the colour scheme, fits a phone, and loads nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoshrink.dashboard.report import write_report
from autoshrink.records import StudyFolder
from tests.fake_field import make_fake_field
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_trial, make_fake_study
from tests.report_page import OpenedReport


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "fake-study"
    return write_report(make_fake_study(folder), folder / "report.html")


@pytest.fixture(scope="module")
def report_of_field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("field") / "fake-study"
    return write_report(make_fake_field(folder), folder / "report.html")


def test_every_figure_is_drawn_and_nothing_is_fetched(opened: OpenedReport) -> None:
    page = opened.page
    shown = page.locator("xpath=//section//div[contains(@class, 'plot')][@role='group'][not(ancestor::details)]")
    assert shown.count() == 12
    for plot in shown.all():
        assert plot.locator("svg.main-svg").count() > 0
    assert page.locator("#front-0 .point").count() > 10
    assert page.locator("#time-0 .point").count() > 20


def test_hover_tells_about_the_trial(opened: OpenedReport) -> None:
    point = opened.page.locator("#front-0 .scatter .point").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.page.locator("#front-0 .hovertext").wait_for()
    text = opened.page.locator("#front-0 .hovertext").text_content()
    assert "trial 0" in text
    assert "layers in int8" in text


def test_a_click_on_a_heading_sorts(opened: OpenedReport) -> None:
    table = opened.page.locator("#target-0 table.sortable").first
    heading = table.locator("th", has_text="size").first

    def column() -> list[float]:
        return [float(v) for v in table.locator("tbody:last-child tr td:nth-child(8)").evaluate_all(
            "cells => cells.map(cell => cell.dataset.value)")]  # fmt: skip

    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    assert len(set(column())) > 2
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)
    assert table.locator("tbody.pinned tr").inner_text().startswith("0")


def test_the_colours_follow_the_scheme_also_when_it_changes(opened: OpenedReport) -> None:
    tick = opened.page.locator("#front-0 .xtick text").first
    fill = "element => getComputedStyle(element).fill"
    light = tick.evaluate(fill)
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function(
        "light => getComputedStyle(document.querySelector('#front-0 .xtick text')).fill !== light", arg=light
    )
    assert light == "rgb(92, 103, 115)"
    assert tick.evaluate(fill) == "rgb(154, 165, 179)"


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_never_scrolls_sideways(browser: Any, report: Path, width: int) -> None:
    opened = OpenedReport(browser, report, width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


def test_what_a_record_says_never_runs(browser: Any, tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script><img src=x onerror=alert(2)><a href='javascript:alert(3)'>x</a>"
    target = FAKE_TARGETS["onnxruntime-cpu"]
    study = StudyFolder.create(tmp_path / "fake-study", fake_meta({target.name: replace(target, summary=nasty)}))
    study.write(fake_trial(0, reason=nasty))
    recipe = [{"technique": nasty, "scheme": nasty}]
    study.write(fake_trial(1, recipe, accuracy=0.899, ratio=0.3, size=900_000, reason=nasty, seconds={nasty: 9.0}))
    file = write_report(study, tmp_path / "report.html")
    opened = OpenedReport(browser, file)
    assert opened.page.locator("#front-0 svg.main-svg").count() > 0
    assert opened.page.locator("img").count() == 0
    opened.check_quiet()
    opened.close()


def test_a_study_that_has_not_begun_opens_quietly(browser: Any, tmp_path: Path) -> None:
    target = FAKE_TARGETS["onnxruntime-cpu"]
    study = StudyFolder.create(tmp_path / "fake-study", fake_meta({target.name: target}))
    file = write_report(study, tmp_path / "report.html")
    opened = OpenedReport(browser, file)
    assert "No trial has finished yet." in opened.page.locator("body").inner_text()
    opened.check_quiet()
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_targets_of_which_less_is_known_fit_and_draw(
    browser: Any, report_of_field: Path, width: int, scheme: str
) -> None:
    opened = OpenedReport(browser, report_of_field, width, scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for plot in page.locator(".plot").all():
        assert plot.locator("svg.main-svg").count() > 0
    assert page.locator("#size-3 .point").count() == 6
    assert page.locator("#target-4 .plot").count() == 1
    assert page.locator("#across table").count() == 2
    opened.check_quiet()
    opened.close()
