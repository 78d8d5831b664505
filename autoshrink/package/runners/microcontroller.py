"""TFLite Micro's interpreter, with its reference kernels: what a device computes without optimized ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TOOLS = "tflite_micro.tensorflow.lite.micro.compression"
SPARE = 2**16


def load(folder: Path, manifest: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], list[Array]]:
    """What makes one call; see `autoshrink.package.runners`."""
    # The package would import its own compression tools, and those a parser of YAML; nothing here needs them.
    sys.modules.setdefault(TOOLS, ModuleType(TOOLS))
    from tflite_micro.python.tflite_micro import runtime

    model, ports_file = manifest["runtime"]["artifact"]
    names = [port["name"] for port in manifest["signature"]["outputs"]]
    ports = json.loads((folder / ports_file).read_text(encoding="utf-8"))
    interpreter = runtime.Interpreter.from_bytes(
        (folder / model).read_bytes(), arena_size=2 * int(ports["arena"]) + SPARE
    )

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        for index, port in enumerate(ports["inputs"]):
            interpreter.set_input(_stored(inputs[port["name"]], port), index)
        interpreter.invoke()
        found = {port["name"]: _real(interpreter.get_output(i), port) for i, port in enumerate(ports["outputs"])}
        return [found[name] for name in names]

    return run


def _stored(array: Array, port: Mapping[str, Any]) -> Array:
    """What the model's tensor holds for an array of the task; rounded as the QUANTIZE kernel does."""
    if not port["scale"]:
        return np.ascontiguousarray(array, port["stored"])
    steps = array.astype(np.float32) / np.float32(port["scale"])
    rounded = np.trunc(steps + np.copysign(0.5, steps.astype(np.float64)))
    limits = np.iinfo(port["stored"])
    return np.ascontiguousarray(np.clip(rounded + port["zero_point"], limits.min, limits.max), port["stored"])


def _real(array: Array, port: Mapping[str, Any]) -> Array:
    """An array of the task from what the model's tensor holds; never the same memory."""
    if not port["scale"]:
        return array.astype(port["dtype"])
    real: Array = ((array.astype(np.int32) - port["zero_point"]) * np.float32(port["scale"])).astype(port["dtype"])
    return real
