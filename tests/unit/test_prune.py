from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.errors import StageError
from autoshrink.target import Precision, Target
from autoshrink.task import Task
from autoshrink.techniques.base import Context
from autoshrink.techniques.channel_pruning import replay
from autoshrink.techniques.prune import Prune, prune
from autoshrink.tensors import run_example
from autoshrink.types import Scalar
from tests.small_models import ConvStack, model_task, tiny_task

IMAGE = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).normal(size=(1, 7, 6)).astype(np.float32)


def halve(task: Task, **others: Any) -> tuple[nn.Module, dict[str, Any]]:
    return prune(task.model(), task, ratio=0.5, round_to=8, **others)


def removed(structure: dict[str, Any]) -> dict[str, list[int]]:
    return {layer: channels for layer, _, channels in structure["history"]}


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
        assert structure == {"history": [], "heads": {}, "tied": []}
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

    @pytest.mark.parametrize(("setting", "allowed"), [("scope", "global, per_layer"), ("heads", "narrow, remove")])
    def test_unknown_choices(self, setting: str, allowed: str) -> None:
        with pytest.raises(ValueError, match=f"{setting} is 'half'; it must be one of {allowed}"):
            halve(tiny_task("cnn"), **{setting: "half"})

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


TARGET = Target("t", "onnxruntime", {"fp32": Precision()}, channel_multiple=8)


def test_target_gives_the_block() -> None:
    assert Prune().resolve({"ratio": 0.25}, replace(TARGET, channel_multiple=16)) == {
        "ratio": 0.25,
        "importance": "magnitude",
        "scope": "global",
        "heads": "narrow",
        "steps": 1,
        "round_to": 16,
    }


def test_epochs_are_a_setting_of_several_steps_only() -> None:
    assert "step_epochs" not in Prune().resolve({"steps": 1}, TARGET)
    assert Prune().resolve({"steps": 2}, TARGET)["step_epochs"] == 0.5
    assert Prune().resolve({"steps": 3, "step_epochs": 2}, TARGET)["step_epochs"] == 2.0


def test_values_that_train_are_marked() -> None:
    assert {name: parameter.trains for name, parameter in Prune.parameters.items() if parameter.trains} == {
        "importance": ("taylor",),
        "steps": (2, 3, 4),
    }


def test_fingerprint_sees_the_layers_to_keep() -> None:
    task = tiny_task("cnn")
    assert Prune().fingerprint(task) != Prune().fingerprint(replace(task, keep=("stem",)))


def test_fingerprint_sees_the_calibration_set() -> None:
    task = tiny_task("cnn")
    fewer = {name: array[:32] for name, array in task.calibration.items()}
    assert Prune().fingerprint(task) != Prune().fingerprint(replace(task, calibration=fewer))


class TestSteps:
    """The ratio reached little by little."""

    def apply(self, task: Task, checkpoint: Path | None = None, **chosen: Scalar) -> tuple[nn.Module, Any]:
        settings = Prune().resolve({"step_epochs": 0.5, **chosen}, TARGET)
        return Prune().apply(task.model(), settings, Context(task, task.model, checkpoint=checkpoint))

    def test_the_same_share_of_what_is_left_goes_in_each(self) -> None:
        _, structure = self.apply(tiny_task("conv_only"), ratio=0.75, steps=2)
        assert [sum(map(len, removed(step).values())) for step in structure] == [32, 16]

    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_they_end_at_the_ratio(self, steps: int) -> None:
        _, structure = self.apply(tiny_task("two_outputs"), ratio=0.75, steps=steps)
        assert len(structure) == steps
        assert sum(len(channels) for step in structure for channels in removed(step).values()) == 24

    def test_the_model_learns_between_them(self) -> None:
        first, _ = self.apply(tiny_task("conv_only"), ratio=0.75, steps=2, step_epochs=0.5)
        second, _ = self.apply(tiny_task("conv_only"), ratio=0.75, steps=2, step_epochs=1.0)
        assert not torch.equal(first.get_submodule("classify").bias, second.get_submodule("classify").bias)

    def test_it_does_not_learn_after_the_last(self) -> None:
        trained: list[int] = []
        task = tiny_task("conv_only")
        context = Context(task, task.model, progress=lambda done, _total: trained.append(done))
        Prune().apply(task.model(), Prune().resolve({"ratio": 0.5, "steps": 3}, TARGET), context)
        assert trained == [1, 2, 3, 4] * 2

    def test_fewer_are_made_when_nothing_is_left_to_remove(self) -> None:
        _, structure = self.apply(tiny_task("conv_only"), ratio=0.95, steps=4)
        assert len(structure) < 4

    def test_structure_repeats_all_of_them(self) -> None:
        task = tiny_task("transformer")
        model, structure = self.apply(task, ratio=0.5, steps=3, heads="remove")
        again = Prune().rebuild(task.model(), json.loads(json.dumps(structure)), task)
        again.load_state_dict(model.state_dict())
        assert torch.equal(run_example(again, task)["logits"], run_example(model, task)["logits"])

    def test_they_need_a_training_set(self) -> None:
        task = replace(tiny_task("cnn"), train=None, loss=None)
        with pytest.raises(StageError, match=r"steps 2 needs a training set and a loss.*use steps 1"):
            self.apply(task, ratio=0.5, steps=2)

    def test_an_interrupted_one_goes_on_after_the_steps_that_were_trained(self, tmp_path: Path) -> None:
        task = tiny_task("conv_only")
        settings = Prune().resolve({"ratio": 0.75, "steps": 3}, TARGET)
        expected, _ = Prune().apply(task.model(), settings, Context(task, task.model))
        done: list[int] = []

        def stop(step: int, _total: int) -> None:
            done.append(step)
            if len(done) == 6:
                raise KeyboardInterrupt

        folder = tmp_path / "checkpoint"
        with pytest.raises(KeyboardInterrupt):
            Prune().apply(task.model(), settings, Context(task, task.model, progress=stop, checkpoint=folder))
        assert (folder / "step1.safetensors").exists()
        found, _ = Prune().apply(task.model(), settings, Context(task, task.model, progress=stop, checkpoint=folder))
        assert done == [1, 2, 3, 4, 1, 2, 1, 2, 3, 4]
        assert not folder.exists()
        for name, value in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], value)

    def test_a_step_that_was_cut_short_is_trained_again(self, tmp_path: Path) -> None:
        task = tiny_task("conv_only")
        (tmp_path / "step1.safetensors").write_bytes(b"half")
        expected, _ = self.apply(task, ratio=0.75, steps=2)
        found, _ = self.apply(task, tmp_path, ratio=0.75, steps=2)
        assert torch.equal(found.get_submodule("conv1").weight, expected.get_submodule("conv1").weight)
