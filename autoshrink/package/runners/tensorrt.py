"""TensorRT or TensorRT-RTX on the first GPU. Memory is the CUDA driver's, so that no further package is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MODULES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx"}
DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def load(folder: Path, manifest: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], list[Array]]:
    """What makes one call; see `autoshrink.package.runners`."""
    # Before the package: without a driver it ends the process.
    driver = Driver()
    trt: Any = import_module(MODULES[manifest["runtime"]["backend"]])
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    plan = (folder / manifest["runtime"]["artifact"][0]).read_bytes()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeError("the engine is of another GPU or version of TensorRT, whose message is above")
    context = engine.create_execution_context()
    signature = manifest["signature"]
    memory = {}
    for port in (*signature["inputs"], *signature["outputs"]):
        memory[port["name"]] = driver.allocate(int(np.prod(port["shape"])) * np.dtype(port["dtype"]).itemsize)
        context.set_tensor_address(port["name"], memory[port["name"]])

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        # The runtime must outlive its engine.
        _ = runtime
        for name, array in inputs.items():
            context.set_input_shape(name, array.shape)
            driver.upload(memory[name], np.ascontiguousarray(array))
        if not context.execute_async_v3(driver.stream):
            raise RuntimeError("the engine fails to run; TensorRT's message is above")
        return [driver.download(memory[port["name"]], port["shape"], port["dtype"]) for port in signature["outputs"]]

    return run


class Driver:
    """What a call needs of the CUDA driver: a stream of its own, and memory."""

    def __init__(self) -> None:
        self._library = _library()
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), 1)
        self.stream = int(stream.value or 0)

    def allocate(self, size: int) -> int:
        """The address of so many bytes on the GPU, kept until the process ends."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return int(address.value)

    def upload(self, address: int, array: Array) -> None:
        """Copies an array to the GPU and waits for it."""
        at, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), at, size, ctypes.c_void_p(self.stream))
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def download(self, address: int, shape: list[int], dtype: str) -> Array:
        """A new array of what lies there when all before is done."""
        array = np.empty(shape, dtype)
        at, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", at, ctypes.c_uint64(address), size, ctypes.c_void_p(self.stream))
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))
        return array

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            said = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(said))
            raise RuntimeError(f"{name}: {(said.value or b'').decode() or f'error {status}'}")


def _library() -> ctypes.CDLL:
    for name in DRIVERS:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError("there is no NVIDIA driver; the engine runs on NVIDIA's GPUs only")
