"""What snippets need to know that only the files of one backend tell, a function a backend."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from autoshrink.backends.coreml_package import read_program, signature_of
from autoshrink.backends.tflm_c_array import c_array, c_header
from autoshrink.backends.tflm_model import operators, resolver_calls
from autoshrink.backends.tflm_ports import MicroPort, read_ports
from autoshrink.package.manifest import ARTIFACT, FLOAT, INPUTS, OUTPUTS, Manifest, Port
from autoshrink.package.templates import Ports, Raw, Values, listed, ports_of

C_NAME = "model_data"
COMPUTE_UNITS = {
    "all": "all",
    "cpu_only": "cpuOnly",
    "cpu_and_ne": "cpuAndNeuralEngine",
    "cpu_and_gpu": "cpuAndGPU",
}
"""Option of the target -> case of Core ML's `MLComputeUnits`."""
C_TYPES = {
    "float32": "float",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "uint8_t",
}


def tflite_facts(manifest: Manifest, package: Path) -> tuple[Values, Ports]:  # noqa: ARG001 - the options say it all
    """The shapes that a `.tflite` file takes: those of the task, or with the channels last."""
    last = manifest.target.options.get("layout") == "nhwc"
    found = ports_of(manifest)
    inputs = [
        {**values, "file_shape": _channels_last(port)} if last and len(port.shape) == 4 else values
        for values, port in zip(found["inputs"], manifest.signature.inputs, strict=True)
    ]
    layout = (
        "Inputs of 4 dimensions are [N, H, W, C] in the file, as a camera gives them; the samples and `run.py` have "
        "them as [N, C, H, W]."
    )
    return {"layout": layout if last else "Inputs have the shapes of the signature above."}, {"inputs": tuple(inputs)}


def _channels_last(port: Port) -> str:
    rows, channels, height, width = port.shape
    return f"{rows}, {height}, {width}, {channels}"


def micro_facts(manifest: Manifest, package: Path) -> tuple[Values, Ports]:
    """The model as a C array, its operators, its arena, and the tensors with the first sample in them.

    Raises:
        StageError: of stage `load`: the artifact is damaged.
    """
    folder = package / ARTIFACT
    ports, model = read_ports(folder, manifest.runtime.artifact[0])
    names = operators(model)
    values = {
        "c_array": Raw(c_array(model, C_NAME).rstrip()),
        "c_header": Raw(c_header(C_NAME).rstrip()),
        "arena": str(ports.arena),
        "model_bytes": str(len(model)),
        "operator_names": ", ".join(names),
        "operator_count": str(len(names)),
    }
    lists = {
        "operators": listed({"call": call} for call in resolver_calls(names)),
        "inputs": listed(_tensor(i, port, package / INPUTS) for i, port in enumerate(ports.inputs)),
        "outputs": listed(
            _tensor(i, port, package / (FLOAT if manifest.not_run else OUTPUTS)) for i, port in enumerate(ports.outputs)
        ),
    }
    return values, lists


def _tensor(index: int, port: MicroPort, samples: Path) -> dict[str, str]:
    """A tensor of the model, with its first call's rows of what lies in the folder."""
    rows = np.load(samples / f"{port.name}.npy", allow_pickle=False)
    call = port.to_model(np.resize(rows, port.shape) if len(rows) < port.shape[0] else rows[: port.shape[0]])
    limits = np.iinfo(port.stored) if call.dtype.kind in "iu" else None
    # A long integer has no place in a port's `int`; ports without a scale have no limits to keep to.
    bounded = limits is not None and bool(port.scale)
    return {
        "index": str(index),
        "name": port.name,
        "stored": port.stored,
        "c_type": C_TYPES[port.stored],
        "count": str(math.prod(port.shape)),
        "scale": repr(float(port.scale)),
        "zero_point": str(port.zero_point),
        "least": str(limits.min if limits and bounded else 0),
        "most": str(limits.max if limits and bounded else 0),
        "sample": Raw(", ".join(_c_number(value) for value in call.reshape(-1).tolist())),
        # A step more or less where the device's kernels round otherwise; sums of floats in another order.
        "tolerance": "1.0" if limits else "1e-3",
    }


def _c_number(value: float | bool) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value!r}f" if isinstance(value, float) else f"{value}"


def tensorrt_facts(manifest: Manifest, package: Path) -> tuple[Values, Ports]:  # noqa: ARG001 - the backend says it all
    """Which of the two products an engine is for."""
    is_rtx = manifest.runtime.backend == "tensorrt_rtx"
    capability = manifest.target.options.get("compute_capability", "") if is_rtx else ""
    built_for = f" for GPUs of compute capability {str(capability).removeprefix('SM')}" if capability else ""
    return {
        "sdk": "TensorRT-RTX" if is_rtx else "TensorRT",
        "library": "tensorrt_rtx" if is_rtx else "nvinfer",
        "built_for": built_for,
    }, {}


def coreml_facts(manifest: Manifest, package: Path) -> tuple[Values, Ports]:
    """The names that Core ML has for the ports, and the oldest systems that run the program."""
    system = int(manifest.target.options.get("minimum_ios", 18))
    units = str(manifest.target.options.get("compute_units", "all"))
    signature = signature_of(read_program((package / ARTIFACT / manifest.runtime.artifact[0]).parent))
    features = {port.name: port for port in (*signature.inputs, *signature.outputs)}
    lists = {
        side: tuple(
            {
                **values,
                "feature": features[values["name"]].port,
                "swift_type": "int32" if values["dtype"].startswith("int") else "float32",
            }
            for values in entries
        )
        for side, entries in ports_of(manifest).items()
    }
    return {
        "minimum_ios": str(system),
        "minimum_macos": str(system - 3),
        "compute_units": COMPUTE_UNITS[units],
    }, lists
