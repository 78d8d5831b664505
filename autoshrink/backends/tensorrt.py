"""TensorRT on an NVIDIA GPU. The artifact is `model.engine`, which only GPUs and versions like these can load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from autoshrink.backends.base import (
    NO_OPTIONS,
    Availability,
    Backend,
    Compiled,
    Source,
    installed_version,
)
from autoshrink.backends.tensorrt_build import Plan
from autoshrink.backends.tensorrt_compile import ARTIFACT, compile_engine, grid_refusal, is_sparse
from autoshrink.backends.tensorrt_driver import FIX, find_gpus
from autoshrink.backends.tensorrt_network import audit_of_engine
from autoshrink.backends.tensorrt_session import EngineSession
from autoshrink.target import Target
from autoshrink.types import Recipe, Settings

DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
"""Any of them brings the module."""
KNOWN = (10, 11)
"""Major versions whose interface this is."""
SINCE = {"FP16": 53, "INT8": 61, "BF16": 80, "FP8": 89}
"""What a profile may ask for -> the first compute capability that has it."""

TF32 = "products of float32 are in TF32, of 10 bits, where the GPU has it: TensorRT's default"


class TensorRt(Backend):
    """TensorRT 10 and 11: engines are built on the GPU that they are for."""

    name = "tensorrt"
    packages = ("tensorrt",)
    extra = "tensorrt"
    apart = True
    # CUDA maps the memory of the GPU and of the machine into the process.
    reserves_address_space: ClassVar[bool] = True

    def available(self) -> Availability:
        """Asks the driver first: without one, not even the package can be of use."""
        found = find_gpus()
        installed = next(filter(None, map(installed_version, DISTRIBUTIONS)), "")
        if not installed:
            missing = super().available()
            return missing if found.gpus else replace(missing, why=f"{missing.why}, and {found.why}")
        if not found.gpus:
            return Availability("unavailable", found.why, FIX)
        if int(installed.partition(".")[0]) not in KNOWN:
            return Availability(
                "unavailable",
                f"tensorrt {installed} is not one of the versions {' and '.join(map(str, KNOWN))}",
                "pip install 'tensorrt>=10,<12'",
            )
        return self.machine()

    def machine(self) -> Availability:
        """Whether there is a GPU."""
        found = find_gpus()
        return Availability("ready") if found.gpus else Availability("unavailable", found.why, FIX)

    def capabilities(self) -> frozenset[str]:
        """The types that the first GPU computes in: `FP16`, `INT8`, `BF16`, `FP8`."""
        gpus = find_gpus().gpus
        return frozenset(name for name, first in SINCE.items() if gpus and gpus[0].number >= first)

    def refuses(self, recipe: Recipe, target: Target) -> str:
        """Grids that are not symmetric."""
        return grid_refusal(recipe, target)

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Builds the engine and asks its inspector which kernels were chosen.

        Raises:
            StageError: the graph has faults, or TensorRT refuses it; with the reasons.
        """
        trt = _tensorrt()
        plan = Plan(batch=source.batch, sparse=is_sparse(source.recipe), timing_cache=_timing_cache(trt))
        made = compile_engine(trt, source, folder, plan)
        report = EngineSession(trt, made.path).report()
        audit = audit_of_engine(report, [layer.name for layer in made.audit.layers])
        notes = (*made.audit.notes, *audit.notes)
        if any(layer.precision == "fp32" for layer in audit.layers):
            notes = (*notes, TF32)
        return Compiled((ARTIFACT,), replace(audit, notes=notes), made.figures)

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,  # noqa: ARG002 - the engine knows its own
        threads: int,  # noqa: ARG002 - the GPU's threads are its own
        options: Settings = NO_OPTIONS,  # noqa: ARG002 - it has none
    ) -> EngineSession:
        """The engine on the first GPU.

        Raises:
            StageError: there is no GPU, or the engine is damaged or of another GPU or version.
        """
        return EngineSession(_tensorrt(), folder / files[0])

    def runtime(self) -> str:
        """The version of whichever distribution is installed."""
        versions: Mapping[str, str] = {name: installed_version(name) for name in DISTRIBUTIONS}
        return next((f"{name} {version}" for name, version in versions.items() if version), "tensorrt")


def _tensorrt() -> Any:
    import tensorrt

    return tensorrt


def _timing_cache(trt: Any) -> Path:
    """The file of the times of kernels on this GPU by this version."""
    from autoshrink.cache import cache_root

    gpu = re.sub(r"[^A-Za-z0-9]+", "-", find_gpus().gpus[0].name).strip("-").lower()
    return cache_root() / "tensorrt" / f"{gpu}-{trt.__version__}.cache"
