"""The contract of a backend: what turns an ONNX model into an artifact for one runtime, loads it and runs it.

Nothing here or in a backend's module level imports a vendor's package: that happens inside the methods, in the child.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from autoshrink.types import Audit

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Availability:
    """Whether a backend can work here, why not, and what to do about it."""

    state: Literal["ready", "compile-only", "unavailable"]
    why: str = ""
    fix: str = ""


class Session(ABC):
    """A loaded artifact."""

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call: name -> array with the target's batch in the first dimension, in and out.

        Raises:
            ValueError: a name, shape or dtype is not the model's; the message gives both.
        """

    @abstractmethod
    def timed(self, inputs: Arrays) -> Callable[[], object]:
        """A call on `inputs`, bound beforehand, with as little Python in it as the runtime allows."""

    @abstractmethod
    def audit(self) -> Audit:
        """The kernels that the runtime chose for this artifact."""


class Backend(ABC):
    """One runtime. Stateless: everything it needs comes with the call."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """Distributions that must be installed, as pip names them."""
    extra: ClassVar[str]
    """The extra of autoshrink that installs them; empty when autoshrink itself does."""

    def available(self) -> Availability:
        """Never raises, never imports the vendor's package, never hangs."""
        missing = [package for package in self.packages if not installed_version(package)]
        if missing:
            wanted = f"autoshrink[{self.extra}]" if self.extra else "autoshrink"
            return Availability("unavailable", f"{', '.join(missing)} is not installed", f"pip install '{wanted}'")
        return self.machine()

    @abstractmethod
    def machine(self) -> Availability:
        """Whether this machine can run artifacts of the backend, its packages being there."""

    @abstractmethod
    def capabilities(self) -> frozenset[str]:
        """What `Precision.requires` may ask for and this machine has, such as `BF16`. Called in the child."""

    @abstractmethod
    def compile(self, model: Path, folder: Path, precision: str) -> tuple[str, ...]:
        """Writes the artifact of an ONNX file into `folder`; gives the names of its files, the one to open first.

        The ONNX file already holds the recipe's Q/DQ or weights; `precision` says what the arithmetic is to be.
        """

    @abstractmethod
    def load(self, folder: Path, files: tuple[str, ...], precision: str, threads: int) -> Session:
        """The artifact, ready to run."""

    def runtime(self) -> str:
        """The version of what runs the artifact, such as `onnxruntime 1.31.1`."""
        return f"{self.packages[0]} {installed_version(self.packages[0])}"


def installed_version(package: str) -> str:
    """The version of an installed distribution, or an empty string."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def processor_name() -> str:
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
