"""What all pages share: head, navigation, the address, the colour scheme, and news of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component
from dash.exceptions import PreventUpdate

from autoshrink.dashboard.app.page import LOOK, NARROW, PLACE, SCHEME, VERSION, Page, Screen
from autoshrink.dashboard.app.place import Place, address, control
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.errors import ConfigError

LOOK_MS = 1500
"""Milliseconds between two looks at whether the study has changed."""

NAME = "autoshrink"
TROUBLE = "trouble"
"""Id of the element that says what of a page could not be made."""
_NEWS, _OPENED, _COUNT = "news", "opened", "count"


def layout() -> Component:
    """The frame of every page."""
    return html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id=SCHEME),
            dcc.Store(id=NARROW),
            dcc.Store(id=PLACE),
            dcc.Store(id=VERSION),
            dcc.Store(id="addressed"),
            dcc.Store(id=_OPENED),
            dcc.Store(id=_COUNT),
            dcc.Interval(id=LOOK, interval=LOOK_MS),
            html.A("Skip to the content", href="#content", className="skip"),
            html.Header(html.Div(id="head", className="wide")),
            html.P(id=_NEWS, role="status"),
            html.Div(id=TROUBLE, role="alert"),
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
        Output(_OPENED, "data"),
        Output(_COUNT, "data", allow_duplicate=True),
        Output(_NEWS, "children", allow_duplicate=True),
        Output(TROUBLE, "children"),
        Input("url", "pathname"),
        Input("url", "search"),
        Input(SCHEME, "data"),
        Input(NARROW, "data"),
        State(PLACE, "data"),
        prevent_initial_call="initial_duplicate",
    )
    def open_page(
        path: str | None, query: str | None, scheme: str, narrow: bool, shown: list[str] | None
    ) -> tuple[object, ...]:
        if shown is not None and set(ctx.triggered_prop_ids.values()) <= {SCHEME, NARROW}:
            # An open page follows the screen by itself.
            raise PreventUpdate
        place = Place.of(path or "/", query or "")
        of_study = bool(place.study)
        page = (pages if of_study else alone).get(place.page)
        version, count = None, None
        content: Component
        if page is None:
            content = _problem("There is no such page", f"{path}: the dashboard has none of this address.")
        else:
            try:
                if of_study:
                    snapshot = library.snapshot(place.study)
                    version, count = snapshot.version, _trials(snapshot)
                content = page.layout(place, library, Screen(scheme, narrow))
            except ConfigError as error:
                content = _problem("This cannot be shown", *error.problems)
        head = _head(list(pages.values()) if of_study else own, page, place)
        opened = {"title": _title(page, place), "path": path}
        return head, content, [path, query], version, opened, count, "", ""

    @app.callback(
        Output(VERSION, "data"),
        Output(_COUNT, "data"),
        Output(_NEWS, "children"),
        Input(LOOK, "n_intervals"),
        State(PLACE, "data"),
        State(VERSION, "data"),
        State(_COUNT, "data"),
        prevent_initial_call=True,
    )
    def look(
        _count: int, where: Sequence[str] | None, known: str | None, before: int | None
    ) -> tuple[object, object, object]:
        place = Place.of(*where) if where else Place("")
        nothing = (no_update, no_update, no_update)
        try:
            if not place.study:
                version = library.version_of_all()
                return nothing if version == known else (version, None, no_update)
            snapshot = library.snapshot(place.study)
        except ConfigError:
            return nothing
        if snapshot.version == known:
            return nothing
        count = _trials(snapshot)
        return snapshot.version, count, _news(count, before)

    def in_browser(name: str) -> ClientsideFunction:
        return ClientsideFunction("shell", name)

    app.clientside_callback(in_browser("screen"), Output(SCHEME, "data"), Output(NARROW, "data"), Input("url", "id"))
    app.clientside_callback(in_browser("opened"), Output(_OPENED, "modified_timestamp"), Input(_OPENED, "data"))
    app.clientside_callback(
        in_browser("address"),
        Output("addressed", "data"),
        Input({"type": control("")["type"], "name": ALL}, "value"),
        State({"type": control("")["type"], "name": ALL}, "id"),
        prevent_initial_call=True,
    )


def _trials(snapshot: Snapshot) -> int:
    return sum(len(view.records) for view in snapshot.views.values())


def _news(count: int, before: int | None) -> object:
    """What is said when a study has changed; the sum makes of every one another text, which is read aloud."""
    new = count - (count if before is None else before)
    if new <= 0:
        return no_update
    return f"{new} new {'trial' if new == 1 else 'trials'}, {count} in all"


def _title(page: Page | None, place: Place) -> str:
    what = "Not found" if page is None else page.title
    return f"{place.study}: {what} - {NAME}" if place.study else f"{what} - {NAME}"


def _head(pages: Sequence[Page], current: Page | None, place: Place) -> list[Component]:
    links = [
        dcc.Link(
            page.title,
            href=address(page.name, place.study, target=place.get("target")),
            className="current" if page is current else "",
        )
        for page in pages
    ]
    crumbs: list[Component] = [dcc.Link(NAME, href="/", className="brand")]
    if place.study:
        crumbs.append(html.H1(place.study))
    return [html.Div(crumbs, className="crumbs"), html.Nav(links, **{"aria-label": "Pages"})]


def _problem(title: str, *lines: str) -> Component:
    return html.Section([html.H2(title), *(html.P(line, className="problem") for line in lines)])
