"""What stands before every request of an agent: the token, the size of a body, and the pace at which it comes.

Who has no token is turned away before a byte of a body is read.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SILENCE_S = 20.0
"""Longest wait for the next part of a body."""
SLOWEST = 2048
"""Bytes a second that a body must come with, once `SILENCE_S` have passed."""


class Late(Exception):
    """A body comes too slowly; raised where the application reads it."""

    def __init__(self) -> None:
        super().__init__(f"the body came with less than {SLOWEST} bytes a second")


class Large(Exception):
    """A body is over the limit; raised where the application reads it."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the body has over {most:,} bytes")


@dataclass(frozen=True)
class Rules:
    """What a request must keep.

    Attributes:
        token: that clients must bear.
        until: `time.monotonic()` at which the token ends to be good; None is never.
        most_json: bytes of a body that is no file.
        most_file: bytes of one that is.
    """

    token: str
    until: float | None = None
    most_json: int = 2**20
    most_file: int = 2**30
    silence_s: float = SILENCE_S


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: App, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what may pass."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        refusal = self._refusal(headers, "/files/" in scope["path"])
        if refusal:
            await _say(send, *refusal)
            return
        most = self._rules.most_file if "/files/" in scope["path"] else self._rules.most_json
        await self._app(scope, self._paced(receive, most), send)

    def _refusal(self, headers: dict[bytes, bytes], is_file: bool) -> tuple[int, str] | None:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if not given:
            return 401, "a token is wanted: Authorization: Bearer TOKEN"
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._rules.token.encode()):
            return 401, "the token is not that of this agent; a token ends with the agent that it was made for"
        if self._rules.until is not None and time.monotonic() > self._rules.until:
            return 401, "the token is too old; start the agent again for a new one"
        length = headers.get(b"content-length", b"0")
        most = self._rules.most_file if is_file else self._rules.most_json
        if not length.isdigit() or int(length) > most:
            return 413, str(Large(most))
        return None

    def _paced(self, receive: Receive, most: int) -> Receive:
        began = time.monotonic()
        got = 0
        over = False

        async def next_part() -> Message:
            nonlocal got, over
            if over:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._rules.silence_s)
            except TimeoutError:
                raise Late from None
            got += len(message.get("body", b""))
            over = not message.get("more_body", False)
            if got > most:
                raise Large(most)
            spent = time.monotonic() - began - self._rules.silence_s
            if not over and spent > 0 and got < SLOWEST * spent:
                raise Late
            return message

        return next_part


async def _say(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
