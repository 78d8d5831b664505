from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoshrink.errors import StageError
from autoshrink.task import Task
from autoshrink.techniques.prune import Prune, channels_to_remove, prune, replay
from autoshrink.tensors import run_example
from autoshrink.types import Precision, Target
from tests.small_models import ConvStack, model_task, tiny_task

IMAGE = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).normal(size=(1, 7, 6)).astype(np.float32)


def halve(task: Task, **others: Any) -> tuple[nn.Module, dict[str, Any]]:
    return prune(task.model(), task, ratio=0.5, round_to=8, **others)


def removed(structure: dict[str, Any]) -> dict[str, list[int]]:
    return {layer: channels for layer, _, channels in structure["history"]}


class TestChannelsToRemove:
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


class TestPrune:
    def test_half_of_a_plain_stack_is_its_weaker_half(self) -> None:
        task = tiny_task("conv_only")
        model = task.model()
        weak = {"conv1": list(range(0, 32, 2)), "conv2": list(range(16))}
        with torch.no_grad():
            for layer, channels in weak.items():
                model.get_submodule(layer).weight[channels] *= 0.01  # type: ignore[index, operator]
            model.get_submodule("conv2").weight[:, weak["conv1"]] *= 0.01  # type: ignore[index]
            model.get_submodule("classify").weight[:, weak["conv2"]] *= 0.01  # type: ignore[index]
        pruned, structure = prune(model, task, ratio=0.5, round_to=8)
        assert removed(structure) == weak
        assert isinstance(pruned, ConvStack)
        assert (pruned.conv1.out_channels, pruned.conv2.in_channels, pruned.conv2.out_channels) == (16, 16, 16)
        assert torch.equal(pruned.conv1.weight, model.get_submodule("conv1").weight[1::2])  # type: ignore[index]

    def test_ratio_of_zero_removes_nothing(self) -> None:
        task = tiny_task("cnn")
        pruned, structure = prune(task.model(), task, ratio=0.0)
        assert structure == {"history": [], "tied": []}
        assert torch.equal(run_example(pruned, task)["logits"], run_example(task.model(), task)["logits"])

    @pytest.mark.parametrize("ratio", [-0.1, 0.96, float("nan")])
    def test_ratio_out_of_range(self, ratio: float) -> None:
        task = tiny_task("cnn")
        with pytest.raises(ValueError, match=r"ratio is .*between 0 and 0.95"):
            prune(task.model(), task, ratio=ratio)

    def test_unknown_importance(self) -> None:
        task = tiny_task("cnn")
        with pytest.raises(ValueError, match="'hessian'; it must be one of magnitude, taylor"):
            prune(task.model(), task, ratio=0.5, importance="hessian")

    def test_taylor_removes_what_the_loss_does_not_feel(self) -> None:
        task = tiny_task("conv_only")
        model = task.model()
        with torch.no_grad():
            # Strong weights in, nothing out.
            model.get_submodule("conv1").weight[:8] *= 10  # type: ignore[index, operator]
            model.get_submodule("conv2").weight[:, :8] = 0  # type: ignore[index]
        by_taylor = removed(prune(model, task, ratio=0.25, round_to=8, importance="taylor")[1])
        by_magnitude = removed(prune(model, task, ratio=0.25, round_to=8)[1])
        assert by_taylor["conv1"] == list(range(8))
        assert not set(by_magnitude.get("conv1", [])) & set(range(8))

    def test_taylor_without_training_set(self) -> None:
        task = replace(tiny_task("cnn"), train=None, loss=None)
        with pytest.raises(StageError, match=r"taylor needs a training set and a loss.*use magnitude"):
            halve(task, importance="taylor")

    def test_output_layers_keep_their_width(self) -> None:
        pruned, _ = halve(tiny_task("two_outputs"))
        assert pruned.get_submodule("classify").out_features == 4
        assert pruned.get_submodule("measure").out_features == 1

    @pytest.mark.parametrize("keep", ["conv1", "", "stem"])
    def test_named_layers_keep_their_width(self, keep: str) -> None:
        task = replace(tiny_task("cnn"), keep=(keep,) if keep else ())
        pruned, _ = halve(task)
        assert (pruned.get_submodule("conv1").out_channels == 24) is (keep == "conv1")
        # The residual connection couples the two.
        assert (pruned.get_submodule("conv2").out_channels == 24) is (keep == "stem")

    def test_a_block_can_be_named_as_a_whole(self) -> None:
        pruned, structure = halve(replace(tiny_task("transformer"), keep=("attention",)))
        assert list(removed(structure)) == ["expand"]
        assert pruned.get_submodule("embed").embedding_dim == 32

    def test_unknown_names_are_reported_with_the_known_ones(self) -> None:
        with pytest.raises(StageError, match=r"Task.keep names haed, no layer of the model; it has stem, .*head"):
            halve(replace(tiny_task("cnn"), keep=("haed", "head")))

    def test_nothing_to_remove_says_why_for_each_layer(self) -> None:
        task = tiny_task("cnn")
        with pytest.raises(StageError) as caught:
            prune(task.model(), task, ratio=0.5, round_to=32)
        for part in ("conv1: has 24 channels, removed in multiples of 32", "head: feeds an output", "leave prune out"):
            assert part in caught.value.reason

    def test_model_without_layers_of_weights(self) -> None:
        with pytest.raises(StageError, match="no convolution and no linear layer"):
            halve(model_task(nn.ReLU, IMAGE))

    def test_frozen_parameters_are_pruned_and_stay_frozen(self) -> None:
        def frozen() -> nn.Module:
            return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 5)).requires_grad_(False)

        pruned, structure = halve(model_task(frozen, SEQUENCE))
        assert len(removed(structure)["0"]) == 16
        assert not any(parameter.requires_grad for parameter in pruned.parameters())

    def test_replay_does_not_depend_on_weights(self) -> None:
        task = tiny_task("tied")
        pruned, structure = halve(task)
        blank = task.model()
        with torch.no_grad():
            for parameter in blank.parameters():
                parameter.fill_(1.0)
        again = replay(blank, structure, task)
        shapes = [{name: list(p.shape) for name, p in m.named_parameters()} for m in (pruned, again)]
        assert shapes[0] == shapes[1]
        assert structure["tied"] == [["embed.weight", "head.weight"]]


class HardCoded(nn.Module):
    """A size is written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        out: torch.Tensor = self.head(x.view(-1, 16 * 64))
        return out


def test_a_model_that_does_not_run_any_more_is_refused_with_the_way_out() -> None:
    task = model_task(HardCoded, IMAGE)
    with pytest.raises(StageError) as caught:
        halve(task)
    assert caught.value.stage == "prune"
    assert "layer second: " in caught.value.reason
    assert "shape '[-1, 1024]' is invalid" in caught.value.reason
    assert 'put "second" into Task.keep' in caught.value.reason
    assert "first" not in caught.value.reason
    model, structure = halve(replace(task, keep=("second",)))
    assert list(removed(structure)) == ["first"]
    assert run_example(model, task)["y"].shape == (1, 5)


class Detached(nn.Module):
    """Its second output is cut off from the trace, so nothing shows beforehand that it would become narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.first(x))
        return self.head(x), x.detach()


def test_outputs_of_another_shape_are_refused() -> None:
    task = replace(model_task(Detached, SEQUENCE), outputs={"y": "values", "features": "values"})
    with pytest.raises(StageError, match=r"layer first: .*'features': \[1, 7, 16\].* put \"first\" into Task.keep"):
        halve(task)


class NotTraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("only for inference")
        out: torch.Tensor = self.head(x.flatten(1))
        return out


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(StageError, match="cannot be traced: RuntimeError: only for inference; leave prune out"):
        halve(model_task(NotTraceable, IMAGE))


def test_target_gives_the_block() -> None:
    target = Target("t", "onnxruntime", {"fp32": Precision()}, channel_multiple=16)
    assert Prune().resolve({"ratio": 0.25}, target) == {"ratio": 0.25, "importance": "magnitude", "round_to": 16}


def test_fingerprint_sees_the_layers_to_keep() -> None:
    task = tiny_task("cnn")
    assert Prune().fingerprint(task) != Prune().fingerprint(replace(task, keep=("stem",)))
