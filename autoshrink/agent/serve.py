"""Starts an agent: its folder, its queue, its server; and ends it with nothing left behind."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from autoshrink.agent.app import make_app
from autoshrink.agent.guard import Rules
from autoshrink.agent.queue import Queue
from autoshrink.agent.runner import Runner
from autoshrink.agent.store import Store
from autoshrink.errors import ConfigError
from autoshrink.own_folder import OwnFolder

PREFIX = "autoshrink-agent-"
MOST_CONNECTIONS = 64
IDLE_S = 60
"""Seconds for which a connection is kept between requests."""
HEADER_S = 15.0
"""Seconds within which a request's header has to be complete."""


@dataclass(frozen=True)
class Settings:
    """How an agent serves.

    Attributes:
        host, port: where it listens; port 0 is any that is free.
        rules: what requests must keep.
        most_stored: bytes of files that it holds for searches.
        grace_s: seconds after which a silent client is given up.
        certificate, key: PEM files, for TLS; None is plain HTTP.
    """

    host: str
    port: int
    rules: Rules
    most_stored: int = 4 * 2**30
    grace_s: float = 60.0
    certificate: Path | None = None
    key: Path | None = None


def serve(settings: Settings, ready: Callable[[int], None], until_closed: bool = False) -> None:
    """Serves until it is interrupted or told to end (SIGINT, SIGTERM). Called in the main thread.

    Args:
        settings: how.
        ready: told the port once the agent listens.
        until_closed: also ends when standard input does: its client's connection is gone.

    Raises:
        ConfigError: the address is taken or not of this machine; the certificate cannot be read.
    """
    _check_certificate(settings)
    listening = _listen(settings.host, settings.port)
    # Being told to end is as good a way as Ctrl-C, and tidies up as well.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with OwnFolder(PREFIX) as place, listening, suppress(KeyboardInterrupt):
            jobs = place.path / "jobs"
            jobs.mkdir()
            asyncio.run(_serve(settings, listening, place.path, Runner(jobs), ready, until_closed))
    finally:
        signal.signal(signal.SIGTERM, before)


async def _serve(
    settings: Settings,
    listening: socket.socket,
    place: Path,
    runner: Runner,
    ready: Callable[[int], None],
    until_closed: bool,
) -> None:
    queue = Queue(runner, Store(place / "files", settings.most_stored), settings.grace_s)
    config = uvicorn.Config(
        make_app(queue, settings.rules),
        http=Protocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_S,
        # Clients wait for answers that take long: they are told that the agent is gone by its silence.
        timeout_graceful_shutdown=1,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    server = uvicorn.Server(config)
    if until_closed:
        loop = asyncio.get_running_loop()
        threading.Thread(target=_watch, args=(loop, server), daemon=True).start()
    ready(listening.getsockname()[1])
    await server.serve(sockets=[listening])


class Protocol(H11Protocol):
    """Closes connections whose request does not come to the end of its header."""

    _hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Something came from it."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()
        elif self._hurry:
            self._hurry.cancel()
            self._hurry = None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._hurry:
            self._hurry.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._hurry is None:
            self._hurry = self.loop.call_later(HEADER_S, self.transport.close)


def _watch(loop: asyncio.AbstractEventLoop, server: uvicorn.Server) -> None:
    """Ends the server when standard input ends."""
    while sys.stdin.buffer.read(1):
        pass

    def end() -> None:
        server.should_exit = True

    loop.call_soon_threadsafe(end)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        why: Any = getattr(error, "strerror", None) or error
        raise ConfigError([f"--listen: {host}:{port} cannot be listened on ({why}); name another address"]) from error
    return listening


def _check_certificate(settings: Settings) -> None:
    if (settings.certificate is None) != (settings.key is None):
        raise ConfigError(["--certificate and --key: only one is given; TLS needs both"])
    if settings.certificate and settings.key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError([f"--certificate, --key: cannot be used ({error}); they must be PEM files"]) from error
