"""What the servers of pages have in common: listed files under a path that nobody can guess, and nothing else.

Standard library only: the timed child imports it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

EXCHANGE = "exchange"
"""Where a page hands in the answer to a task and asks for the next one."""
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}
FRAME_TYPE = "application/octet-stream"
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        # The runtime compiles WebAssembly; nothing evaluates text.
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self'",
        "connect-src 'self'",
        "style-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
MESSAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>autoshrink</title>
<p>{}</p>
</html>
"""
HEADERS = {
    # With these two the page may share memory between threads, and its clock is as fine as it gets.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": CONTENT_POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class QuietServer(ThreadingHTTPServer):
    """A thread a connection; none of them keeps the process alive, and what goes wrong in one stays there."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a page that goes away in the middle of an answer is noticed elsewhere."""


class PageHandler(BaseHTTPRequestHandler):
    """Replies with the headers that a page needs, errors too."""

    protocol_version = "HTTP/1.1"
    server_version = "autoshrink"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1

    def asked(self) -> tuple[str, str]:
        """The token and the name that are asked for; never a path into a folder."""
        _, token, name = (*self.path.partition("?")[0].split("/", 2), "", "")[:3]
        return token, name

    def body(self, most: int) -> bytes | None:
        """What was sent, of `most` bytes at most; None, and the reply that says so, when it is not to be had."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return None
        if int(length) > most:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return None
        sent = self.rfile.read(int(length))
        return sent if len(sent) == int(length) else None

    def reply_file(self, path: Path, headers: Mapping[str, str] | None = None) -> None:
        """A file as it is."""
        self.reply(path.read_bytes(), CONTENT_TYPES[path.suffix], headers=headers)

    def reply(self, content: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """`content` with all headers."""
        self.send_response(status)
        every = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}
        if self.close_connection:
            every["Connection"] = "close"
        for header, value in every.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The status in words, and the end of the connection: what else was sent is not read. Also of the base class.

        `explain` is for a person who sees the page; nothing of the request may be in it.
        """
        del message
        self.close_connection = True
        # What was no request has none, and would be answered without headers.
        self.request_version = self.protocol_version
        said = MESSAGE.format(explain or HTTPStatus(code).phrase)
        self.reply(said.encode(), CONTENT_TYPES[".html"], code)

    def log_message(self, *_: object) -> None:
        """Nothing: the log is for what the runtime says."""


def same(given: str, secret: str) -> bool:
    """Whether both are the same text, in a time that does not tell how far they are."""
    return secrets.compare_digest(given.encode(), secret.encode())
