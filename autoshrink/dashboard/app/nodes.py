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
    "srcset": "srcSet",
}
_VOID = ("br", "col", "hr", "img", "wbr")
_REFUSED = ("base", "embed", "iframe", "link", "meta", "object", "script", "style")
"""Never part of a section: they load or run something."""
_WIDTH = re.compile(r"width: ?(\d+(?:\.\d+)?%)")


def components(markup: Markup) -> list[Component | str]:
    """What `markup` says, as components.

    Only elements that Dash has a component for. Of a style only a width in percent is kept, which bars have; all other
    rules are in the page's style sheet.

    Raises:
        ValueError: an element that is no part of a section, that Dash has no component for (it has none of SVG), or
            that is not closed; or an attribute that its component does not take.
    """
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    if reader.tags:
        raise ValueError(f"<{reader.tags[-1][0]}> is not closed")
    return reader.found


class _Reader(HTMLParser):
    """Builds the tree from the start tags and end tags of well-formed HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Component | str] = []
        self._open: list[list[Component | str]] = [self.found]
        self.tags: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        properties: dict[str, Any] = {_NAMES.get(name, name): True if value is None else value for name, value in attrs}
        width = _WIDTH.fullmatch(str(properties.pop("style", "")))
        if width:
            properties["style"] = {"width": width[1]}
        if tag in _VOID:
            self._open[-1].append(_component(tag, None, properties))
            return
        self.tags.append((tag, properties))
        self._open.append([])

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        opened, properties = self.tags.pop() if self.tags else ("nothing", {})
        if opened != tag:
            raise ValueError(f"</{tag}> closes <{opened}>")
        children = self._open.pop()
        self._open[-1].append(_component(tag, children, properties))

    def handle_data(self, data: str) -> None:
        # The parser gives a long text in parts.
        children = self._open[-1]
        if children and isinstance(children[-1], str):
            children[-1] += data
        else:
            children.append(data)


def _component(tag: str, children: list[Component | str] | None, properties: dict[str, Any]) -> Component:
    kind = None if tag in _REFUSED else getattr(html, tag.capitalize(), None)
    if kind is None:
        raise ValueError(f"<{tag}>: a section cannot hold it")
    try:
        made: Component = kind(children, **properties)
    except TypeError as error:
        raise ValueError(f"<{tag}>: {error}") from error
    return made
