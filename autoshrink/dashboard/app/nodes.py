"""The report's HTML as components of Dash, so that a section is written once for both."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from dash import html
from dash.development.base_component import Component

from autoshrink.dashboard.markup import Markup

_NAMES = {
    "class": "className",
    "for": "htmlFor",
    "tabindex": "tabIndex",
    "colspan": "colSpan",
    "rowspan": "rowSpan",
    "datetime": "dateTime",
}
_VOID = ("br", "img", "meta", "link")
_WIDTH = re.compile(r"width: ?(\d+(?:\.\d+)?%)")


def components(markup: Markup) -> list[Component | str]:
    """What `markup` says, as components.

    Only elements that Dash has a component for. Of a style only a width in percent is kept, which bars have; all other
    rules are in the page's style sheet.
    """
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    return reader.found


class _Reader(HTMLParser):
    """Builds the tree from the start tags and end tags of well-formed HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Component | str] = []
        self._open: list[list[Component | str]] = [self.found]
        self._tags: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        properties: dict[str, Any] = {_NAMES.get(name, name): True if value is None else value for name, value in attrs}
        width = _WIDTH.fullmatch(str(properties.pop("style", "")))
        if width:
            properties["style"] = {"width": width[1]}
        if tag in _VOID:
            self._open[-1].append(_component(tag, [], properties))
            return
        self._tags.append((tag, properties))
        self._open.append([])

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        opened, properties = self._tags.pop()
        if opened != tag:
            raise ValueError(f"</{tag}> closes <{opened}>")
        children = self._open.pop()
        self._open[-1].append(_component(tag, children, properties))

    def handle_data(self, data: str) -> None:
        self._open[-1].append(data)


def _component(tag: str, children: list[Component | str], properties: dict[str, Any]) -> Component:
    made: Component = getattr(html, tag.capitalize())(children, **properties)
    return made
