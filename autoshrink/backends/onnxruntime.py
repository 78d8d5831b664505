"""ONNX Runtime on the processor. The artifact is the ONNX file itself: the runtime compiles it when it loads it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from autoshrink.backends.base import (
    INT8_SATURATES,
    NO_OPTIONS,
    Array,
    Arrays,
    Availability,
    Backend,
    Compiled,
    Option,
    Session,
    Source,
)
from autoshrink.backends.onnx_kernels import audit_of, kernels_of
from autoshrink.backends.ports import Port, in_order
from autoshrink.errors import StageError
from autoshrink.measure.environment import int8_sums_saturate
from autoshrink.measure.timing import beside_ms
from autoshrink.types import Audit, Choice, Profile, Settings

ARTIFACT = "model.onnx"

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

FUSE = "fuse_matmul_add"
FUSIONS: Mapping[str, Option] = {
    FUSE: Option(
        Choice(("auto", "on", "off")),
        "auto",
        "whether MatMul + Add become one Gemm; auto leaves them apart for int8_static, since that Gemm would be float",
    )
}


class OnnxRuntime(Backend):
    """ONNX Runtime with its CPU provider."""

    name = "onnxruntime"
    packages = ("onnxruntime",)
    extra = "onnxruntime"
    options: ClassVar[Mapping[str, Option]] = FUSIONS

    def machine(self) -> Availability:
        """The CPU provider is in every build of the package."""
        return Availability("ready")

    def preload(self) -> None:
        """The package."""
        _onnxruntime()

    def capabilities(self) -> frozenset[str]:
        """Only `INT8_SATURATES`, by the processor: the runtime does not tell which of its kernels it picks."""
        return frozenset({INT8_SATURATES} if int8_sums_saturate() else ())

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Copies the file to `model.onnx` and loads it once.

        Raises:
            StageError: the runtime cannot load it; with the runtime's own reason.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.model, folder / ARTIFACT)
        _open(folder / ARTIFACT, fused(source.precision, source.options), threads=1, stage="compile")
        return Compiled((ARTIFACT,))

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,
        threads: int,
        options: Settings = NO_OPTIONS,
    ) -> OnnxRuntimeSession:
        """The artifact in a session with `threads` threads.

        Raises:
            StageError: the runtime cannot load it; with the runtime's own reason.
        """
        return OnnxRuntimeSession(folder / files[0], fused(precision, options), threads)


class OnnxRuntimeSession(Session):
    """A loaded ONNX file."""

    def __init__(self, path: Path, is_fused: bool, threads: int) -> None:
        self._open_for = functools.partial(_open, path, is_fused, threads)
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
        return audit_of(self._events("audit", {port.name: port.zeros() for port in self._ports}))

    def profile(self, inputs: Arrays, calls: int) -> Profile:
        """The kernels of `calls` calls of a second, profiled session; see `Session.profile`.

        Raises:
            StageError: a call fails.
        """
        arrays = in_order(inputs, self._ports)
        named = {port.name: array for port, array in zip(self._ports, arrays, strict=True)}
        took: list[float] = []

        def beside(run: Callable[[int], None]) -> None:
            took.append(beside_ms(self.timed(inputs), calls, run))

        events = self._events("profile", named, beside)
        source = f"onnxruntime {_onnxruntime().__version__}, its profiler"
        return Profile(kernels_of(events, calls), took[0], calls, source)

    def _events(
        self, stage: str, inputs: Arrays, conduct: Callable[[Callable[[int], None]], None] = lambda run: run(1)
    ) -> list[Mapping[str, Any]]:
        """The profile's events of the kernels that ran; `conduct` is given what makes so many profiled calls."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._open_for(stage, profile=Path(folder) / "profile")

            def run(calls: int) -> None:
                for _ in range(calls):
                    session.run(None, dict(inputs))

            try:
                conduct(run)
            except Exception as error:
                raise StageError(stage, f"a profiled call fails: {_first_line(error)}") from error
            events = json.loads(Path(session.end_profiling()).read_text())
        return [event for event in events if event["cat"] == "Node"]


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


def fused(precision: str, options: Settings) -> bool:
    """Whether MatMul + Add are fused.

    Fusing them makes a Gemm, and a Gemm with 8-bit weights and a float bias runs in float: 9 times slower than the
    integer MatMul it came from. Float models keep the fusion.
    """
    wanted = options.get(FUSE, "auto")
    return precision != "int8_static" if wanted == "auto" else wanted == "on"


def _open(path: Path, is_fused: bool, threads: int, stage: str, profile: Path | None = None) -> Any:
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
    disabled = [] if is_fused else ["MatMulAddFusion"]
    try:
        return runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as error:
        raise StageError(stage, f"ONNX Runtime cannot load {path.name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
