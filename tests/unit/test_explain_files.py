"""The known cases on the real runtimes: the cause is found, the right layers named, and the change really changes it.

No time is asserted: what a change brings is a matter of the machine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autoshrink.agreement import sqnr_db
from autoshrink.backends.tflite_graph import Graph
from autoshrink.bench.explain_files import CASES, Case, convolutions, linears, separable
from autoshrink.config import load_target
from autoshrink.errors import ChildError, ConfigError
from autoshrink.explain import onnx_layers, tflite_layers
from autoshrink.explain.apply_file import apply_to_file
from autoshrink.explain.explanation import Explanation, from_json, to_json
from autoshrink.explain.onnx_rewrites import REWRITES
from autoshrink.explain.place import Place
from autoshrink.explain.run import Explained, explain_file
from autoshrink.explain.subject import Port, Subject, made_inputs, read_inputs
from autoshrink.target import Measuring, Target
from autoshrink.types import LOW_BIT_WEIGHTS
from tests.processors import SATURATES

MOMENT = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=3, time_limit_s=5)
CALLS = 5
INT8_AFTER = {
    "signed activations": 3,
    "linear without int32 bias": 1,
    "MatMul + Add fusion": 1,
    "int4 convolution": 3,
    "int4 convolution in LiteRT": 1,
    "depthwise in dynamic int8": 0,
    "under 0.05 ms": 0,
    "channels 36 against 40": 0,
    "channels 62 against 64": 0,
}
"""Layers in 8 bit when the change was made."""


def target_of(name: str) -> Target:
    return replace(load_target(name), measuring=MOMENT)


def explained(file: Path, target: str, folder: Path) -> tuple[Explained, Subject]:
    return explain_file(file, Place(target_of(target)), folder, CALLS)


def rules_of(found: Explanation) -> list[str]:
    return [finding.rule for finding in found.findings]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestTheKnownCases:
    def test_the_cause_is_found_and_the_change_is_real(self, case: Case, tmp_path: Path) -> None:
        file = tmp_path / f"case{case.ending}"
        case.write(file)
        before = file.read_bytes()
        found, subject = explained(file, case.target, tmp_path / "work")
        (finding,) = [each for each in found.explanation.findings if each.rule == case.rule]
        assert finding.layers == case.layers
        assert finding.change is not None

        tried = apply_to_file(found, subject, Place(target_of(case.target)), tmp_path / "out", tmp_path / "work")
        (own,) = [each for each in tried if each.changes == (finding.change,)]
        assert own.ratio is not None, own.why
        assert own.ratio_ci is not None
        assert own.int8_before is not None
        assert own.int8_after is not None
        assert own.int8_after[0] == INT8_AFTER[case.name]
        if case.rule != "misaligned_channels":
            assert own.int8_after[0] != own.int8_before[0] or case.name.startswith("int4 convolution in")
        assert file.read_bytes() == before, "the user's file is never touched"
        assert own.agreement_db is not None
        assert own.agreement_db > 18, "the changed file computes something else"

    def test_a_healthy_file_gives_no_such_finding(self, case: Case, tmp_path: Path) -> None:
        file = tmp_path / f"healthy{case.ending}"
        case.healthy(file)
        found, _ = explained(file, case.target, tmp_path / "work")
        assert case.rule not in rules_of(found.explanation)


def test_sums_that_overflow_are_found_where_the_processor_has_them(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    convolutions(file)
    found, _ = explained(file, "onnxruntime-cpu", tmp_path / "full")
    named = [each.layers for each in found.explanation.findings if each.rule == "saturating_sums"]
    assert named == ([("conv0", "conv1", "conv2")] if SATURATES else [])
    model = onnx.load(file)
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.INT8:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).clip(-64, 64), weight.name))
    onnx.save(model, file)
    assert "saturating_sums" not in rules_of(explained(file, "onnxruntime-cpu", tmp_path / "narrow")[0].explanation)


class TestProfiles:
    @pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
    def test_the_layers_have_times_precisions_and_shares(self, target: str, tmp_path: Path) -> None:
        file = tmp_path / "model.onnx"
        convolutions(file)
        found, _ = explained(file, target, tmp_path / "work")
        layers = {row.name: row for row in found.explanation.rows if row.precision}
        assert list(layers) == ["conv0", "conv1", "conv2"]
        for row in layers.values():
            assert row.precision == "int8"
            assert row.channels == "32 → 32"
            assert row.macs == 28 * 28 * 32 * 32 * 9
            assert row.ms is not None
            assert row.ms > 0
        shares = [row.share or 0.0 for row in found.explanation.rows]
        outside = (found.explanation.overhead_ms or 0.0) / (found.explanation.total_ms or 1.0)
        assert sum(shares) + outside == pytest.approx(1.0)

    def test_litert_says_that_it_has_no_times(self, tmp_path: Path) -> None:
        file = tmp_path / "model.tflite"
        separable(file, "FLOAT32", "INT4")
        found, _ = explained(file, "tflite-mobile", tmp_path / "work")
        assert [(row.name, row.precision, row.ms) for row in found.explanation.rows] == [
            ("depthwise", "fp32", None),
            ("pointwise", LOW_BIT_WEIGHTS, None),
        ]
        assert found.explanation.call_ms is not None
        assert any("no time per operator" in note for note in found.explanation.notes)

    def test_openvinos_own_form_is_read_as_well(self, tmp_path: Path) -> None:
        import openvino

        convolutions(tmp_path / "model.onnx", None, 36)
        openvino.save_model(openvino.convert_model(str(tmp_path / "model.onnx")), str(tmp_path / "net.xml"), False)
        found, subject = explained(tmp_path / "net.xml", "openvino-cpu", tmp_path / "work")
        assert subject.ports == (Port("x", (1, 36, 28, 28), "float32"),)
        assert "misaligned_channels" in rules_of(found.explanation)

    def test_an_explanation_survives_json(self, tmp_path: Path) -> None:
        file = tmp_path / "model.onnx"
        linears(file)
        found, _ = explained(file, "onnxruntime-cpu", tmp_path / "work")
        assert from_json(to_json(found.explanation), file) == found.explanation


class TestRewrites:
    """What a rewrite does to the function, by the standard's reference implementation."""

    x = np.random.default_rng(0).normal(size=(1, 36, 28, 28)).astype(np.float32)

    def outputs(self, model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        onnx.checker.check_model(model, full_check=True)
        return np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])

    @pytest.mark.parametrize("activations", [None, np.uint8])
    def test_padding_changes_no_output(self, activations: object, tmp_path: Path) -> None:
        convolutions(tmp_path / "m.onnx", activations, 36)  # type: ignore[arg-type]
        model = onnx.load(str(tmp_path / "m.onnx"))
        before = self.outputs(model, self.x)
        assert REWRITES["pad_channels"](model) == 2
        graph = onnx_layers.graph_of(model)
        assert [(layer.in_channels, layer.out_channels) for layer in graph.layers] == [(36, 40), (40, 40), (40, 36)]
        assert sqnr_db(before, self.outputs(model, self.x)) > 100

    def test_unsigned_activations_are_the_same_function_where_nothing_was_clipped(self, tmp_path: Path) -> None:
        convolutions(tmp_path / "m.onnx", np.int8)
        model = onnx.load(str(tmp_path / "m.onnx"))
        x = np.clip(self.x[:, :32], -1, 1)
        before = self.outputs(model, x)
        assert REWRITES["unsigned_activations"](model) == 4
        assert sqnr_db(before, self.outputs(model, x)) > 30
        assert {layer.activation for layer in onnx_layers.graph_of(model).layers} == {"uint8"}
        assert REWRITES["unsigned_activations"](model) == 0, "there is nothing left"

    def test_four_bits_are_widened_to_the_same_values(self, tmp_path: Path) -> None:
        convolutions(tmp_path / "m.onnx", np.uint8, bits=4)
        model = onnx.load(str(tmp_path / "m.onnx"))
        before = self.outputs(model, self.x[:, :32])
        assert REWRITES["int8_weights"](model) == 3
        np.testing.assert_array_equal(before, self.outputs(model, self.x[:, :32]))

    def test_an_integer_bias_is_rounded_to_a_step_of_the_product(self, tmp_path: Path) -> None:
        linears(tmp_path / "m.onnx")
        model = onnx.load(str(tmp_path / "m.onnx"))
        x = self.x.reshape(-1)[: 8 * 256].reshape(8, 256)
        before = self.outputs(model, x)
        assert REWRITES["integer_bias"](model) == 1
        assert np.abs(before - self.outputs(model, x)).max() < 0.03 * 0.002

    def test_the_float_form_has_no_pair_left(self, tmp_path: Path) -> None:
        convolutions(tmp_path / "m.onnx")
        model = onnx.load(str(tmp_path / "m.onnx"))
        before = self.outputs(model, self.x[:, :32])
        assert REWRITES["float_form"](model) > 0
        assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
        assert sqnr_db(before, self.outputs(model, self.x[:, :32])) > 15


class TestGraphs:
    def test_a_tflite_file(self, tmp_path: Path) -> None:
        separable(tmp_path / "m.tflite", "INT8", "INT4")
        first, second = tflite_layers.graph_of(Graph((tmp_path / "m.tflite").read_bytes())).layers
        assert (first.name, first.kind, first.stored, first.activation) == ("depthwise", "depthwise", "int8", "dynamic")
        assert first.macs == 28 * 28 * 32 * 9
        assert (second.kind, second.stored, second.weight_bytes) == ("conv", "int4", 32 * 32 * 9 // 2)
        assert second.macs == 28 * 28 * 32 * 32 * 9
        assert second.is_last

    def test_the_pairs_at_the_ends_are_told_from_those_inside(self, tmp_path: Path) -> None:
        convolutions(tmp_path / "m.onnx", layers=2)
        graph = onnx_layers.graph_of(onnx.load(str(tmp_path / "m.onnx")))
        assert graph.edge_conversions == {"in0.quantize", "in0.dequantize", "out.quantize", "out.dequantize"}
        assert graph.inner_conversions == {"in1.quantize", "in1.dequantize"}
        assert dict(graph.weight_conversions)["conv1.weight.unpack"] == "conv1"


class TestMistakes:
    def test_a_file_of_another_runtime(self, tmp_path: Path) -> None:
        file = tmp_path / "m.tflite"
        separable(file)
        with pytest.raises(ConfigError, match=r"takes \.onnx; \.tflite runs on targets of litert"):
            explained(file, "onnxruntime-cpu", tmp_path / "work")

    def test_a_target_without_files_of_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"")
        with pytest.raises(ConfigError, match="explain a trial of a study instead"):
            explained(tmp_path / "m.onnx", "coreml-iphone", tmp_path / "work")

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"\xffnonsense")
        with pytest.raises((ConfigError, ChildError), match=r"m\.onnx|model\.onnx"):
            explained(tmp_path / "m.onnx", "onnxruntime-cpu", tmp_path / "work")

    def test_openvinos_weights_are_missing(self, tmp_path: Path) -> None:
        (tmp_path / "net.xml").write_text("<net/>")
        with pytest.raises(ConfigError, match=r"net\.bin: there is no such file; \.xml needs it"):
            explained(tmp_path / "net.xml", "openvino-cpu", tmp_path / "work")

    def test_every_problem_of_inputs_is_said_at_once(self, tmp_path: Path) -> None:
        ports = (Port("a", (1, 3), "float32"), Port("b", (2,), "int64"))
        np.savez(tmp_path / "in.npz", a=np.zeros((1, 3)), b=np.zeros((3,), np.int64))
        with pytest.raises(ConfigError) as caught:
            read_inputs(tmp_path / "in.npz", ports)
        assert len(caught.value.problems) == 2

    def test_inputs_are_never_unpickled(self, tmp_path: Path) -> None:
        np.save(tmp_path / "in.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(ConfigError, match="cannot be read"):
            read_inputs(tmp_path / "in.npy", (Port("a", (1,), "float32"),))


def test_made_inputs_are_the_same_for_a_seed_and_in_range_as_indices() -> None:
    ports = (Port("image", (1, 3), "float32"), Port("token", (1, 4), "int64"))
    first, again = made_inputs(ports, 3, 2), made_inputs(ports, 3, 2)
    assert first["image"].shape == (2, 3)
    np.testing.assert_array_equal(first["image"], again["image"])
    assert set(np.unique(first["token"])) <= {0, 1}


def test_free_dimensions_are_one_and_said(tmp_path: Path) -> None:
    linears(tmp_path / "m.onnx")
    model = onnx.load(str(tmp_path / "m.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, str(tmp_path / "m.onnx"))
    found, subject = explained(tmp_path / "m.onnx", "onnxruntime-cpu", tmp_path / "work")
    assert subject.ports == (Port("x", (1, 256), "float32", True),)
    assert any("free dimensions of x are 1" in note for note in found.explanation.notes)
    assert any("without a name" in note for note in found.explanation.notes)
    assert "float_bias" in rules_of(found.explanation)
