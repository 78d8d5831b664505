from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from autoshrink.errors import StageError
from autoshrink.export import export_onnx
from autoshrink.onnx_packing import pack_weights, packed_bits
from autoshrink.target import Precision, Target
from autoshrink.task import Task
from autoshrink.techniques import get_technique
from autoshrink.techniques.base import Context
from autoshrink.techniques.cluster import Cluster, _Shared, cluster, codebook_of
from autoshrink.techniques.training import val_loss
from autoshrink.tensors import run_example
from tests.small_models import tiny_task

TARGET = Target("t", "onnxruntime", {"fp32": Precision()})


def treat(task: Task, centroids: int, **how: Any) -> nn.Module:
    return cluster(task.model(), Context(task, task.model), centroids=centroids, **how)[0]


def weight(model: nn.Module, name: str) -> torch.Tensor:
    return model.get_parameter(f"{name}.weight").detach()


def sparse_task() -> Task:
    """The tiny CNN with six in ten weights of a layer at zero."""
    task = tiny_task("cnn")

    def model() -> nn.Module:
        built = task.model()
        with torch.no_grad():
            values = built.get_parameter("conv2.weight")
            values[values.abs() < values.abs().quantile(0.6)] = 0
        return built

    return replace(task, model=model)


class TestCodebook:
    def test_means_of_the_groups(self) -> None:
        weights = np.array([0.9, 0.1, 1.1, 0.3, -3.0], np.float32)
        codebook, index = codebook_of(weights, 3)
        np.testing.assert_allclose(codebook, [-3, 0.2, 1], rtol=1e-6)
        assert codebook.dtype == np.float32
        assert index.tolist() == [2, 1, 2, 1, 0]

    @pytest.mark.parametrize("centroids", [5, 6, 256])
    def test_as_many_centroids_as_values_is_exact(self, centroids: int) -> None:
        values = np.random.default_rng(0).normal(size=5).astype(np.float32)
        weights = np.random.default_rng(1).choice(values, 1000)
        codebook, index = codebook_of(weights, centroids)
        np.testing.assert_array_equal(codebook[index], weights)
        assert len(codebook) == 5

    @pytest.mark.parametrize(
        ("centroids", "distortion"), [(2, 0.3634), (4, 0.1175), (8, 0.03454), (16, 0.009497), (256, 0.0001)]
    )
    def test_error_is_that_of_the_best_quantizer(self, centroids: int, distortion: float) -> None:
        # Max 1960, table 1: the least mean squared error of a Gaussian; of 256, over twice Panter and Dite's limit.
        weights = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
        codebook, index = codebook_of(weights, centroids)
        assert np.mean((codebook[index] - weights) ** 2) / np.var(weights) < 1.02 * distortion
        assert (np.diff(codebook) > 0).all()

    def test_each_weight_has_the_centroid_that_is_nearest(self) -> None:
        weights = np.random.default_rng(0).standard_t(3, size=2000).astype(np.float32)
        codebook, index = codebook_of(weights, 16)
        nearest = np.abs(weights[:, None] - codebook).min(1)
        np.testing.assert_allclose(np.abs(weights - codebook[index]), nearest, atol=1e-6)

    @pytest.mark.parametrize("centroids", [2, 3, 8])
    def test_zeros_of_a_sparse_weight_stay(self, centroids: int) -> None:
        weights = np.random.default_rng(0).normal(size=3000).astype(np.float32)
        weights[::3] = 0
        codebook, index = codebook_of(weights, centroids)
        assert len(codebook) == centroids and np.count_nonzero(codebook == 0) == 1
        assert (np.diff(codebook) > 0).all()
        np.testing.assert_array_equal(codebook[index] == 0, weights == 0)

    def test_a_few_zeros_are_weights_like_others(self) -> None:
        weights = np.random.default_rng(0).normal(size=3000).astype(np.float32)
        weights[:100] = 0
        assert not (codebook_of(weights, 4)[0] == 0).any()


class TestShared:
    def test_gradient_of_a_centroid_is_the_sum_over_its_weights(self) -> None:
        shared = _Shared(torch.tensor([[1.0, -2.0], [1.0, 4.0]]), 3)
        codebook = torch.tensor([-2.0, 1.0, 4.0], requires_grad=True)
        assert shared(codebook).tolist() == [[1.0, -2.0], [1.0, 4.0]]
        (shared(codebook) * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
        assert codebook.grad is not None
        assert codebook.grad.tolist() == [10.0, 101.0, 1000.0]

    def test_a_zero_of_a_sparse_weight_is_not_trained(self) -> None:
        shared = _Shared(torch.tensor([0.0, 0.0, 1.0, 2.0]), 3)
        codebook = torch.tensor([5.0, 1.0, 2.0], requires_grad=True)
        assert shared(codebook).tolist() == [0.0, 0.0, 1.0, 2.0]
        shared(codebook).sum().backward()
        assert codebook.grad is not None
        assert codebook.grad.tolist() == [0.0, 1.0, 1.0]


class TestCluster:
    @pytest.mark.parametrize("epochs", [0, 0.5])
    def test_inner_layers_share_values_and_the_ends_are_kept(self, epochs: float) -> None:
        model = treat(tiny_task("cnn"), 8, epochs=epochs)
        assert {name: len(weight(model, name).unique()) for name in ("conv1", "conv2")} == {"conv1": 8, "conv2": 8}
        assert min(len(weight(model, name).unique()) for name in ("stem", "head")) > 8

    @pytest.mark.parametrize(("keep", "shared"), [("last", {"stem"}), ("none", {"stem", "head"})])
    def test_which_ends_are_kept(self, keep: str, shared: set[str]) -> None:
        model = treat(tiny_task("cnn"), 4, keep=keep)
        assert {name for name in ("stem", "head") if len(weight(model, name).unique()) == 4} == shared

    def test_only_the_values_are_trained(self) -> None:
        task = tiny_task("cnn")
        before, after = (weight(treat(task, 4, epochs=epochs), "conv1") for epochs in (0, 1))
        assert not torch.equal(before, after)
        for value in before.unique():
            assert len(after[before == value].unique()) == 1

    def test_training_helps(self) -> None:
        task = tiny_task("cnn")
        losses = [
            val_loss(treat(task, 2, keep="none", epochs=epochs), task, torch.device("cpu")) for epochs in (0.0, 4.0)
        ]
        assert losses[1] < 0.7 * losses[0]

    def test_with_as_many_centroids_as_values_nothing_changes(self) -> None:
        task = tiny_task("transformer")
        once = treat(task, 16, keep="none")
        again = cluster(once, Context(task, task.model), centroids=16, keep="none")[0]
        with torch.no_grad():
            assert torch.equal(run_example(once, task)["logits"], run_example(again, task)["logits"])

    @pytest.mark.parametrize("epochs", [0, 1])
    def test_a_sparse_layer_stays_sparse(self, epochs: float) -> None:
        task = sparse_task()
        zeros = weight(task.model(), "conv2") == 0
        model = treat(task, 4, epochs=epochs)
        assert torch.equal(weight(model, "conv2") == 0, zeros)
        assert len(weight(model, "conv2").unique()) == 4

    def test_normalisation_is_folded_before_so_that_the_file_has_few_values(self, tmp_path: Path) -> None:
        task = tiny_task("cnn")
        model, pairs = cluster(task.model(), Context(task, task.model), centroids=16)
        assert pairs == [["stem", "norm"], ["conv1", "norm1"], ["conv2", "norm2"]]
        export_onnx(model, task, 2, tmp_path / "model.onnx")
        proto = onnx.load(tmp_path / "model.onnx")
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        for name in ("conv1", "conv2"):
            np.testing.assert_array_equal(np.unique(weights[f"{name}.weight"]), weight(model, name).unique().numpy())
        pack_weights(proto)
        assert packed_bits(proto) == {"conv1.weight": 4, "conv2.weight": 4}

    def test_shared_weights_stay_as_they_are(self) -> None:
        task = tiny_task("tied")
        model = treat(task, 4, keep="none")
        assert torch.equal(weight(model, "embed"), weight(task.model(), "embed"))
        assert model.get_parameter("head.weight") is model.get_parameter("embed.weight")

    def test_without_training_it_needs_no_training_set(self) -> None:
        task = replace(tiny_task("cnn"), train=None, loss=None)
        assert len(weight(treat(task, 4), "conv1").unique()) == 4
        with pytest.raises(StageError, match=r"no training set and loss.*set cluster.epochs to 0"):
            treat(task, 4, epochs=1)

    def test_refuses_a_model_with_nothing_to_treat(self) -> None:
        task = tiny_task("cnn")
        model = nn.Sequential(copy.deepcopy(task.model().get_submodule("stem")), nn.Flatten())
        with pytest.raises(StageError, match="layer 0: stays float by keep first_last") as caught:
            treat(replace(task, model=lambda: model), 4)
        assert caught.value.stage == "cluster"

    @pytest.mark.parametrize(
        ("how", "words"), [({"centroids": 1}, "is 1"), ({"centroids": 257}, "257"), ({"keep": "x"}, "'x'")]
    )
    def test_refuses_settings_it_does_not_know(self, how: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            treat(tiny_task("cnn"), **{"centroids": 4, **how})

    def test_what_a_space_asks(self) -> None:
        technique = get_technique("cluster")
        assert isinstance(technique, Cluster) and technique.few_values and not technique.trains
        assert technique.parameters["epochs"].trains_above == 0
        resolved = technique.resolve({"centroids": 8.0}, TARGET)
        assert resolved == {"centroids": 8, "keep": "first_last", "epochs": 1.0, "learning_rate": 0.0}
        assert type(resolved["centroids"]) is int
