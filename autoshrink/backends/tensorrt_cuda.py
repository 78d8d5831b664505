"""Memory, streams and events of the GPU by the driver's own library: nothing else is imported in the timed process."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from autoshrink.backends.tensorrt_driver import DRIVER
from autoshrink.errors import StageError

NON_BLOCKING = 1
"""Of a stream: it does not wait for the default stream, nor that one for it."""
_HANDLE, _ADDRESS, _SIZE = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_HANDLE), ctypes.c_int),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuMemAlloc_v2": (ctypes.POINTER(_ADDRESS), _SIZE),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _HANDLE, _SIZE, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (_HANDLE, _ADDRESS, _SIZE, _HANDLE),
    "cuStreamCreate": (ctypes.POINTER(_HANDLE), ctypes.c_uint),
    "cuStreamSynchronize": (_HANDLE,),
    "cuEventCreate": (ctypes.POINTER(_HANDLE), ctypes.c_uint),
    "cuEventRecord": (_HANDLE, _HANDLE),
    "cuEventSynchronize": (_HANDLE,),
    "cuEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _HANDLE, _HANDLE),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}
"""Names as the library exports them -> types of the arguments; each gives a status, 0 when all is well."""

Array = npt.NDArray[Any]


class Cuda:
    """The first GPU, in the context that it shares with TensorRT.

    Raises:
        StageError: of stage `load`: there is no driver, or it has no GPU.
    """

    def __init__(self, library: str = DRIVER) -> None:
        self.stage = "load"
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise StageError(self.stage, f"there is no NVIDIA driver ({library} cannot be loaded)") from error
        for name, types in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = types, ctypes.c_int
        device, context = ctypes.c_int(), _HANDLE()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.stage = "run"

    def call(self, name: str, *arguments: Any) -> None:
        """A function of the driver.

        Raises:
            StageError: it fails; with the driver's own reason.
        """
        status = getattr(self._library, name)(*arguments)
        if status:
            said = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(said))
            reason = said.value.decode(errors="replace") if said.value else f"error {status}"
            raise StageError(self.stage, f"{name}: {reason}")


class Memory:
    """Bytes on the GPU, freed with the object."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda = cuda
        self._address = _ADDRESS()
        cuda.call("cuMemAlloc_v2", ctypes.byref(self._address), max(1, size))

    @property
    def address(self) -> int:
        """Of the first byte."""
        return int(self._address.value)

    def __del__(self) -> None:
        if self._address.value:
            self._cuda.call("cuMemFree_v2", self._address)


class Stream:
    """A stream of its own, and two events to time what runs on it."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._handle, self._begin, self._end = _HANDLE(), _HANDLE(), _HANDLE()
        cuda.call("cuStreamCreate", ctypes.byref(self._handle), NON_BLOCKING)
        for event in (self._begin, self._end):
            cuda.call("cuEventCreate", ctypes.byref(event), 0)

    @property
    def handle(self) -> int:
        """As TensorRT takes it."""
        return int(self._handle.value or 0)

    def upload(self, array: Array, memory: Memory) -> None:
        """Copies `array`, C-contiguous, and waits for it."""
        self._cuda.call("cuMemcpyHtoDAsync_v2", memory.address, array.ctypes.data, array.nbytes, self._handle)
        self.wait()

    def download(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A new array of what lies in `memory`, once all before it on the stream is done."""
        array = np.empty(shape, dtype)
        self._cuda.call("cuMemcpyDtoHAsync_v2", array.ctypes.data, memory.address, array.nbytes, self._handle)
        self.wait()
        return array

    def wait(self) -> None:
        """Until all on the stream is done."""
        self._cuda.call("cuStreamSynchronize", self._handle)

    def begin(self) -> None:
        """Notes the time when the stream comes here."""
        self._cuda.call("cuEventRecord", self._begin, self._handle)

    def seconds_since_begin(self) -> float:
        """Seconds of the GPU's clock from there to here; waits for it."""
        milliseconds = ctypes.c_float()
        self._cuda.call("cuEventRecord", self._end, self._handle)
        self._cuda.call("cuEventSynchronize", self._end)
        self._cuda.call("cuEventElapsedTime", ctypes.byref(milliseconds), self._begin, self._end)
        return milliseconds.value / 1000
