"""What a loaded artifact takes, and the check of what a caller brings: one wording for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoshrink.backends.base import Array, Arrays


@dataclass(frozen=True)
class Port:
    """An input of an artifact; a dimension that the file leaves free is None."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def zeros(self) -> Array:
        """An input for a call whose result does not matter: zeros, which are in range as indices too."""
        return np.zeros([1 if size is None else size for size in self.shape], self.dtype)


def in_order(inputs: Arrays, ports: Sequence[Port]) -> list[Array]:
    """The arrays of `inputs` in the order of `ports`, C-contiguous.

    Raises:
        ValueError: a name, shape or dtype is not the model's; the message gives both.
    """
    names = [port.name for port in ports]
    if set(inputs) != set(names):
        raise ValueError(f"the inputs are {sorted(inputs)}; the model takes {sorted(names)}")
    return [_fitting(inputs[port.name], port) for port in ports]


def _fitting(array: Array, port: Port) -> Array:
    if array.dtype != port.dtype:
        raise ValueError(f"input {port.name!r} is {array.dtype}; the model takes {port.dtype}")
    fits = array.ndim == len(port.shape) and all(
        wanted is None or size == wanted for size, wanted in zip(array.shape, port.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in port.shape)
        raise ValueError(f"input {port.name!r} has shape {list(array.shape)}; the model takes [{wanted}]")
    return np.ascontiguousarray(array)
