"""The page Trial."""

from __future__ import annotations

from dash import Dash, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.page import Page
from autoshrink.dashboard.app.place import Place
from autoshrink.dashboard.library import Library


def _layout(_place: Place, _library: Library) -> Component:
    return html.Section([html.H2("Trial")])


def _register(_app: Dash, _library: Library) -> None:
    pass


TRIAL = Page("trial", "Trial", _layout, _register)
