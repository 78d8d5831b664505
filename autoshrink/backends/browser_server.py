"""The local server that a page is loaded from and asks for its tasks, isolated from every other origin.

The page asks for a task and hands back the answer to the one before in the same request, so a task costs one round
trip. Both are frames: see `page_frames`.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoshrink.backends.page_frames import Buffer, Frame, pack, unpack
from autoshrink.backends.page_http import EXCHANGE, FRAME_TYPE, PageHandler, QuietServer, same

ADDRESS = "127.0.0.1"
MOST_BYTES = 2**30
"""Of one answer; a page has no more memory than four times this."""


class Lost(Exception):
    """The page does not answer, and why."""


class PageServer:
    """Serves listed files at a random port of this machine, under a path that nobody can guess.

    Args:
        files: the last part of a URL -> the file.

    Attributes:
        lost: why the page will not answer any more; empty as long as it may.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.lost = ""
        self._tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes | Lost] = queue.SimpleQueue()
        self._token = secrets.token_urlsafe(16)
        self._server = QuietServer((ADDRESS, 0), _handler(files, self._token, self._answer_and_ask, self._left))
        # By itself it looks for the order to stop twice a second, and `close` would take that long.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def url(self, name: str) -> str:
        """Where a file is found."""
        return f"http://{ADDRESS}:{self._server.server_address[1]}/{self._token}/{name}"

    def answer(self, limit_s: float) -> Frame:
        """What the page hands back next.

        Raises:
            Lost: nothing came within `limit_s` seconds, or the page is gone.
        """
        try:
            found = self._answers.get(timeout=limit_s)
        except queue.Empty:
            raise Lost(f"the page did not answer within {limit_s:g} s") from None
        if isinstance(found, Lost):
            raise found
        return unpack(found)

    def give(self, header: Mapping[str, Any], buffers: Sequence[Buffer] = ()) -> None:
        """Has the page do a task."""
        self._tasks.put(pack(header, buffers))

    def lose(self, reason: str) -> None:
        """Says that no answer will come, and the first one why: whoever waits for one is told."""
        self.lost = self.lost or reason
        self._answers.put(Lost(self.lost))

    def close(self) -> None:
        """Ends the server; requests that wait for a task are left to die with the process or their page."""
        self._server.shutdown()
        self._server.server_close()
        self._tasks.put(b"")
        self._thread.join()

    def _answer_and_ask(self, answer: bytes) -> bytes:
        if answer:
            self._answers.put(answer)
        return self._tasks.get()

    def _left(self) -> None:
        self.lose("the page went away: it, its browser or the driver was ended")


def _handler(
    files: Mapping[str, Path],
    token: str,
    exchange: Callable[[bytes], bytes],
    left: Callable[[], None],
) -> type[PageHandler]:
    class Handler(PageHandler):
        is_of_page = False

        def do_GET(self) -> None:  # noqa: N802 - the base class looks for it
            given, name = self.asked()
            if not same(given, token) or name not in files:
                self.send_error(404)
                return
            self.reply_file(files[name])

        def do_POST(self) -> None:  # noqa: N802 - the base class looks for it
            given, name = self.asked()
            if not same(given, token) or name != EXCHANGE:
                self.send_error(404)
                return
            self.is_of_page = True
            answer = self.body(MOST_BYTES)
            if answer is not None:
                self.reply(exchange(answer), FRAME_TYPE)

        def finish(self) -> None:
            # The page keeps its connection while it works: one that ends is a page that is gone.
            if self.is_of_page:
                left()
            super().finish()

    return Handler
