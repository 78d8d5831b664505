"""ONNX Runtime on the processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


def load(folder: Path, manifest: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], list[Array]]:
    """What makes one call; see `autoshrink.package.runners`."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    runtime, threads = manifest["runtime"], manifest["target"]["threads"]
    outputs = [port["name"] for port in manifest["signature"]["outputs"]]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    # An 8-bit product that is fused with its float bias runs in float, and much slower.
    disabled = ["MatMulAddFusion"] if runtime["precision"] == "int8_static" else []
    session = onnxruntime.InferenceSession(
        str(folder / runtime["artifact"][0]),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=disabled,
    )
    return lambda inputs: list(session.run(outputs, dict(inputs)))
