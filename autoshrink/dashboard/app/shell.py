"""What all pages share: head, navigation, the address, the colour scheme, and news of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dash import ALL, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from autoshrink.dashboard.app.page import PLACE, SCHEME, VERSION, Page
from autoshrink.dashboard.app.place import Place, address, control
from autoshrink.dashboard.library import Library
from autoshrink.errors import ConfigError

LOOK_MS = 1500
"""Milliseconds between two looks at whether the study has changed."""

_SCHEME = """
function(_) {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const name = () => (dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => dash_clientside.set_props("scheme", {data: name()}));
  return name();
}
"""
_ADDRESS = """
function(values, ids) {
  const asked = new URLSearchParams(window.location.search);
  ids.forEach((id, i) => {
    const value = Array.isArray(values[i]) ? values[i].join(",") : values[i];
    if (value === null || value === undefined || value === "") asked.delete(id.name);
    else asked.set(id.name, value);
  });
  const query = asked.toString();
  window.history.replaceState(window.history.state, "", window.location.pathname + (query ? "?" + query : ""));
  return window.dash_clientside.no_update;
}
"""


def layout() -> Component:
    """The frame of every page."""
    return html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id=SCHEME),
            dcc.Store(id=PLACE),
            dcc.Store(id=VERSION),
            dcc.Store(id="addressed"),
            dcc.Interval(id="look", interval=LOOK_MS),
            html.A("Skip to the content", href="#content", className="skip"),
            html.Header(html.Div(id="head", className="wide")),
            html.Main(id="content", tabIndex="-1"),
        ]
    )


def register(app: Dash, library: Library, pages: Mapping[str, Page], own: Sequence[Page]) -> None:
    """Adds what opens pages, follows studies, and keeps the address.

    Args:
        app: the application.
        library: the studies.
        pages: pages of a study, by name, in the order of the navigation; the first is where a study opens.
        own: pages about no study; the one without a name is where the dashboard opens.
    """
    alone = {page.name: page for page in own}

    @app.callback(
        Output("head", "children"),
        Output("content", "children"),
        Output(PLACE, "data"),
        Output(VERSION, "data", allow_duplicate=True),
        Input("url", "pathname"),
        Input("url", "search"),
        prevent_initial_call="initial_duplicate",
    )
    def open_page(path: str | None, query: str | None) -> tuple[object, object, object, object]:
        place = Place.of(path or "/", query or "")
        where = [path, query]
        if not place.study:
            page = alone.get(place.page)
            if page is None:
                return _head(own, None, place), _problem(f"There is no page {path}."), where, None
            return _head(own, page, place), page.layout(place, library), where, None
        head = _head(list(pages.values()), pages.get(place.page), place)
        if place.page not in pages:
            return head, _problem(f"There is no page {path}."), where, None
        try:
            version = library.snapshot(place.study).version
        except ConfigError as error:
            return head, _problem(*error.problems), where, None
        return head, pages[place.page].layout(place, library), where, version

    @app.callback(
        Output(VERSION, "data"),
        Input("look", "n_intervals"),
        State(PLACE, "data"),
        State(VERSION, "data"),
        prevent_initial_call=True,
    )
    def look(_count: int, where: Sequence[str] | None, known: str | None) -> object:
        place = Place.of(*where) if where else Place("")
        try:
            version = library.snapshot(place.study).version if place.study else library.version_of_all()
        except ConfigError:
            return no_update
        return no_update if version == known else version

    app.clientside_callback(_SCHEME, Output(SCHEME, "data"), Input("url", "id"))
    app.clientside_callback(
        _ADDRESS,
        Output("addressed", "data"),
        Input({"type": control("")["type"], "name": ALL}, "value"),
        State({"type": control("")["type"], "name": ALL}, "id"),
        prevent_initial_call=True,
    )


def _head(pages: Sequence[Page], current: Page | None, place: Place) -> list[Component]:
    links = [
        dcc.Link(
            page.title,
            href=address(page.name, place.study, target=place.get("target")),
            className="current" if page is current else "",
        )
        for page in pages
    ]
    crumbs: list[Component] = [dcc.Link("autoshrink", href="/", className="brand")]
    if place.study:
        crumbs.append(html.H1(place.study))
    return [html.Div(crumbs, className="crumbs"), html.Nav(links, **{"aria-label": "Pages"})]


def _problem(*lines: str) -> Component:
    return html.Section([html.H2("This cannot be shown"), *(html.P(line, className="problem") for line in lines)])
