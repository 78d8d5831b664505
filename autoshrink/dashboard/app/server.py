"""The application, and the server that it runs in."""

from __future__ import annotations

from pathlib import Path

from dash import Dash
from flask import Response, send_file

from autoshrink.dashboard.app import shell
from autoshrink.dashboard.app.pages import OWN, PAGES
from autoshrink.dashboard.library import Library

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
    for page in (*OWN, *PAGES):
        page.register(app, library)
    return app


def serve(library: Library, host: str, port: int) -> None:
    """Serves the dashboard until it is interrupted."""
    import waitress

    waitress.serve(make_app(library).server, host=host, port=port, threads=4)
