"""What stands above a study's figures on each of its pages: how it stands, and what of it cannot be read."""

from __future__ import annotations

from dash import Dash, Input, Output, State, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.nodes import components
from autoshrink.dashboard.app.page import PLACE, VERSION
from autoshrink.dashboard.app.place import Place
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.dashboard.markup import Markup
from autoshrink.dashboard.standing import broken_markup, state_markup
from autoshrink.errors import ConfigError

NOTICES = "notices"


def notices_slot() -> Component:
    """An empty element that a page puts where its notices belong; it is filled and kept by `register`."""
    return html.Div(id=NOTICES, className="notices")


def notices(snapshot: Snapshot) -> list[Component]:
    """All notices of a study; none when it is done and whole."""
    return [notice for notice in (state_notice(snapshot), broken_notice(snapshot)) if notice is not None]


def state_notice(snapshot: Snapshot) -> Component | None:
    """What a study is doing, and the command that goes on with it; None of one that is done."""
    return _component(state_markup(snapshot))


def broken_notice(snapshot: Snapshot) -> Component | None:
    """How many records of a study cannot be read, which, and why; None when all can."""
    return _component(broken_markup(snapshot))


def register(app: Dash, library: Library) -> None:
    """Fills the slot of whichever page is open, and follows the study."""

    @app.callback(Output(NOTICES, "children"), Input(VERSION, "data"), State(PLACE, "data"))
    def fill(_version: str, where: list[str]) -> list[Component]:
        place = Place.of(*where)
        if not place.study:
            return []
        try:
            return notices(library.snapshot(place.study))
        except ConfigError:
            return []


def _component(markup: Markup | None) -> Component | None:
    return None if markup is None else html.Div(components(markup))
