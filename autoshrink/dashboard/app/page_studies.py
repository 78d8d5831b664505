"""The studies of the results folder."""

from __future__ import annotations

from dash import Dash, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.page import Page
from autoshrink.dashboard.app.place import Place, address
from autoshrink.dashboard.library import Library


def _layout(_place: Place, library: Library) -> Component:
    listed = [html.Li(dcc.Link(name, href=address("front", name))) for name in library.names()]
    return html.Section([html.H2("Studies"), html.Ul(listed)])


def _register(_app: Dash, _library: Library) -> None:
    pass


STUDIES = Page("", "Studies", _layout, _register)
