"""Whether there is an NVIDIA driver and which GPUs it has, asked before any package of TensorRT is imported.

Without a driver the runtime of TensorRT ends the process that touches it. And a driver that is broken may hang, so it
is asked in a process of its own, which is given up after a while: this file, run as a module, prints what it found.
"""

from __future__ import annotations

import ctypes
import functools
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

DRIVER = "libcuda.so.1"
TIME_LIMIT_S = 30.0
MODULE = "autoshrink.backends.tensorrt_driver"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""Numbers of these attributes in the driver's API."""
NAME_BYTES = 256
FIX = "install NVIDIA's driver on a machine with one of its GPUs"


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, and its compute capability such as `SM89`."""

    name: str
    capability: str

    @property
    def number(self) -> int:
        """The compute capability as a number: 89."""
        return int(self.capability.removeprefix("SM"))


@dataclass(frozen=True)
class Found:
    """The GPUs of this machine; where there are none, why."""

    gpus: tuple[Gpu, ...] = ()
    why: str = ""


@functools.cache
def find_gpus(library: str = DRIVER) -> Found:
    """The GPUs that the driver has. Never raises and never hangs; asked once a process."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return Found(why=f"there is no NVIDIA driver ({library} cannot be loaded)")
    try:
        asked = subprocess.run(
            [sys.executable, "-m", MODULE, library],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Found(why=f"the NVIDIA driver does not answer within {TIME_LIMIT_S:.0f} s")
    except OSError as error:
        return Found(why=f"the NVIDIA driver cannot be asked: {error.strerror}")
    try:
        answer = json.loads(asked.stdout)
        return Found(tuple(Gpu(**gpu) for gpu in answer["gpus"]), answer["why"])
    except (ValueError, KeyError, TypeError):
        return Found(why=f"asking the NVIDIA driver ended with status {asked.returncode}")


def ask(library: str) -> Found:
    """The same, in this process."""
    driver = ctypes.CDLL(library)
    status = driver.cuInit(0)
    if status:
        return Found(why=f"the NVIDIA driver cannot be started ({_text(driver, status)})")
    count = ctypes.c_int()
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return Found(why=f"the NVIDIA driver cannot count its GPUs ({_text(driver, status)})")
    gpus = tuple(_gpu(driver, number) for number in range(count.value))
    return Found(gpus, "" if gpus else "the NVIDIA driver has no GPU")


def _gpu(driver: ctypes.CDLL, number: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES)
    parts = []
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, NAME_BYTES, device)
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(value.value)
    return Gpu(name.value.decode(errors="replace"), f"SM{parts[0]}{parts[1]}")


def _text(driver: ctypes.CDLL, status: int) -> str:
    said = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(said))
    return said.value.decode(errors="replace") if said.value else f"error {status}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(ask(sys.argv[1]))))
