"""Core ML through coremltools, on a Mac."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SIGNATURE = "autoshrink.signature"


def load(folder: Path, manifest: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], list[Array]]:
    """What makes one call; see `autoshrink.package.runners`."""
    if sys.platform != "darwin":
        raise RuntimeError("Core ML runs on Apple devices only")
    import coremltools

    package = (folder / manifest["runtime"]["artifact"][0]).parent
    units = str(manifest["target"]["options"].get("compute_units", "all"))
    model = coremltools.models.MLModel(str(package), compute_units=getattr(coremltools.ComputeUnit, units.upper()))
    # Core ML's names are identifiers, and its integers have 32 bits.
    ports = json.loads(model.user_defined_metadata[SIGNATURE])

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        given = {
            port["port"]: inputs[port["name"]].astype(np.int32 if port["dtype"].startswith("int") else np.float32)
            for port in ports["inputs"]
        }
        found = model.predict(given)
        return [
            np.array(found[port["port"]]).astype(port["dtype"], copy=False).reshape(port["shape"])
            for port in ports["outputs"]
        ]

    return run
