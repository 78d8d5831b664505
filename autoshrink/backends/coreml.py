"""Core ML for iPhone, iPad and Mac. The artifact is the folder `model.mlpackage`, a program of Core ML's own.

It is compiled on any machine, and runs on Apple devices only. Elsewhere sizes, the form of every weight and what the
weights decode to are known; accuracy and latency are not.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoshrink.backends.base import (
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
from autoshrink.backends.coreml_vendor import vendor
from autoshrink.backends.ports import in_order
from autoshrink.errors import StageError
from autoshrink.types import Audit, Choice, Recipe, Settings

if TYPE_CHECKING:
    from autoshrink.target import Target

APPLE = "darwin"
UNITS = ("all", "cpu_only", "cpu_and_ne", "cpu_and_gpu")
NOT_HERE = "Core ML runs on Apple devices only"
ON_A_MAC = (
    "run the same study on a Mac with `pip install 'autoshrink[coreml]'`, or open model.mlpackage in Xcode and take "
    "its performance report on the phone"
)


class CoreMl(Backend):
    """Core ML programs by coremltools."""

    name = "coreml"
    packages = ("coremltools",)
    extra = "coreml"
    form = "program"
    apart = True
    options: ClassVar[Mapping[str, Option]] = {
        "minimum_ios": Option(
            Choice((17, 18)), 18, "oldest iOS that runs it (macOS is 3 less); 17 has no 4-bit and no blockwise weights"
        ),
        "compute_units": Option(Choice(UNITS), "all", "which units of the device may run it, when it is loaded"),
        "low_bit_weights": Option(
            Choice(("packed", "int8")),
            "packed",
            "of integers of fewer than 8 bits: as small as they go, or 8 bits each, which 8-bit arithmetic reads",
        ),
    }

    def machine(self) -> Availability:
        """Ready on macOS; elsewhere there to compile."""
        return Availability("ready") if sys.platform == APPLE else Availability("compile-only", NOT_HERE, ON_A_MAC)

    def capabilities(self) -> frozenset[str]:
        """None that a precision would ask for."""
        return frozenset()

    def refuses(self, recipe: Recipe, target: Target) -> str:
        """4-bit weights for iOS 17, and activations that are quantized at each call."""
        system = target.options.get("minimum_ios", self.options["minimum_ios"].default)
        if recipe.precision == "int4_weights" and system != 18:
            return "iOS 17 has no 4-bit integers; set minimum_ios of the target to 18, or use int8_weights"
        if recipe.precision in ("int8_dynamic", "bf16"):
            return f"Core ML has no {recipe.precision}; use int8_static, int8_weights or fp16"
        return ""

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Converts the program; arithmetic is float32 for fp32 and float16 for everything else.

        Weights are rounded as the precision says, or lie on the grid that training left; then each takes the smallest
        form in which no value changes, so that shared, binary, ternary and sparse weights are stored as such.

        Raises:
            StageError: coremltools cannot convert it, with its reason; or a weight does not fit into float16.
        """
        from autoshrink.backends.coreml_convert import compile_package

        return compile_package(source, folder)

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,  # noqa: ARG002 - the program holds it
        threads: int,  # noqa: ARG002 - the device's own affair
        options: Settings = NO_OPTIONS,
    ) -> CoreMlSession:
        """The package, compiled for this Mac.

        Raises:
            StageError: a file of it is missing or damaged, Core ML refuses it, or this is no Apple device.
        """
        from autoshrink.backends.coreml_package import PACKAGE

        package = (folder / files[0]).parent if files else folder / PACKAGE
        units = str(options.get("compute_units", self.options["compute_units"].default))
        return CoreMlSession(package, units, vendor(converts=False))


class CoreMlSession(Session):
    """A package that Core ML loaded.

    Args:
        package: the `.mlpackage` folder.
        units: one of `UNITS`.
        runtime: the module coremltools.

    Raises:
        StageError: see `CoreMl.load`.
    """

    def __init__(self, package: Path, units: str, runtime: Any) -> None:
        from autoshrink.backends.coreml_package import read_program, signature_of

        self._signature = signature_of(read_program(package))
        if sys.platform != APPLE:
            raise StageError("load", f"Core ML cannot load {package.name}: {NOT_HERE}; {ON_A_MAC}")
        try:
            self._model = runtime.models.MLModel(
                str(package), compute_units=getattr(runtime.ComputeUnit, units.upper())
            )
        except Exception as error:
            raise StageError("load", f"Core ML cannot load {package.name}: {_reason(error)}") from error

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call; see `Session.run`. Integers are 32 bit in the program and as the task has them outside."""
        found = self._model.predict(self._bound(inputs))
        return {
            port.name: np.array(found[port.port]).astype(port.dtype, copy=False).reshape(port.shape)
            for port in self._signature.outputs
        }

    def timed(self, inputs: Arrays) -> Callable[[], object]:
        """A call of the model on arrays that have the program's types already."""
        return functools.partial(self._model.predict, self._bound(inputs))

    def audit(self) -> Audit:
        """None: it was made in compiling.

        Raises:
            StageError: always.
        """
        raise StageError("audit", "the layers of a Core ML package are known when it is compiled; compile it again")

    def _bound(self, inputs: Arrays) -> dict[str, Array]:
        ports = self._signature.inputs
        arrays = in_order(inputs, [port.checked for port in ports])
        bound: dict[str, Array] = {}
        for port, array in zip(ports, arrays, strict=True):
            if array.dtype.kind == "i" and array.size and max(-int(array.min()), int(array.max())) >= 2**31:
                raise ValueError(f"input {port.name!r} has integers over 31 bits; the program takes int32")
            bound[port.port] = array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
        return bound


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
