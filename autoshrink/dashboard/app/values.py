"""Which values a page can give to a callback: a request with another one was made by hand, and is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autoshrink.dashboard.app.page import NARROW, PLACE, SCHEME, VERSION
from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.library import Library
from autoshrink.errors import ConfigError

LONGEST = 100_000
"""Characters of a text, at most."""


def fits(component: str | Mapping[str, Any], property_: str, value: object) -> bool:
    """Whether `value` is of the kind that the property of a component has.

    Args:
        component: id, as JSON where it is a pattern's.
        property_: of the component.
        value: as read from JSON; None is what a property has that nothing has filled in yet.
    """
    if value is None:
        return True
    if property_ == "value":
        return _of_control(component)(value)
    if property_ == "data":
        return _STORES.get(str(component), _anything)(value)
    return _PROPERTIES.get(property_, _anything)(value)


def unknown_target(library: Library, parts: Iterable[Mapping[str, Any]]) -> str:
    """Why a part of a study's page cannot be made: the study has no such target. Empty where nothing is wrong.

    Args:
        library: the studies.
        parts: inputs and state of a request, each of its kind.
    """
    where: Any = None
    asked: list[object] = []
    for part in parts:
        if part["id"] == PLACE:
            where = part.get("value")
        elif part["id"] == control("target"):
            asked.append(part.get("value"))
    if where is None or not asked:
        return ""
    try:
        targets = library.targets(Place.of(*where).study)
    except ConfigError:
        return ""
    return "" if asked[0] in targets else f"target: there is none of this name; the study has {', '.join(targets)}"


def _of_control(component: str | Mapping[str, Any]) -> Callable[[object], bool]:
    """What the `value` of a component may be."""
    if isinstance(component, str) and not component.startswith("{"):
        return _PLAIN.get(component, _anything)
    read: Mapping[str, Any] = json.loads(component) if isinstance(component, str) else component
    name = str(read.get("name", ""))
    if read.get("type") != control("")["type"]:
        return _anything
    return _count_or_digits if name == "selected" else _text


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15


def _count_or_digits(value: object) -> bool:
    return _count(value) or (isinstance(value, str) and value.isdecimal() and len(value) < 10)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _texts(count: int | None = None) -> Callable[[object], bool]:
    """Whether a value is a list of texts, `count` of them where that is given."""
    return lambda value: isinstance(value, list) and count in (None, len(value)) and all(map(_text, value))


def _click(value: object) -> bool:
    """What plotly tells of a click: the points under it, one at least."""
    points = value.get("points") if isinstance(value, dict) else None
    return isinstance(points, list) and bool(points) and all(isinstance(point, dict) for point in points)


def _anything(_value: object) -> bool:
    return True


_PLAIN: Mapping[str, Callable[[object], bool]] = {"trial-number": _count_or_digits, "compare-find": _text}
_STORES: Mapping[str, Callable[[object], bool]] = {
    PLACE: _texts(2),
    SCHEME: _text,
    VERSION: _text,
    "count": _count,
    NARROW: _flag,
    "front-drawn": _texts(3),
    "front-listed": _texts(),
    "trial-shown": _text,
    "compare-shown": _text,
}
_PROPERTIES: Mapping[str, Callable[[object], bool]] = {
    "n_clicks": _count,
    "n_intervals": _count,
    "pathname": _text,
    "search": _text,
    "clickData": _click,
}
