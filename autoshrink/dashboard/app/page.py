"""What a page of the dashboard is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dash import Dash
from dash.development.base_component import Component

from autoshrink.dashboard.app.place import Place
from autoshrink.dashboard.library import Library

SCHEME = "scheme"
"""Id of the store that holds `light` or `dark`: the colour scheme of the reader's system."""
NARROW = "narrow"
"""Id of the store that holds whether the window is as narrow as a phone."""
VERSION = "version"
"""Id of the store that holds the version of the study that is looked at: it changes when a file of the study does."""
URL = "url"
"""Id of the address that the browser is at."""
LOOK = "look"
"""Id of the clock that asks whether the study has changed."""
PLACE = "place"
"""Id of the store that holds the address of the page as [path, query], as it was opened."""


@dataclass(frozen=True)
class Screen:
    """What a page is looked at on.

    Attributes:
        scheme: `light` or `dark`.
        narrow: whether the window is as narrow as a phone.
    """

    scheme: str
    narrow: bool


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        name: in its address.
        title: in the navigation, and in the browser's title.
        layout: (place, library, screen) -> what the page shows when it is opened, controls set as the address asks.
            Whatever depends on the records may be filled in by callbacks, which are called when the page is opened too.
        register: adds the page's callbacks to the application.
    """

    name: str
    title: str
    layout: Callable[[Place, Library, Screen], Component]
    register: Callable[[Dash, Library], None]
