"""The pages of a trial and of comparing trials in a real browser."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from autoshrink.types import Outcome
from tests.dashboard_server import Dashboard

TRIAL = "/study/fake-study/trial?target=onnxruntime-cpu"
COMPARE = "/study/fake-study/compare?target=onnxruntime-cpu&trials=5,3"


def saved(opened: Any, button: str) -> Any:
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name=button, exact=True).click()
    return download.value


def test_a_trial_is_shown_with_figures_layers_and_pictures(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, f"{TRIAL}&trial=5") as opened:
        page = opened.page
        page.locator("#latency-calls .main-svg").first.wait_for()
        assert page.get_by_role("heading", name="Trial 5", exact=True).is_visible()
        assert page.locator("#block-layers tbody tr").count() == 10
        assert page.locator("#block-layers .meter > span").first.evaluate("bar => bar.style.width") != ""
        for name in ("latency-calls", "latency-rounds", "classes", "confusion"):
            page.locator(f"#{name} .main-svg").first.wait_for()
        shown = page.locator(".flips img")
        assert shown.count() > 5
        assert shown.first.evaluate("image => image.naturalWidth") == 16
        assert ", taken for " in str(shown.first.get_attribute("alt"))


def test_without_a_number_the_recommended_trial_is_shown_and_another_can_be_chosen(
    browser: Any, dashboard: Dashboard
) -> None:
    with dashboard.open(browser, TRIAL) as opened:
        page = opened.page
        page.locator(".badge.pick").wait_for()
        page.get_by_label("Trial", exact=True).select_option("0")
        page.get_by_role("heading", name="Trial 0", exact=True).wait_for()
        opened.wait_for_query("trial", "0")
        page.get_by_label("Target", exact=True).select_option("openvino-cpu")
        opened.wait_for_query("target", "openvino-cpu")
        page.locator("#block-environment", has_text="openvino-cpu: ").wait_for()


def test_the_command_can_be_copied(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, f"{TRIAL}&trial=5") as opened:
        opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
        opened.page.get_by_title("Copy the command").click()
        read = "async () => (await navigator.clipboard.readText()).startsWith('autoshrink pick fake-study ')"
        opened.page.wait_for_function(read)
        assert " --trial 5 " in opened.page.evaluate("() => navigator.clipboard.readText()")


def test_figures_and_tables_are_saved(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, f"{TRIAL}&trial=5") as opened:
        opened.page.locator("#confusion .main-svg").first.wait_for()
        label = "Confusion matrix: true classes as rows, what they were taken for as columns"
        image = saved(opened, f"Save {label} as PNG")
        assert image.suggested_filename == "fake-study-confusion.png"
        assert Path(image.path()).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        drawing = saved(opened, f"Save {label} as SVG")
        assert "<svg" in Path(drawing.path()).read_text()
        table = Path(saved(opened, "Save the layers as CSV").path()).read_text()
        rows = list(csv.DictReader(io.StringIO(table)))
        assert [row["layer"] for row in rows][:1] == ["stem.conv"]
        assert len(rows) == 10


def test_news_of_other_trials_leave_the_page_as_it_was(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, f"{TRIAL}&trial=0") as opened:
        opened.page.get_by_text("The recipe as JSON").click()
        pre = opened.page.locator("#copied-recipe")
        pre.wait_for(state="visible")
        # The slowest of all, so that nothing else changes.
        record = dashboard.write_trial(accuracy=0.5, ratio=3.0, size=9_000_000)
        opened.page.locator(f"#trial-list option[value='{record.number}']").wait_for(state="attached")
        assert pre.is_visible()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1600, "dark")])
def test_the_pages_fit_and_are_accessible(browser: Any, dashboard: Dashboard, width: int, scheme: str) -> None:
    failed = next(record for record in dashboard.study().records("onnxruntime-cpu") if record.outcome is Outcome.FAILED)
    with dashboard.open(browser, f"{TRIAL}&trial=5", width=width, scheme=scheme) as opened:
        opened.page.locator("#confusion .main-svg").first.wait_for()
        opened.check_fits()
        opened.check_accessible()
        opened.go(f"{TRIAL}&trial={failed.number}")
        opened.page.get_by_text("ended before anything was compiled").wait_for()
        opened.check_fits()
        opened.go(f"{COMPARE},openvino-cpu:3")
        opened.page.locator("#compare-classes-2 .main-svg").first.wait_for()
        opened.check_fits()
        opened.check_accessible()


def test_two_trials_are_compared_and_links_change_which(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, f"{COMPARE},7") as opened:
        page = opened.page
        verdicts = page.locator(".verdicts > li")
        verdicts.first.wait_for()
        assert verdicts.count() == 3
        assert page.locator(".verdict.is-better", has_text="Trial 5 is faster than trial 3").count() == 1
        page.get_by_role("group", name="trial 7").get_by_role("link", name="Take away").click()
        opened.wait_for_query("trials", "5,3")
        page.wait_for_function("() => document.querySelectorAll('.verdicts > li').length === 1")
        page.get_by_role("group", name="trial 3").get_by_role("link", name="Put first").click()
        opened.wait_for_query("trials", "3,5")
        page.get_by_role("heading", name="Trial 3 and trial 5", exact=True).wait_for()
        page.get_by_label("Second trial").select_option("0")
        opened.wait_for_query("trials", "3,0")
        page.get_by_role("heading", name="Trial 3 and trial 0", exact=True).wait_for()


def test_trials_to_compare_are_searched_for(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, COMPARE, width=390) as opened:
        page = opened.page
        third = page.get_by_label("Third trial")
        whole = third.locator("option").count()
        page.get_by_label("Find trials").fill("no such recipe")
        page.get_by_text("0 of ").wait_for()
        # None, and the two that are compared.
        page.wait_for_function("() => document.querySelectorAll('[data-slot=\"2\"] option').length === 3")
        page.get_by_label("Find trials").fill("int8 front")
        page.wait_for_function("() => document.querySelectorAll('[data-slot=\"2\"] option').length > 3")
        assert third.locator("option").count() < whole
        opened.check_fits()
        opened.check_accessible()
        chosen = third.locator("option", has_text="int8").last.get_attribute("value")
        third.select_option(chosen)
        opened.wait_for_query("trials", f"5,3,{chosen}")
        page.get_by_label("Find trials").fill("")
        page.wait_for_function(
            "whole => document.querySelectorAll('[data-slot=\"2\"] option').length >= whole", arg=whole
        )


def test_what_cannot_be_compared_says_so(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/fake-study/compare?target=nowhere&trials=5,999,x:1") as opened:
        opened.page.get_by_text("There is no trial 999 on onnxruntime-cpu.").wait_for()
        assert opened.page.get_by_text("There is no trial 1 on x.").is_visible()
        assert opened.page.get_by_text("Choose two trials above").is_visible()
        opened.go(f"{TRIAL}&trial=999")
        opened.page.get_by_text("There is no trial 999 on onnxruntime-cpu").wait_for()
