"""Quantization-aware training: the model learns on the integer grid that its target computes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from autoshrink.errors import StageError
from autoshrink.fake_quantize import keep_steps_near
from autoshrink.fingerprints import training_fingerprint
from autoshrink.sensitivities import SharedOut
from autoshrink.target import Target
from autoshrink.task import Task, call, fingerprint
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.bit_allocation import BITS, allocate_bits, rounding_losses, sensitivities_of
from autoshrink.techniques.onnx_int8 import Grid, ends
from autoshrink.techniques.quantize import KEEP_FLOAT
from autoshrink.techniques.quantized_graph import FloatGraph, WeightLayer, add_quantizers, initialise, round_biases
from autoshrink.techniques.training import Plan, train
from autoshrink.tensors import as_tensors
from autoshrink.types import Choice, Range, Settings

CALIBRATION_ROWS = 128
RATE_SHARE = 0.2
"""Of the usual learning rate: the model is trained already, and a large step leaves the grid it was fitted to."""
END_BITS = 8
GRID_PRECISION = "int8_static"
"""The precision of a target's profile that says what its integer kernels want."""


class Qat(ModuleTechnique):
    """Trains with rounded weights and activations, so that what is deployed is what was trained.

    Weights of 8 to 2 bits, activations of 8 to 4, both by a straight-through estimator with learned steps (Esser et
    al. 2020) or steps of least squared error that stay; batch normalisation is folded first, its statistics stay.
    Whatever the width of the weights, CPU kernels compute in 8 bits: fewer make the file smaller, not the call faster.
    Where a target's grid has 7 bits for weights, so that its kernels' sums are exact, what was to have 8 has 7.
    """

    name: ClassVar[str] = "qat"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "allocation": Parameter(
            Choice(("off", "uniform", "mixed")),
            "uniform",
            "equal bits for all layers, or a budget shared out by measured sensitivity; off leaves the stage out",
        ),
        "weight_bits": Parameter(
            Choice(BITS), 8, "of every weight; the first and last layer keep 8", ("allocation", ("uniform",))
        ),
        "average_bits": Parameter(Range(2.0, 8.0), 4.0, "mean over all weights", ("allocation", ("mixed",))),
        "activation_bits": Parameter(Choice((8, 6, 4)), 8, "of every activation between quantized layers"),
        "step": Parameter(Choice(("learned", "observed")), "learned", "steps of the grids: trained, or as calibrated"),
        "keep_float": Parameter(Choice(KEEP_FLOAT), "none", "layers with weights that stay float32"),
        "epochs": Parameter(Range(0.05, 20.0), 1.0, "passes over the training set"),
        "learning_rate": Parameter(
            Range(0.0, 1.0), 0.0, "largest step of the one-cycle schedule; 0 is a fifth of the optimizer's usual"
        ),
        "alpha": Parameter(Range(0.0, 1.0), 0.7, "share of the teacher in the loss; the rest is the task's own"),
    }
    trains: ClassVar[bool] = True
    excluded_by: ClassVar[frozenset[str]] = frozenset({"cluster", "binarize"})
    few_values: ClassVar[bool] = True

    def is_off(self, settings: Settings) -> bool:
        """The allocation `off`."""
        return settings.get("allocation") == "off"

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:
        """Adds the defaults that apply to the allocation, and `grid`: what the target's 8-bit kernels want.

        Raises:
            StageError: the target lists no static 8-bit precision.
        """
        precision = {str(name): value for name, value in target.precisions.items()}.get(GRID_PRECISION)
        if precision is None:
            raise StageError(self.name, f"target {target.name} has no {GRID_PRECISION}, whose grid qat trains on")
        allocation = settings.get("allocation", self.parameters["allocation"].default)
        defaults = {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.when is None or allocation in parameter.when[1]
        }
        grid = Grid.of(precision).to_json()
        resolved = {**defaults, **settings, "grid": grid}
        return {name: float(value) if type(value) is int else value for name, value in resolved.items()}

    def shares_out(self, settings: Mapping[str, Any]) -> bool:
        """The allocation `mixed`."""
        return bool(settings["allocation"] == "mixed")

    def fingerprint(self, task: Task) -> str:
        """Of the training set and the calibration set."""
        return f"{training_fingerprint(task)} {fingerprint(task.calibration)}"

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The trained graph with its quantizers, and the bits of each layer."""
        task = context.task
        graph = FloatGraph(model, task, self.name)
        layers = self._layers(graph, str(settings["keep_float"]))
        most = Grid.from_json(settings["grid"]).weight_bits
        bits = self._bits(model, graph, layers, settings, context)
        structure = {
            "bits": {weight: min(width, most) for weight, width in bits.items()},
            "activation_bits": int(settings["activation_bits"]),
            "grid": settings["grid"],
            "learned": settings["step"] == "learned",
        }
        module = _with_quantizers(graph, structure)
        rows = {name: array[:CALIBRATION_ROWS] for name, array in task.calibration.items()}
        with torch.no_grad():
            initialise(module, lambda observed: call(observed, as_tensors(rows), tuple(task.outputs)))
        plan = Plan(
            float(settings["epochs"]), float(settings["learning_rate"]), RATE_SHARE, alpha=float(settings["alpha"])
        )
        trained = train(module, context, plan, self.name, keep_steps_near)
        keep_steps_near(trained)
        round_biases(trained)
        return trained, structure

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:
        """The graph of `model` with the same quantizers."""
        return _with_quantizers(FloatGraph(model, task, self.name), structure).eval()

    def _layers(self, graph: FloatGraph, keep_float: str) -> list[WeightLayer]:
        layers, left = graph.layers()
        kept = ends([layer.weight for layer in layers], keep_float)
        chosen = [layer for layer in layers if layer.weight not in kept]
        if not chosen:
            reasons = "; ".join(f"layer {name}: {reason}" for name, reason in left.items())
            stays = "".join(f"; layer {name.rpartition('.')[0]}: stays float" for name in kept)
            raise StageError(
                self.name,
                f"no layer can be quantized ({reasons or 'no convolution or linear layer'}{stays}); leave it out",
            )
        return chosen

    def _bits(
        self,
        model: nn.Module,
        graph: FloatGraph,
        layers: list[WeightLayer],
        settings: Mapping[str, Any],
        context: Context,
    ) -> dict[str, int]:
        if self.shares_out(settings):
            per_channel = bool(settings["grid"]["per_channel"])
            losses = rounding_losses(model, graph, context.task, per_channel, context.cache, context.progress)
            shared = allocate_bits(losses, layers, float(settings["average_bits"]))
            measured = sensitivities_of(losses, graph.layers()[0], model, context.task, per_channel)
            context.shared_out(SharedOut(measured, {layer.name: float(shared[layer.weight]) for layer in layers}))
            return shared
        bits = dict.fromkeys((layer.weight for layer in layers), int(settings["weight_bits"]))
        first_and_last = ends([layer.weight for layer in graph.layers()[0]], "first_last")
        return {weight: max(width, END_BITS) if weight in first_and_last else width for weight, width in bits.items()}


def _with_quantizers(graph: FloatGraph, structure: Mapping[str, Any]) -> nn.Module:
    grid = Grid.from_json(structure["grid"])
    return add_quantizers(graph, structure["bits"], structure["activation_bits"], grid, structure["learned"])
