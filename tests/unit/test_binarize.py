from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autoshrink.errors import StageError
from autoshrink.export import export_onnx
from autoshrink.onnx_packing import pack_weights, packed_bits
from autoshrink.task import Task
from autoshrink.techniques import TECHNIQUES, get_technique
from autoshrink.techniques.base import Context
from autoshrink.techniques.binarize import Binarize, _StraightThrough, binarize, binary_weight, ternary_weight
from autoshrink.techniques.training import Plan, val_loss
from tests.small_models import CLASSES, tiny_task

QUICK = Plan(0.2, alpha=0.0)


def treat(task: Task, plan: Plan = QUICK, **how: Any) -> nn.Module:
    return binarize(task.model(), Context(task, task.model), plan, **how)


def changed_values(model: nn.Module) -> dict[str, int]:
    """Of each layer with weights, the most distinct values of a channel."""
    return {
        name: max(len(channel.unique()) for channel in layer.get_parameter("weight").detach())
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


class TestValues:
    def test_binary(self) -> None:
        weight = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.5, -0.1]])
        expected = torch.tensor([[2.0, -2.0, 2.0], [0.2, 0.2, -0.2]])
        torch.testing.assert_close(binary_weight(weight), expected)
        torch.testing.assert_close(binary_weight(weight.view(2, 3, 1, 1)), expected.view(2, 3, 1, 1))

    def test_negative_zero_has_a_sign_of_plus(self) -> None:
        assert binary_weight(torch.tensor([[-0.0, 1.0]])).tolist() == [[0.5, 0.5]]

    def test_ternary(self) -> None:
        # The mean magnitude is 1.525, the threshold 1.0675: 2 and -3 are kept.
        weight = torch.tensor([[1.0, -0.1, 2.0, -3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -1.0, 1.0]])
        expected = torch.tensor([[0.0, 0.0, 2.5, -2.5], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -1.0, 1.0]])
        torch.testing.assert_close(ternary_weight(weight), expected)
        torch.testing.assert_close(ternary_weight(weight.view(3, 2, 2)), expected.view(3, 2, 2))

    @pytest.mark.parametrize("values", ["binary", "ternary"])
    def test_quantized_weights_stay_what_they_are(self, values: str) -> None:
        once = _StraightThrough(values)(torch.randn(6, 40, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(_StraightThrough(values)(once), once)

    @pytest.mark.parametrize("values", ["binary", "ternary"])
    def test_the_gradient_goes_straight_through_up_to_the_clip(self, values: str) -> None:
        latent = torch.tensor([[0.5, -1.0, 1.5, -2.0]], requires_grad=True)
        (_StraightThrough(values)(latent) * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
        assert latent.grad is not None
        assert latent.grad.tolist() == [[1.0, 2.0, 0.0, 0.0]]


class TestBinarize:
    @pytest.mark.parametrize(
        ("keep", "binary"),
        [
            ("first_last", {"conv1", "conv2"}),
            ("last", {"stem", "conv1", "conv2"}),
            ("none", {"stem", "conv1", "conv2", "head"}),
        ],
    )
    def test_every_channel_has_two_values_and_the_ends_are_kept(self, keep: str, binary: set[str]) -> None:
        found = changed_values(treat(tiny_task("cnn"), keep=keep))
        assert {name for name, values in found.items() if values == 2} == binary

    def test_ternary_channels_have_three(self) -> None:
        model = treat(tiny_task("cnn"), values="ternary")
        for name in ("conv1", "conv2"):
            for channel in model.get_parameter(f"{name}.weight").detach():
                values = channel.unique()
                assert len(values) == 3 and values[1] == 0 and values[0] == -values[2]

    @pytest.mark.parametrize(("values", "count", "bits"), [("binary", 2, 1), ("ternary", 3, 2)])
    def test_a_folded_normalisation_leaves_the_values_of_a_channel_few(
        self, values: str, count: int, bits: int, tmp_path: Path
    ) -> None:
        task = tiny_task("cnn")
        export_onnx(treat(task, values=values), task, 2, tmp_path / "model.onnx")
        model = onnx.load(tmp_path / "model.onnx")
        assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for name in ("conv1.weight", "conv2.weight"):
            assert {len(np.unique(channel)) for channel in weights[name]} == {count}
        pack_weights(model)
        assert packed_bits(model) == {"conv1.weight": bits, "conv2.weight": bits}

    def test_training_helps(self) -> None:
        task = tiny_task("cnn")
        untrained, trained = task.model(), treat(task, Plan(4.0, alpha=0.5), keep="none")
        with torch.no_grad():
            for layer in untrained.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.weight.copy_(binary_weight(layer.weight))
        losses = [val_loss(model, task, torch.device("cpu")) for model in (untrained, trained)]
        assert losses[1] < 0.5 * losses[0]

    def test_normalisation_is_trained_along(self) -> None:
        task = tiny_task("cnn")
        before, after = task.model().get_submodule("norm1"), treat(task).get_submodule("norm1")
        assert isinstance(after, nn.BatchNorm2d)
        for name, value in before.state_dict().items():
            assert not torch.equal(after.state_dict()[name], value)

    def test_shared_weights_stay_float(self) -> None:
        model = treat(tiny_task("tied"), keep="none")
        assert changed_values(model) == {"hidden": 2, "back": 2, "head": 32}
        assert model.get_parameter("head.weight") is model.get_parameter("embed.weight")

    def test_projections_inside_multi_head_attention_stay_float(self) -> None:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(8, 8)
                self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
                self.between = nn.Linear(8, 8)
                self.last = nn.Linear(8, CLASSES)

            def forward(self, image: torch.Tensor) -> torch.Tensor:
                x = self.first(image[:, 0])
                x = self.between(self.attention(x, x, x)[0])
                return self.last(x).mean(1)  # type: ignore[no-any-return]

        found = changed_values(treat(replace(tiny_task("cnn"), model=Attention)))
        assert {name for name, values in found.items() if values == 2} == {"between"}

    def test_a_bare_layer(self) -> None:
        task = replace(tiny_task("cnn"), model=Bare)
        assert changed_values(treat(task, keep="none")) == {"": 2}

    @pytest.mark.parametrize(
        ("build", "keep", "words"),
        [
            (lambda: two_layers(), "first_last", "layer 0: stays float by keep first_last.*set binarize.keep to none"),
            (lambda: two_layers(shared=True), "none", "its weight is shared: 0.weight, 1.weight.*; leave binarize out"),
            (lambda: nn.Sequential(weight_norm(nn.Conv2d(1, 4, 8)), nn.Flatten()), "none", "is calculated from other"),
            (lambda: nn.Sequential(nn.ConvTranspose2d(1, 4, 1), Mean()), "none", "layer 0: is a ConvTranspose2d"),
            (lambda: Mean(), "first_last", "it calls no convolution and no linear layer"),
        ],
        ids=["only ends", "shared", "parametrized", "transposed", "no layer"],
    )
    def test_refuses_a_model_with_nothing_to_treat(self, build: Any, keep: str, words: str) -> None:
        with pytest.raises(StageError, match=words) as caught:
            treat(replace(tiny_task("cnn"), model=build), keep=keep)
        assert caught.value.stage == "binarize"

    def test_refuses_a_task_that_cannot_train(self) -> None:
        with pytest.raises(StageError, match="no training set and loss"):
            treat(replace(tiny_task("cnn"), train=None))

    @pytest.mark.parametrize("how", [{"values": "off"}, {"keep": "first"}])
    def test_refuses_settings_it_does_not_know(self, how: dict[str, str]) -> None:
        with pytest.raises(ValueError, match=next(iter(how.values()))):
            treat(tiny_task("cnn"), **how)

    def test_what_a_space_asks(self) -> None:
        technique = get_technique("binarize")
        assert isinstance(technique, Binarize) and technique.few_values and technique.trains
        assert technique.excluded_by <= set(TECHNIQUES)
        parameters = technique.parameters
        assert {parameter.when for name, parameter in parameters.items() if name != "values"} == {
            ("values", ("binary", "ternary"))
        }


class Bare(nn.Conv2d):
    """The model is the layer."""

    def __init__(self) -> None:
        super().__init__(1, CLASSES, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image).mean((2, 3))


class Mean(nn.Module):
    """[N, C, H, W] -> [N, 4], with no weight that matters."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((1, 2, 3))[:, None] * self.scale


def two_layers(shared: bool = False) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, 1, 1), nn.Conv2d(1, 1, 3, 1, 1), Mean())
    if shared:
        model[1].weight = model[0].weight
    return model
