"""What each layer's channels are worth: how far the outputs move when one group of them alone is pruned."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoshrink.cache import StageCache
from autoshrink.fingerprints import module_fingerprint
from autoshrink.sensitivities import Sensitivities
from autoshrink.task import Arrays, Task, fingerprint
from autoshrink.techniques.allocate import Option, allocate
from autoshrink.techniques.channel_blocks import Block
from autoshrink.techniques.deviation import deviation, measured_rows, outputs_on, unit_of
from autoshrink.types import content_key

VERSION = 1
"""Raised when the same model gives other sensitivities: it is part of the cache's key."""
SHARES = tuple(eighths / 8 for eighths in range(1, 8))
"""Shares of a group's channels that are tried."""
SENSITIVITY_FILE = "sensitivity.json"


@dataclass(frozen=True)
class Sensitivity:
    """Of a group of channels.

    Attributes:
        weight: parameters that one channel holds, in the rows of the group's own layers and the columns of those after.
        losses: blocks removed -> how far the model's outputs move; 0 blocks among them.
    """

    weight: float
    losses: Mapping[int, float]


def share_out(
    sensitivities: Sequence[Sensitivity], blocks: Sequence[Sequence[Block]], widths: Sequence[int], ratio: float
) -> tuple[list[list[int]], float]:
    """The channels that go from each group, ascending, and the share of the cost that goes with them.

    A group's cost is the parameters that its remaining channels hold; a parameter between two groups counts for both.
    The allocator minimises the summed loss while the cost is at most `1 - ratio` of the whole; where the
    sensitivities do not go that far, everything goes that they cover.
    """
    rows = list(zip(sensitivities, blocks, widths, strict=True))
    counts = [sorted(sensitivity.losses) for sensitivity, _, _ in rows]
    options = [
        [Option(sensitivity.weight * (width - _channels(own, count)), sensitivity.losses[count]) for count in tried]
        for (sensitivity, own, width), tried in zip(rows, counts, strict=True)
    ]
    whole = sum(sensitivity.weight * width for sensitivity, _, width in rows)
    least = math.fsum(min(option.cost for option in row) for row in options)
    chosen = allocate(options, max((1 - ratio) * whole, least))
    kept = math.fsum(row[index].cost for row, index in zip(options, chosen, strict=True))
    removed = [
        sorted(channel for block in own[: tried[index]] for channel in block.channels)
        for own, tried, index in zip(blocks, counts, chosen, strict=True)
    ]
    return removed, 1 - kept / whole


def sensitivities_of(
    sensitivities: Sequence[Sensitivity],
    blocks: Sequence[Sequence[Block]],
    names: Sequence[str],
    widths: Sequence[int],
    model: nn.Module,
    task: Task,
) -> Sensitivities:
    """What `measured` gave, with what it means; its options are shares of a group's channels.

    Args:
        sensitivities: of each group of `model`.
        blocks: of each group, in the order in which they go.
        names: of the layer that stands for each group.
        widths: channels of each group.
        model: that was measured.
        task: on whose calibration set that was done.
    """
    rows = len(next(iter(measured_rows(model, task).values())))
    method = (
        "the least important channels of one layer alone are removed, with what belongs to them in others; the outputs "
        f"on {rows} rows of the calibration set are compared with those of the model as it is"
    )
    place = {name: index for index, (name, _) in enumerate(model.named_modules())}
    found = {
        name: tuple((_channels(own, count) / width, loss) for count, loss in sorted(sensitivity.losses.items()))
        for sensitivity, own, name, width in sorted(
            zip(sensitivities, blocks, names, widths, strict=True), key=lambda group: place[group[2]]
        )
    }
    return Sensitivities("prune", "share of channels removed", method, unit_of(task.outputs), found)


def measured(
    model: nn.Module,
    task: Task,
    blocks: Sequence[Sequence[Block]],
    widths: Sequence[int],
    prune_alone: Callable[[int, list[int]], nn.Module],
    *,
    key: Sequence[Any],
    cache: StageCache | None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Sensitivity]:
    """The sensitivity of each group of a model, from the cache when it is there.

    The outputs of the model with one group pruned are compared with those of the whole one on up to 256 rows of the
    calibration set, see `deviation`.

    Args:
        model: in eval mode; not touched.
        task: of the model.
        blocks: of each group, in the order in which they go.
        widths: channels of each group.
        prune_alone: gives a copy of the model in which a group (by its index) has lost channels.
        key: what else the order of the blocks depends on (JSON values).
        cache: None measures without keeping.
        progress: called with measurements done and to do.

    Raises:
        OSError: the cache cannot be written.
    """
    rows = measured_rows(model, task)

    def measure() -> list[Sensitivity]:
        return _measure(model, task, rows, blocks, widths, prune_alone, progress)

    if cache is None:
        return measure()

    def write(folder: Path) -> None:
        content = [[one.weight, sorted(one.losses.items())] for one in measure()]
        (folder / SENSITIVITY_FILE).write_text(json.dumps(content))

    parts = ["prune sensitivity", VERSION, module_fingerprint(model), fingerprint(rows), dict(task.outputs), *key]
    folder, _ = cache.get_or_make(content_key([*parts, torch.__version__]), "sensitivity", write)
    stored = json.loads((folder / SENSITIVITY_FILE).read_text())
    return [Sensitivity(weight, {int(removed): float(loss) for removed, loss in losses}) for weight, losses in stored]


def _measure(
    model: nn.Module,
    task: Task,
    rows: Arrays,
    blocks: Sequence[Sequence[Block]],
    widths: Sequence[int],
    prune_alone: Callable[[int, list[int]], nn.Module],
    progress: Callable[[int, int], None],
) -> list[Sensitivity]:
    expected = outputs_on(model, task, rows)
    tried = [_counts(own, width) for own, width in zip(blocks, widths, strict=True)]
    todo, done = sum(map(len, tried)), 0
    whole = _parameters(model)
    found = []
    for index, (own, counts) in enumerate(zip(blocks, tried, strict=True)):
        weight, losses = 0.0, {0: 0.0}
        for count in counts:
            channels = [channel for block in own[:count] for channel in block.channels]
            pruned = prune_alone(index, sorted(channels))
            # By the fewest channels: where a layer both begins and ends in the group, more do not go in proportion.
            weight = weight or (whole - _parameters(pruned)) / len(channels)
            loss = deviation(expected, outputs_on(pruned, task, rows), task.outputs)
            if math.isfinite(loss):
                losses[count] = loss
            done += 1
            progress(done, todo)
        found.append(Sensitivity(weight, losses))
    return found


def _counts(blocks: Sequence[Block], width: int) -> list[int]:
    """The numbers of blocks, ascending and over 0, that come closest to the shares from below."""
    ends = [_channels(blocks, count) for count in range(len(blocks) + 1)]
    return sorted({max(count for count, end in enumerate(ends) if end <= share * width) for share in SHARES} - {0})


def _channels(blocks: Sequence[Block], count: int) -> int:
    return sum(len(block.channels) for block in blocks[:count])


def _parameters(model: nn.Module) -> int:
    # Pruning unties shared weights: counted by name, they are counted alike before and after.
    return sum(parameter.numel() for _, parameter in model.named_parameters(remove_duplicate=False))
