"""Quantities as people write them: `2ms`, `1.5MB`, `1%`, `10min`."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµ%/]*)\s*")

_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_RATE = {"/s": 1.0, "rows/s": 1.0, "": 1.0}
_SHARE = {"%": 0.01, "points": 0.01, "": 1.0}


def milliseconds(text: str) -> float:
    """`2ms`, `300us`, `0.1s` -> milliseconds."""
    return _quantity(text, _MILLISECONDS, "a latency such as 2ms or 300us")


def size_bytes(text: str) -> int:
    """`1MB` (1,000,000), `500kB`, `1MiB` (1,048,576) -> bytes."""
    return round(_quantity(text, _BYTES, "a size such as 1MB, 500kB or 1MiB"))


def seconds(text: str) -> float:
    """`90s`, `10min`, `2h` -> seconds."""
    return _quantity(text, _SECONDS, "a time such as 90s, 10min or 2h")


def rate(text: str) -> float:
    """`500/s` or `500` -> 500 rows a second."""
    return _quantity(text, _RATE, "a throughput such as 500/s")


def share(text: str) -> float:
    """`1%` or `0.01` -> 0.01: one point of accuracy."""
    return _quantity(text, _SHARE, "a drop such as 1% or 0.01")


def _quantity(text: str, units: dict[str, float], wanted: str) -> float:
    match = _NUMBER.fullmatch(text)
    factor = units.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        named = ", ".join(unit for unit in units if unit)
        raise ValueError(f"{text!r} is not {wanted}; a number and one of the units {named}")
    return float(match.group(1)) * factor
