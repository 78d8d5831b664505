"""One Chromium, and one dashboard over a fake study, for each file of tests that asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard_server import ARGUMENTS, CHROMIUM, Dashboard, serving
from tests.fake_study import make_fake_study
from tests.report_page import KeptReport, OpenedReport


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    results = tmp_path_factory.mktemp("results")
    make_fake_study(results / "fake-study")
    with serving(results) as dashboard:
        yield dashboard


@pytest.fixture(scope="module")
def kept(browser: Any, report: Path) -> Iterator[KeptReport]:
    """The `report` of a file of tests, open."""
    found = KeptReport(browser, report)
    yield found
    found.close()


@pytest.fixture
def opened(kept: KeptReport) -> Iterator[OpenedReport]:
    """The same for one test, as if just opened."""
    with kept.lent() as found:
        yield found
