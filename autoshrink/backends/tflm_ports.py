"""The inputs and outputs of a microcontroller's model as the task has them, and as the model's integers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.backends.base import Array
from autoshrink.backends.ports import Port
from autoshrink.errors import StageError

PORTS = "ports.json"


@dataclass(frozen=True)
class MicroPort:
    """An input or output.

    Attributes:
        name: of the task.
        shape: of the task and the model.
        dtype: of the task's arrays, as numpy names it.
        stored: of the model's tensor.
        scale: of an integer tensor that stands for floats: `value = (integer - zero_point) * scale`; 0 for others.
        zero_point: see `scale`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    scale: float = 0.0
    zero_point: int = 0

    @property
    def port(self) -> Port:
        """For the check of what a caller brings."""
        return Port(self.name, self.shape, np.dtype(self.dtype))

    def to_model(self, array: Array) -> Array:
        """What the model's tensor holds for an array of the task.

        Rounds halves away from zero and saturates, as the QUANTIZE kernel does, which firmware does in its place.
        """
        if not self.scale:
            return np.ascontiguousarray(array, self.stored)
        steps = np.asarray(array, np.float32) / np.float32(self.scale)
        # In float64: adding a half in float32 would round 0.49999997 up.
        rounded = np.trunc(steps + np.copysign(0.5, steps.astype(np.float64)))
        limits = np.iinfo(self.stored)
        integers = np.clip(rounded + self.zero_point, limits.min, limits.max)
        return np.ascontiguousarray(integers, self.stored)

    def to_task(self, array: Array) -> Array:
        """An array of the task from what the model's tensor holds; never the same memory."""
        if not self.scale:
            return array.astype(self.dtype)
        return ((array.astype(np.int32) - self.zero_point) * np.float32(self.scale)).astype(self.dtype)


@dataclass(frozen=True)
class MicroPorts:
    """What is kept beside a model.

    Attributes:
        inputs: in the order of the model's tensors.
        outputs: likewise.
        output_names: in the order of the task.
        arena: bytes that TFLite Micro needs on the machine that compiled it.
        sha256: of the model.
    """

    inputs: tuple[MicroPort, ...]
    outputs: tuple[MicroPort, ...]
    output_names: tuple[str, ...]
    arena: int
    sha256: str

    def write(self, path: Path) -> None:
        """As JSON, without a byte too many: it ships with models of some kilobytes."""
        path.write_text(json.dumps(asdict(self), separators=(",", ":")), encoding="utf-8")


def read_ports(folder: Path, model: str) -> tuple[MicroPorts, bytes]:
    """What `MicroPorts.write` wrote beside the model, and the model, which is the one that it was written for.

    The runtime does not check a file: it would compute with anything, or end the process.

    Raises:
        StageError: of stage `load`: one of the two is missing or damaged.
    """
    try:
        data: Any = json.loads((folder / PORTS).read_text(encoding="utf-8"))
        ports = MicroPorts(
            _ports(data["inputs"]), _ports(data["outputs"]), tuple(data["output_names"]), data["arena"], data["sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError("load", f"{PORTS}, which belongs to {model}, cannot be read: {_first_line(error)}") from error
    try:
        content = (folder / model).read_bytes()
    except OSError as error:
        raise StageError("load", f"{model} cannot be read: {_first_line(error)}") from error
    if hashlib.sha256(content).hexdigest() != ports.sha256:
        raise StageError("load", f"{model} is not the file that {PORTS} was written for: damaged, or exchanged")
    return ports, content


def _ports(data: Sequence[Any]) -> tuple[MicroPort, ...]:
    return tuple(MicroPort(**{**port, "shape": tuple(port["shape"])}) for port in data)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
