from __future__ import annotations

import random
from dataclasses import replace

import pytest

from autoshrink.config import load_space, load_target
from autoshrink.errors import ConfigError
from autoshrink.search.seeding import start_recipes
from autoshrink.search.space import complete, draw, enumerate_recipes, parameters_of, reduce_space
from autoshrink.search.words import describe
from autoshrink.types import Choice, Dimension, Range, Recipe, Scalar, Space
from tests.small_models import tiny_task

PTQ = Space(
    "s",
    {"quantize": {"scheme": Choice(("fp32", "fp16", "int8_static")), "calibration": Choice(("minmax", "percentile"))}},
)
WHOLE = Space(
    "s",
    {
        "prune": {"ratio": Choice((0.0, 0.25, 0.5))},
        "finetune": {"epochs": Choice((1, 2))},
        "quantize": {"scheme": Choice(("fp32", "int8_static")), "calibration": Choice(("minmax", "percentile"))},
    },
)


def test_conditional_parameters_are_asked_only_where_they_exist() -> None:
    asked: list[str] = []

    def first(name: str, dimension: Dimension) -> Scalar:
        asked.append(name)
        assert isinstance(dimension, Choice)
        return dimension.values[0]

    assert draw(WHOLE, first) == Recipe()
    assert asked == ["prune.ratio", "quantize.scheme"]


def test_enumeration_counts_each_recipe_once() -> None:
    recipes = enumerate_recipes(PTQ, 100)
    assert recipes is not None
    assert len(recipes) == len({recipe.key for recipe in recipes}) == 4  # nothing, fp16, int8 with two calibrations
    recipes = enumerate_recipes(WHOLE, 100)
    assert recipes is not None
    assert len(recipes) == (1 + 2 * 2) * (1 + 2)
    assert enumerate_recipes(WHOLE, 10) is None


def test_a_continuous_space_is_not_enumerated_but_a_stepped_one_is() -> None:
    continuous = Space("s", {"prune": {"ratio": Range(0.1, 0.9)}})
    assert enumerate_recipes(continuous, 1000) is None
    stepped = Space("s", {"prune": {"ratio": Range(0.25, 0.75, 0.25)}})
    recipes = enumerate_recipes(stepped, 1000)
    assert recipes is not None
    assert sorted(float((recipe.settings("prune") or {})["ratio"]) for recipe in recipes) == [0.25, 0.5, 0.75]


def test_parameters_lead_back_to_their_recipe() -> None:
    for recipe in enumerate_recipes(WHOLE, 100) or []:
        parameters = parameters_of(WHOLE, recipe)
        assert parameters is not None
        assert draw(WHOLE, lambda name, _dimension, known=parameters: known[name]) == recipe  # type: ignore[misc]
    outside = Recipe.from_json([{"technique": "prune", "ratio": 0.9, "importance": "magnitude"}])
    assert parameters_of(WHOLE, outside) is None


def test_recipes_survive_json_and_do_not_depend_on_the_order_of_settings() -> None:
    for recipe in enumerate_recipes(WHOLE, 100) or []:
        assert Recipe.from_json(recipe.to_json()) == recipe
    one = Recipe.from_json([{"technique": "prune", "ratio": 0.5, "importance": "magnitude"}])
    other = Recipe.from_json([{"importance": "magnitude", "technique": "prune", "ratio": 0.5}])
    assert one == other and one.key == other.key


def test_complete_fulfils_wishes_or_says_it_cannot() -> None:
    recipe = complete(WHOLE, {"prune.ratio": 0.5, "quantize.scheme": "int8_static"})
    assert recipe is not None
    assert describe(recipe) == "prune 50 % + fine-tune 1 epoch + int8 static"
    assert complete(WHOLE, {"prune.ratio": 0.9}) is None
    assert complete(PTQ, {"prune.ratio": 0.5}) is None


def test_the_start_is_plain_quantization_first_and_lies_within_the_space() -> None:
    space = load_space("standard")
    starts = start_recipes(space)
    assert describe(starts[0]) == "int8 static"
    assert len({recipe.key for recipe in starts}) == len(starts)
    assert all(parameters_of(space, recipe) is not None for recipe in starts)
    assert Recipe() not in starts


def test_random_draws_lie_within_the_enumeration() -> None:
    source = random.Random(0)
    everything = {recipe.key for recipe in enumerate_recipes(WHOLE, 100) or []}
    for _ in range(50):
        recipe = draw(WHOLE, lambda _name, dimension: source.choice(dimension.values))  # type: ignore[union-attr]
        assert recipe.key in everything


def test_what_a_target_cannot_run_is_taken_out_and_said() -> None:
    task = tiny_task("cnn")
    space, removed = reduce_space(load_space("standard"), load_target("onnxruntime-cpu"), frozenset(), task)
    reasons = {removal.what: removal.why for removal in removed}
    assert reasons["quantize.scheme bf16"] == "ONNX Runtime has no bf16 kernels on CPUs"
    schemes = space.techniques["quantize"]["scheme"]
    assert isinstance(schemes, Choice)
    assert "bf16" not in schemes.values and "int8_static" in schemes.values


def test_a_capability_decides_about_bf16() -> None:
    task, target, space = tiny_task("cnn"), load_target("openvino-cpu"), load_space("ptq")
    with_it, _ = reduce_space(space, target, frozenset({"BF16"}), task)
    without, removed = reduce_space(space, target, frozenset(), task)
    assert "bf16" in with_it.techniques["quantize"]["scheme"].values  # type: ignore[union-attr]
    assert "bf16" not in without.techniques["quantize"]["scheme"].values  # type: ignore[union-attr]
    assert any("needs BF16" in removal.why for removal in removed)


def test_a_task_without_training_data_keeps_training_free_techniques() -> None:
    task = replace(tiny_task("cnn"), train=None, loss=None)
    space, removed = reduce_space(load_space("standard"), load_target("onnxruntime-cpu"), frozenset(), task)
    assert "finetune" not in space.techniques
    assert any(removal.what == "finetune" and "no training set" in removal.why for removal in removed)


def test_a_space_with_nothing_left_is_refused() -> None:
    space = Space("s", {"quantize": {"scheme": Choice(("bf16",))}})
    with pytest.raises(ConfigError, match=r"nothing is left to search on onnxruntime-cpu .*no bf16 kernels"):
        reduce_space(space, load_target("onnxruntime-cpu"), frozenset(), tiny_task("cnn"))
