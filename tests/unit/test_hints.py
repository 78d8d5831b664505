from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.task import Split, Task
from autoshrink.techniques.base import Context
from autoshrink.techniques.finetune import finetune
from autoshrink.techniques.hints import Hint, features_before, head_of
from autoshrink.techniques.training import Plan, train
from autoshrink.tensors import run_example
from tests.small_models import BUILDERS, ConvStack, TinyCnn, TinyTransformer, model_task, tiny_task

HEADS = {"conv_only": "classify", "two_outputs": "measure"}


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def hint_of(model: nn.Module, teacher: nn.Module, task: Task) -> Hint:
    return Hint(model, teacher, task, "finetune", 0)


class TestHead:
    @pytest.mark.parametrize("name", BUILDERS)
    def test_is_the_last_layer_with_weights_that_runs(self, name: str) -> None:
        task = tiny_task(name)
        assert head_of(task.model(), task) == HEADS.get(name, "head")

    def test_a_norm_is_no_head(self) -> None:
        task = model_task(lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), np.zeros((1, 3), np.float32))
        assert head_of(task.model(), task) == "0"

    def test_a_parametrized_layer_may_be_one(self) -> None:
        task = tiny_task("cnn")
        model = task.model()
        parametrize.register_parametrization(model.head, "weight", nn.Identity())
        assert head_of(model, task) == "head"

    def test_a_factorized_one_is_found_by_its_name(self) -> None:
        task = tiny_task("cnn")
        model = task.model()
        model.head = nn.Sequential(nn.Linear(24, 2, bias=False), nn.Linear(2, 4))  # type: ignore[assignment]
        assert isinstance(hint_of(model, task.model(), task).projection, nn.Identity)

    def test_features_are_what_the_head_is_given(self) -> None:
        task = tiny_task("cnn")
        model = task.model()
        features = features_before(model, task, "head")
        assert features is not None
        assert features.shape == (1, 24)
        assert torch.equal(model.get_submodule("head")(features), run_example(model, task)["logits"])


class TestLoss:
    def test_is_the_squared_error_over_the_teachers_mean_square(self) -> None:
        x = np.array([[1.0, -2.0, 3.0]], np.float32)
        task = model_task(lambda: nn.Sequential(nn.Identity(), nn.Linear(3, 2)), x)
        model = task.model()
        hint = hint_of(model, task.model(), task)
        given = torch.tensor([[2.0, 0.0], [0.0, 4.0]]).repeat(1, 2)[:, :3]
        for scale in (1.0, 100.0):
            model(3 * scale * given)
            assert hint(scale * given).item() == pytest.approx(4.0)
        model(given)
        assert hint(given).item() == 0

    def test_other_widths_are_projected(self) -> None:
        task = tiny_task("cnn")
        student = TinyCnn(16).eval()
        hint = hint_of(student, task.model(), task)
        assert isinstance(hint.projection, nn.Linear)
        assert (hint.projection.in_features, hint.projection.out_features) == (16, 24)
        features = features_before(student, task, "head")
        run_example(student, task)
        assert features is not None
        assert hint(hint.projection(features)).item() == pytest.approx(0, abs=1e-12)

    def test_tokens_are_compared_one_by_one(self) -> None:
        task = tiny_task("tied")
        student = BUILDERS["tied"]()
        hint = hint_of(student, task.model(), task)
        theirs = features_before(task.model(), task, "head")
        ours = features_before(student, task, "head")
        assert theirs is not None
        assert ours is not None
        assert theirs.shape == (1, 6, 32)
        run_example(student, task)
        expected = (ours - theirs).square().mean() / theirs.square().mean()
        assert hint(theirs).item() == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("width", [32, 16])
    def test_a_convolutions_features_are_averaged_where_their_sizes_differ(self, width: int, stride: int) -> None:
        task = tiny_task("conv_only")
        student = seeded(lambda: ConvStack(width))
        student.get_submodule("conv2").stride = (stride, stride)  # type: ignore[assignment]
        hint = hint_of(student, task.model(), task)
        theirs = features_before(task.model(), task, "classify")
        ours = features_before(student, task, "classify")
        assert theirs is not None
        assert ours is not None
        assert ours.shape == (1, width, 4 // stride, 4 // stride)
        if stride == 2:
            ours, theirs = ours.mean((2, 3), keepdim=True), theirs.mean((2, 3), keepdim=True)
        if width == 16:
            assert isinstance(hint.projection, nn.Linear)
            ours = torch.einsum("nchw,dc->ndhw", ours, hint.projection.weight)
            ours = ours + hint.projection.bias[:, None, None]
        run_example(student, task)
        expected = (ours - theirs).square().mean() / theirs.square().mean()
        given = features_before(task.model(), task, "classify")
        assert given is not None
        assert hint(given).item() == pytest.approx(expected.item(), rel=1e-4)

    def test_features_of_nothing_but_zeros_are_no_division_by_zero(self) -> None:
        task = tiny_task("cnn")
        model = task.model()
        hint = hint_of(model, task.model(), task)
        run_example(model, task)
        assert torch.isfinite(hint(torch.zeros(1, 24)))


class TestTraining:
    def test_brings_the_features_near(self) -> None:
        task = tiny_task("cnn")
        student = seeded(lambda: TinyCnn(24))

        def distance(model: nn.Module) -> float:
            ours, theirs = (
                features_before(net, replace(task, example_inputs=task.val.inputs), "head")
                for net in (model, task.model())
            )
            assert ours is not None
            assert theirs is not None
            return float((ours - theirs).square().mean() / theirs.square().mean())

        with_hints, without = (finetune(student, task, task.model, epochs=4, alpha=0, hint=hint) for hint in (5.0, 0.0))
        assert distance(with_hints) < 0.7 * distance(without)

    def test_the_projection_is_trained_and_thrown_away(self) -> None:
        task = tiny_task("cnn")
        student = seeded(lambda: TinyCnn(16))
        trained = finetune(student, task, task.model, epochs=0.5, hint=1.0)
        assert list(trained.state_dict()) == list(student.state_dict())
        assert not any(layer._forward_pre_hooks for layer in trained.modules())

    def test_weight_of_zero_changes_nothing(self) -> None:
        task = tiny_task("cnn")
        plain = train(task.model(), Context(task, task.model), Plan(0.5), "finetune")
        none = train(task.model(), Context(task, task.model), Plan(0.5, hint=0.0), "finetune")
        some = train(task.model(), Context(task, task.model), Plan(0.5, hint=1.0, learning_rate=0.1), "finetune")
        assert all(torch.equal(value, none.state_dict()[name]) for name, value in plain.state_dict().items())
        assert any(not torch.equal(value, some.state_dict()[name]) for name, value in plain.state_dict().items())

    @pytest.mark.parametrize("name", BUILDERS)
    @pytest.mark.parametrize("alpha", [0.0, 0.7])
    def test_every_model_learns_from_its_teachers_features(self, name: str, alpha: float) -> None:
        task = tiny_task(name)
        assert task.student is not None
        student = task.student(0.5, 1)
        trained = finetune(student, task, task.model, epochs=0.25, alpha=alpha, hint=1.0)
        assert any(not torch.equal(v, student.state_dict()[key]) for key, v in trained.state_dict().items())


class TestTeachersFeatures:
    def test_are_computed_once_with_the_outputs(self, tmp_path: Path) -> None:
        task, cache, asked = tiny_task("cnn"), StageCache(tmp_path), list[int]()

        def teacher() -> nn.Module:
            model = task.model()
            model.register_forward_pre_hook(lambda _model, args: asked.append(len(args[0])))
            return model

        plain = finetune(task.model(), task, task.model, epochs=0.5, hint=1.0)
        for _ in range(2):
            trained = finetune(task.model(), task, teacher, epochs=0.5, hint=1.0, cache=cache)
            assert all(torch.equal(value, plain.state_dict()[name]) for name, value in trained.state_dict().items())
        assert sum(count for count in asked if count > 1) == 256
        (entry,) = cache.entries()
        assert [np.load(entry.folder / f"{number}.npy").shape for number in (0, 1)] == [(256, 4), (256, 24)]

    def test_do_not_stand_in_for_outputs_alone(self, tmp_path: Path) -> None:
        task, cache = tiny_task("cnn"), StageCache(tmp_path)
        for hint in (1.0, 0.0):
            finetune(task.model(), task, task.model, epochs=0.1, hint=hint, cache=cache)
        assert len(cache.entries()) == 2

    def test_are_those_of_augmented_samples(self, tmp_path: Path) -> None:
        def blank(batch: Split, random: np.random.Generator) -> Split:
            return Split({"image": np.zeros_like(batch.inputs["image"])}, batch.targets)

        task, cache, seen = tiny_task("cnn"), StageCache(tmp_path), list[torch.Tensor]()
        assert task.train is not None
        augmented = replace(task, train=replace(task.train, augment=blank))

        def teacher() -> nn.Module:
            model = task.model()
            model.register_forward_pre_hook(lambda _model, args: seen.append(args[0]))
            return model

        finetune(task.model(), augmented, teacher, epochs=0.5, hint=1.0, cache=cache)
        batches = [images for images in seen if len(images) > 1]
        assert [len(images) for images in batches] == [32] * 4
        assert not any(images.any() for images in batches)
        assert cache.entries() == []


class TestRefusals:
    def refused(self, model: nn.Module, teacher: nn.Module, task: Task) -> str:
        with pytest.raises(StageError) as caught:
            hint_of(model, teacher, task)
        assert caught.value.stage == "finetune"
        assert "set finetune.hint to 0" in caught.value.reason
        return caught.value.reason

    def test_a_model_that_is_one_layer(self) -> None:
        task = model_task(lambda: nn.Linear(3, 2), np.zeros((1, 3), np.float32))
        assert "the teacher has no head" in self.refused(task.model(), task.model(), task)

    def test_a_head_that_is_given_no_floats(self) -> None:
        task = replace(
            model_task(lambda: nn.Sequential(nn.Embedding(5, 2), nn.Flatten()), np.zeros((1, 3), np.float32)),
            example_inputs={"x": np.zeros((1, 3), np.int64)},
        )
        assert "0, the last layer of the teacher, is given torch.int64 [1, 3]" in self.refused(
            task.model(), task.model(), task
        )

    def test_a_head_that_is_given_several_rows_of_a_sample(self) -> None:
        task = model_task(
            lambda: nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 2), nn.Unflatten(0, (-1, 5))),
            np.zeros((1, 5, 3), np.float32),
        )
        assert "is given 5 rows for one sample" in self.refused(task.model(), task.model(), task)

    def test_another_number_of_tokens(self) -> None:
        class Fewer(TinyTransformer):
            def forward(self, tokens: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.head(self.embed(tokens[:, ::2])).mean(1)
                return logits

        class All(TinyTransformer):
            def forward(self, tokens: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.head(self.embed(tokens)).mean(1)
                return logits

        reason = self.refused(Fewer(), All(), tiny_task("transformer"))
        assert "the features before head have shape [1, 3, 32], the teacher's before head [1, 6, 32]" in reason

    def test_a_head_that_does_not_run_in_training(self) -> None:
        class Skips(TinyCnn):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return self.stem(image).mean((2, 3))[:, :4] if self.training else super().forward(image)

        task = tiny_task("cnn")
        with pytest.raises(StageError, match=r"head did not run in training; set finetune.hint to 0"):
            finetune(Skips(), task, task.model, epochs=0.5, hint=1.0)

    def test_a_teacher_whose_head_runs_on_the_example_alone(self) -> None:
        class Skips(TinyCnn):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return self.stem(image).mean((2, 3))[:, :4] if len(image) > 1 else super().forward(image)

        task = tiny_task("cnn")
        with pytest.raises(StageError, match="head of the trained model ran on the example and does not run on train"):
            finetune(task.model(), task, lambda: Skips().eval(), epochs=0.5, hint=1.0)
