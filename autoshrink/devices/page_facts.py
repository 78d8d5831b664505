"""What a page says of its device, read with care: anybody may have written it, and it is shown in a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LONGEST = 80
UNKNOWN_MODELS = ("", "K")
"""What Chrome calls a phone over plain http is always K."""
BROWSERS = (
    ("Edge", r"Edg(?:A|iOS)?/([\d.]+)"),
    ("Opera", r"OPR/([\d.]+)"),
    ("Samsung Internet", r"SamsungBrowser/([\d.]+)"),
    ("Firefox", r"(?:Firefox|FxiOS)/([\d.]+)"),
    ("Chrome", r"(?:HeadlessChrome|Chrome|CriOS)/([\d.]+)"),
    ("Safari", r"Version/([\d.]+).* Safari/"),
)
"""Names and how each gives its version; those that call themselves others as well come first."""
SYSTEMS = (
    ("Android", r"Android"),
    ("iOS", r"iPhone|iPad|iPod"),
    ("Windows", r"Windows"),
    ("ChromeOS", r"CrOS"),
    ("macOS", r"Macintosh"),
    ("Linux", r"Linux"),
)


def browser_of(agent: str) -> str:
    """Name and version, from what a browser calls itself in its requests."""
    for name, pattern in BROWSERS:
        found = re.search(pattern, agent)
        if found:
            return f"{name} {_clean(found[1])}"
    return _clean(agent) or "an unknown browser"


def system_of(agent: str) -> str:
    """The operating system."""
    return next((name for name, pattern in SYSTEMS if re.search(pattern, agent)), "")


def identity_of(facts: Mapping[str, Any], agent: str, runtime: str) -> dict[str, str]:
    """What is the same of all pages on like devices; see `Facts.identity`. What the page is not told is left out.

    `graphics` is the name of the graphics processor: over plain http it is all that tells two phones apart.
    """
    more = facts.get("agent")
    details = more if isinstance(more, Mapping) else {}
    model = _clean(details.get("model"))
    # In parentheses: the system, and on a phone its model.
    inside = re.search(r"\(([^)]*)\)", agent)
    cores = facts.get("cores")
    found = {
        "architecture": " ".join(filter(None, (_clean(details.get("architecture")), _clean(details.get("bitness"))))),
        "cores": str(cores) if isinstance(cores, int) and 0 < cores < 10000 else "",
        "system": " ".join(filter(None, (system_of(agent), _clean(details.get("platformVersion"))))),
        "runtime": runtime,
        "browser": browser_of(agent),
        "device": model if model not in UNKNOWN_MODELS else _clean(inside[1] if inside else facts.get("platform")),
        "graphics": _clean(facts.get("graphics")),
    }
    return {key: value for key, value in found.items() if value}


def tick_ms(facts: Mapping[str, Any]) -> float:
    """One step of the page's clock; 0 when it does not say."""
    tick = facts.get("tick")
    return float(tick) if isinstance(tick, int | float) and 0 < tick < 1000 else 0.0


def _clean(text: object) -> str:
    """A text in one line, short, and without what a terminal would take for an order."""
    if not isinstance(text, str):
        return ""
    return "".join(char if char.isprintable() else " " for char in text[: 4 * LONGEST]).strip()[:LONGEST]
