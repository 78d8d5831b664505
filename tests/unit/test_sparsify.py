from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from autoshrink.errors import StageError
from autoshrink.target import Precision, Target
from autoshrink.task import Task
from autoshrink.techniques import checkpoint
from autoshrink.techniques.base import Context
from autoshrink.techniques.sparse_masks import (
    cubic_ramp,
    global_masks,
    group_mask,
    input_norms,
    magnitude_scores,
    row_mask,
    wanda_scores,
)
from autoshrink.techniques.sparsify import Sparsify, _Masking, _Rule, sparsify
from autoshrink.techniques.training import Plan, train
from autoshrink.tensors import run_example
from tests.small_models import TinyTransformer, model_task, tiny_task

IMAGE = np.random.default_rng(0).normal(size=(5, 16, 6, 5)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).normal(size=(3, 7, 32)).astype(np.float32)
TARGET = Target("test", "onnxruntime", {"fp32": Precision()})


def context_of(task: Task, **others: Any) -> Context:
    return Context(task, task.model, **others)


def sparse(task: Task, **settings: Any) -> nn.Module:
    return sparsify(task.model(), context_of(task), **settings)


def zeros_of(model: nn.Module) -> dict[str, int]:
    """Weight -> zeros, where there are any."""
    counts = {name: int((weight == 0).sum()) for name, weight in model.named_parameters() if weight.ndim > 1}
    return {name: count for name, count in counts.items() if count}


def groups_of_four(weight: torch.Tensor) -> torch.Tensor:
    """[out, in, ...] -> [groups, 4]."""
    return weight.detach().movedim(1, -1).reshape(-1, 4)


class TestMasks:
    def test_lowest_of_all_tensors_go(self) -> None:
        scores = [torch.tensor([[3.0, 1.0], [0.5, 9.0]]), torch.tensor([0.7, 8.0, 2.0])]
        masks = global_masks(scores, 3)
        assert masks[0].tolist() == [[True, False], [False, True]]
        assert masks[1].tolist() == [False, True, True]

    @pytest.mark.parametrize("count", [0, 1, 5, 11, 12])
    def test_equal_scores_go_in_order_and_the_count_is_met(self, count: int) -> None:
        masks = global_masks([torch.ones(4), torch.ones(2, 4)], count)
        assert torch.cat([mask.flatten() for mask in masks]).tolist() == [False] * count + [True] * (12 - count)

    def test_what_is_gone_goes_first(self) -> None:
        assert global_masks([torch.tensor([-torch.inf, -5.0, -torch.inf, 1.0])], 3)[0].tolist() == [0, 0, 0, 1]

    def test_rows_lose_the_same_number_each(self) -> None:
        score = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
        mask = row_mask(score, 0.4)
        assert (~mask).flatten(1).sum(1).tolist() == [6] * 6
        lost = score.masked_fill(mask, -torch.inf).flatten(1).amax(1)
        stayed = score.masked_fill(~mask, torch.inf).flatten(1).amin(1)
        assert (lost < stayed).all()

    @pytest.mark.parametrize("shape", [(6, 16), (5, 8, 3), (3, 12, 3, 2), (2, 4, 1, 2, 3)])
    @pytest.mark.parametrize("zeros", [0, 1, 2, 3])
    def test_of_every_four_input_channels_the_largest_stay(self, shape: tuple[int, ...], zeros: int) -> None:
        score = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        mask = group_mask(score, zeros)
        assert mask.shape == score.shape
        order = groups_of_four(score).argsort(1)
        expected = torch.ones(len(order), 4).scatter(1, order[:, :zeros], 0.0)
        assert torch.equal(groups_of_four(mask).float(), expected)

    def test_ramp_is_cubic_between_its_ends(self) -> None:
        assert cubic_ramp(0, 10) == 0.0
        assert cubic_ramp(5, 10) == 0.875
        assert [cubic_ramp(step, 10) for step in (10, 11, 99)] == [1.0] * 3
        assert cubic_ramp(0, 0) == 1.0

    def test_magnitudes_do_not_depend_on_a_layers_scale(self) -> None:
        weight = torch.tensor([[3.0, -4.0], [0.0, 1.0]])
        expected = torch.tensor([[3.0, 4.0], [0.0, 1.0]]) / (26 / 4) ** 0.5
        torch.testing.assert_close(magnitude_scores(weight), expected)
        torch.testing.assert_close(magnitude_scores(1e-3 * weight), expected)
        assert not magnitude_scores(torch.zeros(2, 2)).any()

    def test_wanda_is_the_example_of_its_paper(self) -> None:
        weight = torch.tensor([[4.0, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]])
        score = wanda_scores(weight, torch.tensor([1.0, 2.0, 8.0, 3.0]).double())
        assert score.tolist() == [[4, 0, 8, 3], [3, 4, 8, 9], [3, 2, 0, 6]]
        left = weight * row_mask(score, 0.5)
        assert left.tolist() == [[4, 0, 1, 0], [0, 0, -1, -3], [-3, 0, 0, 2]]

    def test_wanda_of_groups_takes_the_norms_of_their_own_channels(self) -> None:
        score = wanda_scores(torch.ones(4, 2, 1, 1), torch.tensor([1.0, 2.0, 3.0, 4.0]))
        assert score.flatten(1).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]


class TestInputNorms:
    @pytest.mark.parametrize(
        ("layer", "samples", "axes"),
        [
            (nn.Linear(32, 3), SEQUENCE, (0, 1)),
            (nn.Conv2d(16, 4, 3), IMAGE, (0, 2, 3)),
            (nn.Conv2d(16, 4, 3, groups=2), IMAGE, (0, 2, 3)),
            (nn.Conv1d(7, 4, 3), SEQUENCE, (0, 2)),
        ],
    )
    def test_are_those_of_each_channel(self, layer: nn.Module, samples: Any, axes: tuple[int, ...]) -> None:
        found = input_norms(layer, [layer], {"x": samples}, ("y",))
        expected = np.sqrt((samples.astype(np.float64) ** 2).sum(axes))
        np.testing.assert_allclose(found[id(layer.weight)].numpy(), expected)
        assert not layer._forward_pre_hooks

    def test_add_up_over_batches_and_end_with_row_256(self) -> None:
        layer = nn.Linear(1, 1)
        found = input_norms(layer, [layer], {"x": np.ones((300, 1), np.float32)}, ("y",))
        assert found[id(layer.weight)].tolist() == [16.0]


class TestUnstructured:
    @pytest.mark.parametrize("ratio", [0.1, 0.5, 0.7, 0.98])
    @pytest.mark.parametrize("name", ["cnn", "conv_only", "grouped", "transformer", "fused_qkv", "two_outputs"])
    def test_ratio_is_met_to_one_weight(self, name: str, ratio: float) -> None:
        task = tiny_task(name)
        model = sparse(task, ratio=ratio)
        head = {"conv_only": "classify", "two_outputs": "measure"}.get(name, "head")
        layers = {n: layer for n, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        count = sum(layer.weight.numel() for n, layer in layers.items() if n != head)
        assert sum(zeros_of(model).values()) == round(ratio * count)

    def test_smallest_in_units_of_their_layer_go(self) -> None:
        def build() -> nn.Module:
            model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4))
            with torch.no_grad():
                model[1].weight.mul_(1000)
            return model

        task = model_task(build, SEQUENCE)
        before, after = task.model(), sparse(task, ratio=0.5)
        for name in "01":
            old, new = (model.get_parameter(f"{name}.weight").detach() for model in (before, after))
            assert 0.45 < float((new == 0).float().mean()) < 0.55
            assert old[new == 0].abs().max() < old[new != 0].abs().min()
            assert torch.equal(old[new != 0], new[new != 0])

    def test_biases_norms_and_embeddings_are_not_touched(self) -> None:
        task = tiny_task("transformer")
        before, after = task.model(), sparse(task, ratio=0.9)
        layers = {name for name, layer in before.named_modules() if isinstance(layer, nn.Linear) and name != "head"}
        assert set(zeros_of(after)) == {f"{name}.weight" for name in layers}
        for name, parameter in before.named_parameters():
            if name not in zeros_of(after):
                assert torch.equal(parameter, after.get_parameter(name))

    def test_ratio_of_zero_is_the_same_model(self) -> None:
        task = tiny_task("cnn")
        assert torch.equal(
            run_example(sparse(task, ratio=0.0), task)["logits"], run_example(task.model(), task)["logits"]
        )

    def test_shared_weights_are_masked_once(self) -> None:
        def build() -> nn.Module:
            model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4))
            model[1].weight = model[0].weight
            return model

        model = sparse(model_task(build, SEQUENCE), ratio=0.5)
        assert isinstance(model, nn.Sequential)
        assert model[1].weight is model[0].weight
        assert zeros_of(model) == {"0.weight": 512}

    def test_a_weight_shared_with_the_head_is_the_heads(self) -> None:
        assert sorted(zeros_of(sparse(tiny_task("tied"), ratio=0.5))) == ["back.weight", "hidden.weight"]

    def test_attentions_own_projections_are_masked(self) -> None:
        task = model_task(
            lambda: nn.Sequential(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 4)), SEQUENCE
        )
        expected = ["in_proj_weight", "out_proj.weight"]
        for settings in ({"ratio": 0.5}, {"ratio": 0.5, "importance": "wanda"}, {"pattern": "2:4"}):
            found = zeros_of(sparse(task, **settings))
            assert sorted(found) == [
                "0.linear1.weight",
                "0.linear2.weight",
                *(f"0.self_attn.{name}" for name in expected),
            ]

    def test_compresses_better_and_is_as_large_plain(self) -> None:
        task = tiny_task("cnn")
        plain, packed = [], []
        for ratio in (0.0, 0.5, 0.9):
            data = b"".join(value.numpy().tobytes() for value in sparse(task, ratio=ratio).state_dict().values())
            plain.append(len(data))
            packed.append(len(zlib.compress(data)))
        assert len(set(plain)) == 1
        assert packed[0] > 1.4 * packed[1] > 2 * packed[2]


class TestPatterns:
    @pytest.mark.parametrize(("pattern", "zeros"), [("2:4", 2), ("1:4", 3)])
    @pytest.mark.parametrize("importance", ["magnitude", "wanda"])
    @pytest.mark.parametrize("name", ["cnn", "grouped", "transformer", "two_outputs"])
    def test_hold_in_every_group_of_four(self, name: str, importance: str, pattern: str, zeros: int) -> None:
        model = sparse(tiny_task(name), pattern=pattern, importance=importance)
        masked = zeros_of(model)
        assert masked
        for weight in masked:
            assert ((groups_of_four(model.get_parameter(weight)) == 0).sum(1) == zeros).all()

    def test_what_has_no_groups_of_four_stays_dense(self) -> None:
        # One input channel for the stem and in each group of the depthwise one; the head is dense anyway.
        assert sorted(zeros_of(sparse(tiny_task("grouped"), pattern="2:4"))) == ["grouped.weight", "pointwise.weight"]

    def test_larger_of_four_stay(self) -> None:
        task = tiny_task("cnn")
        old = groups_of_four(task.model().get_parameter("conv1.weight")).abs()
        new = groups_of_four(sparse(task, pattern="2:4").get_parameter("conv1.weight")) != 0
        assert torch.equal(new, old >= old.sort(1).values[:, 2:3])


class TestWanda:
    def test_ratio_is_met_in_every_row(self) -> None:
        model = sparse(tiny_task("cnn"), ratio=0.6, importance="wanda")
        for name, row in {"stem": 9, "conv1": 216, "conv2": 216}.items():
            zeros = (model.get_parameter(f"{name}.weight") == 0).flatten(1).sum(1)
            assert set(zeros.tolist()) == {round(0.6 * row)}

    def test_weights_of_silent_inputs_go_first(self) -> None:
        samples = SEQUENCE.copy()
        samples[..., ::2] = 0
        task = model_task(lambda: nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 4)), samples)
        weight = sparse(task, ratio=0.5, importance="wanda").get_parameter("0.weight")
        assert not weight[:, ::2].any()
        assert weight[:, 1::2].all()

    def test_depends_on_the_calibration_set(self) -> None:
        task = tiny_task("cnn")
        other = replace(task, calibration={"image": task.calibration["image"] + 1})
        assert Sparsify().fingerprint(task) != Sparsify().fingerprint(other)


def masking_of(model: nn.Module, *rule: Any) -> _Masking:
    masking = _Masking(["0.weight"], _Rule(*rule), {})
    masking.begin(model)
    return masking


def two_layers() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 20), nn.Linear(20, 4))


class TestGradual:
    def test_zeros_grow_from_none_to_all_in_two_thirds(self) -> None:
        model = two_layers()
        masking = masking_of(model, "unstructured", 0.8, "magnitude", "gradual")
        gone: list[torch.Tensor] = []
        for step in range(90):
            masking(model, step, 90)
            gone.append(model[0].weight.detach() == 0)
            with torch.no_grad():
                # What an optimizer does to every weight.
                model[0].weight.add_(0.01)
        counts = [int(mask.sum()) for mask in gone]
        # New masks at every third of the sixty steps.
        assert counts == [round(256 * cubic_ramp(step - step % 3, 60)) for step in range(90)]
        assert (counts[0], counts[30], counts[60]) == (0, 224, 256)
        assert all(not (before & ~after).any() for before, after in pairwise(gone))

    def test_patterns_get_one_more_zero_at_a_time(self) -> None:
        model = two_layers()
        masking = masking_of(model, "1:4", 0.0, "magnitude", "gradual")
        seen = []
        for step in range(90):
            masking(model, step, 90)
            counts = (groups_of_four(model[0].weight) == 0).sum(1)
            assert (counts == counts[0]).all()
            seen.append(int(counts[0]))
        assert sorted(set(seen)) == [0, 1, 2, 3]
        assert seen == sorted(seen)

    @pytest.mark.parametrize("total", [1, 2, 3])
    @pytest.mark.parametrize("importance", ["magnitude", "movement"])
    def test_a_training_too_short_for_it_ends_with_all_zeros(self, total: int, importance: str) -> None:
        model = two_layers()
        masking = masking_of(model, "unstructured", 0.8, importance, "gradual")
        for step in range(total):
            masking(model, step, total)
        masking.finish(model)
        assert zeros_of(model) == {"0.weight": 256}
        assert sorted(model.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]


class TestMovement:
    def test_adds_up_what_training_does_to_each_weight(self) -> None:
        model, inputs = two_layers(), torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
        masking = masking_of(model, "unstructured", 0.25, "movement", "one_shot")
        expected = torch.zeros(20, 16)
        for step in range(3):
            masking(model, step, 9)
            model.zero_grad()
            model(inputs).square().sum().backward()
            weight, gradient = model[0].weight.detach(), model[0].weight.grad
            assert gradient is not None
            expected -= weight * gradient
            with torch.no_grad():
                weight -= 1e-3 * gradient
        masking.stop_listening()
        torch.testing.assert_close(model.get_buffer("_sparse_score_0"), expected)
        assert not zeros_of(model)
        masking(model, 3, 9)
        gone = model[0].weight == 0
        assert int(gone.sum()) == 80
        assert expected[gone].max() < expected[~gone].min()

    def test_keeps_other_weights_than_magnitude(self) -> None:
        task = tiny_task("cnn")
        masks = [
            sparse(task, ratio=0.7, epochs=1, importance=importance).get_parameter("conv1.weight") == 0
            for importance in ("magnitude", "movement")
        ]
        assert not torch.equal(*masks)


class TestTraining:
    @pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
    @pytest.mark.parametrize("importance", ["magnitude", "wanda", "movement"])
    def test_ratio_is_met_after_it(self, importance: str, schedule: str) -> None:
        task = tiny_task("cnn")
        model = sparse(task, ratio=0.7, importance=importance, schedule=schedule, epochs=1)
        # The stem and two convolutions; a stem row has 9 weights.
        expected = 24 * 6 + 48 * round(0.7 * 216) if importance == "wanda" else round(0.7 * (216 + 2 * 24 * 216))
        assert sum(zeros_of(model).values()) == expected
        assert not any(weight._post_accumulate_grad_hooks for weight in model.parameters())

    def test_zeros_stay_where_they_were_set_and_the_rest_learns(self) -> None:
        task = tiny_task("cnn")
        before, after = sparse(task, ratio=0.7), sparse(task, ratio=0.7, epochs=1)
        for name in ("stem.weight", "conv1.weight", "conv2.weight"):
            old, new = before.get_parameter(name), after.get_parameter(name)
            assert torch.equal(old == 0, new == 0)
            assert not torch.equal(old, new)

    def test_zeros_survive_a_later_fine_tuning(self) -> None:
        task = tiny_task("cnn")
        for settings in ({"ratio": 0.7}, {"pattern": "2:4"}):
            model = sparse(task, **settings)
            tuned = train(model, context_of(task), Plan(1.0), "finetune")
            assert zeros_of(tuned) == zeros_of(model)
            assert not torch.equal(tuned.get_parameter("conv1.weight"), model.get_parameter("conv1.weight"))

    @pytest.mark.parametrize("settings", [{"schedule": "gradual"}, {"importance": "movement"}])
    def test_goes_on_where_it_was_interrupted(
        self, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
        task = tiny_task("cnn")
        whole = sparse(task, ratio=0.7, epochs=2, **settings)

        def interrupt(done: int, _total: int) -> None:
            if done == 9:
                raise KeyboardInterrupt

        folder = tmp_path / "checkpoint"
        with pytest.raises(KeyboardInterrupt):
            sparsify(
                task.model(), context_of(task, progress=interrupt, checkpoint=folder), ratio=0.7, epochs=2, **settings
            )
        steps: list[int] = []
        context = context_of(task, progress=lambda done, _total: steps.append(done), checkpoint=folder)
        resumed = sparsify(task.model(), context, ratio=0.7, epochs=2, **settings)
        assert steps[0] == 9
        assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


class TestLeftDense:
    def refusal(self, build: Callable[[], nn.Module], samples: Any = SEQUENCE, **settings: Any) -> str:
        task = model_task(build, samples)
        with pytest.raises(StageError) as caught:
            sparse(task, **settings)
        assert caught.value.stage == "sparsify"
        assert caught.value.reason.startswith("no layer can be sparse (")
        return caught.value.reason

    def test_the_head(self) -> None:
        assert "layer the model: is the last layer to run" in self.refusal(lambda: nn.Linear(32, 4))

    def test_layers_without_groups_of_four(self) -> None:
        reason = self.refusal(
            lambda: nn.Sequential(nn.Conv2d(16, 8, 3, groups=8), nn.Conv2d(8, 4, 1)), IMAGE, pattern="2:4"
        )
        assert "layer 0: takes 2 input channels (of a group), no multiple of 4" in reason

    def test_weights_shared_with_the_head(self) -> None:
        def build() -> nn.Module:
            model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
            model[2].weight = model[0].weight
            return model

        assert "layer 0: shares its weight with a layer that stays dense" in self.refusal(build)

    def test_transposed_convolutions(self) -> None:
        reason = self.refusal(lambda: nn.Sequential(nn.ConvTranspose2d(16, 8, 3), nn.Conv2d(8, 4, 1)), IMAGE)
        assert "layer 0: is a transposed convolution" in reason

    def test_parametrized_weights(self) -> None:
        reason = self.refusal(lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(32, 8)), nn.Linear(8, 4)))
        assert "layer 0: has a weight that is no floating-point parameter of its own" in reason

    def test_a_model_without_such_layers(self) -> None:
        assert "it has no linear layer and no convolution" in self.refusal(nn.ReLU)

    def test_layers_in_keep(self) -> None:
        task = replace(tiny_task("cnn"), keep=("conv1", "stem"))
        assert list(zeros_of(sparse(task, ratio=0.5))) == ["conv2.weight"]
        assert Sparsify().fingerprint(task) != Sparsify().fingerprint(tiny_task("cnn"))
        with pytest.raises(StageError, match=r"Task.keep names conv9, no layer of the model"):
            sparse(replace(task, keep=("conv9",)))


class TestStage:
    def test_resolves_what_counts(self) -> None:
        resolve = Sparsify().resolve
        assert resolve({}, TARGET) == {
            "pattern": "unstructured",
            "ratio": 0.7,
            "importance": "magnitude",
            "schedule": "one_shot",
            "epochs": 1.0,
            "learning_rate": 0.0,
        }
        assert "ratio" not in resolve({"pattern": "2:4"}, TARGET)

    def test_is_off_whatever_is_known(self) -> None:
        is_off = Sparsify().is_off
        assert is_off({"ratio": 0.0})
        assert is_off({"pattern": "unstructured", "ratio": 0})
        assert not is_off({"pattern": "unstructured"})
        assert not is_off({"pattern": "2:4"})

    def test_pattern_by_its_settings(self) -> None:
        task, technique = tiny_task("cnn"), Sparsify()
        settings = technique.resolve({"pattern": "1:4", "epochs": 0}, TARGET)
        model, structure = technique.apply(task.model(), settings, context_of(task))
        assert structure is None
        assert zeros_of(model) == {"conv1.weight": 24 * 216 * 3 // 4, "conv2.weight": 24 * 216 * 3 // 4}

    def test_without_a_training_set(self) -> None:
        task = replace(tiny_task("cnn"), train=None, loss=None)
        assert zeros_of(sparse(task, ratio=0.5, importance="wanda"))
        for settings in ({}, {"schedule": "gradual"}, {"importance": "movement"}):
            with pytest.raises(StageError, match=r"has no training set and loss.*set sparsify.epochs to 0"):
                sparse(task, epochs=1, **settings)
        # What a space holds it at, and what it leaves out, for such a task.
        parameters = Sparsify.parameters
        assert parameters["epochs"].trains_above == 0
        assert (parameters["schedule"].trains, parameters["importance"].trains) == (("gradual",), ("movement",))

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"schedule": "gradual"}, "gradual"),
            ({"importance": "movement"}, "movement"),
            ({"importance": "movement", "schedule": "gradual"}, "movement and gradual"),
        ],
    )
    def test_without_epochs(self, settings: dict[str, Any], named: str) -> None:
        with pytest.raises(StageError, match=rf"by {named} zeros are set in training, and epochs is 0; set sparsify"):
            sparse(tiny_task("cnn"), **settings)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"pattern": "3:4"}, "'3:4'; it must be one of unstructured, 2:4, 1:4"),
            ({"importance": "taylor"}, "'taylor'; it must be one of magnitude, wanda, movement"),
            ({"schedule": "linear"}, "'linear'; it must be one of one_shot, gradual"),
            ({"ratio": 0.99}, "ratio is 0.99; it must be between 0 and 0.98"),
        ],
    )
    def test_wrong_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sparse(tiny_task("cnn"), **settings)

    def test_a_model_that_takes_integers(self) -> None:
        model = sparse(tiny_task("transformer"), ratio=0.5, importance="wanda")
        assert isinstance(model, TinyTransformer)
        assert (model.expand.weight == 0).sum(1).tolist() == [16] * 64
