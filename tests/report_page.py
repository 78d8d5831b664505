"""A report as its readers have it: the file opened in Debian's Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.dashboard_server import OWN, Opened

AUTO_MARGIN = "auto-margin"
"""On a narrow page plotly says of a legend of many lines that it gives up moving the margins; nothing is lost by it."""


_DRAWN = """() => [...document.querySelectorAll(".plot")]
  .every(plot => plot.closest("details:not([open])") || plot.querySelector("svg.main-svg"))"""


_BACK = """async () => {
  document.activeElement.blur();
  scrollTo(0, 0);
  for (const folded of document.querySelectorAll("details")) folded.open = folded.dataset.first === "true";
  for (const form of document.forms) form.reset();
  for (const tools of document.querySelectorAll(".r-axes")) {
    for (const list of tools.querySelectorAll("select")) list.selectedIndex = 0;
    for (const box of tools.querySelectorAll("input")) box.checked = box.dataset.first === "true";
    tools.dispatchEvent(new Event("change", {bubbles: true}));
  }
  for (let turn = 0; turn < 3; turn++) await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
}"""
_FIRST = """() => {
  for (const folded of document.querySelectorAll("details")) folded.dataset.first = folded.open;
  for (const box of document.querySelectorAll(".r-axes input")) box.dataset.first = box.checked;
}"""
_STATE = """() => JSON.stringify([
  document.body.innerText,
  [...document.querySelectorAll("input, select")].map(control => [control.value, control.checked]),
  [...document.querySelectorAll("details")].map(folded => folded.open),
  [...document.querySelectorAll(".plot")].filter(plot => plot.data).map(plot => [
    plot.id, plot.data, plot.layout.annotations, plot.layout.shapes,
    Object.entries(plot._fullLayout).filter(([name]) => /^[xy]axis/.test(name)).map(([, axis]) => axis.range),
  ]),
])"""
"""What a reader can change."""


class OpenedReport(Opened):
    """The page of a report, with what it complained about, asked for and popped up."""

    def __init__(self, browser: Any, file: Path, width: int = 1200, scheme: str = "light") -> None:
        super().__init__(browser, file.as_uri(), width, 900, scheme)
        # Five megabytes of drawing library take a while where every processor is busy.
        self.page.set_default_timeout(90_000)
        self.page.goto(self.url)
        self.page.wait_for_load_state("load")
        self.page.wait_for_function(_DRAWN)

    def check_quiet(self) -> None:
        """Nothing on the console (the content security policy reports there), no request but the file's own."""
        assert [text for text in self.complaints if AUTO_MARGIN not in text] == []
        assert self.dialogs == []
        assert [url for url in self.requests if not url.startswith(OWN)] == [self.url]

    def close(self) -> None:
        """The page and everything that it holds."""
        self.context.close()


class KeptReport:
    """A report that stays open from one test to the next: what a reader has moved is put back between them.

    Opening takes seconds, most of them for the drawing library. When something is not as it was, the next test gets a
    page of its own.
    """

    def __init__(self, browser: Any, file: Path) -> None:
        self._browser, self._file = browser, file
        self._opened: OpenedReport | None = None
        self._first = ""

    @contextmanager
    def lent(self) -> Iterator[OpenedReport]:
        """The page for one test; at its end it is checked that the page was quiet."""
        opened, self._opened = self._opened, None
        if opened is None:
            opened = OpenedReport(self._browser, self._file)
            opened.page.evaluate(_FIRST)
            self._first = opened.page.evaluate(_STATE)
        try:
            yield opened
            opened.check_quiet()
            opened.page.mouse.move(0, 0)
            opened.page.evaluate(_BACK)
            if opened.page.evaluate(_STATE) == self._first:
                self._opened = opened
        finally:
            if self._opened is None:
                opened.close()

    def close(self) -> None:
        """The page, where one is open."""
        if self._opened is not None:
            self._opened.close()
