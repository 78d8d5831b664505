"""The frame of the dashboard in a real browser: navigation, address, keyboard, news, phone, dark; nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dash import Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app import server
from autoshrink.dashboard.app.page import Page, Screen
from autoshrink.dashboard.app.pages import PAGES
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.library import Library
from autoshrink.errors import ConfigError
from tests.dashboard_server import Dashboard, serving
from tests.fake_study import make_fake_study

FRONT = "/study/fake-study/front"
OWN_PAGE = "/study/fake-study/fake"


def _layout(place: Place, _library: Library, _screen: Screen) -> Component:
    word = html.Label(["Word ", dcc.Input(place.get("word", "one"), id=control("word"), type="text")])
    buttons = [html.Button(name, id=f"fake-{name}") for name in ("fault", "mistake")]
    return html.Section([html.H2("Fake"), word, *buttons, html.P("as before", id="fake-shown")])


def _register(app: Dash, _library: Library) -> None:
    @app.callback(
        Output("fake-shown", "children"),
        Input("fake-fault", "n_clicks"),
        Input("fake-mistake", "n_clicks"),
        prevent_initial_call=True,
    )
    def fail(_fault: object, mistake: int | None) -> object:
        if mistake:
            raise ConfigError(["trial 7: its record cannot be read"])
        raise ZeroDivisionError


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """With a FAKE page: a control, and callbacks that fail."""
    results = tmp_path_factory.mktemp("results")
    make_fake_study(results / "fake-study", targets=1, trials=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "PAGES", (*PAGES, Page("fake", "Fake", _layout, _register)))
        with serving(results) as dashboard:
            yield dashboard


def test_a_change_of_a_control_is_kept_in_the_address_and_comes_back_with_it(browser: Any, own: Dashboard) -> None:
    with own.open(browser, OWN_PAGE + "?word=a%26b&other=1") as opened:
        page = opened.page
        word = page.locator("#content input")
        assert word.input_value() == "a&b"
        word.fill("\u00fc #?=")
        opened.wait_for_query("word", "\u00fc #?=")
        assert opened.query("other") == "1"
        page.reload()
        opened.settle()
        assert word.input_value() == "\u00fc #?="
        word.fill("")
        opened.wait_for_query("word", None)


def test_a_part_that_fails_is_told_and_the_page_stays_as_it_was(browser: Any, own: Dashboard) -> None:
    with own.open(browser, OWN_PAGE) as opened:
        page = opened.page
        page.get_by_role("button", name="fault").click()
        page.get_by_role("alert").get_by_text("could not be made (ZeroDivisionError)").wait_for()
        assert page.locator("#fake-shown").inner_text() == "as before"
        assert len(own.errors) == 1 and "ZeroDivisionError" in own.errors[0]
        own.errors.clear()
        opened.check_accessible()
        page.get_by_role("button", name="mistake").click()
        page.get_by_role("alert").get_by_text("trial 7: its record cannot be read").wait_for()
        page.get_by_role("link", name="Search").click()
        page.wait_for_function("document.getElementById('trouble').textContent === ''")


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.textContent"))


def test_pages_open_by_links_and_the_way_back_keeps_their_state(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser) as opened:
        page = opened.page
        assert page.title() == "Studies - autoshrink"
        page.goto(dashboard.url + FRONT + "?target=openvino-cpu")
        page.wait_for_function("document.title === 'fake-study: Front - autoshrink'")
        opened.settle()
        assert opened.query("target") == "openvino-cpu"
        navigation = page.get_by_role("navigation", name="Pages")
        assert navigation.locator("[aria-current=page]").all_inner_texts() == ["Front"]
        navigation.get_by_role("link", name="Search").click()
        page.wait_for_function("document.title === 'fake-study: Search - autoshrink'")
        assert opened.query("target") == "openvino-cpu", "the target goes along"
        assert navigation.locator("[aria-current=page]").all_inner_texts() == ["Search"]
        assert focused(page) == "content"
        page.go_back()
        page.wait_for_function("document.title === 'fake-study: Front - autoshrink'")
        assert opened.query("target") == "openvino-cpu"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/study/other/front", "there is no study of this name"),
        ("/study/fake-study/other", "the dashboard has none of this address"),
        ("/other", "the dashboard has none of this address"),
        ("/study/..%2F..%2Fetc/front", "there is no study of this name"),
    ],
)
def test_an_address_of_nothing_is_said_to_be_one(browser: Any, dashboard: Dashboard, path: str, words: str) -> None:
    with dashboard.open(browser, path) as opened:
        assert words in opened.page.locator("#content .problem").inner_text()
        opened.page.get_by_role("link", name="autoshrink").click()
        opened.page.get_by_role("link", name="fake-study").first.wait_for()


def test_the_keyboard_reaches_the_navigation_and_skips_it(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, FRONT) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the content"
        assert page.get_by_role("link", name="Skip to the content").bounding_box()["x"] >= 0
        reached = []
        for _ in range(6):
            page.keyboard.press("Tab")
            reached.append(focused(page))
        assert reached[:5] == ["autoshrink", "Front", "Trial", "Compare", "Search"]
        page.evaluate("document.querySelector('.skip').focus()")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.getElementById('content').contains(document.activeElement)")


def test_a_trial_that_ends_is_told_and_counted(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, FRONT) as opened:
        news = opened.page.get_by_text("new trial")
        assert news.count() == 0
        dashboard.write_trial()
        opened.page.get_by_text("1 new trial, 49 in all").wait_for()
        dashboard.write_trial()
        opened.page.get_by_text("1 new trial, 50 in all").wait_for()
        assert opened.page.locator("#news").get_attribute("role") == "status"


def test_the_scheme_is_the_systems_also_when_it_changes(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser, FRONT, scheme="dark") as opened:
        ground = "() => getComputedStyle(document.body).backgroundColor"
        assert opened.page.evaluate(ground) == "rgb(15, 19, 24)"
        opened.page.emulate_media(color_scheme="light")
        assert opened.page.evaluate(ground) == "rgb(245, 246, 248)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/other", "/study/fake-study/other"])
def test_the_frame_is_accessible_and_fits_a_phone(browser: Any, dashboard: Dashboard, path: str, scheme: str) -> None:
    with dashboard.open(browser, path, width=390, height=844, scheme=scheme) as opened:
        opened.check_fits()
        opened.check_accessible()


def test_a_server_that_is_gone_is_told_and_forgotten_when_it_is_back(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser) as opened:
        state = opened.page.locator("#server-state")
        assert state.inner_text() == ""
        opened.context.set_offline(True)
        opened.page.get_by_text("server does not answer").wait_for()
        opened.context.set_offline(False)
        opened.page.wait_for_function("document.getElementById('server-state').textContent === ''")
        assert opened.complaints, "the browser says of each request that it failed"
        opened.complaints.clear()
