"""ONNX Runtime on the processor. The artifact is the ONNX file itself: the runtime compiles it when it loads it."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.backends.base import NO_OPTIONS, Array, Arrays, Availability, Backend, Compiled, Session, Source
from autoshrink.backends.ports import Port, in_order
from autoshrink.errors import StageError
from autoshrink.types import LOW_BIT_WEIGHTS, Audit, Layer, Settings

ARTIFACT = "model.onnx"

Shape = tuple[int, ...]

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}
"""Input types as the runtime names them."""

FIRST_INPUT_KERNELS = (
    *("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"),
    *("TransposeMatMul", "Attention", "LSTM", "GRU", "RNN"),
)
"""Kernels with weights whose arithmetic is that of their first input."""
INT8_KERNELS = (
    *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"),
    *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention"),
)
"""Kernels that multiply 8-bit integers, whatever type comes in."""
LOW_BIT_KERNELS = ("MatMulNBits", "MatMulBnb4")
"""Weights of few bits, unpacked within the kernel; the profile does not tell in what it multiplies."""
PRODUCTS = (
    *("MatMul", "FusedMatMul", "TransposeMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat"),
    "DynamicQuantizeMatMul",
)
"""Kernels that multiply activations with each other as well; the others always have weights."""
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "ReorderInput", "ReorderOutput")
PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
ITEM_SIZES = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}


class OnnxRuntime(Backend):
    """ONNX Runtime with its CPU provider."""

    name = "onnxruntime"
    packages = ("onnxruntime",)
    extra = "onnxruntime"

    def machine(self) -> Availability:
        """The CPU provider is in every build of the package."""
        return Availability("ready")

    def preload(self) -> None:
        """The package."""
        _onnxruntime()

    def capabilities(self) -> frozenset[str]:
        """Nothing: the runtime does not tell what the processor has, and picks its kernels by itself."""
        return frozenset()

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Copies the file to `model.onnx` and loads it once.

        Raises:
            StageError: the runtime cannot load it; with the runtime's own reason.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.model, folder / ARTIFACT)
        _open(folder / ARTIFACT, source.precision, threads=1, stage="compile")
        return Compiled((ARTIFACT,))

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,
        threads: int,
        options: Settings = NO_OPTIONS,  # noqa: ARG002 - it has none
    ) -> OnnxRuntimeSession:
        """The artifact in a session with `threads` threads.

        Raises:
            StageError: the runtime cannot load it; with the runtime's own reason.
        """
        return OnnxRuntimeSession(folder / files[0], precision, threads)


class OnnxRuntimeSession(Session):
    """A loaded ONNX file."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        self._open_for = functools.partial(_open, path, precision, threads)
        self._session = self._open_for("load")
        self._ports = tuple(_port(node, path) for node in self._session.get_inputs())
        self._outputs = tuple(node.name for node in self._session.get_outputs())

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call; see `Session.run`."""
        arrays = in_order(inputs, self._ports)
        names = (port.name for port in self._ports)
        results = self._session.run(self._outputs, dict(zip(names, arrays, strict=True)))
        return dict(zip(self._outputs, results, strict=True))

    def timed(self, inputs: Arrays) -> Callable[[], object]:
        """A call with inputs and outputs bound, which neither looks up a name nor copies a result."""
        binding = self._session.io_binding()
        for port, array in zip(self._ports, in_order(inputs, self._ports), strict=True):
            binding.bind_cpu_input(port.name, array)
        for name in self._outputs:
            binding.bind_output(name)
        return functools.partial(self._session.run_with_iobinding, binding)

    def audit(self) -> Audit:
        """The kernels of one call on zeros (free dimensions are 1), as a second, profiled session ran them.

        A kernel that the runtime fused or moved to another layout may have the name of its output for its own.

        Raises:
            StageError: the call fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            session = self._open_for("audit", profile=Path(folder) / "profile")
            try:
                session.run(None, {port.name: port.zeros() for port in self._ports})
            except Exception as error:
                raise StageError("audit", f"a call on zeros fails: {_first_line(error)}") from error
            events = json.loads(Path(session.end_profiling()).read_text())
        return audit_of([event for event in events if event["cat"] == "Node"])


def audit_of(kernels: list[Mapping[str, Any]]) -> Audit:
    """The audit of the `Node` events of one profiled call."""
    layers = []
    conversions = 0
    dequantized = [_shapes(kernel["args"])[0] for kernel in kernels if _is_dequantized_weight(kernel["args"])]
    for kernel in kernels:
        kind, name = kernel["args"]["op_name"], kernel["name"].removesuffix("_kernel_time")
        conversions += kind in CONVERSIONS or (kind == "Transpose" and _is_inserted(name))
        precision = _arithmetic(kind, kernel["args"])
        if precision and (kind not in PRODUCTS or _has_weights(kernel["args"], dequantized)):
            layers.append(Layer(_plain(name), kind, precision))
    return Audit(tuple(layers), conversions, len(kernels))


def _arithmetic(kind: str, details: Mapping[str, Any]) -> str | None:
    """The precision a kernel multiplies in, or None when its kind has no weights."""
    if kind in INT8_KERNELS:
        return "int8"
    if kind in LOW_BIT_KERNELS:
        return LOW_BIT_WEIGHTS
    if kind in FIRST_INPUT_KERNELS:
        first: str = next(iter(details["input_type_shape"][0]))
        return PRECISIONS.get(first, first)
    return None


def _has_weights(product: Mapping[str, Any], dequantized: Sequence[Shape]) -> bool:
    """Whether one operand of a matrix product is a weight, and not both are activations, as in attention.

    The profile does not say where an operand comes from. It does not list a weight that the kernel has repacked,
    and counts the bytes of the parameters that it lists. A weight that is dequantized in each call, since the layer
    fell back to float, is told by its shape.
    """
    shapes = _shapes(product)
    return len(shapes) < 2 or _has_parameter(product) or any(shape in dequantized for shape in shapes)


def _is_dequantized_weight(kernel: Mapping[str, Any]) -> bool:
    return kernel["op_name"] == "DequantizeLinear" and bool(_shapes(kernel)) and _has_parameter(kernel)


def _has_parameter(kernel: Mapping[str, Any]) -> bool:
    """Whether a matrix among the inputs is a parameter of the model, by the bytes that the kernel has of them."""
    sizes = [
        ITEM_SIZES.get(dtype, 1) * int(np.prod(shape))
        for operand in kernel["input_type_shape"]
        for dtype, shape in operand.items()
        if len(shape) > 1
    ]
    return int(kernel["parameter_size"]) >= min(sizes)


def _shapes(kernel: Mapping[str, Any]) -> list[Shape]:
    """The shapes of the inputs that are matrices, or have more dimensions."""
    return [tuple(shape) for operand in kernel["input_type_shape"] for shape in operand.values() if len(shape) > 1]


def _is_inserted(transpose: str) -> bool:
    """Whether the runtime itself put this transpose there, to change the layout; those have only made-up names."""
    return re.fullmatch(r"Transpose(_token_\d+)?", transpose) is not None


def _plain(name: str) -> str:
    """The name without what the runtime's optimizers put around it."""
    name = name.removeprefix("InsertedPrecisionFreeCast_").removesuffix("_nchwc").removesuffix("/MatMulAddFusion")
    return re.sub(r"_token_\d+$", "", name)


def _port(node: Any, path: Path) -> Port:
    if node.type not in DTYPES:
        raise StageError("load", f"{path.name}: input {node.name!r} is {node.type}; it must be one of {list(DTYPES)}")
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return Port(node.name, shape, np.dtype(DTYPES[node.type]))


def _onnxruntime() -> Any:
    # Usage reports go out from a thread of their own, which must not run beside what is timed.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def _open(path: Path, precision: str, threads: int, stage: str, profile: Path | None = None) -> Any:
    """A session on the ONNX file.

    Raises:
        StageError: of `stage`, with the first line of the runtime's reason.
    """
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    # Fusing MatMul + Add makes a Gemm, and a Gemm with 8-bit weights and a float bias runs in float: 9 times slower
    # than the integer MatMul it came from. Float models keep the fusion.
    disabled = ["MatMulAddFusion"] if precision == "int8_static" else []
    try:
        return runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as error:
        raise StageError(stage, f"ONNX Runtime cannot load {path.name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
