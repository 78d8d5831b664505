from __future__ import annotations

import pytest

from autoshrink.search.words import describe, human_figure, human_rate, reduced_training, rows_per_second
from autoshrink.types import Figure, Recipe, Scalar
from tests.fake_study import fake_latency


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ({"technique": "student", "width": 0.5, "depth": 1.0, "convolutions": "dense"}, "student 0.5 wide"),
        ({"technique": "student", "width": 1.0, "depth": 0.5}, "student half the layers"),
        (
            {"technique": "student", "width": 0.375, "depth": 0.75, "convolutions": "separable"},
            "student 0.375 wide, 75 % of the layers, separable convolutions",
        ),
        ({"technique": "student", "width": 1, "convolutions": "inverted"}, "student inverted-residual convolutions"),
        ({"technique": "prune", "ratio": 0.625, "importance": "magnitude", "steps": 1}, "prune 62.5 %"),
        (
            {"technique": "prune", "ratio": 0.5, "importance": "taylor", "scope": "per_layer", "steps": 3},
            "prune 50 % by taylor, layer by layer, 3 steps",
        ),
        ({"technique": "prune", "ratio": 0.5, "heads": "remove"}, "prune 50 %, whole heads"),
        ({"technique": "factorize", "rule": "energy", "energy": 0.9}, "rank for 90 % energy"),
        (
            {"technique": "factorize", "rule": "budget", "budget": 0.5, "convolutions": "spatial"},
            "rank for 50 % of the arithmetic, spatial",
        ),
        ({"technique": "finetune", "epochs": 1.0, "hint": 0.0}, "fine-tune 1 epoch"),
        ({"technique": "finetune", "epochs": 2, "hint": 1.0}, "fine-tune 2 epochs with hints"),
        ({"technique": "sparsify", "pattern": "unstructured", "ratio": 0.7, "epochs": 0.0}, "70 % sparse"),
        (
            {"technique": "sparsify", "pattern": "2:4", "importance": "wanda", "schedule": "gradual", "epochs": 1},
            "2:4 sparse by wanda, gradual, trained 1 epoch",
        ),
        ({"technique": "cluster", "centroids": 16, "keep": "first_last", "epochs": 0}, "16 centroids"),
        ({"technique": "cluster", "centroids": 2, "keep": "none", "epochs": 0}, "2 centroids, every layer"),
        ({"technique": "cluster", "centroids": 2, "epochs": 2}, "2 centroids, trained 2 epochs"),
        ({"technique": "binarize", "values": "binary", "keep": "first_last", "epochs": 0}, "binary weights"),
        (
            {"technique": "binarize", "values": "ternary", "keep": "last", "epochs": 3.0},
            "ternary weights, trained 3 epochs, last layer float",
        ),
        (
            {"technique": "qat", "allocation": "uniform", "weight_bits": 4, "activation_bits": 8, "epochs": 1},
            "4-bit weights, 8-bit activations, trained 1 epoch",
        ),
        (
            {"technique": "qat", "allocation": "mixed", "average_bits": 4.5, "activation_bits": 6, "epochs": 0.0},
            "mixed 4.5-bit weights, 6-bit activations, not trained",
        ),
        (
            {"technique": "qat", "weight_bits": 2, "step": "observed", "epochs": 2, "keep_float": "last"},
            "2-bit weights, 8-bit activations, trained 2 epochs, observed steps, last layer float",
        ),
        (
            {"technique": "quantize", "scheme": "int8_static", "calibration": "percentile", "keep_float": "last"},
            "int8 static, percentile, last layer float",
        ),
        (
            {"technique": "quantize", "scheme": "int4_weights", "block": 32, "rounding": "hqq"},
            "int4 weights, blocks of 32, HQQ",
        ),
        ({"technique": "melt", "heat": 3}, "melt heat=3"),
    ],
)  # fmt: skip
def test_each_technique_is_said_in_a_few_words(stage: dict[str, Scalar], expected: str) -> None:
    assert describe(Recipe.from_json([stage])) == expected


def test_stages_stand_in_the_order_of_the_recipe() -> None:
    recipe = Recipe.from_json(
        [{"technique": "factorize", "rule": "energy", "energy": 0.9}, {"technique": "prune", "ratio": 0.5}]
    )
    assert describe(recipe) == "rank for 90 % energy + prune 50 %"
    assert describe(Recipe()) == "fp32 baseline"


def test_a_fidelity_is_said_where_it_is_not_whole_and_something_trains() -> None:
    trained = Recipe.from_json([{"technique": "finetune", "epochs": 1}])
    untrained = Recipe.from_json([{"technique": "cluster", "centroids": 16, "epochs": 0.0}])
    assert describe(trained) == describe(trained, 1.0) == "fine-tune 1 epoch"
    assert describe(trained, 0.3) == "fine-tune 1 epoch (30 % of the training)"
    assert describe(untrained, 0.3) == "16 centroids"
    assert reduced_training(1.0) == "" and reduced_training(0.1) == " (10 % of the training)"


def test_trained_low_bit_weights_run_as_static_int8() -> None:
    qat = {"technique": "qat", "allocation": "uniform", "weight_bits": 4}
    assert Recipe.from_json([qat]).precision == "int8_static"
    assert Recipe.from_json([{"technique": "quantize", "scheme": "fp16"}]).precision == "fp16"
    assert Recipe.from_json([{"technique": "finetune", "epochs": 1}]).precision == "fp32"


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (Figure(262_144, "bytes", "the planner"), "262 kB"),
        (Figure(1.84, "ms", "Vela", estimate=True), "~1.84 ms (estimate)"),
        (Figure(1_234_567, "cycles", "Vela", estimate=True), "~1,234,567 cycles (estimate)"),
        (Figure(0.12345, "", "the compiler"), "0.1235"),
    ],
)
def test_figures_say_their_unit_and_whether_they_are_estimates(figure: Figure, expected: str) -> None:
    assert human_figure(figure) == expected


def test_a_limit_on_an_estimate_is_none() -> None:
    assert human_figure(Figure(1.84, "ms", "Vela", estimate=True), 20.0) == "20.0 ms"


def test_throughput() -> None:
    assert rows_per_second(fake_latency(0.5, reference_ms=4.0), batch=8) == 4000
    assert human_rate(4000) == "4,000 rows/s"
    assert human_rate(12.54) == "12.5 rows/s"
