"""OpenVINO on the processor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


def load(folder: Path, manifest: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], list[Array]]:
    """What makes one call; see `autoshrink.package.runners`."""
    # The runtime reports its use when it is imported; it goes without when this package is not there.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    runtime = manifest["runtime"]
    outputs = [port["name"] for port in manifest["signature"]["outputs"]]
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": manifest["target"]["threads"],
        # Left to itself, it computes float32 models in bfloat16 where the processor can.
        "INFERENCE_PRECISION_HINT": "bf16" if runtime["precision"] == "bf16" else "f32",
    }
    path = folder / runtime["artifact"][0]
    # Packed weights ship as ONNX. Converted, not read: reading leaves kernels in it that change types.
    model = openvino.convert_model(str(path)) if path.suffix == ".onnx" else str(path)
    compiled = openvino.Core().compile_model(model, "CPU", properties)
    request = compiled.create_infer_request()
    takes = [_name(port) for port in compiled.inputs]
    gives = [_name(port) for port in compiled.outputs]

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        results = request.infer({i: np.ascontiguousarray(inputs[name]) for i, name in enumerate(takes)})
        return [results[gives.index(name)] for name in outputs]

    return run


def _name(port: Any) -> str:
    return str(port.get_node().get_friendly_name()).removesuffix("/sink_port_0")
