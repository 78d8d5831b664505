"""Post-training quantization of the exported graph: half-precision storage, 8-bit integers, weights of few bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import onnx

from autoshrink.errors import StageError
from autoshrink.onnx_graph import weight_nodes, write_onnx
from autoshrink.target import Target
from autoshrink.task import Arrays, Task, fingerprint
from autoshrink.techniques.base import Context, GraphTechnique, Parameter
from autoshrink.techniques.calibrate import METHODS, Progress, collect_ranges
from autoshrink.techniques.onnx_float16 import store_float16
from autoshrink.techniques.onnx_int8 import Grid, ends, quantize_dynamic, quantize_static
from autoshrink.techniques.onnx_linear import linear_as_gemm
from autoshrink.techniques.onnx_weight_only import Grams, collect_grams, find_products, pack_weights
from autoshrink.techniques.weight_rounding import ROUNDINGS
from autoshrink.types import PRECISIONS, Choice, Range, Settings

STAGE = "quantize"
STATIC = ("scheme", ("int8_static",))
WEIGHT_BITS = {"int8_weights": 8, "int4_weights": 4}
WEIGHTS = ("scheme", tuple(WEIGHT_BITS))
KEEP_FLOAT = ("none", "first_last", "first", "last")
GPTQ_ROWS = 256
"""Rows of the calibration set, from the first, that the Hessians of gptq are made from."""


class Quantize(GraphTechnique):
    """Changes the numbers a graph is stored and computed in, without training."""

    name: ClassVar[str] = "quantize"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "scheme": Parameter(Choice(PRECISIONS), "int8_static", "precision; fp32 leaves the model as it is"),
        "calibration": Parameter(
            Choice(METHODS), "minmax", "range of an activation: its extremes, or without 0.01 % at each end", STATIC
        ),
        "samples": Parameter(Range(1, 100_000, 1), 256, "rows of the calibration set that are used", STATIC),
        "keep_float": Parameter(Choice(KEEP_FLOAT), "none", "layers with weights that stay float32", STATIC),
        "block": Parameter(
            Choice((32, 64, 128)), 32, "inputs of a layer whose weights share a scale and a zero point", WEIGHTS
        ),
        "rounding": Parameter(
            Choice(ROUNDINGS), "nearest", "how weights become integers; gptq goes by the calibration set", WEIGHTS
        ),
    }
    trains: ClassVar[bool] = False
    excluded_by: ClassVar[frozenset[str]] = frozenset({"qat"})

    def is_off(self, settings: Settings) -> bool:
        """The scheme fp32."""
        return settings.get("scheme") == "fp32"

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:
        """Adds the defaults that apply to the scheme and what the target's kernels want.

        That is `grid` where activations are integers, and `operators` where only weights are.

        Raises:
            StageError: the target does not list the scheme.
        """
        scheme = str(settings.get("scheme", self.parameters["scheme"].default))
        precisions = {str(name): precision for name, precision in target.precisions.items()}
        if scheme not in precisions:
            raise StageError(STAGE, f"target {target.name} has no {scheme}; it has {', '.join(precisions)}")
        defaults = {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.when is None or scheme in parameter.when[1]
        }
        resolved: dict[str, Any] = {**defaults, **settings, "scheme": scheme}
        precision = precisions[scheme]
        if scheme in WEIGHT_BITS:
            resolved["operators"] = sorted(precision.operators)
        elif scheme.startswith("int8"):
            resolved["grid"] = Grid.of(precision, precision.operators).to_json()
        return resolved

    def fingerprint(self, task: Task) -> str:
        """Of the calibration set."""
        return fingerprint(task.calibration)

    def transform(self, source: Path, out: Path, settings: Mapping[str, Any], context: Context) -> None:
        """Writes the model of `source` in the scheme of the resolved `settings` to `out`.

        Raises:
            StageError: a weight is too large for float16 or not finite, nothing in the graph can be quantized, or the
                calibration set does not fit the graph's inputs.
        """
        model = onnx.load(str(source))
        scheme = settings["scheme"]
        if scheme in ("fp16", "bf16"):
            store_float16(model)
        elif scheme == "int8_dynamic":
            model = quantize_dynamic(model, Grid.from_json(settings["grid"]), out.parent)
        elif scheme == "int8_static":
            model = _calibrated(model, settings, context.task.calibration, context.progress)
        elif scheme in WEIGHT_BITS:
            _pack(model, settings, context.task.calibration, context.progress)
        else:
            raise StageError(STAGE, f"scheme is {scheme!r}; it must be one of {', '.join(PRECISIONS[1:])}")
        write_onnx(model, out, STAGE)


def _calibrated(
    model: onnx.ModelProto, settings: Mapping[str, Any], calibration: Arrays, progress: Progress
) -> onnx.ModelProto:
    grid = Grid.from_json(settings["grid"])
    samples = {name: array[: int(settings["samples"])] for name, array in calibration.items()}
    inferred = linear_as_gemm(model) if "Gemm" in grid.operators else onnx.shape_inference.infer_shapes(model)
    ranges = collect_ranges(inferred, samples, _batch(model.graph, samples), str(settings["calibration"]), progress)
    return quantize_static(inferred, ranges, grid, ends(weight_nodes(inferred.graph), str(settings["keep_float"])))


def _pack(model: onnx.ModelProto, settings: Mapping[str, Any], calibration: Arrays, progress: Progress) -> None:
    scheme, operators = str(settings["scheme"]), settings["operators"]
    bits, block, rounding = WEIGHT_BITS[scheme], int(settings["block"]), str(settings["rounding"])
    products, left = find_products(model.graph, operators, bits, block)
    if not products:
        why = "".join(f"\n{name} stays float: {reason}" for name, reason in left.items())
        raise StageError(
            STAGE,
            f"no {'/'.join(operators)} with constant weights that could be packed is in the graph, so {scheme} would "
            f"change nothing; use int8_static{why}",
        )
    grams: Grams = {}
    if rounding == "gptq":
        samples = {name: array[:GPTQ_ROWS] for name, array in calibration.items()}
        grams = collect_grams(model, products, samples, _batch(model.graph, samples), progress)
    pack_weights(model, products, bits, block, rounding, grams)


def _batch(graph: onnx.GraphProto, samples: Arrays) -> int:
    """Rows of one call of the graph, once the samples are known to fit its inputs."""
    shapes: dict[str, list[int]] = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in graph.input
    }
    for name, shape in shapes.items():
        if name not in samples:
            raise StageError(STAGE, f"the calibration set has no input {name!r}; it has {', '.join(samples)}")
        found = list(samples[name].shape)
        if found[1:] != shape[1:]:
            raise StageError(
                STAGE,
                f"calibration input {name!r} has shape {found}; the model takes {shape}, so it must be "
                f"[N, {', '.join(map(str, shape[1:]))}]",
            )
        if not found[0]:
            raise StageError(STAGE, f"calibration input {name!r} has no rows; quantization needs some hundred")
    return next(iter(shapes.values()))[0]
