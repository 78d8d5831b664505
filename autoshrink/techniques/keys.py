"""Keys that name a technique, or a value of one of its parameters: `sparsify`, `sparsify.pattern=2:4`."""

from __future__ import annotations

from autoshrink.techniques import TECHNIQUES, get_technique
from autoshrink.types import Choice, Scalar


def value_key(technique: str, parameter: str, value: Scalar) -> str:
    """The key of a value: `sparsify.pattern=2:4`, `qat.weight_bits=4`."""
    return f"{technique}.{parameter}={_text(value)}"


def read_key(key: str) -> str:
    """A key as people write it in the form that `value_key` gives.

    Raises:
        ValueError: it names no technique, parameter or value; says which there are.
    """
    name, has_value, text = key.partition("=")
    technique, has_parameter, parameter = name.partition(".")
    if technique not in TECHNIQUES:
        raise ValueError(f"{technique!r} is no technique; there are {', '.join(TECHNIQUES)}")
    if not has_parameter and not has_value:
        return technique
    known = get_technique(technique).parameters
    if parameter not in known or not has_value:
        raise ValueError(
            f"{key!r} must be {technique} or {technique}.PARAMETER=VALUE; its parameters are {', '.join(known)}"
        )
    allowed = known[parameter].allowed
    if isinstance(allowed, Choice):
        value = next((value for value in allowed.values if _text(value) == text), None)
        if value is None:
            raise ValueError(f"{text!r} is no value of {name}; allowed are {', '.join(map(_text, allowed.values))}")
        return value_key(technique, parameter, value)
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not allowed.low <= number <= allowed.high:
        raise ValueError(f"{text!r} is no value of {name}; allowed are {allowed.low:g} to {allowed.high:g}")
    return value_key(technique, parameter, number)


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:g}"
