"""The frame of the dashboard in a real browser: navigation, address, keyboard, news, phone, dark; nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboard_server import Dashboard, serving
from tests.fake_study import make_fake_study


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    results = tmp_path_factory.mktemp("results")
    make_fake_study(results / "fake-study")
    with serving(results) as dashboard:
        yield dashboard


def test_studies_lead_to_a_front_and_back(browser: Any, dashboard: Dashboard) -> None:
    with dashboard.open(browser) as opened:
        page = opened.page
        page.get_by_role("link", name="fake-study").click()
        page.wait_for_url("**/study/fake-study/front*")
        page.locator("#content svg.main-svg").first.wait_for()
        page.go_back()
        page.wait_for_url(dashboard.url + "/")
        page.get_by_role("link", name="fake-study").wait_for()
