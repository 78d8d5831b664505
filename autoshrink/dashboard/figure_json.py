"""Arrays in a figure's JSON: long ones in plotly's binary form, which is made and read many times faster than text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

Json = dict[str, Any]
SHORT = 64
"""Arrays of so many numbers stay a list."""
_TYPES = {"float64": "f8", "float32": "f4", "int16": "i2", "int32": "i4", "uint8": "u1"}


def packed(values: npt.NDArray[Any]) -> list[Any] | Json:
    """An array [N] of numbers as a list, or as `{"dtype": ..., "bdata": ...}` in base64, little endian.

    Raises:
        ValueError: it has a type that plotly has no name for.
    """
    if len(values) <= SHORT:
        return list(values.tolist())
    if values.dtype.name not in _TYPES:
        raise ValueError(f"an array of {values.dtype} cannot be packed; it must be one of {', '.join(_TYPES)}")
    return {"dtype": _TYPES[values.dtype.name], "bdata": binary(values)}


def binary(values: npt.NDArray[Any]) -> str:
    """An array in base64, little endian."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()
