"""The page Front in a real browser: limits change the pick, axes switch, a click selects, news keeps the zoom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from autoshrink.records import StudyFolder
from autoshrink.target import Limits
from tests.dashboard_server import Dashboard, Opened, serving
from tests.fake_field import make_fake_field
from tests.fake_study import FAKE_TARGETS, fake_meta, make_fake_study

FRONT = "/study/fake-study/front"
PLOT = "#front-plot .js-plotly-plot"
RANGE = f"document.querySelector('{PLOT}')._fullLayout.xaxis.range"


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    results = tmp_path_factory.mktemp("results")
    make_fake_study(results / "fake-study")
    make_fake_field(results / "field")
    StudyFolder.create(results / "empty", fake_meta(dict(list(FAKE_TARGETS.items())[:1])))
    with serving(results) as dashboard:
        yield dashboard


def drawn(opened: Opened) -> None:
    opened.page.wait_for_function(f"() => document.querySelector('{PLOT}')?.layout?.uirevision")
    opened.settle()


def slide(opened: Opened, label: str, place: int) -> None:
    """Moves a slider as a hand does: Dash listens to React's events."""
    opened.page.get_by_label(label).evaluate(
        """(slider, place) => {
          Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(slider, String(place));
          for (const kind of ["input", "change"]) slider.dispatchEvent(new Event(kind, {bubbles: true}));
        }""",
        place,
    )


def symbols(opened: Opened) -> list[str]:
    """Of all faint trials; the hollow ones end in `-open`."""
    found: list[str] = opened.page.evaluate(
        f"""() => document.querySelector('{PLOT}').data.filter(trace => trace.meta?.field)
                 .flatMap(trace => Array.from(trace.marker.symbol))"""
    )
    return found


def test_a_limit_changes_what_fits_and_the_pick(browser: Any, dashboard: Dashboard) -> None:
    snapshot_view = dashboard.study()
    with dashboard.open(browser, FRONT) as opened:
        page = opened.page
        drawn(opened)
        title = page.locator("#front-answer .answer-title")
        before = title.inner_text()
        assert not any(symbol.endswith("-open") for symbol in symbols(opened))
        slide(opened, "Size at most, as a slider", 150)
        page.wait_for_function("before => document.querySelector('#front-answer .answer-title')?.innerText !== before",
                               arg=before)  # fmt: skip
        size = opened.query("max_size")
        assert size is not None
        assert size.endswith("kB")
        assert page.get_by_label("Size at most", exact=True).input_value() == size
        page.wait_for_function(f"() => document.querySelector('{PLOT}').layout.shapes.length === 0")
        assert {symbol.endswith("-open") for symbol in symbols(opened)} == {True, False}
        assert f"--max-size {size}" in page.locator("#front-answer pre").inner_text()
        # The page's pick is the one of the command line.
        from autoshrink.api import Study
        from autoshrink.units import size_bytes

        chosen = Study(snapshot_view).choose("onnxruntime-cpu", Limits(size_bytes=size_bytes(size)))
        assert title.inner_text() == f"Trial {chosen.number}"
        # A box takes what the command line takes, and the slider goes along.
        box = page.get_by_label("Latency at most", exact=True)
        box.fill("0.3")
        box.press("Enter")
        opened.wait_for_query("max_latency", "0.3ms")
        page.wait_for_function(f"() => document.querySelector('{PLOT}').layout.shapes.length === 1")
        assert 0 < int(page.get_by_label("Latency at most, as a slider").input_value()) < 1000
        box.fill("soon")
        box.press("Enter")
        page.get_by_role("alert").get_by_text("'soon' is not a latency").wait_for()


def test_nothing_fits_and_the_way_out(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, f"{FRONT}?max_latency=0.01ms") as opened:
        page = opened.page
        page.get_by_text("Nothing fits").wait_for()
        drawn(opened)
        assert all(symbol.endswith("-open") for symbol in symbols(opened))
        nearest = page.locator(".misses button").first
        number = nearest.inner_text().removeprefix("Trial ")
        nearest.click()
        opened.wait_for_query("selected", number)
        page.locator("#front-selected").get_by_text(f"Trial {number}").wait_for()
        gives = page.locator(".ways .quiet").first.inner_text().strip().removeprefix("gives ")
        page.locator("button.way").first.click()
        page.locator("#front-answer .answer-title").wait_for()
        assert page.locator("#front-answer .answer-title").inner_text().lower() == gives
        assert opened.query("max_latency") != "0.01ms"


def test_the_address_restores_the_view(browser: Any, dashboard: Dashboard) -> None:
    asked = "?x=size&y=drop&costs=absolute&max_drop=1%25&selected=3&beside=openvino-cpu&apart=overlay"
    with dashboard.open(browser, FRONT + asked) as opened:
        page = opened.page
        drawn(opened)
        page.wait_for_function(f"() => document.querySelector('{PLOT}').layout.xaxis.title.text === 'size, MB'")
        title = page.evaluate(f"document.querySelector('{PLOT}').layout.yaxis.title.text")
        assert title == "accuracy drop on val, points"
        page.locator("#front-selected").get_by_text("Trial 3").wait_for()
        assert page.get_by_label("Drop at most", exact=True).input_value() == "1%"
        assert page.locator(".legendtext", has_text="openvino-cpu").count() == 1
        # The controls stand as the address says, and what is changed goes there.
        page.get_by_role("combobox", name="Across", exact=True).select_option("throughput")
        opened.wait_for_query("x", "throughput")
        page.wait_for_function(
            f"() => document.querySelector('{PLOT}').layout.xaxis.title.text === 'throughput, rows/s'"
        )


def test_a_click_selects_a_point_and_a_row(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, FRONT) as opened:
        page = opened.page
        drawn(opened)
        box = page.locator(f"{PLOT} .scatterlayer .point").last.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.locator("#front-selected .answer-title").wait_for()
        number = opened.query("selected")
        assert page.locator("#front-selected .answer-title").inner_text().startswith(f"Trial {number}")
        page.locator(".trials-grid .ag-row", has_text="rejected").first.click()
        page.locator("#front-selected .badge.rejected").wait_for()
        assert opened.query("selected") != number


def test_news_keeps_zoom_and_selection(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, f"{FRONT}?selected=2") as opened:
        page = opened.page
        drawn(opened)
        whole = page.evaluate(RANGE)
        area = page.locator(f"{PLOT} .nsewdrag").bounding_box()
        assert area is not None
        page.mouse.move(area["x"] + 0.3 * area["width"], area["y"] + 0.2 * area["height"])
        page.mouse.down()
        page.mouse.move(area["x"] + 0.7 * area["width"], area["y"] + 0.6 * area["height"], steps=4)
        page.mouse.up()
        page.wait_for_function(f"whole => String({RANGE}) !== String(whole)", arg=whole)
        zoomed = page.evaluate(RANGE)
        written = dashboard.write_trial(accuracy=0.93, ratio=0.3, size=100_000)
        page.wait_for_function(
            f"""number => document.querySelector('{PLOT}').data
                          .some(trace => (trace.customdata || []).some(([of]) => of === number))""",
            arg=written.number,
        )
        assert page.evaluate(RANGE) == zoomed
        assert opened.query("selected") == "2"
        # So good a trial is the pick at once.
        page.locator("#front-answer").get_by_text(f"Trial {written.number}").wait_for()


@pytest.mark.parametrize("target", ["server", "cloud", "microcontroller", "tablet"])
def test_each_kind_of_target_has_its_view(browser: Any, dashboard: Dashboard, target: str) -> None:
    with dashboard.open(browser, f"/study/field/front?target={target}") as opened:
        drawn(opened)
        title = opened.page.evaluate(f"document.querySelector('{PLOT}').layout.xaxis.title.text")
        first = {"server": "latency", "cloud": "throughput"}.get(target, "size")
        assert title.startswith(first)
        opened.page.locator("#front-answer .answer-title").wait_for()


def test_without_trials_it_says_so(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/empty/front") as opened:
        opened.page.get_by_text("No trial has ended yet. The first one").wait_for()
        assert not opened.page.locator("#front-frame").is_visible()


def test_in_space(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, f"{FRONT}?view=3d") as opened:
        drawn(opened)
        opened.page.locator(f"{PLOT} .gl-container canvas").first.wait_for(state="attached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_dark_and_accessible(browser: Any, dashboard: Dashboard, scheme: str) -> None:
    with dashboard.open(browser, f"{FRONT}?selected=1&beside=openvino-cpu", width=390, scheme=scheme) as opened:
        page = opened.page
        drawn(opened)
        opened.check_fits()
        answer, plot = (page.locator(name).bounding_box() for name in ("#front-answer", "#front-plot"))
        assert answer is not None
        assert plot is not None
        assert answer["y"] < plot["y"]
        assert page.locator("#front-frame").get_attribute("aria-label") is not None
        # The table comes after the figure, its heads after its rows.
        for part in ("[role=gridcell]", "[role=columnheader]"):
            page.locator(f"#trials {part}").first.wait_for(state="attached")
        opened.settle()
        opened.check_accessible()
