from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.isolate import device
from autoshrink.target import Precision, Target
from autoshrink.task import Split, Task, call
from autoshrink.techniques import training_device
from autoshrink.techniques.finetune import FineTune, finetune
from autoshrink.techniques.prune import prune
from autoshrink.techniques.teacher import distillation_loss
from autoshrink.techniques.training import one_cycle
from autoshrink.tensors import as_tensors
from tests.small_models import tiny_task

TARGET = Target("t", "onnxruntime", {"fp32": Precision()})


@pytest.fixture
def task() -> Task:
    return tiny_task("cnn")


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path)


def no_teacher() -> nn.Module:
    raise AssertionError("the teacher was asked for")


def accuracy(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        outputs = call(model, as_tensors(task.val.inputs), tuple(task.outputs))
    scores = task.metric({name: output.numpy() for name, output in outputs.items()}, task.val.targets)
    return float(np.mean(scores))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


class TestDistillationLoss:
    def test_equal_logits_cost_nothing(self) -> None:
        logits = {"logits": torch.randn(5, 7, generator=torch.Generator().manual_seed(0))}
        assert distillation_loss(logits, logits, {"logits": "logits"}, 4.0).item() == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_two_classes_in_closed_form(self, temperature: float) -> None:
        student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        p = 1 / (1 + math.exp(-2 / temperature))
        divergence = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
        found = distillation_loss({"y": student}, {"y": teacher}, {"y": "logits"}, temperature)
        assert found.item() == pytest.approx(temperature**2 * divergence, rel=1e-5)

    def test_square_of_the_temperature_keeps_the_gradient_its_size(self) -> None:
        # Hinton et al. 2015, equation 4: at high temperature the gradient is (z - v) / N, whatever T is.
        student = torch.tensor([[0.3, -0.2, -0.1]], dtype=torch.float64)
        teacher = torch.tensor([[-0.1, 0.2, -0.1]], dtype=torch.float64)
        for temperature in (50.0, 200.0):
            logits = student.clone().float().requires_grad_(True)
            loss = distillation_loss({"y": logits}, {"y": teacher.float()}, {"y": "logits"}, temperature)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.testing.assert_close(logits.grad, ((student - teacher) / 3).float(), rtol=0.02, atol=1e-4)

    def test_values_are_compared_by_squared_error(self) -> None:
        student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [5.0]])
        assert distillation_loss({"y": student}, {"y": teacher}, {"y": "values"}, 4.0).item() == pytest.approx(4.5)

    def test_outputs_are_summed(self) -> None:
        ours = {"a": torch.tensor([[0.0, 0.0]]), "b": torch.tensor([[1.0]])}
        theirs = {"a": torch.tensor([[2.0, 0.0]]), "b": torch.tensor([[3.0]])}
        alone = distillation_loss(ours, theirs, {"a": "logits"}, 2.0)
        both = distillation_loss(ours, theirs, {"a": "logits", "b": "values"}, 2.0)
        assert both.item() == pytest.approx(alone.item() + 4.0)

    def test_every_position_counts_alike(self) -> None:
        student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        one = distillation_loss({"y": student}, {"y": teacher}, {"y": "logits"}, 4.0)
        many = distillation_loss({"y": student.expand(3, 5, 2)}, {"y": teacher.expand(3, 5, 2)}, {"y": "logits"}, 4.0)
        assert many.item() == pytest.approx(one.item())


class TestOneCycle:
    def test_rises_to_one_and_falls_to_nothing(self) -> None:
        shares = [one_cycle(step, 100) for step in range(100)]
        assert shares[0] == pytest.approx(0.04)
        assert shares[30] == 1.0
        assert shares[:31] == sorted(shares[:31])
        assert shares[30:] == sorted(shares[30:], reverse=True)
        assert 0 < shares[-1] < 0.001

    @pytest.mark.parametrize("total", [1, 2, 3])
    def test_few_steps(self, total: int) -> None:
        assert all(0 < one_cycle(step, total) <= 1 for step in range(total))


class TestLoss:
    def test_alpha_of_zero_is_the_task_alone(self, task: Task) -> None:
        hot = finetune(task.model(), task, no_teacher, epochs=0.5, alpha=0, temperature=9)
        assert same_weights(hot, finetune(task.model(), task, no_teacher, epochs=0.5, alpha=0, temperature=1))

    def test_alpha_of_one_is_the_teacher_alone(self, task: Task) -> None:
        def other(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return outputs["logits"].square().mean()

        trained = finetune(task.model(), task, task.model, epochs=0.5, alpha=1)
        assert same_weights(trained, finetune(task.model(), replace(task, loss=other), task.model, epochs=0.5, alpha=1))

    def test_its_own_teacher_teaches_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # In bf16 it would learn its own rounding.
        monkeypatch.setattr(training_device, "_bf16_processor", lambda: False)
        task = tiny_task("conv_only")
        bias = task.model().get_parameter("conv2.bias")
        taught = finetune(task.model(), task, task.model, epochs=1, alpha=1).get_parameter("conv2.bias")
        untaught = finetune(task.model(), task, no_teacher, epochs=1, alpha=0).get_parameter("conv2.bias")
        assert (taught - bias).abs().max().item() < 1e-4
        assert (untaught - bias).abs().max().item() > 1e-3


class TestTraining:
    @pytest.mark.parametrize("name", ["cnn", "conv_only", "tied"])
    def test_mends_a_pruned_model(self, name: str) -> None:
        task = tiny_task(name)
        pruned, _ = prune(task.model(), task, ratio=0.5, round_to=8)
        assert accuracy(finetune(pruned, task, task.model, epochs=2), task) > accuracy(pruned, task) + 0.05

    def test_seed_fixes_order_and_dropout(self, task: Task) -> None:
        def with_dropout() -> nn.Module:
            model = task.model()
            model.head = nn.Sequential(nn.Dropout(0.5), model.head)  # type: ignore[arg-type]
            return model

        first, second, other = (
            finetune(with_dropout(), task, task.model, epochs=1, seed=seed).eval() for seed in (3, 3, 4)
        )
        assert same_weights(first, second)
        assert not same_weights(first, other)

    def test_every_epoch_has_its_own_order(self, task: Task) -> None:
        seen: list[list[int]] = []

        def spying(batch: Split, random: np.random.Generator) -> Split:
            seen.append(batch.targets["label"].tolist())
            return batch

        assert task.train is not None
        spied = replace(task, train=replace(task.train, augment=spying))
        finetune(task.model(), spied, no_teacher, epochs=2, alpha=0)
        assert len(seen) == 16
        assert seen[:8] != seen[8:]

    @pytest.mark.parametrize(("epochs", "steps"), [(0.5, 4), (1, 8), (1.5, 12), (0.01, 1)])
    def test_epochs_may_be_a_fraction(self, task: Task, epochs: float, steps: int) -> None:
        told: list[tuple[int, int]] = []
        finetune(task.model(), task, no_teacher, epochs=epochs, alpha=0, progress=lambda *step: told.append(step))
        assert told == [(step, steps) for step in range(1, steps + 1)]

    def test_result_is_ready_to_deploy(self, task: Task) -> None:
        trained = finetune(task.model(), task, task.model, epochs=0.5)
        assert not any(layer.training for layer in trained.modules())
        for tensor in (*trained.parameters(), *trained.buffers()):
            assert tensor.is_contiguous()
            assert tensor.device.type == "cpu"
            assert tensor.dtype in (torch.float32, torch.int64)

    def test_running_statistics_follow(self, task: Task) -> None:
        trained = finetune(task.model(), task, task.model, epochs=0.5)
        assert not torch.equal(trained.get_buffer("norm.running_mean"), task.model().get_buffer("norm.running_mean"))

    def test_frozen_parameters_are_trained_and_stay_frozen(self, task: Task) -> None:
        frozen = task.model().requires_grad_(False)
        trained = finetune(frozen, task, task.model, epochs=0.5)
        assert same_weights(trained, finetune(task.model(), task, task.model, epochs=0.5))
        assert not any(parameter.requires_grad for parameter in trained.parameters())

    def test_several_inputs_and_outputs(self) -> None:
        task = tiny_task("two_outputs")
        assert not same_weights(finetune(task.model(), task, task.model, epochs=0.5), task.model())

    def test_holds_the_device(self, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
        held: list[str] = []
        active = False

        @contextmanager
        def fake_lock(name: str) -> Iterator[None]:
            nonlocal active
            held.append(name)
            active = True
            yield
            active = False

        monkeypatch.setattr(device, "device_lock", fake_lock)
        during: list[bool] = []
        finetune(task.model(), task, task.model, epochs=0.5, progress=lambda _done, _total: during.append(active))
        assert held == [training_device.training_device().type]
        assert during
        assert all(during)

    def test_bf16_only_where_the_processor_has_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for native in (True, False):
            monkeypatch.setattr(training_device, "_bf16_processor", lambda native=native: native)
            with training_device.precision(torch.device("cpu")):
                assert torch.is_autocast_enabled("cpu") is native

    def test_both_arithmetics_train(self, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
        pruned, _ = prune(task.model(), task, ratio=0.5, round_to=8)
        for native in (True, False):
            monkeypatch.setattr(training_device, "_bf16_processor", lambda native=native: native)
            trained = finetune(pruned, task, task.model, epochs=2)
            assert accuracy(trained, task) > accuracy(pruned, task) + 0.05
            assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())


class TestFailures:
    def test_loss_that_is_nan(self, task: Task) -> None:
        calls = 0

        def loss(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return outputs["logits"].mean() * (float("nan") if calls == 3 else 1.0)

        with pytest.raises(StageError) as caught:
            finetune(task.model(), replace(task, loss=loss), no_teacher, epochs=1, learning_rate=0.03, alpha=0)
        assert caught.value.stage == "finetune"
        assert caught.value.reason.startswith("the loss is nan at step 3 of 8; lower finetune.learning_rate (now 0.03)")

    def test_gradient_that_is_not_finite(self, task: Task) -> None:
        def loss(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return (outputs["logits"] * 0).abs().sqrt().sum()

        with pytest.raises(StageError, match="the gradient's norm is nan at step 1 of 4"):
            finetune(task.model(), replace(task, loss=loss), no_teacher, epochs=0.5, alpha=0)

    def test_task_that_cannot_train(self, task: Task) -> None:
        with pytest.raises(StageError, match="tiny-cnn has no training set and loss"):
            finetune(task.model(), replace(task, train=None, loss=None), task.model, epochs=1)


class CountingTeacher:
    """A teacher that counts the samples it is asked about."""

    def __init__(self, task: Task) -> None:
        self.model = task.model()
        self.samples: list[int] = []
        self.inputs: list[torch.Tensor] = []

        def count(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self.samples.append(len(inputs[0]))
            self.inputs.append(inputs[0])

        self.model.register_forward_pre_hook(count)

    def __call__(self) -> nn.Module:
        return self.model


class TestTeacher:
    def test_is_asked_once_about_each_sample(self, task: Task, cache: StageCache) -> None:
        teacher = CountingTeacher(task)
        finetune(task.model(), task, teacher, epochs=2, cache=cache)
        assert sum(teacher.samples) == 256
        finetune(task.model(), task, teacher, epochs=1, alpha=0.3, temperature=2, cache=cache)
        assert sum(teacher.samples) == 256
        assert [entry.kind for entry in cache.entries()] == ["teacher"]

    def test_is_not_changed(self, task: Task, cache: StageCache) -> None:
        teacher = CountingTeacher(task)
        before = copy.deepcopy(teacher.model.state_dict())
        finetune(task.model(), task, teacher, epochs=0.5, cache=cache)
        assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
        assert not teacher.model.training

    def test_cache_changes_nothing(self, task: Task, cache: StageCache) -> None:
        without = finetune(task.model(), task, task.model, epochs=1)
        for _ in range(2):
            assert same_weights(finetune(task.model(), task, task.model, epochs=1, cache=cache), without)

    def test_corrupt_outputs_are_made_again(self, task: Task, cache: StageCache) -> None:
        trained = finetune(task.model(), task, task.model, epochs=1, cache=cache)
        (file,) = cache.root.rglob("*.npy")
        file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
        assert same_weights(finetune(task.model(), task, task.model, epochs=1, cache=cache), trained)

    def test_another_teacher_has_other_outputs(self, task: Task, cache: StageCache) -> None:
        changed = task.model()
        with torch.no_grad():
            changed.get_parameter("head.bias").add_(1.0)
        finetune(task.model(), task, task.model, epochs=0.1, cache=cache)
        finetune(task.model(), task, lambda: changed, epochs=0.1, cache=cache)
        assert len(cache.entries()) == 2

    def test_sees_augmented_samples(self, task: Task, cache: StageCache) -> None:
        def blank(batch: Split, random: np.random.Generator) -> Split:
            return Split({"image": np.zeros_like(batch.inputs["image"])}, batch.targets)

        assert task.train is not None
        teacher = CountingTeacher(task)
        augmented = replace(task, train=replace(task.train, augment=blank))
        finetune(task.model(), augmented, teacher, epochs=0.5, cache=cache)
        assert teacher.samples == [32] * 4
        assert not any(inputs.any() for inputs in teacher.inputs)
        assert cache.entries() == []


def test_whole_numbers_and_others_are_one_setting() -> None:
    resolved = FineTune().resolve({"epochs": 1}, TARGET)
    assert resolved == {
        "epochs": 1.0,
        "learning_rate": 0.0,
        "optimizer": "auto",
        "temperature": 4.0,
        "alpha": 0.7,
        "patience": 0.0,
        "hint": 0.0,
    }
    assert type(resolved["epochs"]) is float


def test_fingerprint_sees_loss_and_augmentation(task: Task) -> None:
    assert task.train is not None

    def augment(batch: Split, random: np.random.Generator) -> Split:
        return batch

    def loss(outputs: Any, targets: Any) -> torch.Tensor:
        return outputs["logits"].mean()  # type: ignore[no-any-return]

    variants = [task, replace(task, train=replace(task.train, augment=augment)), replace(task, loss=loss)]
    assert len({FineTune().fingerprint(variant) for variant in variants}) == 3
