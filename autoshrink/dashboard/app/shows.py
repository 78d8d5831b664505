"""Pages about chosen trials: their content is made anew when what it shows has changed, and else left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from autoshrink.dashboard.app.page import PLACE, SCHEME, VERSION
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.library import Library, Snapshot

Show = Callable[[Snapshot, str, str | None, str], tuple[str, Callable[[], Any]]]
"""(Study, target, value of the control, colour scheme) -> what changes when the content does, and what makes it."""


def content(page: str) -> Component:
    """The place of a page's content."""
    return html.Div([dcc.Store(id=f"{page}-shown"), html.Div(id=f"{page}-content")])


def shows(app: Dash, library: Library, page: str, name: str, show: Show) -> None:
    """Adds what fills `content`.

    News of other trials must not close what was opened on the page, nor move it.

    Args:
        app: the application.
        library: the studies.
        page: see `content`.
        name: of the control that chooses the trials.
        show: see `Show`.
    """

    @app.callback(
        Output(f"{page}-content", "children"),
        Output(f"{page}-shown", "data"),
        Input(control("target"), "value"),
        Input(control(name), "value"),
        Input(VERSION, "data"),
        Input(SCHEME, "data"),
        State(PLACE, "data"),
        State(f"{page}-shown", "data"),
    )
    def fill(
        target: str, value: str | None, _version: str, scheme: str, where: list[str], before: str | None
    ) -> tuple[Any, Any]:
        found, make = show(library.snapshot(Place.of(*where).study), target, value, scheme)
        stamp = f"{scheme} {found}"
        return (no_update, no_update) if stamp == before else (make(), stamp)
