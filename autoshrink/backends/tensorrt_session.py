"""A loaded TensorRT engine: calls of it, and its times by the events of the GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.backends.base import Array, Arrays, Session
from autoshrink.backends.ports import Port, in_order
from autoshrink.backends.tensorrt_build import logger_of
from autoshrink.backends.tensorrt_cuda import Cuda, Memory, Stream
from autoshrink.backends.tensorrt_network import audit_of_engine, kernels_of_engine
from autoshrink.errors import StageError
from autoshrink.measure.timing import Floats, RemoteCalls, beside_ms
from autoshrink.types import Audit, Profile

DTYPES: dict[str, Any] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
"""Data types of an engine's inputs and outputs."""


class EngineCalls(RemoteCalls):
    """Calls of an engine on one set of inputs, with an execution context, a stream and memory of their own.

    Args:
        trt: the module.
        engine: deserialized.
        cuda: the GPU.
        ports: the engine's inputs.
        arrays: one for each of `ports`; they are copied to the GPU once.

    Raises:
        StageError: of stage `run`: the engine cannot run on these shapes, or the GPU has too little memory.
    """

    def __init__(self, trt: Any, engine: Any, cuda: Cuda, ports: tuple[Port, ...], arrays: list[Array]) -> None:
        self._trt = trt
        self._context = engine.create_execution_context()
        if self._context is None:
            raise StageError("run", "TensorRT cannot make an execution context; the GPU has too little memory")
        self._stream = Stream(cuda)
        self._memory: dict[str, Memory] = {}
        for port, array in zip(ports, arrays, strict=True):
            if None in port.shape and not self._context.set_input_shape(port.name, array.shape):
                raise StageError("run", f"the engine does not take {list(array.shape)} for input {port.name!r}")
            self._bind(cuda, port.name, array.nbytes)
            self._stream.upload(array, self._memory[port.name])
        missing = self._context.infer_shapes()
        if missing:
            raise StageError("run", f"the engine cannot tell its shapes; it lacks {', '.join(missing)}")
        self._outputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for name in names_of(engine, trt.TensorIOMode.OUTPUT):
            shape = tuple(self._context.get_tensor_shape(name))
            if min(shape, default=0) < 0:
                raise StageError("run", f"the shape of output {name!r} depends on the data, which is not supported")
            dtype = dtype_of(engine, name)
            self._outputs[name] = shape, dtype
            self._bind(cuda, name, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)

    def _bind(self, cuda: Cuda, name: str, size: int) -> None:
        self._memory[name] = Memory(cuda, size)
        if not self._context.set_tensor_address(name, self._memory[name].address):
            raise StageError("run", f"the engine refuses the memory of {name!r}")

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise StageError("run", "the engine fails to run")

    def turn(self, least_s: float, least_calls: int) -> Floats:
        """See `RemoteCalls`; the wall seconds are those of the GPU, from before the first kernel to after the last.

        Copies to and from the GPU are not in them. Processor seconds are not told apart from waiting: 0.
        """
        self._enqueue()
        self._stream.wait()
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < least_calls or time.perf_counter() - began < least_s:
            self._stream.begin()
            self._enqueue()
            times.append(self._stream.seconds_since_begin())
        return np.stack([times, np.zeros(len(times))], 1)

    def outputs(self) -> dict[str, Array]:
        """What the last call computed, as new arrays."""
        return {
            name: self._stream.download(self._memory[name], shape, dtype)
            for name, (shape, dtype) in self._outputs.items()
        }

    def kernel_times(self, calls: int) -> dict[str, float]:
        """Kernel, as the engine names it -> median of its milliseconds over `calls` calls.

        By TensorRT's own profiler, which waits for each kernel: together they take longer than a call does.
        """
        times: dict[str, list[float]] = {}

        class Listener(self._trt.IProfiler):  # type: ignore[misc, name-defined]
            def report_layer_time(self, name: str, milliseconds: float) -> None:
                times.setdefault(name, []).append(milliseconds)

        listener = Listener()
        self._context.profiler = listener
        for _ in range(calls):
            self._enqueue()
            self._stream.wait()
        return {name: float(np.median(values)) for name, values in times.items()}

    def run(self, ports: tuple[Port, ...], arrays: list[Array]) -> dict[str, Array]:
        """One call on other arrays of the same shapes."""
        for port, array in zip(ports, arrays, strict=True):
            self._stream.upload(array, self._memory[port.name])
        self._enqueue()
        return self.outputs()


class EngineSession(Session):
    """A deserialized engine on the first GPU.

    Raises:
        StageError: of stage `load`: the file cannot be read, is damaged, or is of another GPU or version.
    """

    def __init__(self, trt: Any, path: Path, cuda: Cuda | None = None) -> None:
        self._trt = trt
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise StageError("load", f"{path.name} cannot be read: {error.strerror}") from error
        self._cuda = cuda or Cuda()
        self._logger = logger_of(trt)
        self._runtime = trt.Runtime(self._logger)
        # Of an empty plan it would not even say that it is wrong.
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan) if plan else None
        if self._engine is None:
            said = " ".join(" ".join(self._logger.lines).split()) or "it is damaged, or of another GPU or version"
            raise StageError("load", f"TensorRT cannot load {path.name}: {said}")
        self._ports = tuple(
            Port(name, tuple(size if size >= 0 else None for size in self._shape(name)), dtype_of(self._engine, name))
            for name in names_of(self._engine, trt.TensorIOMode.INPUT)
        )

        self._kept: tuple[list[tuple[int, ...]], EngineCalls] | None = None

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._engine.get_tensor_shape(name))

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call; see `Session.run`."""
        arrays = in_order(inputs, self._ports)
        shapes = [array.shape for array in arrays]
        if self._kept is None or self._kept[0] != shapes:
            self._kept = shapes, self._calls(arrays)
        return self._kept[1].run(self._ports, arrays)

    def timed(self, inputs: Arrays) -> EngineCalls:
        """Calls with the inputs on the GPU, timed by its events."""
        return self._calls(in_order(inputs, self._ports))

    def _calls(self, arrays: list[Array]) -> EngineCalls:
        return EngineCalls(self._trt, self._engine, self._cuda, self._ports, arrays)

    def audit(self) -> Audit:
        """The kernels of the engine that have weights, as its inspector reports them."""
        return audit_of_engine(self.report())

    def profile(self, inputs: Arrays, calls: int) -> Profile:
        """The kernels of the engine with the times of TensorRT's profiler; see `Session.profile`.

        Raises:
            StageError: a call fails.
        """
        call_ms = beside_ms(self.timed(inputs), calls)
        times = self._calls(in_order(inputs, self._ports)).kernel_times(calls)
        kernels = kernels_of_engine(self.report(), times)
        notes = () if times else ("TensorRT's profiler reported no kernel",)
        return Profile(kernels, call_ms, calls, "TensorRT's profiler and inspector", notes=notes)

    def report(self) -> str:
        """The JSON of the engine's inspector."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))


def names_of(engine: Any, mode: Any) -> list[str]:
    """The engine's inputs or outputs, in its own order."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [name for name in names if engine.get_tensor_mode(name) == mode]


def dtype_of(engine: Any, name: str) -> np.dtype[Any]:
    """The type of an input or output.

    Raises:
        StageError: numpy has no such type.
    """
    kind = engine.get_tensor_dtype(name).name
    if kind not in DTYPES:
        raise StageError("load", f"{name!r} is {kind}; it must be one of {', '.join(DTYPES)}")
    dtype: np.dtype[Any] = np.dtype(DTYPES[kind])
    return dtype
