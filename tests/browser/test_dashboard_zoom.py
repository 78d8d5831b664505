"""A zoomed plot stays as the reader has it when a trial arrives; one that nobody touched makes room for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard_server import CHROMIUM, Dashboard, serving
from tests.fake_study import make_fake_study

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")

PLOT = "document.querySelector('#front-plot .js-plotly-plot')"
RANGES = f"() => {PLOT}?._fullLayout && [{PLOT}._fullLayout.xaxis.range, {PLOT}._fullLayout.yaxis.range]"
DRAWN = f"() => {PLOT}?._fullData?.some(trace => trace.meta?.field)"
TRIALS = f"() => {PLOT}._fullData.filter(trace => trace.meta?.field).reduce((n, trace) => n + trace._length, 0)"


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    make_fake_study(tmp_path / "fake-study")
    with serving(tmp_path) as dashboard:
        yield dashboard


def arrive(page: Any, dashboard: Dashboard, **changes: Any) -> None:
    """Writes a trial and waits until it is drawn."""
    before = page.evaluate(TRIALS)
    dashboard.write_trial(**changes)
    page.wait_for_function(f"before => ({TRIALS})() > before", arg=before)


def test_a_zoom_stays_over_news_until_it_is_taken_back(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/fake-study/front?trial=3") as opened:
        page = opened.page
        page.wait_for_function(DRAWN)
        whole = page.evaluate(RANGES)
        plot = page.locator("#front-plot .nsewdrag").first.bounding_box()
        page.mouse.move(plot["x"] + 0.2 * plot["width"], plot["y"] + 0.2 * plot["height"])
        page.mouse.down()
        page.mouse.move(plot["x"] + 0.7 * plot["width"], plot["y"] + 0.7 * plot["height"], steps=4)
        page.mouse.up()
        page.wait_for_function(f"whole => ({RANGES})()[0][1] < whole[0][1]", arg=whole)
        zoomed = page.evaluate(RANGES)
        for _ in range(2):
            arrive(page, dashboard)
            assert page.evaluate(RANGES) == zoomed
            assert opened.query("trial") == "3"
        page.locator("#front-plot .nsewdrag").first.dblclick()
        page.wait_for_function(f"zoomed => ({RANGES})()[0][1] > zoomed[0][1]", arg=zoomed)
        arrive(page, dashboard)
        assert page.evaluate(RANGES)[0] == pytest.approx(whole[0])


def test_a_plot_that_nobody_touched_makes_room_for_news(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/fake-study/front") as opened:
        opened.page.wait_for_function(DRAWN)
        before = opened.page.evaluate(RANGES)
        arrive(opened.page, dashboard, accuracy=0.95)
        after = opened.page.evaluate(RANGES)
        assert after[1][1] > before[1][1] and after[1][1] > 95
