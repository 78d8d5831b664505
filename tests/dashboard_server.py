"""The dashboard as its readers have it: a real server over a results folder, opened in Debian's Chromium.

A test of a page says:

    @pytest.fixture(scope="module")
    def dashboard(tmp_path_factory):
        results = tmp_path_factory.mktemp("results")
        make_fake_study(results / "fake-study")
        with serving(results) as dashboard:
            yield dashboard

    def test_something(browser, dashboard):
        with dashboard.open(browser, "/study/fake-study/front", width=390, scheme="dark") as opened:
            opened.page.get_by_label("target").click()
            opened.check_accessible()

`browser` is a fixture of tests/browser/conftest.py. When the `with` ends without an error, it checks that nothing was
written to the console, no error was thrown, no dialog popped up and nothing was asked of another server.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoshrink.dashboard.app.listening import Server
from autoshrink.dashboard.app.server import make_app
from autoshrink.dashboard.library import Library
from autoshrink.records import StudyFolder
from autoshrink.types import TrialRecord
from tests.fake_study import fake_trial

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
DRIVER = ("GL Driver Message", "willReadFrequently")
"""What Chromium says on the console of the speed of a processor that draws without a graphics card."""
OWN = ("data:", "blob:")
"""What a page makes itself: no request."""
_SETTLED = """
() => document.querySelector("#content > *") !== null
      && document.querySelector("[data-dash-is-loading]") === null
"""


class Opened:
    """A page of the dashboard, with what it complained about, asked for and popped up."""

    def __init__(self, browser: Any, url: str, width: int, height: int, scheme: str) -> None:
        self.url = url
        self.width = width
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        """Of the console and of errors that nobody caught; a test that provokes one empties it."""
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._refuse)

    def go(self, path: str) -> None:
        """Opens a path of the dashboard, by a full load."""
        self.page.goto(self.url + path)
        self.settle()

    def settle(self) -> None:
        """Waits until the page shows something and no callback is at work."""
        self.page.wait_for_function(_SETTLED)

    def query(self, name: str) -> str | None:
        """What the address says for a control now; None when it does not name it."""
        found = self.page.evaluate("name => new URLSearchParams(window.location.search).get(name)", name)
        return None if found is None else str(found)

    def wait_for_query(self, name: str, value: str | None) -> None:
        """Waits until the address says `value` for a control; None: until it no longer names it."""
        self.page.wait_for_function(
            "([name, value]) => new URLSearchParams(window.location.search).get(name) === value", arg=[name, value]
        )

    def check_fits(self) -> None:
        """The page does not scroll sideways."""
        found = self.page.evaluate(_WIDER)
        assert found["page"] <= self.width, f"{found['page']} px wide, more than {self.width}: {found['wider']}"

    def check_accessible(self, rules_off: Sequence[str] = ()) -> None:
        """axe-core finds no fault that it calls serious or critical.

        Args:
            rules_off: ids of rules that are not asked, each with a reason beside the call.
        """
        from axe_playwright_python.base import AXE_SCRIPT

        self.page.evaluate(AXE_SCRIPT + "\nnull")
        options = {"resultTypes": ["violations"], "rules": {rule: {"enabled": False} for rule in rules_off}}
        found = self.page.evaluate("options => axe.run(document, options)", options)
        assert found["passes"], "axe looked at nothing"
        faults = [_fault(each) for each in found["violations"] if each["impact"] in ("serious", "critical")]
        assert not faults, "\n".join(faults)

    def check_quiet(self) -> None:
        """Nothing on the console (the content security policy reports there), nothing asked of another server."""
        assert not self.complaints, self.complaints
        assert not self.dialogs, self.dialogs
        elsewhere = [url for url in self.requests if not url.startswith((f"{self.url}/", *OWN))]
        assert not elsewhere, elsewhere
        assert self.requests, "no request was seen"

    def _hear(self, message: Any) -> None:
        if not any(words in message.text for words in DRIVER):
            self.complaints.append(f"{message.type}: {message.text}")

    def _refuse(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


class Dashboard:
    """A dashboard that is being served.

    Attributes:
        results: its folder.
        url: `http://127.0.0.1:PORT`, without a slash at the end.
        errors: what the server logged as an error; a test that provokes one empties it.
    """

    def __init__(self, results: Path, url: str, errors: list[str]) -> None:
        self.results = results
        self.url = url
        self.errors = errors

    @contextmanager
    def open(
        self, browser: Any, path: str = "/", width: int = 1200, height: int = 900, scheme: str = "light"
    ) -> Iterator[Opened]:
        """A page in a context of its own; when all went well, it is checked at the end that it was quiet."""
        opened = Opened(browser, self.url, width, height, scheme)
        try:
            opened.go(path)
            yield opened
            opened.check_quiet()
            assert self.errors == []
        finally:
            opened.context.close()

    def study(self, name: str = "fake-study") -> StudyFolder:
        """The folder of a study."""
        return StudyFolder.open(self.results / name)

    def write_trial(self, study: str = "fake-study", **changes: Any) -> TrialRecord:
        """Writes the next FAKE trial of a study, as a search does when one ends.

        Args:
            study: whose.
            changes: `recipe`, and what else `fake_trial` takes; a pruned int8 model by default.
        """
        target = changes.setdefault("target", "onnxruntime-cpu")
        files = (self.results / study / target / "trials").glob("[0-9]*.json")
        number = 1 + max((int(file.stem) for file in files), default=-1)
        recipe: Sequence[Mapping[str, Any]] = changes.pop(
            "recipe", ({"technique": "prune", "ratio": 0.5}, {"technique": "quantize", "scheme": "int8_static"})
        )
        default = {"accuracy": 0.897, "ratio": 0.21, "size": 700_000} if recipe else {}
        record = fake_trial(number, recipe, **{**default, **changes})
        self.study(study).write(record)
        return record


@contextmanager
def serving(results: Path, **options: Any) -> Iterator[Dashboard]:
    """Serves a results folder from a thread of this process, on a free port of 127.0.0.1.

    Args:
        results: the folder.
        options: what else `make_app` takes.
    """
    errors: list[str] = []

    class Collected(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            errors.append(self.format(entry))

    app = make_app(Library(results), **options)
    handler = Collected(logging.ERROR)
    app.server.logger.addHandler(handler)
    server = Server(app.server, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, name="dashboard")
    thread.start()
    try:
        yield Dashboard(results, f"http://127.0.0.1:{server.port}", errors)
    finally:
        server.stop()
        thread.join(timeout=30)
        app.server.logger.removeHandler(handler)
        assert not thread.is_alive(), "the server did not stop"


_WIDER = """
() => {
  const wide = document.documentElement.clientWidth;
  const wider = [...document.querySelectorAll("body *")].filter(each => each.getBoundingClientRect().right > wide + 1);
  const page = document.documentElement.scrollWidth;
  return {page, wider: wider.slice(0, 5).map(each => each.outerHTML.slice(0, 200))};
}
"""


def _fault(violation: Mapping[str, Any]) -> str:
    where = [
        f"  {json.dumps(node['target'])} {node['html'][:200]} {node['failureSummary']}"
        for node in violation["nodes"][:5]
    ]
    return "\n".join([f"{violation['id']} ({violation['impact']}): {violation['help']}", *where])
