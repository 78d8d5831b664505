"""TensorRT-RTX: engines compiled ahead of time for a named compute capability, on any machine.

Each is compiled in a process of its own: a build that fails changes the next one in the same process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from autoshrink.backends.base import NO_OPTIONS, Availability, Backend, Compiled, Option, Source
from autoshrink.backends.tensorrt_build import Plan
from autoshrink.backends.tensorrt_compile import ARTIFACT, compile_engine, grid_refusal
from autoshrink.backends.tensorrt_driver import find_gpus
from autoshrink.backends.tensorrt_session import EngineSession
from autoshrink.errors import StageError
from autoshrink.target import Target
from autoshrink.types import Choice, Recipe, Settings

CAPABILITY = "compute_capability"
CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
DEFAULT = "SM89"
LACKS = {"SM75": {"fp32": "float32 matrix product", "bf16": "bfloat16", "int4_weights": "4-bit integer"}}
"""Compute capability -> precision -> what the builder does not compile for it."""
BEFORE_FUSION = "layers and conversions are those of the network, before the builder fuses them"
W8A8 = (
    "NVIDIA lists INT8 of TensorRT-RTX for weights only, so products of 8-bit activations may be computed in float: "
    "the layers hold int8, their speed is not known"
)


class TensorRtRtx(Backend):
    """TensorRT-RTX for GeForce and professional RTX GPUs."""

    name = "tensorrt_rtx"
    packages = ("tensorrt-rtx-cu12",)
    extra = "tensorrt-rtx"
    apart = True
    # CUDA maps the memory of the GPU and of the machine into the process.
    reserves_address_space: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        CAPABILITY: Option(Choice(CAPABILITIES), DEFAULT, "generation of the GPU that engines are for"),
    }

    def machine(self) -> Availability:
        """Compiles everywhere; runs where there is a GPU that engines can be for."""
        found = find_gpus()
        if any(gpu.capability in CAPABILITIES for gpu in found.gpus):
            return Availability("ready")
        names = ", ".join(f"{gpu.name} ({gpu.capability})" for gpu in found.gpus)
        why = f"TensorRT-RTX does not run on {names}" if names else found.why
        return Availability("compile-only", why, f"run it on a GPU of {', '.join(CAPABILITIES)}")

    def capabilities(self) -> frozenset[str]:
        """Nothing: what a GPU has goes by the profile's compute capability, not by this machine."""
        return frozenset()

    def refuses(self, recipe: Recipe, target: Target) -> str:
        """Grids that are not symmetric, and what the compute capability lacks."""
        capability = str(target.options.get(CAPABILITY, DEFAULT))
        lacks = LACKS.get(capability, {}).get(recipe.precision, "")
        if lacks:
            return f"TensorRT-RTX compiles no {lacks} for {capability}"
        return grid_refusal(recipe, target)

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Builds the engine for the option `compute_capability`.

        Raises:
            StageError: the graph has faults, or TensorRT refuses it; with the reasons.
        """
        trt = _tensorrt_rtx()
        capability = str(source.options.get(CAPABILITY, DEFAULT))
        # No flag for sparse weights: with it, the engine of a 2:4 model is the same to the byte.
        made = compile_engine(trt, source, folder, Plan(capability, source.batch))
        notes = (f"compiled for {capability}", BEFORE_FUSION, *([W8A8] if made.audit.int8_layers else []))
        return Compiled((ARTIFACT,), replace(made.audit, notes=(*made.audit.notes, *notes)), made.figures)

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,  # noqa: ARG002 - the engine knows its own
        threads: int,  # noqa: ARG002 - the GPU's threads are its own
        options: Settings = NO_OPTIONS,
    ) -> EngineSession:
        """The engine on the first GPU.

        Raises:
            StageError: there is no GPU of its compute capability, or the engine is damaged or of another version.
        """
        wanted = str(options.get(CAPABILITY, DEFAULT))
        found = find_gpus()
        if not found.gpus or found.gpus[0].capability != wanted:
            here = f"{found.gpus[0].name} is {found.gpus[0].capability}" if found.gpus else found.why
            raise StageError("load", f"{files[0]} is for {wanted}; {here}")
        return EngineSession(_tensorrt_rtx(), folder / files[0])


def _tensorrt_rtx() -> Any:
    import tensorrt_rtx

    return tensorrt_rtx
