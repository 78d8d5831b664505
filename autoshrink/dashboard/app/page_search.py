"""The page Search."""

from __future__ import annotations

from dash import Dash, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.page import Page
from autoshrink.dashboard.app.place import Place
from autoshrink.dashboard.library import Library


def _layout(_place: Place, _library: Library) -> Component:
    return html.Section([html.H2("Search")])


def _register(_app: Dash, _library: Library) -> None:
    pass


SEARCH = Page("search", "Search", _layout, _register)
