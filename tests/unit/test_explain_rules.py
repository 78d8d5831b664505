"""Each rule of `explain` on hand-made knowledge with a known answer, and where it must keep silent."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from autoshrink.backends.base import INT8_SATURATES
from autoshrink.explain import rules_integers, rules_shape, rules_sums, rules_time
from autoshrink.explain.findings import Change
from autoshrink.explain.graph import GraphLayer
from autoshrink.explain.rules import findings_of
from autoshrink.types import Audit, Recipe, StageSpec
from tests.explain_known import conversion, kernel, known, layer

STATIC = Recipe((StageSpec.of("quantize", {"scheme": "int8_static", "keep_float": "first_last"}),))
TRIAL = {"is_file": False, "precision": "int8_static", "precisions": ("fp32", "int8_static", "int8_weights")}


class TestSignedActivations:
    layers: ClassVar = [layer(name, activation="int8") for name in "abc"]
    kernels: ClassVar = [
        kernel("a", "FusedConv", "fp32", 5.0),
        kernel("b", "FusedConv", "fp32", 4.0),
        kernel("c", "QLinearConv", "int8"),
    ]

    def test_all_signed_layers_are_named_and_the_float_ones_counted(self) -> None:
        (found,) = rules_integers.signed_activations(known(self.layers, self.kernels))
        assert found.layers == ("a", "b", "c")
        assert "2 of 3 such layers run in float" in found.what
        assert found.ms == 10.0
        assert found.change == Change("file", "unsigned_activations")

    def test_the_gain_is_that_of_the_rate_of_the_layer_in_8_bit(self) -> None:
        # 9 million products each; c makes them in 1 ms, so a and b would take 2 ms instead of 9.
        (found,) = rules_integers.signed_activations(known(self.layers, self.kernels))
        assert found.expected.ms == pytest.approx(7.0)
        assert "this profile (1 layer)" in found.expected.basis

    def test_without_a_layer_in_8_bit_the_gain_is_not_known(self) -> None:
        (found,) = rules_integers.signed_activations(known(self.layers[:2], self.kernels[:2]))
        assert found.expected.ms is None
        assert "not known for this one" in found.expected.basis

    def test_for_a_trial_it_is_the_targets_grid_that_changes(self) -> None:
        (found,) = rules_integers.signed_activations(known(self.layers, self.kernels, **TRIAL, recipe=STATIC))
        assert found.change == Change("target", "precisions.int8_static.activations", "uint8")

    def test_openvino_has_kernels_for_both(self) -> None:
        assert not rules_integers.signed_activations(known(self.layers, self.kernels, backend="openvino"))

    def test_unsigned_ones_are_fine(self) -> None:
        kernels = [kernel("a", "QLinearConv", "int8"), kernel("b", "QLinearConv", "int8")]
        assert not findings_of(known([layer("a"), layer("b")], kernels, 2.0))


class TestLinear:
    float_bias = layer("fc", kind="linear", operator="Gemm", bias="float")

    def test_a_float_bias_keeps_a_gemm_in_float(self) -> None:
        (found,) = rules_integers.float_bias(known([self.float_bias], [kernel("fc", "Gemm", "fp32")]))
        assert (found.rule, found.layers, found.change) == ("float_bias", ("fc",), Change("file", "integer_bias"))

    def test_so_do_weights_without_a_zero_point(self) -> None:
        lacking = layer("fc", kind="linear", operator="Gemm", has_zero_point=False)
        assert rules_integers.float_bias(known([lacking], [kernel("fc", "Gemm", "fp32")]))

    @pytest.mark.parametrize(
        "changes", [{"bias": "int32"}, {"is_requantized": True}, {"stored": "fp32"}, {"activation": "int8"}]
    )
    def test_what_has_another_cause_or_none_is_left_to_others(self, changes: dict[str, object]) -> None:
        other = layer("fc", **{"kind": "linear", "operator": "Gemm", "bias": "float", **changes})
        assert not rules_integers.float_bias(known([other], [kernel("fc", "Gemm", "fp32")]))

    def test_one_that_runs_in_8_bit_is_fine(self) -> None:
        assert not rules_integers.float_bias(known([self.float_bias], [kernel("fc", "QGemm", "int8")]))

    def test_the_fusion_of_matmul_and_add_is_told_by_the_kernel(self) -> None:
        fused = layer("fc", kind="linear", operator="MatMul", then_adds=True)
        (found,) = rules_integers.matmul_add_fusion(known([fused], [kernel("fc", "Gemm", "fp32")]))
        assert found.change == Change("target", "options.fuse_matmul_add", "off")
        assert not rules_integers.matmul_add_fusion(known([fused], [kernel("fc", "MatMulIntegerToFloat", "int8")]))
        off = known([fused], [kernel("fc", "Gemm", "fp32")], options={"fuse_matmul_add": "off"})
        assert not rules_integers.matmul_add_fusion(off)

    def test_unpacking_the_weights_in_each_call_is_counted_with_the_layer(self) -> None:
        kernels = [conversion("w.unpack", "DequantizeLinear", 3.0), kernel("fc", "Gemm", "fp32", 1.0)]
        (found,) = rules_integers.float_bias(known([self.float_bias], kernels, unpacks=[("w.unpack", "fc")]))
        assert found.ms == 4.0


class TestOtherFallbacks:
    def test_int4_convolutions(self) -> None:
        packed = layer("c", stored="int4", packs_weights=True)
        (found,) = rules_integers.int4_convolution(known([packed], [kernel("c", "Conv", "fp32")]))
        assert found.change == Change("file", "int8_weights")
        assert not rules_integers.int4_convolution(
            known([layer("c", stored="int4")], [kernel("c", "QLinearConv", "int8")])
        )
        linear = layer("c", kind="linear", stored="int4", packs_weights=True)
        assert not rules_integers.int4_convolution(known([linear], [kernel("c", "MatMulNBits", "low-bit weights")]))

    def test_depthwise_in_dynamic_int8_is_of_litert_alone(self) -> None:
        dynamic = layer("d", kind="depthwise", operator="DEPTHWISE_CONV_2D", activation="dynamic")
        (found,) = rules_integers.dynamic_depthwise(
            known([dynamic], [kernel("d", "X", "int8", None)], backend="litert")
        )
        assert (found.layers, found.expected.ms, found.ms) == (("d",), None, None)
        assert not rules_integers.dynamic_depthwise(known([dynamic], [kernel("d", "X", "int8")]))
        static = layer("d", kind="depthwise", activation="int8")
        assert not rules_integers.dynamic_depthwise(known([static], [kernel("d", "X", "int8")], backend="litert"))

    def test_a_fallback_that_no_other_rule_explains_says_what_it_sees(self) -> None:
        wide = layer("w", kind="linear", operator="MatMul", activation="uint16")
        weights = layer("o", kind="linear", operator="MatMul", activation="")
        odd = layer("x", activation="uint8")
        kernels = [kernel("w", "MatMul", "fp32"), kernel("o", "MatMul", "fp32"), kernel("x", "Conv", "fp32")]
        found = rules_integers.float_fallback(known([wide, weights, odd], kernels))
        assert [each.layers for each in found] == [("w",), ("o",), ("x",)]
        assert "16 bits" in found[0].why
        assert "only its weights" in found[1].why
        assert "not known" in found[2].why

    def test_float_layers_between_integers(self) -> None:
        layers = [layer("a"), layer("b", stored="fp32", activation=""), layer("c")]
        kernels = [
            kernel("a", "QLinearConv", "int8"),
            kernel("b", "Conv", "fp32", 3.0),
            kernel("c", "QLinearConv", "int8"),
        ]
        (found,) = rules_integers.mixed_blocks(known(layers, kernels))
        assert (found.layers, found.change) == (("b",), None)
        assert found.expected.ms == pytest.approx(2.0)

    def test_kept_first_and_last_layers_can_be_quantized_by_the_recipe(self) -> None:
        layers = [layer("a", stored="fp32"), layer("b"), layer("c", stored="fp32")]
        kernels = [kernel("a", "Conv", "fp32"), kernel("b", "QLinearConv", "int8"), kernel("c", "Conv", "fp32")]
        (found,) = rules_integers.mixed_blocks(known(layers, kernels, **TRIAL, recipe=STATIC))
        assert (found.layers, found.change) == (("a", "c"), Change("recipe", "quantize.keep_float", "none"))

    def test_a_float_model_is_not_mixed(self) -> None:
        layers = [layer("a", stored="fp32"), layer("b", stored="fp32"), layer("c", stored="fp32")]
        assert not rules_integers.mixed_blocks(known(layers, [kernel(name, "Conv", "fp32") for name in "abc"]))


class TestShapes:
    def test_channels_that_are_no_multiple(self) -> None:
        odd = layer("c", in_channels=36, out_channels=36)
        (found,) = rules_shape.misaligned_channels(known([odd], [kernel("c", "Conv", "fp32", 1.0)]))
        assert "36 (of 40)" in found.what
        assert found.change == Change("file", "pad_channels")
        # What padding brings cannot be told before; 32 of 40 on both sides are 0.64 of the time.
        assert found.expected.ms is None
        assert "0.360 ms less" in found.expected.basis

    @pytest.mark.parametrize(
        "changes",
        [
            {"in_channels": 40, "out_channels": 40},
            {"in_channels": 3, "out_channels": 32},
            {"in_channels": 32, "out_channels": 10, "is_last": True},
            {"in_channels": 33, "out_channels": 32, "is_first": True},
        ],
    )
    def test_multiples_and_the_models_own_ends_are_fine(self, changes: dict[str, object]) -> None:
        assert not rules_shape.misaligned_channels(known([layer("c", **changes)], [kernel("c", "Conv", "fp32")]))

    def test_a_pruned_trial_can_have_another_multiple(self) -> None:
        pruned = Recipe((StageSpec.of("prune", {"ratio": 0.5}),))
        odd = [layer("c", in_channels=36, out_channels=36)]
        more = {**TRIAL, "recipe": pruned}
        (found,) = rules_shape.misaligned_channels(
            known(odd, [kernel("c", "Conv", "fp32")], channel_multiple=1, **more)
        )
        assert found.change == Change("target", "channel_multiple", 8)
        assert found.expected.ms == pytest.approx(0.36)
        (kept,) = rules_shape.misaligned_channels(known(odd, [kernel("c", "Conv", "fp32")], channel_multiple=8, **more))
        assert kept.change is None

    def test_what_a_delegate_leaves(self) -> None:
        note = "not fully accelerated by XNNPACK: 2 GELU run in LiteRT's own kernels"
        (found,) = rules_shape.outside_delegate(known([], [], audit=Audit((), 0, 2, (note,))))
        assert found.what == note
        assert not rules_shape.outside_delegate(known([], [], audit=Audit((), 0, 2, ("fully accelerated by XNNPACK",))))


class TestTime:
    def test_an_integer_model_under_a_twentieth_of_a_millisecond(self) -> None:
        kernels = [conversion("q", ms=0.005), kernel("a", "QLinearConv", "int8", 0.01)]
        (found,) = rules_time.small_model(known([layer("a")], kernels, 0.02))
        assert found.change == Change("file", "float_form")
        assert found.expected.ms is None
        (trial,) = rules_time.small_model(known([layer("a")], kernels, 0.02, **TRIAL, recipe=STATIC))
        assert trial.change == Change("recipe", "quantize")
        assert not rules_time.small_model(known([layer("a")], kernels, 0.06))
        floats = [kernel("a", "Conv", "fp32", 0.01)]
        assert not rules_time.small_model(known([layer("a", stored="fp32")], floats, 0.02))

    def test_time_outside_every_kernel(self) -> None:
        (found,) = rules_time.fixed_overhead(known([layer("a")], [kernel("a", "Conv", "fp32", 0.1)], 0.2))
        assert found.ms == pytest.approx(0.1)
        assert found.expected.ms == pytest.approx(0.05)
        assert not rules_time.fixed_overhead(known([layer("a")], [kernel("a", "Conv", "fp32", 0.18)], 0.2))

    def test_no_overhead_is_made_up_without_times(self) -> None:
        assert not rules_time.fixed_overhead(known([layer("a")], [kernel("a", "Conv", "fp32", None)], 0.2))

    def test_conversions_inside_the_model_and_not_at_its_edges(self) -> None:
        kernels = [
            conversion("in"),
            kernel("a", "QLinearConv", "int8"),
            conversion("q"),
            conversion("turn", "Transpose"),
        ]
        (found,) = rules_time.conversions(known([layer("a")], kernels, edges=["in"]))
        assert (found.layers, found.ms) == (("q",), 0.5)
        assert not rules_time.conversions(known([layer("a")], kernels, edges=["in", "q"]))

    def test_conversions_of_little_time_are_left_alone(self) -> None:
        kernels = [kernel("a", "QLinearConv", "int8", 99.0), conversion("q", ms=1.0)]
        assert not rules_time.conversions(known([layer("a")], kernels))

    def test_a_layer_that_waits_for_memory(self) -> None:
        # 16 MB of weights in 2 ms: 8 MB a millisecond. The convolutions multiply at 9 million a millisecond.
        wide = layer(
            "fc",
            kind="linear",
            stored="fp32",
            activation="",
            macs=4_000_000,
            weight_bytes=16_000_000,
            value_bytes=16_000,
        )
        convs = [layer(name, stored="fp32", activation="") for name in "ab"]
        kernels = [kernel("a", "Conv", "fp32"), kernel("b", "Conv", "fp32"), kernel("fc", "Gemm", "fp32", 2.0)]
        trial = {**TRIAL, "precision": "fp32", "recipe": Recipe()}
        (found,) = rules_time.memory_bound(known([*convs, wide], kernels, **trial))
        assert found.layers == ("fc",)
        assert found.change == Change("recipe", "quantize.scheme", "int8_weights")
        # Three of four bytes of 16 MB out of 16.016 MB less.
        assert found.expected.ms == pytest.approx(2.0 * 12_000_000 / 16_016_000)

    def test_a_layer_that_multiplies_as_fast_as_any_does_not_wait(self) -> None:
        convs = [layer(name, stored="fp32") for name in "abc"]
        assert not rules_time.memory_bound(known(convs, [kernel(name, "Conv", "fp32") for name in "abc"]))

    def test_layers_no_dearer_than_the_cheapest_kernels(self) -> None:
        kernels = [
            kernel("a", "Conv", "fp32", 5.0),
            kernel("b", "Conv", "fp32", 0.011),
            kernel("r", "Relu", ms=0.01),
            kernel("s", "Relu", ms=0.5),
        ]
        (found,) = rules_time.small_kernels(known([layer("a", stored="fp32"), layer("b", stored="fp32")], kernels))
        assert (found.layers, found.expected.ms) == (("b",), None)


def test_the_dearest_comes_first_and_what_has_no_time_last() -> None:
    layers = [layer("a", activation="int8"), layer("b", in_channels=36)]
    kernels = [kernel("a", "Conv", "fp32", 1.0), kernel("b", "QLinearConv", "int8", 5.0)]
    audit = Audit((), 0, 2, ("not fully accelerated: x",))
    assert [each.rule for each in findings_of(known(layers, kernels, audit=audit))] == [
        "misaligned_channels",
        "signed_activations",
        "outside_delegate",
    ]


class TestSums:
    kernels: ClassVar = [kernel(name, "QLinearConv", "int8") for name in "abc"]
    lacking: ClassVar = {"capabilities": frozenset({INT8_SATURATES})}

    def layers(self, largest: int | None, **more: str) -> list[GraphLayer]:
        return [replace(layer(name, **more), largest_weight=largest) for name in "abc"]

    def test_weights_beyond_7_bits_are_named(self) -> None:
        layers = [replace(each, largest_weight=top) for each, top in zip(self.layers(0), (64, 65, 127), strict=True)]
        (found,) = rules_sums.saturating_sums(known(layers, self.kernels, **self.lacking))
        assert found.layers == ("b", "c")
        assert found.ms is found.change is found.expected.ms is None

    def test_for_a_trial_the_target_gives_7_bits(self) -> None:
        about = known(self.layers(127), self.kernels, **TRIAL, recipe=STATIC, **self.lacking)
        (found,) = rules_sums.saturating_sums(about)
        assert found.change == Change("target", "precisions.int8_static.weight_bits", 7)

    def test_silent_where_sums_are_exact(self) -> None:
        exact = [
            known(self.layers(127), self.kernels),
            known(self.layers(64), self.kernels, **self.lacking),
            known(self.layers(None), self.kernels, **self.lacking),
            known(self.layers(127, kind="depthwise"), self.kernels, **self.lacking),
            known(self.layers(127, activation=""), self.kernels, **self.lacking),
            known(self.layers(127), [kernel(name, "Conv", "fp32") for name in "abc"], **self.lacking),
        ]
        assert not [found for each in exact for found in rules_sums.saturating_sums(each)]
