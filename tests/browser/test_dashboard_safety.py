"""What the dashboard shows never runs, and what it downloads is a package: in a real browser."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dash import html

from autoshrink.dashboard.app import server
from autoshrink.dashboard.app.downloads import package_button
from autoshrink.dashboard.app.guard import Rules
from autoshrink.dashboard.app.page import Page
from autoshrink.dashboard.app.pages import OWN, PAGES
from autoshrink.dashboard.app.place import address
from autoshrink.package import verify
from tests.dashboard_server import Dashboard, serving
from tests.nasty_study import MARKED, NAME, make_nasty_study
from tests.package_study import make_study
from tests.unit.test_dashboard_downloads import TASK

STATES = {
    "front": [{}, {"trial": 1}],
    "trial": [{"trial": 1}, {"trial": 9}],
    "compare": [{"trials": "0,1,2"}],
    "search": [{}],
}


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    results = tmp_path_factory.mktemp("results")
    make_nasty_study(results)
    with serving(results) as dashboard:
        yield dashboard


@pytest.mark.parametrize("page", [*OWN, *PAGES], ids=lambda page: page.title)
def test_what_a_study_says_never_runs(browser: Any, nasty: Dashboard, page: Page) -> None:
    paths = [f"/{page.name}"]
    if page in PAGES:
        paths = [address(page.name, NAME, target=NAME, **asked) for asked in STATES[page.name]]
    for path in paths:
        with nasty.open(browser, path) as opened:
            body = opened.page.locator("body")
            if page in PAGES:
                assert MARKED in body.inner_text(), "the name of the study, as text"
            for point in opened.page.locator(".js-plotly-plot .point").all()[:3]:
                box = point.bounding_box()
                if box:
                    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
                    opened.page.wait_for_timeout(60)
            assert opened.page.locator("img[src=x], [onerror], [onclick], a[href^=javascript], svg a").count() == 0
            outside = opened.page.locator("a[href]:not([href^='/']):not([href^='#'])")
            assert [each.get_attribute("href") for each in outside.all()] == []
            assert "There is no such page" not in body.inner_text()


def test_a_token_is_brought_once_and_leaves_the_address(browser: Any, tmp_path: Path) -> None:
    token = "a-token-of-many-characters"
    (tmp_path / "results").mkdir()
    with serving(tmp_path / "results", rules=Rules("0.0.0.0", token)) as dashboard:
        with dashboard.open(browser, f"/?token={token}&q=1") as opened:
            opened.page.wait_for_url(lambda url: "q=1" in url and token not in url)
            opened.settle()
            assert opened.page.evaluate("document.cookie") == ""
            opened.go("/devices")
            assert opened.page.get_by_role("heading", name="Targets").is_visible()
        context = browser.new_context()
        page = context.new_page()
        assert page.goto(dashboard.url).status == 403
        assert "A token is wanted" in page.locator("body").inner_text()
        context.close()


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A study on real compiled files, with a page of two buttons: of a trial that can be packed, and of none."""
    place = tmp_path_factory.mktemp("place")
    (place / "exact.py").write_text(TASK)
    study, _ = make_study(place / "results" / "products")
    file = study.path / "study.json"
    file.write_text(file.read_text().replace('"task": "products"', f'"task": "{place / "exact.py"}"'))

    def layout(_place: object, _library: object, _screen: object) -> Any:
        return html.Section(
            [html.H2("Packages"), package_button("products", "bench", 3), package_button("products", "bench", 8)]
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "PAGES", (*PAGES, Page("packages", "Packages", layout, lambda _app, _library: None)))
        with serving(place / "results") as dashboard:
            yield dashboard


def test_the_button_builds_a_package_by_keyboard_and_tells_how_far_it_is(
    browser: Any, products: Dashboard, tmp_path: Path
) -> None:
    """Slow for a page: `pick` loads torch and runs the model."""
    with products.open(browser, "/study/products/packages") as opened:
        page = opened.page
        button = page.get_by_role("button", name="Build and download the package").first
        said = page.locator(".package-said").first
        opened.check_accessible()
        button.focus()
        with page.expect_download(timeout=120_000) as download:
            page.keyboard.press("Enter")
            page.locator(".package-said[data-state=busy]").wait_for()
            assert button.get_attribute("aria-disabled") == "true"
            assert said.get_attribute("role") == "status" and "Building" in said.inner_text()
            opened.check_accessible()
        assert download.value.suggested_filename == "products-bench-trial3.zip"
        page.locator(".package-said[data-state=done]").wait_for()
        assert "autoshrink verify products-bench-trial3" in said.inner_text()
        assert button.get_attribute("aria-disabled") is None
        assert page.evaluate("document.activeElement.className") == "package-button"
        with zipfile.ZipFile(download.value.path()) as archive:
            archive.extractall(tmp_path)
    assert verify(tmp_path / "products-bench-trial3").ok


def test_what_cannot_be_packed_is_told_beside_its_button(browser: Any, products: Dashboard) -> None:
    with products.open(browser, "/study/products/packages", width=390) as opened:
        opened.page.get_by_role("button", name="Build and download the package").last.click()
        failed = opened.page.locator(".package-said[data-state=failed]")
        failed.wait_for()
        assert "bench has no trial of this number" in failed.inner_text()
        opened.check_accessible()
        opened.check_fits()
        assert all("404" in each for each in opened.complaints), "the browser's own line of the answer"
        opened.complaints.clear()
