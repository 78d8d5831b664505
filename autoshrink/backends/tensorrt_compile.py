"""From a trial's ONNX file to an engine on disk: what both backends of TensorRT do alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoshrink.backends.base import Source
from autoshrink.backends.tensorrt_build import STAGE, Plan, build
from autoshrink.errors import StageError
from autoshrink.target import Target
from autoshrink.types import Audit, Figure, Recipe

if TYPE_CHECKING:
    import onnx

ARTIFACT = "model.engine"
SPARSE = "2:4"
MOST_FINDINGS = 5


@dataclass(frozen=True)
class Engine:
    """What was written: the file, the audit of its network, and its figures."""

    path: Path
    audit: Audit
    figures: dict[str, Figure]


def compile_engine(trt: Any, source: Source, folder: Path, plan: Plan) -> Engine:
    """Rewrites the graph as TensorRT wants it, lints it, builds it, and writes `model.engine` into `folder`.

    Raises:
        StageError: the file is no ONNX; the lint finds faults, which are all named; TensorRT refuses the graph.
    """
    from autoshrink.backends.tensorrt_graph import prepare, weight_bytes
    from autoshrink.backends.tensorrt_lint import lint

    prepared, notes = prepare(_read(source.model), source.precision)
    findings = [str(finding) for finding in lint(prepared, plan.capability)]
    if findings:
        more = f"; and {len(findings) - MOST_FINDINGS} more" if len(findings) > MOST_FINDINGS else ""
        raise StageError(STAGE, f"TensorRT cannot take the graph: {'; '.join(findings[:MOST_FINDINGS])}{more}")
    built = build(trt, prepared.SerializeToString(deterministic=True), plan)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARTIFACT).write_bytes(built.engine)
    weights = Figure(weight_bytes(prepared.graph), "bytes", "initializers of the graph that the engine was built from")
    audit = Audit(built.audit.layers, built.audit.conversions, built.audit.kernels, notes)
    return Engine(folder / ARTIFACT, audit, {"weights": weights})


def is_sparse(recipe: Recipe) -> bool:
    """Whether the recipe's weights hold the pattern that GPUs have kernels for."""
    settings = recipe.settings("sparsify")
    return settings is not None and settings.get("pattern") == SPARSE


def grid_refusal(recipe: Recipe, target: Target) -> str:
    """Why the target's 8-bit grid cannot be had, or an empty string."""
    if recipe.precision == "int8_dynamic":
        return "TensorRT does not quantize activations at each call; use int8_static"
    precisions = {str(name): precision for name, precision in target.precisions.items()}
    if recipe.precision == "int8_static" and precisions["int8_static"].activations != "int8":
        return (
            f"activations of int8_static are {precisions['int8_static'].activations}, and TensorRT's grids are "
            "symmetric: set `activations: int8` in the profile"
        )
    return ""


def _read(path: Path) -> onnx.ModelProto:
    import onnx

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise StageError(STAGE, f"{path.name} is no ONNX file that can be read: {reason}") from error
    return model
