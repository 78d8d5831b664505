"""A report as its readers have it: the file opened in Debian's Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.dashboard_server import OWN, Opened

AUTO_MARGIN = "auto-margin"
"""On a narrow page plotly says of a legend of many lines that it gives up moving the margins; nothing is lost by it."""


_DRAWN = """() => [...document.querySelectorAll(".plot")]
  .every(plot => plot.closest("details:not([open])") || plot.querySelector("svg.main-svg"))"""


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
