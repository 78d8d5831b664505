"""The application, and the server that it runs in."""

from __future__ import annotations

import errno
import logging
import os
import socket
from pathlib import Path
from typing import Any

from dash import Dash
from flask import Flask, Response, send_file

from autoshrink.dashboard.app import exports, notices, shell
from autoshrink.dashboard.app.pages import OWN, PAGES
from autoshrink.dashboard.library import Library
from autoshrink.errors import ConfigError

THREADS = 4
MOST_BODY = 1_000_000
"""Bytes of a request, at most."""
BUFFERED = 64_000_000
"""Bytes of an answer that wait in memory, at most: more than the server ever lets wait, so that it writes no file."""
HERE = Path(__file__).parent
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{%title%}</title>
<link rel="stylesheet" href="/style.css">
{%css%}
</head>
<body>
{%app_entry%}
{%config%}
{%scripts%}
{%renderer%}
</body>
</html>
"""


def make_app(library: Library) -> Dash:
    """The application over the studies of `library`. Everything that a browser asks for comes from this package."""
    app = Dash(
        "autoshrink",
        title="autoshrink",
        update_title="",
        assets_folder=str(HERE / "assets"),
        serve_locally=True,
        suppress_callback_exceptions=True,
        index_string=PAGE,
    )

    @app.server.get("/style.css")
    def style() -> Response:
        return send_file(HERE.parent / "report.css")

    app.layout = shell.layout()
    pages = {page.name: page for page in PAGES}
    shell.register(app, library, pages, OWN)
    notices.register(app, library)
    exports.register(app)
    for page in (*OWN, *PAGES):
        page.register(app, library)
    return app


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
        """Serves until it is interrupted, or `stop` is called."""
        self._server.run()
        self._server.task_dispatcher.shutdown()

    def stop(self) -> None:
        """Ends `run` of another thread, and closes every connection."""
        from waitress import wasyncore

        def close() -> None:
            for channel in list(self._server.active_channels.values()):
                channel.handle_close()
            wasyncore.close_all(self._map)

        self._server.trigger.pull_trigger(close)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError([f"--host: {host!r} is no address of this machine ({error.strerror})"]) from None
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


def serve(library: Library, host: str, port: int) -> None:
    """Serves the dashboard until it is interrupted."""
    Server(make_app(library).server, host, port).run()
