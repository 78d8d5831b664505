"""Each view of the dashboard over records that were measured: the demo's study, see tests/recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard_server import Dashboard, serving

RECORDED = Path(__file__).parents[1] / "recorded"
FRONT = "/study/demo/front?target=onnxruntime-cpu"


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    with serving(RECORDED) as dashboard:
        yield dashboard


def test_studies_name_the_best_trial(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/") as opened:
        study = opened.page.locator("li.study", has_text="demo")
        study.wait_for()
        text = study.inner_text()
        assert "done" in text
        assert "fashion-mini" in text
        opened.check_quiet()


def test_the_front_points_to_the_trial_to_ship_and_a_limit_to_another(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, FRONT) as opened:
        page = opened.page
        title = page.locator("#front-answer .answer-title")
        assert title.inner_text() == "Trial 20"
        answer = page.locator("#front-answer").inner_text()
        # 4,896,829 bytes against 753,715; 1 / 0.29296.
        for text in ("6.50x smaller", "3.41x faster", "-0.32 points", "autoshrink pick demo"):
            assert text in answer
        box = page.get_by_label("Latency at most", exact=True)
        box.fill("0.25ms")
        box.press("Enter")
        page.wait_for_function("() => document.querySelector('#front-answer .answer-title').innerText === 'Trial 11'")
        assert "1 of 24 trials keeps" in page.locator("#front-kept").inner_text()
        opened.wait_for_query("max_latency", "0.25ms")
        box.fill("0.05ms")
        box.press("Enter")
        page.get_by_text("Nothing fits").wait_for()
        page.get_by_role("button", name="Trial 11").wait_for()
        opened.check_quiet()


def test_a_trial_shows_its_layers_calls_and_flips(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/demo/trial?target=onnxruntime-cpu&trial=20") as opened:
        page = opened.page
        for name in ("latency-calls", "classes", "confusion"):
            page.locator(f"#{name} .main-svg").first.wait_for()
        assert page.locator("#block-layers tbody tr").count() == 10
        # 25 % of 64, 128 and 256 channels are gone, and the first and last layer stay float.
        layers = page.locator("#block-layers").inner_text()
        assert "blocks.2.conv2" in layers
        assert "40 of 64" in layers
        assert layers.count("fp32") == 2
        assert layers.count("int8") == 8
        pictures = page.locator(".flips img")
        assert pictures.first.evaluate("image => image.naturalWidth") == 28
        assert ", taken for " in str(pictures.first.get_attribute("alt"))
        opened.check_quiet()


def test_two_trials_are_told_apart_only_where_the_intervals_say_so(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/demo/compare?target=onnxruntime-cpu&trials=20,11") as opened:
        page = opened.page
        page.get_by_role("heading", name="Trial 11").first.wait_for()
        text = page.locator("#content").inner_text()
        # 93.80 % against 89.20 %, and 19.9 times the baseline's pace against 3.41 times.
        for said in ("Trial 20 is better than trial 11: +4.60 points", "Trial 11 is faster than trial 20: 5.82x"):
            assert said in text
        opened.check_quiet()


def test_the_search_says_what_mattered(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/demo/search?target=onnxruntime-cpu") as opened:
        opened.page.locator(".js-plotly-plot .main-svg").first.wait_for()
        assert opened.page.locator(".js-plotly-plot:visible").count() >= 4
        opened.check_quiet()


@pytest.mark.parametrize("path", [FRONT, "/study/demo/trial?trial=20", "/study/demo/search"])
def test_on_a_phone(browser: Any, dashboard: Dashboard, path: str) -> None:
    with dashboard.open(browser, path, width=390, scheme="dark") as opened:
        opened.page.locator(".js-plotly-plot .main-svg").first.wait_for()
        opened.check_fits()
