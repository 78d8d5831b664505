"""LiteRT's interpreter, with XNNPACK on the processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


def load(folder: Path, manifest: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], list[Array]]:
    """What makes one call; see `autoshrink.package.runners`."""
    from ai_edge_litert.interpreter import Interpreter

    target = manifest["target"]
    outputs = [port["name"] for port in manifest["signature"]["outputs"]]
    last = target["options"].get("layout") == "nhwc"
    model = folder / manifest["runtime"]["artifact"][0]
    interpreter = Interpreter(model_path=str(model), num_threads=target["threads"])
    interpreter.allocate_tensors()
    call = interpreter.get_signature_runner()

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        given = {
            name: np.ascontiguousarray(np.moveaxis(array, 1, -1) if last and array.ndim == 4 else array)
            for name, array in inputs.items()
        }
        found = call(**given)
        return [np.array(found[name]) for name in outputs]

    return run
