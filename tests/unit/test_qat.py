"""Quantization-aware training: where quantizers go, what the file holds, that the runtime computes what was trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends.base import Source
from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.export import export_onnx
from autoshrink.fake_quantize import ActivationQuantizer, weight_quantizers
from autoshrink.onnx_graph import quiet_session, run
from autoshrink.pipeline import weight_shapes
from autoshrink.target import Precision, Target
from autoshrink.task import Task, call
from autoshrink.techniques.base import Context
from autoshrink.techniques.bit_allocation import BITS, allocate_bits, rounding_losses
from autoshrink.techniques.deviation import measured_rows
from autoshrink.techniques.onnx_int8 import Grid
from autoshrink.techniques.qat import Qat
from autoshrink.techniques.quantized_graph import FloatGraph, add_quantizers
from autoshrink.techniques.training import val_loss
from autoshrink.tensors import as_tensors, run_example
from autoshrink.types import Settings
from tests.processors import WEIGHT_BITS, for_kernels_here
from tests.small_models import model_task, tiny_task

UNSIGNED = Grid((), "uint8", per_channel=True)
TARGET = for_kernels_here(Target("t", "onnxruntime", {"fp32": Precision(), "int8_static": Precision()}))


def trained(task: Task, settings: Settings, model: nn.Module | None = None) -> tuple[nn.Module, Any]:
    technique = Qat()
    return technique.apply(model or task.model(), technique.resolve(settings, TARGET), Context(task, task.model))


def agreement(session: onnxruntime.InferenceSession, model: nn.Module, task: Task) -> list[float]:
    """Of each output of a file, two rows a call, with torch on samples of val; decibel."""
    found, expected = [], []
    with torch.no_grad():
        for start in range(0, 32, 2):
            rows = {name: array[start : start + 2] for name, array in task.val.inputs.items()}
            outputs = run(session, rows)
            found.append([outputs[name] for name in task.outputs])
            expected.append([each.numpy() for each in call(model, as_tensors(rows), tuple(task.outputs)).values()])
    pairs = zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True)
    return [sqnr_db(np.stack(reference), np.stack(other)) for reference, other in pairs]


def quantized_values(module: nn.Module) -> list[str]:
    """Names of the nodes behind which an activation quantizer stands."""
    assert isinstance(module, torch.fx.GraphModule)
    return [
        str(node.args[0].name)
        for node in module.graph.nodes
        if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), ActivationQuantizer)
    ]


class TestGraph:
    def test_folded_norms_change_nothing(self) -> None:
        task = tiny_task("cnn")
        graph = FloatGraph(task.model(), task, "qat")
        assert not [node for node in graph.graph.nodes if "batch_norm" in str(node.target)]
        torch.testing.assert_close(run_example(graph.module, task), run_example(task.model(), task))

    def test_outputs_by_name_keep_their_places(self) -> None:
        task = tiny_task("two_outputs")
        torch.testing.assert_close(
            run_example(FloatGraph(task.model(), task, "qat").module, task), run_example(task.model(), task)
        )

    def test_a_rectifier_is_inside_and_a_sum_between_layers_is_quantized(self) -> None:
        task = tiny_task("cnn")
        graph = FloatGraph(task.model(), task, "qat")
        bits = {layer.weight: 8 for layer in graph.layers()[0]}
        found = quantized_values(add_quantizers(graph, bits, 8, UNSIGNED, learned=True))
        # Input, three rectified values, the second branch's bare convolution, the pooled features.
        assert sorted(found) == ["conv2d_2", "image", "mean", "relu", "relu_1", "relu_2"]

    def test_a_residual_stream_that_is_normalised_stays_float(self) -> None:
        task = tiny_task("transformer")
        graph = FloatGraph(task.model(), task, "qat")
        bits = {layer.weight: 8 for layer in graph.layers()[0]}
        assert not [n for n in quantized_values(add_quantizers(graph, bits, 8, UNSIGNED, True)) if n.startswith("add")]

    def test_layers_that_stay_float_have_no_quantizers(self) -> None:
        task = tiny_task("conv_only")
        graph = FloatGraph(task.model(), task, "qat")
        module = add_quantizers(graph, {"conv2.weight": 4}, 8, UNSIGNED, learned=True)
        assert [name for name, _, _ in weight_quantizers(module)] == ["conv2.weight"]

    def test_a_model_that_cannot_be_traced_is_refused_with_the_reason(self) -> None:
        class Branching(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(3, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.fc(x)
                return y if float(y.sum()) > 0 else -y

        task = model_task(Branching, np.ones((1, 3), np.float32))
        with pytest.raises(StageError, match="cannot be traced"):
            FloatGraph(task.model(), task, "qat")


class TestFile:
    @pytest.mark.parametrize("name", ["cnn", "grouped", "transformer", "fused_qkv", "tied", "two_outputs"])
    @pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 6), (2, 8)])
    def test_runtime_computes_what_was_trained(
        self, name: str, weight_bits: int, activation_bits: int, tmp_path: Path
    ) -> None:
        task = tiny_task(name)
        settings = {"weight_bits": weight_bits, "activation_bits": activation_bits, "epochs": 0.25}
        model, structure = trained(task, settings)
        report = export_onnx(model, task, 2, tmp_path / "model.onnx")
        assert min(report["agreement_db"].values()) > 35
        assert min(agreement(quiet_session(tmp_path / "model.onnx"), model, task)) > 35
        assert report["weight_bits"] == {key.removesuffix(".weight"): bits for key, bits in structure["bits"].items()}

    def test_a_file_is_judged_by_itself_and_not_by_this_processor(self, tmp_path: Path) -> None:
        # Weights of 8 bits, for a target elsewhere, whose sums do not overflow.
        task, technique = tiny_task("cnn"), Qat()
        elsewhere = Target("t", "onnxruntime", {"fp32": Precision(), "int8_static": Precision()})
        settings = technique.resolve({"epochs": 0.25}, elsewhere)
        model, structure = technique.apply(task.model(), settings, Context(task, task.model))
        assert set(structure["bits"].values()) == {8}
        assert min(export_onnx(model, task, 2, tmp_path / "model.onnx")["agreement_db"].values()) > 35

    def test_weights_are_integers_of_their_width(self, tmp_path: Path) -> None:
        task = tiny_task("cnn")
        model, structure = trained(task, {"weight_bits": 3, "epochs": 0.25})
        export_onnx(model, task, 1, tmp_path / "model.onnx")
        stored = {i.name: numpy_helper.to_array(i) for i in onnx.load(str(tmp_path / "model.onnx")).graph.initializer}
        ends = {"stem.weight": WEIGHT_BITS, "head.weight": WEIGHT_BITS}
        assert structure["bits"] == {"conv1.weight": 3, "conv2.weight": 3, **ends}
        for layer in ("conv1.weight", "conv2.weight"):
            assert stored[layer].dtype == np.int8
            assert stored[layer].min() >= -4 and stored[layer].max() <= 3
        for name, quantizer, weight in weight_quantizers(model):
            if name == "conv1.weight":
                integers = np.rint(weight.detach().numpy() / quantizer.scale.detach().numpy().reshape(-1, 1, 1, 1))
                assert np.array_equal(stored[name], np.clip(integers, -4, 3))

    def test_four_bit_weights_are_packed_and_widened_at_load(self, tmp_path: Path) -> None:
        task = tiny_task("cnn")
        model, _ = trained(task, {"weight_bits": 4, "epochs": 0.25})
        report = export_onnx(model, task, 1, tmp_path / "model.onnx")
        proto = onnx.load(str(tmp_path / "model.onnx"))
        packed = [i for i in proto.graph.initializer if i.data_type == onnx.TensorProto.INT4]
        assert sorted(i.name for i in packed) == ["conv1.weight/packed.4bit", "conv2.weight/packed.4bit"]
        assert all(len(i.raw_data) == 24 * 24 * 9 // 2 for i in packed)
        assert weight_shapes(model) == weight_shapes(task.model())
        assert report["opset"] == proto.opset_import[0].version == 21
        for name, quantizer, weight in weight_quantizers(model):
            if name == "conv1.weight":
                expected = (weight / quantizer.scale.view(-1, 1, 1, 1)).round().clamp(-8, 7).detach().numpy()
                found = next(i for i in packed if i.name == f"{name}/packed.4bit")
                assert np.array_equal(numpy_helper.to_array(found).astype(np.float32), expected)

    def test_every_layer_runs_in_integers(self, tmp_path: Path) -> None:
        task = tiny_task("transformer")
        export_onnx(trained(task, {"weight_bits": 4, "epochs": 0.25})[0], task, 1, tmp_path / "model.onnx")
        from autoshrink.backends.onnxruntime import OnnxRuntime

        runtime = OnnxRuntime()
        files = runtime.compile(Source(tmp_path / "model.onnx", "int8_static"), tmp_path / "artifact").files
        audit = runtime.load(tmp_path / "artifact", files, "int8_static", 1).audit()
        assert audit.int8_layers == len(audit.layers) == 7
        assert {layer.name.partition("/")[0] for layer in audit.layers} >= {"attention.query", "expand", "head"}

    def test_narrow_activations_are_bounded(self, tmp_path: Path) -> None:
        task = tiny_task("cnn")
        export_onnx(trained(task, {"activation_bits": 4, "epochs": 0.25})[0], task, 1, tmp_path / "model.onnx")
        proto = onnx.load(str(tmp_path / "model.onnx"))
        kinds = Counter(node.op_type for node in proto.graph.node)
        assert kinds["Min"] == kinds["QuantizeLinear"]
        pooled = next(node.output[0] for node in proto.graph.node if node.op_type == "Min")
        del proto.graph.output[:]
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(pooled))
        (values,) = quiet_session(proto.SerializeToString()).run(None, {"image": task.val.inputs["image"][:1] * 100})
        assert values.dtype == np.uint8 and values.max() == 15

    def test_a_bias_fits_beside_an_activation_that_is_always_zero(self, tmp_path: Path) -> None:
        task = tiny_task("conv_only")
        model = task.model()
        model.get_parameter("conv1.bias").data.fill_(-100.0)
        changed, _ = trained(task, {"epochs": 0.25, "step": "observed"}, model)
        assert min(export_onnx(changed, task, 1, tmp_path / "m.onnx")["agreement_db"].values()) > 35

    def test_signed_grids_run_too(self, tmp_path: Path) -> None:
        task = tiny_task("transformer")
        target = Target("t", "onnxruntime", {"fp32": Precision(), "int8_static": Precision(activations="int8")})
        technique = Qat()
        settings = technique.resolve({"weight_bits": 4, "activation_bits": 6, "epochs": 0.25}, target)
        model, _ = technique.apply(task.model(), settings, Context(task, task.model))
        assert min(export_onnx(model, task, 1, tmp_path / "m.onnx")["agreement_db"].values()) > 35


class TestTraining:
    def test_8_bits_of_weights_on_the_grid_are_the_identity(self) -> None:
        task = tiny_task("conv_only")
        model = task.model()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                step = layer.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
                layer.weight.data = (layer.weight / step).round() * step
        graph = FloatGraph(model, task, "qat")
        module = add_quantizers(graph, {layer.weight: 8 for layer in graph.layers()[0]}, 8, UNSIGNED, learned=True)
        for name, quantizer, weight in weight_quantizers(module):
            quantizer.initialise(weight)
            torch.testing.assert_close(quantizer(weight), model.get_parameter(name))

    def test_learns(self) -> None:
        task = tiny_task("cnn")
        losses = [
            val_loss(trained(task, {"weight_bits": 2, "epochs": epochs})[0], task, torch.device("cpu"))
            for epochs in (0.05, 3)
        ]
        assert losses[1] < 0.7 * losses[0]

    def test_observed_steps_stay_and_learned_ones_move(self) -> None:
        task = tiny_task("cnn")
        first, second = (
            [q.scale.detach() for _, q, _ in weight_quantizers(trained(task, {"step": s, "weight_bits": 4})[0])]
            for s in ("observed", "learned")
        )
        reference = [
            q.scale.detach()
            for _, q, _ in weight_quantizers(trained(task, {"step": "observed", "weight_bits": 4, "epochs": 0.25})[0])
        ]
        assert all(torch.equal(one, other) for one, other in zip(first, reference, strict=True))
        assert not any(torch.equal(one, other) for one, other in zip(second, reference, strict=True))

    def test_pruned_weights_stay_zero(self) -> None:
        task = tiny_task("cnn")
        model = task.model()
        mask = torch.rand(model.get_parameter("conv1.weight").shape, generator=torch.Generator().manual_seed(0)) < 0.5
        model.get_parameter("conv1.weight").data[mask] = 0
        found = trained(task, {"weight_bits": 8}, model)[0].get_parameter("conv1.weight")
        assert bool((found[mask] == 0).all()) and not bool((found[~mask] == 0).all())

    def test_nothing_left_to_quantize_names_the_layers(self) -> None:
        task = tiny_task("tied")
        with pytest.raises(StageError, match=r"layer head: its weight is shared.*layer hidden: stays float"):
            trained(task, {"keep_float": "first_last"})

    def test_a_target_without_integers_is_refused(self) -> None:
        with pytest.raises(StageError, match="target narrow has no int8_static"):
            Qat().resolve({}, Target("narrow", "onnxruntime", {"fp32": Precision()}))


class TestMixedPrecision:
    def graph(self) -> tuple[Task, FloatGraph]:
        task = tiny_task("cnn")
        return task, FloatGraph(task.model(), task, "qat")

    def test_budget_is_kept_and_spent(self) -> None:
        task, graph = self.graph()
        layers = graph.layers()[0]
        losses = rounding_losses(task.model(), graph, task, True, None)
        total = sum(layer.count for layer in layers)
        for average in (2.0, 3.3, 5.0, 8.0):
            bits = allocate_bits(losses, layers, average)
            mean = sum(bits[layer.weight] * layer.count for layer in layers) / total
            assert mean <= average
            assert mean > average - 1
        assert set(allocate_bits(losses, layers, 2.0).values()) == {2}

    def test_sensitive_layers_get_more(self) -> None:
        _, graph = self.graph()
        layers = graph.layers()[0]
        losses = {layer.weight: {bits: 0.01 * 4.0**-bits for bits in BITS} for layer in layers}
        losses["conv2.weight"] = {bits: 100 * 4.0**-bits for bits in BITS}
        bits = allocate_bits(losses, layers, 4.5)
        assert bits["conv2.weight"] > bits["conv1.weight"]

    def test_fewer_bits_move_the_outputs_more_and_weights_come_back(self) -> None:
        task, graph = self.graph()
        before = {name: value.clone() for name, value in graph.module.state_dict().items()}
        losses = rounding_losses(task.model(), graph, task, True, None)
        for row in losses.values():
            assert row[8] < row[4] < row[2]
        assert all(torch.equal(value, before[name]) for name, value in graph.module.state_dict().items())

    def test_measured_once_a_model(self, tmp_path: Path) -> None:
        task, graph = self.graph()
        cache = StageCache(tmp_path)
        told: list[int] = []
        first = rounding_losses(task.model(), graph, task, True, cache, lambda done, _total: told.append(done))
        assert len(told) == 6 * 4
        again = rounding_losses(task.model(), graph, task, True, cache, lambda done, _total: told.append(done))
        assert again == first and len(told) == 6 * 4

    def test_large_models_are_measured_on_fewer_rows(self) -> None:
        task = tiny_task("cnn")
        assert len(measured_rows(nn.Linear(10, 10), task)["image"]) == 64  # all the rows there are
