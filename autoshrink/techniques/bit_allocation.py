"""Bits for each layer: how far the outputs move when one weight alone is rounded, and a budget shared out by that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from autoshrink.cache import StageCache
from autoshrink.fake_quantize import WeightQuantizer
from autoshrink.fingerprints import module_fingerprint
from autoshrink.sensitivities import Sensitivities
from autoshrink.task import Task, fingerprint
from autoshrink.techniques.allocate import Option, allocate
from autoshrink.techniques.deviation import deviation, measured_rows, outputs_on, unit_of
from autoshrink.techniques.quantized_graph import FloatGraph, WeightLayer
from autoshrink.types import content_key

VERSION = 1
"""Raised when the same model gives other sensitivities: it is part of the cache's key."""
BITS = (8, 6, 5, 4, 3, 2)
LOSSES_FILE = "losses.json"

Losses = Mapping[str, Mapping[int, float]]
"""Weight's qualified name -> bits -> how far the outputs move."""


def allocate_bits(losses: Losses, layers: Sequence[WeightLayer], average: float) -> dict[str, int]:
    """Bits of each weight, so that their mean over all elements is at most `average` and the summed loss the least.

    Losses of single layers are taken to add up, as in HAWQ-V3 (Yao et al. 2021, section 3.4) with measured losses in
    place of its second-order estimate.

    Args:
        losses: of every layer.
        layers: in the order they run.
        average: bits per element, 2 to 8.
    """
    options = [[Option(layer.count * bits, losses[layer.weight][bits]) for bits in BITS] for layer in layers]
    chosen = allocate(options, average * sum(layer.count for layer in layers))
    return {layer.weight: BITS[index] for layer, index in zip(layers, chosen, strict=True)}


def sensitivities_of(
    losses: Losses, layers: Sequence[WeightLayer], model: nn.Module, task: Task, per_channel: bool
) -> Sensitivities:
    """What `rounding_losses` gave, with what it means.

    Args:
        losses: of every layer.
        layers: in the order they run.
        model: that was measured.
        task: on whose calibration set that was done.
        per_channel: one step a channel, or one for the tensor.
    """
    rows = len(next(iter(measured_rows(model, task).values())))
    step = "each channel" if per_channel else "all of it"
    method = (
        f"the weight of one layer alone is rounded, with one step for {step}; "
        f"the outputs on {rows} rows of the calibration set are compared with those of the model as it is"
    )
    found = {
        layer.name: tuple((float(bits), loss) for bits, loss in sorted(losses[layer.weight].items(), reverse=True))
        for layer in layers
    }
    return Sensitivities("qat", "bits", method, unit_of(task.outputs), found)


def rounding_losses(
    model: nn.Module,
    graph: FloatGraph,
    task: Task,
    per_channel: bool,
    cache: StageCache | None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Losses:
    """The sensitivity of each weight to each width, from the cache when it is there.

    Args:
        model: what `graph` was made of; names the result in the cache.
        graph: its weights are rounded one at a time, and are afterwards as they were.
        task: outputs are compared on up to 256 rows of its calibration set, see `deviation`.
        per_channel: one step a channel, or one for the tensor.
        cache: None measures without keeping.
        progress: called with measurements done and to do.

    Raises:
        OSError: the cache cannot be written.
    """
    rows = measured_rows(model, task)

    def measure() -> Losses:
        layers = graph.layers()[0]
        expected = outputs_on(graph.module, task, rows)
        losses: dict[str, dict[int, float]] = {}
        for index, layer in enumerate(layers):
            weight = graph.module.get_parameter(layer.weight)
            kept = weight.detach().clone()
            losses[layer.weight] = {}
            for number, bits in enumerate(BITS):
                quantizer = WeightQuantizer(bits, len(kept) if per_channel else None)
                quantizer.initialise(kept)
                with torch.no_grad():
                    weight.copy_(quantizer(kept))
                found = outputs_on(graph.module, task, rows)
                losses[layer.weight][bits] = deviation(expected, found, task.outputs)
                progress(len(BITS) * index + number + 1, len(BITS) * len(layers))
            with torch.no_grad():
                weight.copy_(kept)
        return losses

    if cache is None:
        return measure()

    def write(folder: Path) -> None:
        (folder / LOSSES_FILE).write_text(json.dumps(measure()))

    key = ["rounding losses", VERSION, module_fingerprint(model), fingerprint(rows), dict(task.outputs), per_channel]
    folder, _ = cache.get_or_make(content_key([*key, torch.__version__]), "sensitivity", write)
    stored = json.loads((folder / LOSSES_FILE).read_text())
    return {weight: {int(bits): float(loss) for bits, loss in row.items()} for weight, row in stored.items()}
