"""The order in which channels go, and how many of each group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshrink.techniques.channel_blocks import blocks_of, least_important


def channels_to_remove(
    scores: Sequence[torch.Tensor], parts: Sequence[int], ratio: float, round_to: int
) -> list[list[int]]:
    blocks = [blocks_of(score, count, round_to) for score, count in zip(scores, parts, strict=True)]
    return least_important(blocks, [len(score) for score in scores], ratio)


class TestLeastImportant:
    def test_takes_the_least_important_of_all_groups(self) -> None:
        scores = [torch.tensor([0.1, 5.0, 6.0, 7.0]), torch.tensor([9.0, 0.2, 0.3, 8.0])]
        assert channels_to_remove(scores, [1, 1], 0.375, 1) == [[0], [1, 2]]

    def test_removes_whole_blocks(self) -> None:
        score = torch.arange(32.0)
        assert channels_to_remove([score], [1], 0.5, 8) == [list(range(16))]
        assert channels_to_remove([score], [1], 0.4, 8) == [list(range(16))]
        assert channels_to_remove([score], [1], 0.3, 8) == [list(range(8))]

    def test_what_is_over_a_multiple_goes_first(self) -> None:
        assert channels_to_remove([torch.arange(20.0)], [1], 0.2, 8) == [[0, 1, 2, 3]]
        assert channels_to_remove([torch.arange(20.0)], [1], 0.6, 8) == [list(range(12))]

    def test_a_group_narrower_than_a_block_stays(self) -> None:
        assert channels_to_remove([torch.arange(8.0)], [1], 0.9, 8) == [[]]

    def test_parts_lose_the_same_positions(self) -> None:
        # Two parts of four; the mean over parts is 3, 2, 1, 4.
        score = torch.tensor([5.0, 1.0, 1.0, 4.0, 1.0, 3.0, 1.0, 4.0])
        assert channels_to_remove([score], [2], 0.5, 1) == [[1, 2, 5, 6]]

    def test_no_group_is_emptied_for_another(self) -> None:
        # Ranked together everything would come out of the first; it keeps half of what a ratio of 0.5 leaves it.
        scores = [torch.full((32,), 0.1), torch.full((32,), 10.0)]
        taken = [len(channels) for channels in channels_to_remove(scores, [1, 1], 0.5, 1)]
        assert taken == [24, 8]

    def test_equal_importance_is_taken_in_order(self) -> None:
        assert channels_to_remove([torch.ones(4), torch.ones(4)], [1, 1], 0.25, 1) == [[0, 1], []]

    def test_weights_of_zero_are_the_first_to_go(self) -> None:
        assert channels_to_remove([torch.full((16,), torch.nan), torch.ones(16)], [1, 1], 0.25, 8) == [
            list(range(8)),
            [],
        ]

    @settings(max_examples=60, deadline=None)
    @given(
        widths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
        ratio=st.floats(0, 0.95),
        round_to=st.sampled_from([1, 4, 8, 16]),
        seed=st.integers(0, 9),
    )
    def test_keeps_multiples_and_leaves_something_everywhere(
        self, widths: list[int], ratio: float, round_to: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        scores = [torch.rand(width, generator=generator) for width in widths]
        chosen = channels_to_remove(scores, [1] * len(widths), ratio, round_to)
        for width, channels in zip(widths, chosen, strict=True):
            assert channels == sorted(set(channels))
            assert not channels or (width - len(channels)) % round_to == 0
            assert len(channels) <= (ratio + (1 - ratio) / 2) * width
            assert len(channels) < width
        assert sum(map(len, chosen)) <= ratio * sum(widths) + round_to / 2


class TestWholeParts:
    """Attention heads."""

    def test_the_least_important_go_first(self) -> None:
        score = torch.tensor([5.0, 1.0, 1.0, 1.0, 9.0, 0.0, 2.0, 2.0])
        blocks = blocks_of(score, 4, 1, whole_parts=True)
        assert [block.channels for block in blocks] == [(2, 3), (6, 7), (0, 1)]
        assert [block.importance for block in blocks] == [1.0, 2.0, 3.0]

    def test_a_multiple_of_channels_stays(self) -> None:
        blocks = blocks_of(torch.arange(20.0), 5, 8, whole_parts=True)
        assert [block.channels for block in blocks] == [(0, 1, 2, 3), tuple(range(4, 12))]

    def test_one_stays(self) -> None:
        assert blocks_of(torch.arange(8.0), 1, 1, whole_parts=True) == []
