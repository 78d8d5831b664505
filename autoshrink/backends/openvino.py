"""OpenVINO on the processor. The artifact is its intermediate representation: `model.xml` and `model.bin`.

A model with packed weights is the exception: the representation would hold them unpacked, so the ONNX file ships.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.backends.base import (
    INT8_SATURATES,
    NO_OPTIONS,
    Array,
    Arrays,
    Availability,
    Backend,
    Compiled,
    Session,
    Source,
)
from autoshrink.backends.ports import Port, in_order
from autoshrink.errors import StageError
from autoshrink.measure.environment import int8_sums_saturate
from autoshrink.measure.timing import beside_ms
from autoshrink.onnx_packing import is_packed
from autoshrink.types import LOW_BIT_WEIGHTS, Audit, Kernel, Layer, Profile, Settings

ARTIFACT = ("model.xml", "model.bin")
PACKED_ARTIFACT = "model.onnx"
DEVICE = "CPU"

WEIGHT_KERNELS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
"""Kernels whose second input may be a weight."""
WEIGHT_ONLY = ("int8_weights", "int4_weights")
CONVERSIONS = ("Reorder", "Convert", "FakeQuantize", "Quantize")
PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "I8": "int8", "u8": "uint8"}


class OpenVino(Backend):
    """OpenVINO with its CPU plugin."""

    name = "openvino"
    packages = ("openvino",)
    extra = "openvino"

    def machine(self) -> Availability:
        """The CPU plugin is in every build of the package."""
        return Availability("ready")

    def preload(self) -> None:
        """The package."""
        _openvino()

    def capabilities(self) -> frozenset[str]:
        """What the CPU plugin reports of this processor, such as `FP32`, `BF16`, `INT8`; and `INT8_SATURATES`.

        The plugin does not tell the latter; it was seen of its convolutions and linear layers with AVX2, whether
        activations are signed or not, and not of its depthwise ones.
        """
        told = frozenset(_openvino().Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
        return told | {INT8_SATURATES} if int8_sums_saturate() else told

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Converts the file; weights are stored in 16 bits for fp16 and bf16, and as they are otherwise.

        A file with packed weights is copied, and converted each time it is loaded.

        Raises:
            StageError: the runtime cannot convert it; with the runtime's own reason.
        """
        runtime = _openvino()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            converted = _converted(source.model)
            if is_packed(source.model):
                shutil.copyfile(source.model, folder / PACKED_ARTIFACT)
                return Compiled((PACKED_ARTIFACT,))
            half = source.precision in ("fp16", "bf16")
            runtime.save_model(converted, str(folder / ARTIFACT[0]), compress_to_fp16=half)
        except Exception as error:
            raise StageError("compile", f"OpenVINO cannot convert {source.model.name}: {_reason(error)}") from error
        return Compiled(ARTIFACT)

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,
        threads: int,
        options: Settings = NO_OPTIONS,  # noqa: ARG002 - it has none
    ) -> OpenVinoSession:
        """The artifact, compiled for this processor with `threads` threads.

        Arithmetic of layers that are not 8 bit is float32, or bfloat16 for the precision bf16.

        Raises:
            StageError: the runtime cannot load it, or would calculate in another precision than asked for.
        """
        return OpenVinoSession(folder / files[0], precision, threads)


class OpenVinoSession(Session):
    """A compiled model."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        self._path = path
        self._weights_only = precision in WEIGHT_ONLY
        self._core = _openvino().Core()
        self._properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Left to itself, the plugin calculates float32 models in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        self._compiled = self._compile("load")
        self._ports = tuple(_port(port) for port in self._compiled.inputs)
        self._outputs = tuple(_name(port) for port in self._compiled.outputs)
        self._request = self._compiled.create_infer_request()
        self._bound: list[Any] = []

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call; see `Session.run`."""
        arrays = in_order(inputs, self._ports)
        results = self._request.infer(dict(enumerate(arrays)))
        return {name: results[index] for index, name in enumerate(self._outputs)}

    def timed(self, inputs: Arrays) -> Callable[[], object]:
        """A synchronous call of a request of its own, its inputs bound; the results are views, not copies."""
        request = self._compiled.create_infer_request()
        for index, array in enumerate(in_order(inputs, self._ports)):
            # Of a copy: the runtime points into the memory, and refuses what is read-only.
            tensor = _openvino().Tensor(array.copy(), shared_memory=True)
            self._bound.append(tensor)
            request.set_input_tensor(index, tensor)
        return functools.partial(request.infer, share_outputs=True)

    def profile(self, inputs: Arrays, calls: int) -> Profile:
        """The kernels of a second, profiled compilation; see `Session.profile`.

        Raises:
            StageError: a call fails.
        """
        profiled = self._compile("profile", PERF_COUNT=True)
        request = profiled.create_infer_request()
        arrays = in_order(inputs, self._ports)
        runs: list[dict[str, float]] = []

        def run(count: int) -> None:
            for _ in range(count):
                request.infer(arrays)
                runs.append({each.node_name: each.real_time.total_seconds() for each in request.get_profiling_info()})

        try:
            call_ms = beside_ms(self.timed(inputs), calls, run)
        except Exception as error:
            raise StageError("profile", f"a profiled call fails: {_reason(error)}") from error
        times = {name: 1000 * float(np.median([run.get(name, 0.0) for run in runs])) for name in runs[-1]}
        kernels = kernels_of(profiled.get_runtime_model().get_ordered_ops(), self._weights_only, times)
        source = f"openvino {_openvino().__version__.partition('-')[0]}, its performance counts"
        return Profile(kernels, call_ms, calls, source)

    def audit(self) -> Audit:
        """The kernels that one call on zeros (free dimensions are 1) executed, in a second, profiled compilation.

        A kernel that the runtime fused may have the name of its output for its own.

        Raises:
            StageError: the call fails.
        """
        profiled = self._compile("audit", PERF_COUNT=True)
        try:
            profiled.create_infer_request().infer([port.zeros() for port in self._ports])
        except Exception as error:
            raise StageError("audit", f"a call on zeros fails: {_reason(error)}") from error
        return audit_of(profiled.get_runtime_model().get_ordered_ops(), self._weights_only)

    def _compile(self, stage: str, **more: Any) -> Any:
        wanted = {**self._properties, **more}
        try:
            model = _converted(self._path) if self._path.name == PACKED_ARTIFACT else str(self._path)
            compiled = self._core.compile_model(model, DEVICE, wanted)
        except Exception as error:
            raise StageError(stage, f"OpenVINO cannot load {self._path.name}: {_reason(error)}") from error
        runs_in = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if runs_in != wanted["INFERENCE_PRECISION_HINT"]:
            asked = wanted["INFERENCE_PRECISION_HINT"]
            raise StageError(stage, f"asked for {asked} arithmetic, OpenVINO would calculate in {runs_in} here")
        return compiled


def audit_of(kernels: Sequence[Any], weights_only: bool = False) -> Audit:
    """The audit of the nodes of a runtime model whose model ran once, profiled.

    Where only weights were to be integers, a kernel that unpacks them itself has `low-bit weights`. Its primitive is
    named after the float result, though it may round its input to 8 bits.
    """
    found = kernels_of(kernels, weights_only)
    layers = tuple(Layer(kernel.name, kernel.kind, kernel.precision) for kernel in found if kernel.has_weights)
    return Audit(layers, sum(kernel.is_conversion for kernel in found), len(found))


def kernels_of(
    nodes: Sequence[Any], weights_only: bool = False, times: Mapping[str, float] | None = None
) -> tuple[Kernel, ...]:
    """The nodes of a runtime model that were executed; `times` has the milliseconds of each by its name."""
    found = []
    constant: set[str] = set()
    for node in nodes:
        info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        kind, name = info["layerType"], node.get_friendly_name()
        sources = [value.get_node().get_friendly_name() for value in node.input_values()]
        if kind == "Const" or (sources and constant.issuperset(sources)):
            constant.add(name)
        if info["execTimeMcs"] == "not_executed":
            continue
        # A Subgraph is a fusion of element-wise kernels; one that changes the type quantizes or dequantizes.
        changes_type = kind == "Subgraph" and set(info["outputPrecisions"].split(",")) != {info["runtimePrecision"]}
        has_weights = kind in WEIGHT_KERNELS and sources[1] in constant
        precision = ""
        if has_weights:
            low_bit = weights_only and node.input_values()[1].get_element_type().is_integral()
            precision = LOW_BIT_WEIGHTS if low_bit else _arithmetic(info["primitiveType"])
        found.append(
            Kernel(
                _plain(name),
                kind,
                precision,
                None if times is None else times.get(name),
                tuple(_shape(value) for value in node.input_values()),
                tuple(_shape(value) for value in node.outputs()),
                _bytes(node.input_values()[1]) if has_weights else None,
                has_weights,
                kind in CONVERSIONS or changes_type,
            )
        )
    return tuple(found)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(size.get_length() if size.is_static else -1 for size in value.get_partial_shape())


def _bytes(value: Any) -> int:
    return int(np.prod(_shape(value)) * value.get_element_type().bitwidth // 8)


def _plain(name: str) -> str:
    """The name without what OpenVINO's transformations append to it."""
    return name.removesuffix("/DequantizationMultiply").removesuffix("/WithoutBiases")


def _arithmetic(primitive: str) -> str:
    """The precision of a primitive such as `brgconv_avx512_I8`.

    The node's `runtimePrecision` is not it: for weights that are stored in 16 bits it says f16 while the primitive
    calculates in f32.
    """
    suffix = primitive.rpartition("_")[2]
    return PRECISIONS.get(suffix, suffix)


def _converted(model: Path) -> Any:
    """The model of an ONNX file."""
    # Not Core.read_model: it leaves the helper nodes of the ONNX form, a tenth of a small model and some kernels more.
    return _openvino().convert_model(str(model))


def _openvino() -> Any:
    # Importing it sends a usage report from a thread of its own, which must not run beside what is timed. Without the
    # package that sends, OpenVINO uses a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _port(port: Any) -> Port:
    shape = tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape())
    return Port(_name(port), shape, port.get_element_type().to_dtype())


def _name(port: Any) -> str:
    """The name in the ONNX file. The port's own names are a set: those of fused casts are among them."""
    name: str = port.get_node().get_friendly_name()
    return name.removesuffix("/sink_port_0")


def _reason(error: Exception) -> str:
    """The runtime's message in one line, without where in its source it comes from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join(telling or lines) or type(error).__name__
