"""A page in a headless Chromium that runs models: started once for each number of threads, and asked to do tasks."""

from __future__ import annotations

import asyncio
import atexit
import os
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as LateFuture
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoshrink.backends import browser_runtime
from autoshrink.backends.browser_runtime import FILES, VERSION
from autoshrink.backends.browser_server import Lost, PageServer
from autoshrink.backends.page_frames import Buffer, Frame, PageError, first_line
from autoshrink.errors import StageError
from autoshrink.own_folder import OwnFolder

PAGE = Path(__file__).with_name("browser_page")
PAGE_FILES = ("index.html", "page.js", "models.js")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
"""Nothing but the page of this machine is ever opened, so no sandbox is needed, which containers do not allow."""
START_LIMIT_S = 60.0
ANSWER_LIMIT_S = 120.0
"""Most seconds of one task, beyond those that it was asked to take."""
CLOSE_LIMIT_S = 10.0
PREFIX = "autoshrink-browser-"
LONGEST_PATH = 55
"""Of the browser's folder: with what it puts behind it, sockets may have 103 characters."""


class Page:
    """A page with `threads` threads, and the browser around it.

    Args:
        browser: the executable.
        threads: of the runtime for one call; a page cannot change it.
        stage: of a trial, for the errors.

    Raises:
        StageError: of `stage`: the runtime is not there, the browser does not start, the page does not load.
    """

    def __init__(self, browser: Path, threads: int, stage: str) -> None:
        self.browser = "Chromium"
        self._released: list[int] = []
        runtime = browser_runtime.check(stage)
        self._own_folder = OwnFolder(PREFIX, _place())
        self.folder = self._own_folder.path
        files = {name: PAGE / name for name in PAGE_FILES} | {name: runtime / name for name in FILES}
        self._server = PageServer(files)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._chromium: Any = None
        self._playwright: Any = None
        try:
            self._do(self._open(browser, f"{self._server.url('index.html')}?threads={threads}"), START_LIMIT_S)
            hello, _ = self._server.answer(START_LIMIT_S)
        except Exception as error:
            self.close()
            raise StageError(stage, f"the page does not start in {browser}: {first_line(error)}") from error
        wanted = {"isolated": True, "threads": threads, "version": VERSION}
        if hello != wanted:
            self.close()
            raise StageError(
                stage, f"the page in {browser} is {hello}; cross-origin isolation and the rest must be {wanted}"
            )

    @property
    def lost(self) -> str:
        """Why it will not answer any more; empty as long as it may."""
        return self._server.lost

    def ask(self, stage: str, task: Mapping[str, Any], buffers: Sequence[Buffer] = (), extra_s: float = 0.0) -> Frame:
        """What the page answers.

        Raises:
            StageError: of `stage`: the page or its browser is gone, or did not answer in time and was ended.
            PageError: the page could not do it.
        """
        if self._released:
            released, self._released = self._released, []
            self._exchange(stage, {"task": "release", "released": released}, (), 0.0)
        return self._exchange(stage, task, buffers, extra_s)

    def release(self, number: int) -> None:
        """Has the page forget a session or a call, with its next task."""
        self._released.append(number)

    def close(self) -> None:
        """Ends the browser and removes what it left on the disk. May be called twice."""
        if not self._thread.is_alive():
            return
        self._server.lose("the browser was closed")
        with suppress(Exception):
            self._do(self._end(), CLOSE_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._server.close()
        self._own_folder.remove()

    def _exchange(self, stage: str, task: Mapping[str, Any], buffers: Sequence[Buffer], extra_s: float) -> Frame:
        if self.lost:
            self.close()
            raise StageError(stage, self.lost)
        self._server.give(task, buffers)
        try:
            header, answered = self._server.answer(ANSWER_LIMIT_S + extra_s)
        except Lost as error:
            self._server.lose(str(error))
            self.close()
            raise StageError(stage, self.lost) from None
        if "error" in header:
            raise PageError(first_line(header["error"]))
        return header, answered

    def _do(self, work: Coroutine[Any, Any, None], limit_s: float) -> None:
        """Has the browser's own thread do `work`: the driver's connection belongs to the loop there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            future.result(limit_s)
        except LateFuture:
            future.cancel()
            raise Lost(f"the browser did not answer within {limit_s:g} s") from None

    async def _open(self, browser: Path, url: str) -> None:
        from playwright.async_api import async_playwright

        self._playwright = await async_playwright().start()
        self._chromium = await self._playwright.chromium.launch_persistent_context(
            self.folder / "profile",
            executable_path=browser,
            args=list(ARGUMENTS),
            env=_environment(self.folder),
            artifacts_dir=self.folder / "artifacts",
            timeout=START_LIMIT_S * 1000,
        )
        self._chromium.on("close", lambda _: self._server.lose("the browser ended: it crashed or was killed"))
        page = self._chromium.pages[0] if self._chromium.pages else await self._chromium.new_page()
        page.on("crash", lambda _: self._server.lose("the page crashed, as it does when it runs out of memory"))
        page.on("pageerror", lambda error: self._server.lose(f"the page failed: {first_line(error)}"))
        if self._chromium.browser:
            self.browser = f"Chromium {self._chromium.browser.version}"
        await page.goto(url)

    async def _end(self) -> None:
        try:
            if self._chromium is not None:
                await asyncio.wait_for(self._chromium.close(), CLOSE_LIMIT_S / 2)
        finally:
            # Ends a browser that did not end by itself as well.
            if self._playwright is not None:
                await self._playwright.stop()


_pages: dict[tuple[Path, int], Page] = {}


def page_for(browser: Path, threads: int, stage: str) -> Page:
    """The page of this process with `threads` threads, so that two artifacts are timed in one page.

    Raises:
        StageError: of `stage`: it cannot be started.
    """
    page = _pages.get((browser, threads))
    if page is not None and page.lost:
        page.close()
        page = None
    if page is None:
        page = _pages[browser, threads] = Page(browser, threads, stage)
    return page


@atexit.register
def close_pages() -> None:
    """Ends all browsers of this process."""
    while _pages:
        _pages.popitem()[1].close()


def _place() -> Path:
    """The folder for temporary files, or one with a shorter path where that of the browser's socket would be too long.

    It then does not start.
    """
    usual, short = Path(tempfile.gettempdir()), Path("/tmp")  # noqa: S108 - a folder of random name is made in it
    return short if len(str(usual)) + len(PREFIX) + 9 > LONGEST_PATH and short.is_dir() else usual


def _environment(folder: Path) -> dict[str, str | float | bool]:
    """Has the browser write its temporary files into `folder`."""
    return {**os.environ, "TMPDIR": str(folder)}
