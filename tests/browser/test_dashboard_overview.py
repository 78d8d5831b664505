"""The pages Studies, Search and Devices in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoshrink.activity import remove_activity
from autoshrink.records import StudyFolder
from autoshrink.target_states import remember
from tests.dashboard_server import Dashboard, serving
from tests.fake_allocations import write_fake_allocated
from tests.fake_field import make_fake_field
from tests.fake_samples import write_fake_activity
from tests.fake_study import FAKE_TARGETS, fake_meta, make_fake_study

ODD = "it's <img src=x onerror=alert(1)> & more?#%2e"


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    results = tmp_path_factory.mktemp("results")
    make_fake_study(results / "fake-study")
    make_fake_field(results / "field")
    target = "onnxruntime-cpu"
    StudyFolder.create(results / ODD, fake_meta({target: FAKE_TARGETS[target]}, 24, name=ODD))
    (results / "torn").mkdir()
    (results / "torn" / "study.json").write_text('{"schema": 1, "na')
    with serving(results) as dashboard:
        yield dashboard


def names(page: Any) -> list[str]:
    return [str(text) for text in page.locator("li.study h3").all_inner_texts()]


def test_studies_are_found_ordered_and_opened_by_keyboard(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/?order=name") as opened:
        page = opened.page
        page.locator("li.study").first.wait_for()
        assert names(page) == sorted(["fake-study", "field", ODD, "torn"], key=str.casefold)
        assert "is not JSON" in page.locator("li.study", has_text="torn").inner_text()
        opened.check_accessible()
        page.get_by_role("combobox", name="State").select_option("broken")
        opened.wait_for_query("state", "broken")
        page.get_by_text("1 of 4 studies").wait_for()
        page.get_by_role("combobox", name="State").select_option("")
        page.get_by_text("4 studies", exact=True).wait_for()
        page.get_by_label("Find").fill("phone")
        page.get_by_text("1 of 4 studies").wait_for()
        assert names(page) == ["field"]
        opened.wait_for_query("find", "phone")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/study/field/front*")


def test_a_name_that_needs_quoting_is_text_and_its_link_works(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/", width=390, scheme="dark") as opened:
        link = opened.page.get_by_role("link", name=ODD)
        link.wait_for()
        opened.check_fits()
        opened.check_accessible()
        link.click()
        opened.page.locator("h1", has_text=ODD).wait_for()


def test_without_studies_the_page_says_how_to_make_one(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as empty, empty.open(browser) as opened:
        opened.page.get_by_text("autoshrink search fashion-mini --target onnxruntime-cpu").wait_for()
        assert not opened.page.get_by_label("Find").is_visible()


def test_the_search_page_draws_keeps_its_state_and_opens_a_trial_by_a_click(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/fake-study/search?target=openvino-cpu&over=time") as opened:
        page = opened.page
        # Four figures at once keep the browser of a machine that has other work busy for long.
        page.set_default_timeout(120_000)
        for name in ("progress", "time", "importance", "parallel"):
            page.locator(f"#{name} svg.main-svg").first.wait_for()
        page.locator("#progress .xtitle", has_text="minutes of search").wait_for()
        page.get_by_role("combobox", name="Over").select_option("trials")
        page.locator("#progress .xtitle", has_text="trial").wait_for()
        opened.wait_for_query("over", "trials")
        assert opened.query("target") == "openvino-cpu"
        page.locator("#parallel-block summary", has_text="The same as a table").click()
        page.locator("#parallel-table").get_by_role("link", name="23", exact=True).wait_for()
        point = page.locator("#progress .scatterlayer .point").nth(3)
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_url("**/study/fake-study/trial?target=openvino-cpu&trial=*")


def test_lines_are_restricted_by_keyboard_and_a_link_shows_the_same(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, "/study/fake-study/search", width=390) as opened:
        page = opened.page
        page.set_default_timeout(120_000)
        page.locator("#parallel svg.main-svg").first.wait_for()
        page.locator("#parallel-block summary", has_text="Only some of the lines").focus()
        page.keyboard.press("Enter")
        box = page.get_by_role("combobox", name="prune ratio")
        box.focus()
        box.select_option("0.5")
        said = page.locator("#parallel-said")
        said.filter(has_text="the others are faint").wait_for()
        opened.wait_for_query("only.prune ratio", "0.5")
        page.locator("#parallel .legendtext", has_text="left out").wait_for()
        opened.check_fits()
        opened.check_accessible()
        words, where = said.inner_text(), page.evaluate("window.location.pathname + window.location.search")
        opened.go(where)
        said.filter(has_text=words).wait_for()
        assert page.get_by_role("combobox", name="prune ratio").input_value() == "0.5"
        page.locator("#parallel-block summary", has_text="The same as a table").click()
        assert page.locator("#parallel-table tbody tr").count() == int(words.split()[0])


def test_the_search_page_on_a_phone_in_the_dark_and_while_a_search_runs(browser: Any, dashboard: Dashboard) -> None:
    activity = write_fake_activity(dashboard.study("field"), stage="compile", device="adb 3A2F")
    with dashboard.open(browser, "/study/field/search", width=390, scheme="dark") as opened:
        page = opened.page
        now = page.get_by_role("region", name="What runs now")
        assert "compile" in now.inner_text()
        assert now.locator("tbody tr").count() == len(activity.targets)
        page.get_by_text("Too early to say").wait_for()
        opened.check_fits()
        opened.check_accessible()
        remove_activity(dashboard.study("field").path)
        now.wait_for(state="detached")


def test_what_was_measured_of_layers_comes_with_the_first_trial_that_has_it(browser: Any, tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "layers", targets=1, trials=8)
    with serving(tmp_path) as dashboard, dashboard.open(browser, "/study/layers/search", width=390) as opened:
        page = opened.page
        page.set_default_timeout(120_000)
        page.locator("#search-stages table").wait_for()
        assert not page.locator("#search-layers").is_visible()
        write_fake_allocated(study, 8)
        page.locator("#sensitivity .point").first.wait_for()
        page.locator("#foresight .point").nth(5).wait_for()
        assert page.locator("#foresight-said").inner_text() == "QAT: rank correlation 1.00 over 6 trials."
        # Drawn within its place, though that was hidden when it came to be.
        drawn, place = (page.locator(f"#sensitivity {part}").first.bounding_box() for part in ("svg.main-svg", ""))
        assert drawn["height"] == place["height"] > 200
        page.get_by_role("combobox", name="Measured for").select_option(label="QAT, trials 12, 13")
        page.get_by_text("The same of a narrower model. Measured once for 2 trials with QAT.").wait_for()
        opened.wait_for_query("measured", page.get_by_role("combobox", name="Measured for").input_value())
        page.locator("#sensitivity-block summary").click()
        assert page.locator("#sensitivity-table tbody tr").count() == 11
        page.locator("#sensitivity-table").get_by_text("<b>odd</b>").wait_for()
        opened.check_fits()
        opened.check_accessible()
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save how sensitive the layers are as CSV").click()
        assert Path(saved.value.path()).read_text().startswith('layer,bits,"loss, nats of KL divergence",')


def test_devices_tell_what_is_known_and_ask_nobody(browser: Any, dashboard: Dashboard) -> None:
    remember(
        FAKE_TARGETS["openvino-cpu"], {"state": "unavailable", "why": "<b>gone</b>", "fix": "pip install it"}, "doctor"
    )
    with dashboard.open(browser, "/devices", width=390) as opened:
        page = opened.page
        item = page.locator("#targets-known li", has_text="openvino-cpu")
        item.get_by_text("<b>gone</b>").wait_for()
        assert item.locator("code").inner_text() == "pip install it"
        page.get_by_text("targets that nobody has asked about").click()
        page.get_by_text("autoshrink doctor --target tensorrt-gpu").wait_for()
        assert page.locator("#devices-steady tbody tr", has_text="onnxruntime-cpu").count() == 1
        opened.check_fits()
        opened.check_accessible()
