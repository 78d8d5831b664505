"""The local server that a page is loaded from and asks for its tasks, isolated from every other origin.

The page asks for a task and hands back the answer to the one before in the same request, so a task costs one round
trip. Both are frames: a header in JSON, then plain buffers.
"""

from __future__ import annotations

import json
import queue
import secrets
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ADDRESS = "127.0.0.1"
EXCHANGE = "exchange"
ALIGNMENT = 8
"""Every buffer of a frame begins at a multiple of this, so that the page can look at it as any type without a copy."""
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}
HEADERS = {
    # With these two the page may share memory between threads, and its clock is as fine as it gets.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Buffer = bytes | memoryview
Frame = tuple[dict[str, Any], list[memoryview]]


class Lost(Exception):
    """The page does not answer, and why."""


def pack(header: Mapping[str, Any], buffers: Sequence[Buffer] = ()) -> bytes:
    """The frame: uint32 bytes of the header, the header with the bytes of each buffer, and the buffers, all aligned."""
    views = [memoryview(buffer).cast("B") if len(buffer) else memoryview(b"") for buffer in buffers]
    text = json.dumps({**header, "buffers": [view.nbytes for view in views]}).encode()
    text += b" " * (-(4 + len(text)) % ALIGNMENT)
    parts: list[Buffer] = [struct.pack("<I", len(text)), text]
    for view in views:
        parts += [view, bytes(-view.nbytes % ALIGNMENT)]
    return b"".join(parts)


def unpack(frame: bytes) -> Frame:
    """The inverse of `pack`; the buffers are views.

    Raises:
        ValueError: it is no frame.
    """
    try:
        (size,) = struct.unpack_from("<I", frame)
        header = json.loads(frame[4 : 4 + size])
        lengths = header.pop("buffers")
        begin, buffers = 4 + size, []
        for length in lengths:
            buffers.append(memoryview(frame)[begin : begin + length])
            begin += length + -length % ALIGNMENT
    except (struct.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{len(frame)} bytes are no frame: {error!r}") from error
    if begin != len(frame):
        raise ValueError(f"a frame of {len(frame)} bytes says that it has {begin}")
    return header, buffers


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
        self._server = _Server((ADDRESS, 0), _handler(files, self._token, self._answer_and_ask, self._left))
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a page that goes away in the middle of an answer is told by the browser."""


def _handler(
    files: Mapping[str, Path],
    token: str,
    exchange: Callable[[bytes], bytes],
    left: Callable[[], None],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1
        is_of_page = False

        def do_GET(self) -> None:
            name = self._asked()
            path = files.get(name) if name else None
            if path is None:
                self.send_error(404)
                return
            self._send(path.read_bytes(), CONTENT_TYPES[path.suffix])

        def do_POST(self) -> None:
            if self._asked() != EXCHANGE:
                self.send_error(404)
                return
            self.is_of_page = True
            answer = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send(exchange(answer), "application/octet-stream")

        def finish(self) -> None:
            # The page keeps its connection while it works: one that ends is a page that is gone.
            if self.is_of_page:
                left()
            super().finish()

        def _asked(self) -> str:
            """The name that is asked for, when the rest of the path is right; never a path into a folder."""
            _, given, name = (*self.path.partition("?")[0].split("/", 2), "", "")[:3]
            return name if secrets.compare_digest(given.encode(), token.encode()) else ""

        def _send(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            for header, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Nothing: the log is for what the runtime says."""

    return Handler
