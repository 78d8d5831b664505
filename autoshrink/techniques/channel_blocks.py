"""The order in which channels go: in blocks, the least important first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Block:
    """Channels of a group that go together, ascending, and their mean importance."""

    importance: float
    channels: tuple[int, ...]


def blocks_of(score: torch.Tensor, parts: int, round_to: int, whole_parts: bool = False) -> list[Block]:
    """The blocks of a group in the order in which they go; what is kept is left out.

    Each leaves a multiple of `round_to` (and of the parts, or of a part's channels), the first takes what is over. At
    least one position, or one whole part, stays.

    Args:
        score: importance of each channel [width].
        parts: equally long runs of channels, each of which loses the same positions.
        round_to: channels of a block are a multiple of this, but for the first.
        whole_parts: parts go as a whole (attention heads), and no positions within them.
    """
    # A group whose weights are all zero has no mean to be normalised by.
    by_part = torch.nan_to_num(score.double()).view(parts, -1)
    length = by_part.shape[1]
    importance = by_part.mean(1 if whole_parts else 0)
    order = importance.argsort(stable=True).tolist()
    unit = length if whole_parts else parts
    size = math.lcm(round_to, unit) // unit
    blocks = []
    start, stop = 0, len(order) % size or size
    while stop < len(order):
        chosen = order[start:stop]
        if whole_parts:
            channels = [part * length + position for part in chosen for position in range(length)]
        else:
            channels = [part * length + position for part in range(parts) for position in chosen]
        blocks.append(Block(float(importance[chosen].mean()), tuple(sorted(channels))))
        start, stop = stop, stop + size
    return blocks


def least_important(blocks: Sequence[Sequence[Block]], widths: Sequence[int], ratio: float) -> list[list[int]]:
    """The channels that go from each group, ascending, when all groups are ranked together.

    Args:
        blocks: of each group, as `blocks_of` gives them, with comparable importance.
        widths: channels of each group.
        ratio: share of all channels to remove; no group loses more than `ratio + (1 - ratio) / 2` of its own.
    """
    candidates: list[tuple[float, int, int, Block]] = []
    for index, (row, width) in enumerate(zip(blocks, widths, strict=True)):
        most, gone = (ratio + (1 - ratio) / 2) * width, 0
        for depth, block in enumerate(row):
            gone += len(block.channels)
            if gone <= most:
                candidates.append((block.importance, index, depth, block))
    wanted = ratio * sum(widths)
    removed: list[list[int]] = [[] for _ in widths]
    taken = [0] * len(widths)
    total = 0
    for _, index, depth, block in sorted(candidates, key=lambda candidate: candidate[:3]):
        size = len(block.channels)
        if depth == taken[index] and total + size / 2 <= wanted:
            removed[index] += block.channels
            taken[index] += 1
            total += size
    return [sorted(channels) for channels in removed]
