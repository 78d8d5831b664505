"""How far a changed model's outputs are from the whole one's, on rows of the calibration set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from autoshrink.task import Arrays, Task, call
from autoshrink.tensors import as_tensors

ROWS = 256
FEWEST_ROWS = 64
WEIGHTS = 1 << 30
"""Rows times weights of a measurement: a model of over 4 million weights is measured on fewer rows."""
BATCH = 64

Kinds = Mapping[str, Literal["logits", "values"]]
"""Output -> what it holds, see `Task.outputs`."""
Tensors = Mapping[str, torch.Tensor]


def measured_rows(model: nn.Module, task: Task) -> Arrays:
    """The first rows of the calibration set: 256, down to 64 for models of over 4 million weights."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    count = min(ROWS, max(FEWEST_ROWS, WEIGHTS // max(weights, 1)))
    return {name: array[:count] for name, array in task.calibration.items()}


def outputs_on(model: nn.Module, task: Task, rows: Arrays) -> dict[str, torch.Tensor]:
    """The model's outputs for rows, by name, [N, ...]."""
    count = len(next(iter(rows.values())))
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in task.outputs}
    with torch.no_grad():
        for start in range(0, count, BATCH):
            batch = {name: array[start : start + BATCH] for name, array in rows.items()}
            for name, output in call(model, as_tensors(batch), tuple(task.outputs)).items():
                pieces[name].append(output)
    return {name: torch.cat(tensors) for name, tensors in pieces.items()}


def deviation(expected: Tensors, found: Tensors, kinds: Kinds) -> float:
    """How far outputs are from those expected, at least 0: summed over the outputs, by name, [N, ...] each.

    Args:
        expected: of the whole model.
        found: of the changed one.
        kinds: `logits` by KL(softmax(expected) || softmax(found)), averaged over all but the last dimension; `values`
            by mean squared error, divided by the mean square of those expected.
    """
    total = 0.0
    for name, kind in kinds.items():
        theirs, ours = expected[name].double(), found[name].double()
        if kind == "values":
            total += float((ours - theirs).square().mean() / theirs.square().mean().clamp_min(1e-12))
        else:
            theirs, ours = (logits.log_softmax(-1).flatten(0, -2) for logits in (theirs, ours))
            total += float(functional.kl_div(ours, theirs, reduction="batchmean", log_target=True))
    # Rounding may leave a divergence of almost nothing below 0.
    return max(total, 0.0)


def unit_of(kinds: Kinds) -> str:
    """What `deviation` counts in, in words."""
    held = set(kinds.values())
    units = {"logits": "nats of KL divergence", "values": "mean squared error over the mean square"}
    return " + ".join(unit for kind, unit in units.items() if kind in held)
