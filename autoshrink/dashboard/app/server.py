"""The application, and the server that it runs in."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dash import Dash, set_props
from flask import Response, current_app, send_file
from werkzeug.routing import PathConverter

from autoshrink.dashboard.app import downloads, exports, notices, shell
from autoshrink.dashboard.app.guard import Rules, guard
from autoshrink.dashboard.app.listening import Server
from autoshrink.dashboard.app.packing import Packer
from autoshrink.dashboard.app.pages import OWN, PAGES
from autoshrink.dashboard.app.place import STUDY
from autoshrink.dashboard.app.values import unknown_target
from autoshrink.dashboard.library import Library
from autoshrink.errors import ConfigError

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
<noscript><p class="problem">The dashboard needs JavaScript. Without it, autoshrink report writes a page.</p></noscript>
<div id="server-state" role="alert"></div>
{%app_entry%}
{%config%}
{%scripts%}
{%renderer%}
</body>
</html>
"""
PLOTLY = '<link rel="preload" as="script" href="/_dash-component-suites/plotly/package_data/plotly.min.js">'


def make_app(library: Library, rules: Rules | None = None, packer: Packer | None = None) -> Dash:
    """The application over the studies of a results folder. All that a browser asks for comes from this package.

    Args:
        library: the studies.
        rules: who may ask; anyone on this machine when None.
        packer: builds packages; one of its own when None.
    """
    app = Dash(
        "autoshrink",
        title="autoshrink",
        update_title="",
        assets_folder=str(HERE / "assets"),
        serve_locally=True,
        suppress_callback_exceptions=True,
        index_string=PAGE,
        enable_mcp=False,
        on_error=_trouble,
    )

    @app.server.get("/style.css")
    def style() -> Response:
        return send_file(HERE.parent / "report.css")

    app.server.url_map.converters["anything"] = _Anything

    @app.server.get(f"/{STUDY}/<anything:_path>")
    def page_of_study(_path: str) -> str:
        # Pages of a study draw: the browser fetches plotly while it makes the page, and runs it after that.
        return str(app.index()).replace("</head>", f"{PLOTLY}</head>", 1)

    app.layout = shell.layout()
    pages = {page.name: page for page in PAGES}
    shell.register(app, library, pages, OWN)
    notices.register(app, library)
    exports.register(app)
    for page in (*OWN, *PAGES):
        page.register(app, library)
    downloads.register(app, packer or Packer(library))
    # Dash looks for its scripts during the first request, and answers a second one that comes meanwhile without them.
    with app.server.test_request_context():
        app.server.preprocess_request()
    guard(app, rules or Rules(), partial(unknown_target, library))
    return app


class _Anything(PathConverter):
    """A path that may hold the end of a line, as names of folders may."""

    regex = r"[\s\S]*?"
    part_isolating = False


def _trouble(error: Exception) -> None:
    """A callback's fault is told on the page, which otherwise stays as it was."""
    if isinstance(error, ConfigError):
        text = "\n".join(error.problems)
    else:
        current_app.logger.error("a part of the page could not be made", exc_info=error)
        text = f"A part of this page could not be made ({type(error).__name__}); the dashboard's terminal says more."
    set_props(shell.TROUBLE, {"children": text})


def serve(library: Library, rules: Rules, port: int, ready: Callable[[int], None]) -> None:
    """Serves the dashboard until it is interrupted. Called in the main thread.

    Args:
        library: the studies.
        rules: the address that is listened on, and who may ask.
        port: 0 takes any that is free.
        ready: told the port once the address is bound.

    Raises:
        ConfigError: the address cannot be listened on.
        KeyboardInterrupt: Ctrl-C or SIGTERM, when everything has been put away.
    """
    packer = Packer(library)
    server = Server(make_app(library, rules, packer).server, rules.host, port)
    # Being told to end is as good a way as Ctrl-C, and tidies up as well.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Large studies take a second to read; meanwhile the browser is on its way here.
    threading.Thread(target=library.entries, name="reads the studies", daemon=True).start()
    try:
        ready(server.port)
        server.run()
    finally:
        signal.signal(signal.SIGTERM, before)
        packer.stop()
        server.close()
