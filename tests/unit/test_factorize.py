from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from autoshrink.errors import StageError
from autoshrink.target import Precision, Target
from autoshrink.task import Task
from autoshrink.techniques.base import Context
from autoshrink.techniques.factorize import Factorize, factorize
from autoshrink.techniques.layer_calls import kept_layers, layer_calls
from autoshrink.techniques.thin_layers import Candidate, layer_macs
from autoshrink.tensors import run_example
from tests.small_models import model_task, tiny_task

IMAGE = np.random.default_rng(0).normal(size=(1, 16, 10, 9)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).normal(size=(1, 7, 32)).astype(np.float32)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def image_task(build: Callable[[], nn.Module], **others: Any) -> Task:
    return model_task(build, IMAGE, **others)


def sequence_task(build: Callable[[], nn.Module], **others: Any) -> Task:
    return model_task(build, SEQUENCE, **others)


def macs(model: nn.Module, task: Task) -> int:
    return sum(layer_macs(layer, calls) for layer, calls in layer_calls(model, task, LAYERS).items())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def lost_share(model: nn.Module, thinned: nn.Module, name: str) -> float:
    """Of the energy of a linear layer."""
    weight = model.get_parameter(f"{name}.weight").detach()
    down, up = (thinned.get_parameter(f"{name}.{part}.weight").detach() for part in "01")
    return float((up @ down - weight).square().sum() / weight.square().sum())


def candidate(task: Task, convolutions: str = "tucker") -> Candidate:
    layer = task.model()
    return Candidate("", layer, layer_calls(layer, task, LAYERS)[layer], convolutions)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"padding": 1, "bias": False},
    {"stride": 2, "padding": (1, 0)},
    {"stride": (1, 2), "dilation": (2, 1), "padding": 2},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 2, "padding_mode": "circular", "stride": 3},
    {"padding": "same", "dilation": (1, 2)},
]


class TestThinLayers:
    @pytest.mark.parametrize("options", OPTIONS)
    @pytest.mark.parametrize("convolutions", ["tucker", "spatial"])
    def test_of_full_rank_compute_the_same_convolution(self, options: dict[str, Any], convolutions: str) -> None:
        task = image_task(lambda: nn.Conv2d(16, 12, (3, 2), **options))
        found = candidate(task, convolutions)
        full = tuple(len(side.energies) for side in found.spectra)
        expected = run_example(task.model(), task)["y"]
        torch.testing.assert_close(run_example(found.replacement(full), task)["y"], expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}])
    def test_of_full_rank_compute_the_same_1x1(self, options: dict[str, Any]) -> None:
        task = image_task(lambda: nn.Conv2d(16, 12, 1, **options))
        found = candidate(task)
        assert found.kind == "svd"
        expected = run_example(task.model(), task)["y"]
        torch.testing.assert_close(run_example(found.replacement((12,)), task)["y"], expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("convolutions", ["tucker", "spatial"])
    def test_of_the_true_rank_compute_the_same(self, convolutions: str) -> None:
        def build() -> nn.Module:
            layer = nn.Conv2d(16, 24, 3, 2, 1)
            with torch.no_grad():
                # Rank 4 over both channels, and 4 x 3 at most over rows and columns.
                core = torch.randn(4, 4, 3, 3)
                layer.weight.copy_(torch.einsum("abhw,oa,bi->oihw", core, torch.randn(24, 4), torch.randn(4, 16)))
            return layer

        task = image_task(build)
        thinned, structure = factorize(task.model(), task, share=0.999999, convolutions=convolutions, round_to=4)
        assert structure == {"": [convolutions, [4, 4] if convolutions == "tucker" else [12]]}
        expected = run_example(task.model(), task)["y"]
        torch.testing.assert_close(run_example(thinned, task)["y"], expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize(
        ("build", "shape", "ranks", "expected"),
        [
            # Out x in x kernel x positions; then down, kernel and up, at their positions.
            (lambda: nn.Linear(32, 64), (1, 7, 32), (8,), (64 * 32 * 7, 8 * (32 + 64) * 7, 8 * (32 + 64))),
            (
                lambda: nn.Conv2d(16, 24, 3, 2, 1),
                (1, 16, 10, 9),
                (8, 4),
                (
                    24 * 16 * 9 * 25,
                    16 * 8 * 90 + 8 * 4 * 9 * 25 + 4 * 24 * 25,
                    16 * 8 + 8 * 4 * 9 + 4 * 24,
                ),
            ),
            (
                lambda: nn.Conv2d(16, 24, 3, 2, 1),
                (1, 16, 10, 9),
                (16, 4),
                (24 * 16 * 9 * 25, 16 * 4 * 9 * 25 + 4 * 24 * 25, 16 * 4 * 9 + 4 * 24),
            ),
            (
                lambda: nn.Conv1d(16, 24, 5, padding=2),
                (2, 16, 11),
                (8, 8),
                (
                    24 * 16 * 5 * 22,
                    (16 * 8 + 8 * 8 * 5 + 8 * 24) * 22,
                    16 * 8 + 8 * 8 * 5 + 8 * 24,
                ),
            ),
        ],
    )
    def test_cost_is_that_of_the_closed_form(
        self, build: Callable[[], nn.Module], shape: tuple[int, ...], ranks: tuple[int, ...], expected: tuple[int, ...]
    ) -> None:
        task = model_task(build, np.zeros(shape, np.float32))
        found = candidate(task)
        thinned = found._thinned(ranks)
        assert (found.macs, thinned.macs, thinned.parameters) == expected
        # And what the thin layers are seen to do.
        thin = found.replacement(ranks)
        assert macs(thin, task) == thinned.macs
        assert parameters(thin) - found.layer.bias.numel() == thinned.parameters  # type: ignore[operator, union-attr]

    def test_cost_of_the_spatial_split(self) -> None:
        task = image_task(lambda: nn.Conv2d(16, 24, (3, 5), stride=(2, 3), padding=(1, 2)))
        found = candidate(task, "spatial")
        thinned = found._thinned((10,))
        # Five rows of nine columns between both, 5 x 3 afterwards.
        assert thinned.macs == 16 * 10 * 3 * 5 * 9 + 10 * 24 * 5 * 5 * 3
        assert thinned.macs == macs(found.replacement((10,)), task)
        assert thinned.parameters == 16 * 10 * 3 + 10 * 24 * 5

    def test_calls_add_up(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(32, 32)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                once: torch.Tensor = self.layer(input=self.layer(x))
                return once

        task = sequence_task(Twice)
        assert macs(task.model(), task) == 2 * 7 * 32 * 32
        thinned, _ = factorize(task.model(), task, share=0.3, round_to=8)
        assert macs(thinned, task) == 2 * 7 * 8 * 64

    def test_transposed_convolutions_count_at_their_input(self) -> None:
        task = image_task(lambda: nn.ConvTranspose2d(16, 8, 4, 2, groups=2))
        assert macs(task.model(), task) == 16 * 4 * 16 * 90

    def test_flags_and_dtype_stay(self) -> None:
        def build() -> nn.Module:
            layer = nn.Linear(32, 32).half()
            layer.weight.requires_grad_(False)
            return layer

        task = model_task(build, SEQUENCE.astype(np.float16))
        thinned, _ = factorize(task.model(), task, share=0.5, round_to=8)
        assert all(parameter.dtype is torch.float16 for parameter in thinned.parameters())
        assert {name: parameter.requires_grad for name, parameter in thinned.named_parameters()} == {
            "0.weight": False,
            "1.weight": False,
            "1.bias": True,
        }


class TestByEnergy:
    def test_keeps_that_share_of_each_layer(self) -> None:
        task = sequence_task(lambda: nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 32)))
        model = task.model()
        thinned, structure = factorize(model, task, share=0.6)
        for name in ("0", "2"):
            assert 0.6 <= 1 - lost_share(model, thinned, name) < 0.64
            assert thinned.get_submodule(f"{name}.0").out_features == structure[name][1][0]

    @pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
    def test_ranks_are_multiples(self, share: float) -> None:
        task = tiny_task("cnn")
        _, structure = factorize(task.model(), task, share=share, round_to=8)
        assert {rank % 8 for _, ranks in structure.values() for rank in ranks} == {0}

    def test_more_energy_costs_more(self) -> None:
        task = tiny_task("transformer")
        costs = [macs(factorize(task.model(), task, share=share)[0], task) for share in (0.3, 0.5, 0.7, 0.9)]
        assert costs == sorted(set(costs))
        assert costs[-1] < macs(task.model(), task)

    def test_takes_only_layers_that_gain(self) -> None:
        task = tiny_task("cnn")
        thinned, structure = factorize(task.model(), task, share=0.5, round_to=8)
        assert sorted(structure) == ["conv1", "conv2"]
        assert macs(thinned, task) < macs(task.model(), task)
        assert parameters(thinned) < parameters(task.model())

    def test_nothing_gained_names_each_layer_and_why(self) -> None:
        task = tiny_task("grouped")
        with pytest.raises(StageError) as caught:
            factorize(task.model(), task, share=0.9, round_to=64)
        for part in (
            "no layer becomes cheaper",
            "layer stem: at rank 1 x 32 it takes",
            "layer depthwise: is a grouped convolution",
            "layer pointwise: at rank 32 it takes 32,768 multiply-accumulates and 2,048 parameters, as it is 16,384",
            "leave factorize out",
        ):
            assert part in caught.value.reason

    def test_a_model_without_such_layers(self) -> None:
        task = sequence_task(nn.ReLU)
        with pytest.raises(StageError, match="it has no linear layer and no convolution"):
            factorize(task.model(), task)

    def test_reports_progress(self) -> None:
        task = tiny_task("cnn")
        seen: list[tuple[int, int]] = []
        factorize(task.model(), task, share=0.5, round_to=8, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(1, 2), (2, 2)]


class TestByBudget:
    @pytest.mark.parametrize("name", ["cnn", "conv_only", "transformer", "two_outputs"])
    @pytest.mark.parametrize("convolutions", ["tucker", "spatial"])
    def test_is_met(self, name: str, convolutions: str) -> None:
        task = tiny_task(name)
        full = macs(task.model(), task)
        thinned, _ = factorize(task.model(), task, rule="budget", share=0.6, convolutions=convolutions, round_to=4)
        assert 0.45 * full < macs(thinned, task) <= 0.6 * full

    def test_goes_to_the_layer_that_loses_least(self) -> None:
        def build() -> nn.Module:
            model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
            with torch.no_grad():
                model[2].weight.copy_(torch.randn(32, 4) @ torch.randn(4, 32))
            return model

        task = sequence_task(build)
        _, structure = factorize(task.model(), task, rule="budget", share=0.63, round_to=4)
        assert structure == {"2": ["svd", [4]]}

    def test_loses_less_than_one_energy_for_all_at_the_same_cost(self) -> None:
        task = tiny_task("transformer")
        model = task.model()

        def lost(thinned: nn.Module, structure: dict[str, list[Any]]) -> float:
            """The quantity that the rule promises to make least."""
            sizes = {name: model.get_parameter(f"{name}.weight").numel() for name in structure}
            return sum(size * lost_share(model, thinned, name) for name, size in sizes.items())

        evenly = factorize(model, task, share=0.6)
        share = macs(evenly[0], task) / macs(model, task)
        allocated = factorize(model, task, rule="budget", share=share + 1e-9)
        assert macs(allocated[0], task) <= macs(evenly[0], task)
        assert lost(*allocated) < lost(*evenly)

    def test_that_cannot_be_met(self) -> None:
        task = tiny_task("grouped")
        with pytest.raises(StageError) as caught:
            factorize(task.model(), task, rule="budget", share=0.5, round_to=8)
        for part in (
            "a budget of 0.5 cannot be met",
            "with the lowest ranks of layer pointwise",
            "of the multiply-accumulates are left",
            "layer grouped: is a grouped convolution",
            "raise factorize.budget",
        ):
            assert part in caught.value.reason

    def test_nothing_to_gain(self) -> None:
        task = tiny_task("cnn")
        with pytest.raises(StageError, match="no layer becomes cheaper"):
            factorize(task.model(), task, rule="budget", share=0.5, round_to=64)


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    """Another class with the same forward."""


class ReadsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(32, 32)
        self.bound = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(self.free(x), self.bound.weight) + self.bound(x)


class TestLeftAsTheyAre:
    def refusal(self, build: Callable[[], nn.Module], task_of: Callable[..., Task] = sequence_task) -> str:
        task = task_of(build)
        with pytest.raises(StageError) as caught:
            factorize(task.model(), task, share=0.3, round_to=8)
        assert caught.value.stage == "factorize"
        return caught.value.reason

    def test_transposed_convolutions(self) -> None:
        assert "is a transposed convolution" in self.refusal(lambda: nn.ConvTranspose2d(16, 16, 3), image_task)

    def test_grouped_convolutions(self) -> None:
        assert "is a grouped convolution" in self.refusal(lambda: nn.Conv2d(16, 32, 3, groups=2), image_task)

    def test_subclasses_with_their_own_forward(self) -> None:
        assert "is a Scaled with a forward of its own" in self.refusal(lambda: Scaled(32, 32))

    def test_but_not_subclasses_without(self) -> None:
        task = sequence_task(lambda: Renamed(32, 32))
        thinned, _ = factorize(task.model(), task, share=0.3, round_to=8)
        assert [type(layer) for layer in thinned.children()] == [nn.Linear, nn.Linear]

    def test_parametrized_layers(self) -> None:
        assert "has parametrizations" in self.refusal(lambda: parametrizations.weight_norm(nn.Linear(32, 32)))

    def test_layers_with_hooks(self) -> None:
        def build() -> nn.Module:
            layer = nn.Linear(32, 32)
            layer.register_forward_hook(lambda _layer, _inputs, output: 2 * output)
            return layer

        assert "has hooks" in self.refusal(build)

    def test_weights_that_are_not_finite(self) -> None:
        def build() -> nn.Module:
            layer = nn.Linear(32, 32)
            with torch.no_grad():
                layer.weight[3, 4] = torch.nan
            return layer

        assert "has weights that are NaN or infinite" in self.refusal(build)

    def test_shared_weights(self) -> None:
        def build() -> nn.Module:
            model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
            model[1].weight = model[0].weight
            return model

        reason = self.refusal(build)
        assert "layer 0: shares its weight with 1.weight" in reason
        assert "layer 1: shares its weight with 0.weight" in reason

    def test_layers_that_are_not_called(self) -> None:
        class Idle(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.idle = nn.Linear(32, 32), nn.Linear(32, 32)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.used(x)
                return y

        task = sequence_task(Idle)
        _, structure = factorize(task.model(), task, share=0.3, round_to=8)
        assert list(structure) == ["used"]

    def test_inside_attention(self) -> None:
        class Attends(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
                return y

        assert "its weight is read by attention, a MultiheadAttention" in self.refusal(Attends)

    def test_inside_an_encoder_layer(self) -> None:
        # Its fast path reads the weights of its linear layers, in eval mode alone.
        task = sequence_task(
            lambda: nn.Sequential(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 32))
        )
        thinned, structure = factorize(task.model(), task, share=0.3, round_to=8)
        assert list(structure) == ["1"]
        assert run_example(thinned, task)["y"].shape == (1, 7, 32)

    def test_layers_in_keep(self) -> None:
        task = replace(tiny_task("cnn"), keep=("conv1",))
        _, structure = factorize(task.model(), task, share=0.5, round_to=8)
        assert list(structure) == ["conv2"]
        assert Factorize().fingerprint(task) != Factorize().fingerprint(tiny_task("cnn"))

    def test_keep_names_no_layer(self) -> None:
        task = replace(tiny_task("cnn"), keep=("conv9",))
        with pytest.raises(StageError, match=r"Task.keep names conv9, no layer of the model; it has stem, norm"):
            factorize(task.model(), task)

    def test_keep_names_a_block(self) -> None:
        task = replace(tiny_task("transformer"), keep=("attention",))
        assert len(kept_layers(task.model(), task, "factorize")) == 5
        _, structure = factorize(task.model(), task, share=0.3, round_to=8)
        assert sorted(structure) == ["contract", "expand"]

    def test_a_model_that_reads_a_weight_names_the_guilty_layer(self) -> None:
        reason = self.refusal(ReadsWeight)
        assert reason.startswith("layer bound: the model does not run with thinner layers there")
        assert reason.endswith('keep it: put "bound" into Task.keep')
        task = sequence_task(ReadsWeight, keep=("bound",))
        assert list(factorize(task.model(), task, share=0.3, round_to=8)[1]) == ["free"]


class TestStage:
    TARGET = Target("test", "onnxruntime", {"fp32": Precision()}, channel_multiple=4)

    def test_resolves_what_counts(self) -> None:
        resolve = Factorize().resolve
        assert resolve({}, self.TARGET) == {"rule": "energy", "energy": 0.9, "convolutions": "tucker", "round_to": 4}
        assert resolve({"rule": "budget"}, self.TARGET) == {
            "rule": "budget",
            "budget": 0.5,
            "convolutions": "tucker",
            "round_to": 4,
        }

    def test_is_off_whatever_is_known(self) -> None:
        is_off = Factorize().is_off
        assert is_off({"rule": "energy", "energy": 1.0})
        assert is_off({"rule": "budget", "budget": 1})
        assert is_off({"budget": 1})
        assert not is_off({"rule": "budget"})
        assert not is_off({"rule": "budget", "budget": 0.5, "energy": 1})

    def test_structure_is_repeated_on_a_layer_that_is_the_model(self) -> None:
        task = sequence_task(lambda: nn.Linear(32, 32))
        technique = Factorize()
        settings = technique.resolve({"energy": 0.5}, self.TARGET)
        thinned, structure = technique.apply(task.model(), settings, Context(task, task.model))
        again = technique.rebuild(task.model(), structure, task)
        again.load_state_dict(thinned.state_dict())
        assert torch.equal(run_example(again, task)["y"], run_example(thinned, task)["y"])

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"rule": "latency"}, "'latency'; it must be one of energy, budget"),
            ({"convolutions": "cp"}, "'cp'; it must be one of tucker, spatial"),
            ({"share": 0.0}, r"share is 0\.0; it must be over 0"),
            ({"share": float("nan")}, "share is nan"),
        ],
    )
    def test_wrong_settings(self, settings: dict[str, Any], message: str) -> None:
        task = tiny_task("cnn")
        with pytest.raises(ValueError, match=message):
            factorize(task.model(), task, **settings)


def test_a_layer_that_hardly_counts_stays() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 1))

    task = model_task(build, np.ones((1, 64), np.float32))
    _, structure = factorize(task.model(), task, share=0.3)
    assert "2" in structure and "3" not in structure
