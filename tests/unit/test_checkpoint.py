"""A training that is interrupted goes on to the very weights it would have had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from autoshrink.task import Task
from autoshrink.techniques import checkpoint
from autoshrink.techniques.base import Context
from autoshrink.techniques.checkpoint import STATE_FILE
from autoshrink.techniques.training import Plan, train
from tests.small_models import TinyCnn, tiny_task

EPOCH = 8
"""Steps of one on a tiny task."""


@pytest.fixture(autouse=True)
def _kept_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)


def with_dropout(model: nn.Module) -> nn.Module:
    model.head = nn.Sequential(nn.Dropout(0.5), model.head)  # type: ignore[arg-type]
    return model


def interrupting(at: int) -> Callable[[nn.Module, int, int], None]:
    def before_step(_model: nn.Module, step: int, _total: int) -> None:
        if step == at:
            raise KeyboardInterrupt

    return before_step


def assert_goes_on_to_the_same(model: nn.Module, task: Task, plan: Plan, folder: Path, at: int) -> None:
    """Trains once in one go, and once with an interrupt before step `at`."""
    whole = train(model, Context(task, task.model, 5), plan, "finetune")
    context = Context(task, task.model, 5, checkpoint=folder / "checkpoint")
    with pytest.raises(KeyboardInterrupt):
        train(model, context, plan, "finetune", interrupting(at))
    assert (folder / "checkpoint" / STATE_FILE).exists()
    done: list[int] = []
    again = replace(context, progress=lambda step, _total: done.append(step))
    resumed = train(model, again, plan, "finetune")
    assert done[0] == at + 1, "it began anew"
    assert list(resumed.state_dict()) == list(whole.state_dict())
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("at", [3, EPOCH, EPOCH + 5])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    optimizer: str, patience: int, at: int, tmp_path: Path
) -> None:
    task = tiny_task("cnn")
    plan = Plan(2.5, 0.02, optimizer=optimizer, patience=patience)
    assert_goes_on_to_the_same(with_dropout(task.model()), task, plan, tmp_path, at)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_so_does_one_with_hints_and_a_projection(optimizer: str, tmp_path: Path) -> None:
    task = tiny_task("cnn")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = with_dropout(TinyCnn(16))
    plan = Plan(1.5, optimizer=optimizer, patience=1, hint=1.0)
    assert_goes_on_to_the_same(student, task, plan, tmp_path, EPOCH)


@pytest.mark.parametrize("name", ["transformer", "tied", "two_outputs", "grouped"])
def test_so_do_other_models(name: str, tmp_path: Path) -> None:
    task = tiny_task(name)
    assert_goes_on_to_the_same(task.model(), task, Plan(1.0, patience=2), tmp_path, 5)


def test_early_stop_survives_an_interrupt_at_its_end(tmp_path: Path) -> None:
    """Val gets worse from the start, so it stops after the first two epochs, whenever it was interrupted."""
    task = tiny_task("cnn")
    plan = Plan(6, 0.5, optimizer="sgd", patience=1)
    steps: list[int] = []
    train(task.model(), Context(task, task.model, progress=lambda step, _: steps.append(step)), plan, "finetune")
    assert steps[-1] < 6 * EPOCH
    assert_goes_on_to_the_same(task.model(), task, plan, tmp_path, steps[-1] - EPOCH)


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: b"", lambda content: b"\xff" * 64])
def test_a_damaged_checkpoint_is_a_new_beginning(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    task, plan = tiny_task("cnn"), Plan(1)
    context = Context(task, task.model, 5, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(KeyboardInterrupt):
        train(task.model(), context, plan, "finetune", interrupting(4))
    file = tmp_path / "checkpoint" / STATE_FILE
    file.write_bytes(damage(file.read_bytes()))
    done: list[int] = []
    resumed = train(task.model(), replace(context, progress=lambda step, _: done.append(step)), plan, "finetune")
    whole = train(task.model(), Context(task, task.model, 5), plan, "finetune")
    assert done[0] == 1
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_checkpoint_of_another_model_leaves_no_trace(tmp_path: Path) -> None:
    task, plan = tiny_task("cnn"), Plan(1)
    context = Context(task, task.model, 5, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(KeyboardInterrupt):
        train(task.model(), context, plan, "finetune", interrupting(4))
    other = task.model()
    other.head = nn.Linear(24, 4, bias=False)
    resumed = train(other, context, plan, "finetune")
    whole = train(other, Context(task, task.model, 5), plan, "finetune")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
