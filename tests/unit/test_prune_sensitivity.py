"""How far outputs move without some channels, and what goes from each layer for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.task import Task
from autoshrink.techniques.channel_blocks import Block, blocks_of
from autoshrink.techniques.channel_pruning import Pruning
from autoshrink.techniques.prune import prune
from autoshrink.techniques.prune_sensitivity import SENSITIVITY_FILE, Sensitivity, measured, share_out
from tests.small_models import model_task, tiny_task

SEQUENCE = np.random.default_rng(0).normal(size=(1, 7, 6)).astype(np.float32)


class TestShareOut:
    BLOCKS = ([Block(0.0, (0, 1)), Block(1.0, (2, 3))], [Block(0.0, (4, 5)), Block(1.0, (0, 1))])
    WIDTHS = (6, 6)

    def share_out(self, ratio: float, *losses: dict[int, float], weights: tuple[float, float] = (1, 1)) -> Any:
        sensitivities = [Sensitivity(weight, loss) for weight, loss in zip(weights, losses, strict=True)]
        return share_out(sensitivities, self.BLOCKS, self.WIDTHS, ratio)

    def test_the_least_sensitive_loses_most(self) -> None:
        steep, flat = {0: 0.0, 1: 5.0, 2: 9.0}, {0: 0.0, 1: 0.1, 2: 0.2}
        assert self.share_out(1 / 3, steep, flat) == ([[], [0, 1, 4, 5]], pytest.approx(1 / 3))
        assert self.share_out(1 / 3, flat, steep)[0] == [[0, 1, 2, 3], []]

    def test_the_ratio_is_of_the_parameters(self) -> None:
        """Two channels of the heavy layer are half of all that goes; of the light one all four are not enough."""
        even = {0: 0.0, 1: 1.0, 2: 1.5}
        assert self.share_out(0.25, even, even, weights=(9, 1))[0] == [[0, 1], []]
        assert self.share_out(0.1, even, even, weights=(1, 9))[0] == [[], [4, 5]]

    def test_the_ratio_is_reached_or_passed(self) -> None:
        even = {0: 0.0, 1: 1.0, 2: 2.5}
        removed, share = self.share_out(0.2, even, even)
        assert sum(map(len, removed)) == 4
        assert share == pytest.approx(1 / 3)

    def test_no_more_goes_than_was_measured(self) -> None:
        removed, share = self.share_out(0.9, {0: 0.0, 1: 1.0}, {0: 0.0, 2: 3.0})
        assert removed == [[0, 1], [0, 1, 4, 5]]
        assert share == 0.5

    def test_nothing_goes_at_a_ratio_of_0(self) -> None:
        assert self.share_out(0.0, {0: 0.0, 1: 0.1}, {0: 0.0}) == ([[], []], 0.0)


class TwoBranches(nn.Module):
    """Two equal branches; `weak` says how much the second adds."""

    def __init__(self, weak: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 32), nn.Linear(6, 32)
        self.join_first, self.join_second = nn.Linear(32, 5), nn.Linear(32, 5)
        self.weak = weak

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.join_first(torch.relu(self.first(x)))
        return out + self.weak * self.join_second(torch.relu(self.second(x)))


def test_what_the_outputs_do_not_need_goes_first() -> None:
    """The weights of both branches are alike: only the outputs tell which one can be spared."""
    task = model_task(lambda: TwoBranches(0.01), SEQUENCE)
    _, structure = prune(task.model(), task, ratio=0.4, scope="per_layer", round_to=4)
    assert [(root, len(channels)) for root, _, channels in structure["history"]] == [("second", 28)]
    _, by_rank = prune(task.model(), task, ratio=0.4, round_to=4)
    assert len(by_rank["history"]) == 2


class TestMeasured:
    """On a hand-built model whose first channels are worth nothing."""

    def build(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5))
        with torch.no_grad():
            model[2].weight[:, :8] = 0  # type: ignore[index]
        return model

    def sensitivities(
        self, task: Task, cache: StageCache | None = None, key: tuple[str, ...] = ()
    ) -> tuple[list[Sensitivity], int]:
        pruning = Pruning(
            task.model(), task, importance="magnitude", scope="per_layer", heads="narrow", round_to=1, seed=0
        )
        blocks = [blocks_of(torch.arange(16.0), 1, 4)]
        asked: list[list[int]] = []

        def alone(index: int, channels: list[int]) -> nn.Module:
            asked.append(channels)
            return pruning._alone(pruning._groups[index], channels)

        found = measured(task.model(), task, blocks, [16], alone, key=key, cache=cache)
        return found, len(asked)

    def test_channels_that_count_for_nothing_cost_nothing(self) -> None:
        (found,), measurements = self.sensitivities(model_task(self.build, SEQUENCE))
        # Blocks of 4 of 16 channels, at most 7/8 of them.
        assert sorted(found.losses) == [0, 1, 2, 3]
        assert measurements == 3
        assert found.losses[0] == 0
        assert found.losses[2] == pytest.approx(0, abs=1e-12)
        assert found.losses[3] > 1e-4

    def test_a_channel_weighs_its_rows_and_columns(self) -> None:
        (found,), _ = self.sensitivities(model_task(self.build, SEQUENCE))
        assert found.weight == 6 + 1 + 5

    def test_are_kept(self, tmp_path: Path) -> None:
        task, cache = model_task(self.build, SEQUENCE), StageCache(tmp_path)
        first, _ = self.sensitivities(task, cache)
        assert self.sensitivities(task, cache) == (first, 0)
        assert [entry.kind for entry in cache.entries()] == ["sensitivity"]
        assert (cache.entries()[0].folder / SENSITIVITY_FILE).exists()

    def test_are_made_again_for_what_changes_them(self, tmp_path: Path) -> None:
        cache = StageCache(tmp_path)
        self.sensitivities(model_task(self.build, SEQUENCE), cache)
        assert self.sensitivities(model_task(self.build, SEQUENCE), cache, ("taylor",))[1] == 3
        assert self.sensitivities(model_task(self.build, 2 * SEQUENCE), cache)[1] == 3

    def test_outputs_that_are_not_finite_are_no_option(self) -> None:
        class Inverse(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(6, 16)
                self.head = nn.Linear(16, 5)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.first(x)
                out: torch.Tensor = self.head(x / (0 if x.shape[-1] < 12 else 1))
                return out

        (found,), _ = self.sensitivities(model_task(Inverse, SEQUENCE))
        assert sorted(found.losses) == [0, 1]


def test_another_ratio_is_a_knapsack_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, cache = tiny_task("transformer"), StageCache(tmp_path)
    fresh, _ = prune(task.model(), task, ratio=0.7, scope="per_layer", round_to=8)
    prune(task.model(), task, ratio=0.5, scope="per_layer", round_to=8, cache=cache)
    monkeypatch.setattr(Pruning, "_alone", lambda *_: pytest.fail("measured again"))
    second, _ = prune(task.model(), task, ratio=0.7, scope="per_layer", round_to=8, cache=cache)
    for name, value in fresh.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_a_larger_ratio_leaves_less(ratio: float) -> None:
    task = tiny_task("cnn")
    counts = [
        sum(parameter.numel() for parameter in prune(task.model(), task, ratio=r, scope="per_layer")[0].parameters())
        for r in (ratio, ratio + 0.2)
    ]
    assert counts[1] < counts[0]


def test_layers_that_the_model_cannot_do_without_are_named() -> None:
    class HardCoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 32), nn.Linear(32, 16)
            self.head = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.second(torch.relu(self.first(x))).view(-1, 7, 16))
            return out

    task = model_task(HardCoded, SEQUENCE)
    with pytest.raises(StageError, match=r'layer second: the model does not run.*put "second" into Task.keep'):
        prune(task.model(), task, ratio=0.5, scope="per_layer", round_to=8)


def test_progress_is_told(tmp_path: Path) -> None:
    task = tiny_task("conv_only")
    said: list[tuple[int, int]] = []
    pruning = Pruning(task.model(), task, importance="magnitude", scope="per_layer", heads="narrow", round_to=8, seed=0)
    pruning.by(0.5, StageCache(tmp_path), lambda done, total: said.append((done, total)))
    # Two layers of 32 channels that lose 8, 16 or 24.
    assert said == [(done, 6) for done in range(1, 7)]
