"""HTML that is escaped by construction: text becomes markup only through `element`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Text that is HTML already. Only this module and the report's own files make it."""

    __slots__ = ()


_VOID = ("meta", "br", "link", "input", "img")


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """`<tag attribute="value">children</tag>`.

    Args:
        tag: name of the element.
        children: `Markup` as it is; None is nothing; lists and iterators one after the other; anything else escaped.
        attributes: escaped; `class_` is `class` and `data_value` is `data-value`; None and False leave it out, True
            writes the bare name.
    """
    written = "".join(_attribute(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Markup:
    """Children one after the other, without an element around them."""
    return Markup("".join(map(_child, children)))


def _child(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str) or not isinstance(child, Iterable):
        return escape(str(child))
    return join(child)


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
