"""The server that the application runs in: it binds first and serves then."""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import Any

from flask import Flask

from autoshrink.dashboard.app.guard import MOST_BODY
from autoshrink.errors import ConfigError

THREADS = 4
LAST_S = 5
"""Seconds that answers have which are being made when the server ends."""
BUFFERED = 64_000_000
"""Bytes of an answer that wait in memory, at most: more than the server ever lets wait, so that it writes no file."""


class Server:
    """The application on an address: bound when this is made, so that what is told of it is true.

    Attributes:
        port: the one that is listened on; of port 0 the one that was free.
    """

    def __init__(self, application: Flask, host: str, port: int) -> None:
        """Binds.

        Args:
            application: what is served.
            host: name or address, IPv4 or IPv6.
            port: 0 takes any that is free.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        import waitress

        # A browser asks for more at once than there are threads: that some wait a moment is nothing to warn about.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._map: dict[int, Any] = {}
        bound = _bound(host, port)
        self.port: int = bound.getsockname()[1]
        self._server = waitress.create_server(
            application,
            map=self._map,
            sockets=[bound],
            threads=THREADS,
            ident="autoshrink",
            max_request_body_size=MOST_BODY,
            inbuf_overflow=2 * MOST_BODY,
            outbuf_overflow=BUFFERED,
        )

    def run(self) -> None:
        """Serves until `stop` is called; an interrupt passes through."""
        from waitress import wasyncore

        wasyncore.loop(timeout=1, map=self._map)

    def stop(self) -> None:
        """Ends `run`, of whatever thread, whatever is being answered."""
        self._server.trigger.pull_trigger(self.close)

    def close(self) -> None:
        """Closes every connection; called when `run` has ended, or by it."""
        from waitress import wasyncore

        # Threads first: one that ends its answer wakes the loop by a pipe, which is closed with the rest.
        self._server.task_dispatcher.shutdown(timeout=LAST_S)
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        wasyncore.close_all(self._map)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError([f"--host: {host!r} is no address of this machine ({why})"]) from None
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _not_bound(host, port, error) from None
    return bound


def _not_bound(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        text = f"--port: {port} is taken, perhaps by another dashboard; name another, or 0 for any that is free"
    elif error.errno == errno.EACCES:
        text = f"--port: {port} is for the system only; name one above 1023, or 0 for any that is free"
    else:
        text = f"--host: {host!r} cannot be listened on ({error.strerror})"
    return ConfigError([text])
