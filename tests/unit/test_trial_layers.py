"""The layers of a trial: which kernel is whose, channels that are left, ranks, bits."""

from __future__ import annotations

from autoshrink.dashboard.trial_layers import LayerRow, layer_picture, matches
from autoshrink.explain.explanation import Explanation, Row
from autoshrink.types import Audit, Layer, Outcome, Recipe, TrialRecord

RESNET = ("stem.0", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.shortcut.0", "blocks.1.conv2",
          "head")  # fmt: skip
# As ONNX Runtime 1.31 names the kernels of the demo's model in fp32, where ReLUs are fused into convolutions.
FUSED = ("stem.2/Relu", "blocks.0/Relu", "blocks.0.conv2/Conv", "blocks.1/Relu", "blocks.1.shortcut.0/Conv",
         "blocks.1.conv2/Conv", "head/Gemm")  # fmt: skip


def record(kernels: tuple[Layer, ...] = (), **changes: object) -> TrialRecord:
    return TrialRecord(1, "t", Recipe(), Outcome.COMPLETE, audit=Audit(kernels, 0, len(kernels)), **changes)  # type: ignore[arg-type]


def row(name: str, share: float, channels: str = "") -> Row:
    return Row(name, "Conv", "fp32", 10 * share, share, channels)


def explanation(*rows: Row) -> Explanation:
    return Explanation("s", "t", "b", "r", rows, (), 10.0, 10.0, 0.0, "")


def test_kernels_match_by_the_module_in_their_name() -> None:
    assert matches(("a.b", "a"), ("a.b/Conv", "a/Gemm")) == {0: "a.b", 1: "a"}
    assert matches(("a.b",), ("/a/b/Conv",)) == {0: "a.b"}
    assert matches(("a.b",), ("a.b",)) == {0: "a.b"}
    # One layer may run as several kernels.
    assert matches(("gru",), ("gru/MatMul", "gru/MatMul_1")) == {0: "gru", 1: "gru"}


def test_a_fused_kernel_is_of_the_only_layer_left_in_its_scope() -> None:
    assert matches(RESNET, FUSED) == dict(enumerate(RESNET))


def test_the_last_one_left_of_all_matches_whatever_its_name() -> None:
    assert matches(("stem.0", "head"), ("stem.0/Conv", "logits")) == {0: "stem.0", 1: "head"}


def test_where_two_are_left_none_is_guessed() -> None:
    assert matches(("a.x", "a.y"), ("a/Relu", "a/Relu_1")) == {}
    assert matches(("a.x", "a.y"), ("a/Relu",)) == {}
    assert matches(("a",), ("one", "two")) == {}


def test_channels_are_of_how_many_the_baseline_has() -> None:
    baseline = record(weights={"conv": (64, 3, 3, 3), "up": (64, 32, 2, 2), "old": (8, 64)})
    kernels = (Layer("conv/Conv", "QLinearConv", "int8"), Layer("up/ConvTranspose", "ConvTranspose", "fp32"))
    picture = layer_picture(record(kernels, weights={"conv": (48, 3, 3, 3), "up": (48, 24, 2, 2)}), baseline)
    assert picture.rows == (
        LayerRow("conv", 8, 48, 64, kernel=kernels[0]),
        # Its weight has the input channels first.
        LayerRow("up", None, 24, 32, kernel=kernels[1]),
    )
    assert picture.gone == ("old",)
    assert not picture.is_timed


def test_ranks_are_those_between_the_factors() -> None:
    before = {"pair": (64, 32), "triple": (64, 32, 3, 3), "spatial": (8, 2, 3, 5)}
    weights = {
        "pair.0": (12, 32),
        "pair.1": (64, 12),
        "triple.0": (10, 32, 1, 1),
        "triple.1": (20, 10, 3, 3),
        "triple.2": (64, 20, 1, 1),
        "spatial.0": (4, 2, 3, 1),
        "spatial.1": (8, 4, 1, 5),
    }
    rows = layer_picture(record(weights=weights), record(weights=before)).rows
    assert [(row.name, row.rank, row.full_rank) for row in rows] == [
        ("pair.0", 12, 32),
        ("pair.1", None, None),
        ("triple.0", 10, 32),
        ("triple.1", 20, 64),
        ("triple.2", None, None),
        # A matrix of 2 x 3 to 8 x 5.
        ("spatial.0", 4, 6),
        ("spatial.1", None, None),
    ]
    assert [row.channels_before for row in rows] == [None, 64, None, None, 64, None, 8]
    assert layer_picture(record(weights=weights), record(weights=before)).gone == ()


def test_bits_are_the_trained_ones_else_those_of_an_8_bit_kernel() -> None:
    kernels = [Layer(f"{name}/Conv", "Conv", runs) for name, runs in (("a", "int8"), ("b", "uint8"), ("c", "fp32"))]
    picture = layer_picture(record(tuple(kernels), weights=dict.fromkeys("abc", (4, 4)), weight_bits={"a": 3}))
    assert [row.bits for row in picture.rows] == [3, 8, None]


def test_shares_come_from_the_explanation_which_has_the_layers_own_names() -> None:
    kernels = tuple(Layer(name, "Conv", "fp32") for name in FUSED)
    told = explanation(*(row(f"{name}/Conv", 0.1) for name in RESNET), Row("pool", "Pool", "", 3.0, 0.3))
    picture = layer_picture(record(kernels, weights=dict.fromkeys(RESNET, (4, 4))), None, told)
    assert [each.share for each in picture.rows] == [0.1] * len(RESNET)
    assert picture.is_timed
    assert [each.is_renamed for each in picture.rows] == [True, True, False, True, False, False, False]


def test_kernels_without_a_layer_stand_apart() -> None:
    kernels = (Layer("a/Conv", "Conv", "fp32"), Layer("odd", "Conv", "fp32"), Layer("odder", "Conv", "fp32"))
    picture = layer_picture(record(kernels, weights={"a": (4, 4), "b": (4, 4)}))
    assert [each.kernel for each in picture.rows] == [kernels[0], None]
    assert picture.unmatched == kernels[1:]


def test_a_record_without_shapes_has_a_row_a_kernel() -> None:
    kernels = (Layer("stem.2/Relu", "Conv", "fp32"), Layer("head/Gemm", "Conv", "uint8"))
    told = explanation(row("stem.0/Conv", 0.75, "1 → 64"), row("head/Gemm", 0.25, "64 → 10"))
    picture = layer_picture(record(kernels), None, told)
    assert picture.rows == (
        LayerRow("stem.2/Relu", None, 64, kernel=kernels[0], share=0.75, ms=7.5),
        LayerRow("head/Gemm", 8, 10, kernel=kernels[1], share=0.25, ms=2.5),
    )
    assert layer_picture(record()).rows == ()
