"""The contract of a backend: what turns an exported model into an artifact for one runtime, loads it and runs it.

Nothing here or in a backend's module level imports a vendor's package: that happens inside the methods, in the child.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from autoshrink.measure.timing import Timed, beside_ms
from autoshrink.target import Target
from autoshrink.types import Audit, Choice, Figure, Profile, Recipe, Scalar, Settings

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]


State = Literal["ready", "untimed", "compile-only", "unavailable"]

NO_OPTIONS: Settings = {}
INT8_SATURATES = "INT8_SATURATES"
"""A capability, or rather a lack: kernels that add products of 8-bit integers in pairs, and cut a pair off at 32767.

They are right where weights keep 7 bits: 2 x 255 x 64 is 32640.
"""


@dataclass(frozen=True)
class Availability:
    """What a backend can do here, why not more, and what to do about it.

    `ready`: everything. `untimed`: artifacts run, so that accuracy is known, but on an imitation of the device whose
    speed says nothing. `compile-only`: they are compiled, for a device that is not here. `unavailable`: nothing.
    """

    state: State
    why: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Source:
    """What a backend compiles.

    Attributes:
        model: `model.onnx`, which holds the recipe's Q/DQ or weights already; or `model.pt2` (see
            `autoshrink.program`) for a backend of that form, which quantizes by itself as `settings` say.
        precision: what the arithmetic is to be; `Recipe.precision`.
        recipe: the whole of it.
        settings: of the recipe's quantize stage, resolved for the target; empty without one, and for ONNX files.
        calibration: folder with one `<input>.npy` [N, ...] an input, for settings that need it.
        batch: rows of one call.
        threads: of the runtime for one call.
        options: of the target; see `Backend.options`.
    """

    model: Path
    precision: str = "fp32"
    recipe: Recipe = field(default_factory=Recipe)
    settings: Settings = field(default_factory=dict)
    calibration: Path | None = None
    batch: int = 1
    threads: int = 1
    options: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """What compiling gave.

    Attributes:
        files: names of what ships, the one to open first.
        audit: of the layers, where compiling finds it out and running does not; goes before `Session.audit`.
        figures: name -> what is worth keeping beside size and audit.
    """

    files: tuple[str, ...]
    audit: Audit | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """A key of a target's `options`: the values it may have (None: any text), its default, and what it does."""

    allowed: Choice | None
    default: Scalar
    about: str


class Session(ABC):
    """A loaded artifact."""

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call: name -> array with the target's batch in the first dimension, in and out.

        Raises:
            ValueError: a name, shape or dtype is not the model's; the message gives both.
        """

    def run_batches(self, batches: Iterable[Arrays]) -> Iterator[dict[str, Array]]:
        """`run` of each, in order; for a runtime that takes many at once more cheaply than one by one."""
        return map(self.run, batches)

    @abstractmethod
    def timed(self, inputs: Arrays) -> Timed:
        """A call on `inputs`, bound beforehand, with as little Python in it as the runtime allows.

        A runtime in another process, whose calls cannot be timed from here, gives `RemoteCalls`.
        """

    @abstractmethod
    def audit(self) -> Audit:
        """The kernels that the runtime chose for this artifact."""

    def profile(self, inputs: Arrays, calls: int) -> Profile:
        """Where the time of a call on `inputs` goes, kernel by kernel, over `calls` profiled calls.

        A runtime without a profiler tells what a call takes, and nothing of its kernels.

        Raises:
            StageError: of stage `profile`: a call fails.
        """
        return Profile(call_ms=beside_ms(self.timed(inputs), calls), notes=("this runtime gives no time per kernel",))


class Backend(ABC):
    """One runtime. Stateless: everything it needs comes with the call."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """Distributions that must be installed, as pip names them."""
    runs_with: ClassVar[tuple[str, ...]] = ()
    """Those of them that a device needs to run artifacts that were compiled elsewhere; all when empty."""
    extra: ClassVar[str]
    """The extra of autoshrink that installs them; empty when autoshrink itself does."""
    form: ClassVar[Literal["onnx", "program"]] = "onnx"
    """What it compiles: an ONNX file, or a traced torch program."""
    apart: ClassVar[bool] = False
    """Whether it compiles with packages that must not be in the process that is timed: then in a child of its own."""
    installs: ClassVar[str] = ""
    """What the runtime needs and pip does not bring; empty when it brings all."""
    reserves_address_space: ClassVar[bool] = False
    """Whether it maps far more memory than it uses, so that a limit on the address space would end it at once."""
    options: ClassVar[Mapping[str, Option]] = {}
    """The keys that `Target.options` may have."""

    def available(self) -> Availability:
        """Never raises, never imports the vendor's package, never hangs."""
        missing = [package for package in self.packages if not installed_version(package)]
        if missing:
            wanted = f"autoshrink[{self.extra}]" if self.extra else "autoshrink"
            return Availability("unavailable", f"{', '.join(missing)} is not installed", f"pip install '{wanted}'")
        return self.machine()

    def available_to_run(self) -> Availability:
        """As `available`, of a device that only runs what was compiled elsewhere."""
        missing = [package for package in self.runs_with or self.packages if not installed_version(package)]
        if missing:
            return Availability(
                "unavailable", f"{', '.join(missing)} is not installed", f"pip install {' '.join(missing)}"
            )
        return self.machine()

    def to_compile(self, options: Settings = NO_OPTIONS) -> Availability:
        """What it can do here for a device that is elsewhere, with a target's `options`: only compiling matters.

        Never raises, as `available`.
        """
        del options
        return self.available()

    @abstractmethod
    def machine(self) -> Availability:
        """Whether this machine can run artifacts of the backend, its packages being there."""

    @abstractmethod
    def capabilities(self) -> frozenset[str]:
        """What `Precision.requires` may ask for and this machine has, such as `BF16`. Called in the child.

        Among them `INT8_SATURATES`, where 8-bit kernels are right for weights of 7 bits only.
        """

    def refuses(self, recipe: Recipe, target: Target) -> str:
        """Why `recipe` cannot be had on `target`, said before any work; an empty string when it can be tried.

        What the profile says of precisions and techniques is checked elsewhere. Light: called in the parent.
        """
        del recipe, target
        return ""

    @abstractmethod
    def compile(self, source: Source, folder: Path) -> Compiled:
        """Writes the artifact of `source` into `folder`, which is made. Called in a child.

        Raises:
            StageError: of stage `compile`: the runtime cannot take it; with its own reason in one line.
        """

    @abstractmethod
    def load(
        self, folder: Path, files: tuple[str, ...], precision: str, threads: int, options: Settings = NO_OPTIONS
    ) -> Session:
        """The artifact, ready to run. Not called while the backend is only there to compile.

        Raises:
            StageError: of stage `load`, naming the file: damaged, or not for this runtime.
        """

    def preload(self) -> None:  # noqa: B027 - saves time, and nothing else
        """Imports what `load` is going to need. Called in a child that waits for its job."""

    def install(self) -> None:  # noqa: B027 - pip brings all that most need
        """Installs what `installs` names. Called by `doctor --fix` when the backend is not ready.

        Raises:
            AutoshrinkError: it cannot be had, with the reason.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """Ends what the backend started beside this process. Called once, when the child's work is over."""

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
