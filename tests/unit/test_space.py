from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from autoshrink.config import load_space, load_target, profile_names
from autoshrink.errors import ConfigError
from autoshrink.search.seeding import start_recipes
from autoshrink.search.space import complete, draw, enumerate_recipes, parameters_of, reduce_space
from autoshrink.search.words import describe
from autoshrink.target import Precision, Target
from autoshrink.techniques import TECHNIQUES, get_technique
from autoshrink.techniques.base import Parameter
from autoshrink.techniques.order import arrange
from autoshrink.techniques.prune import Prune
from autoshrink.types import Choice, Dimension, Range, Recipe, Scalar, Space, StageSpec
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
ORDERED = Space(
    "s",
    {
        "student": {"width": Choice((1.0, 0.5)), "depth": Choice((1.0,)), "convolutions": Choice(("dense",))},
        "prune": {"ratio": Choice((0.0, 0.5))},
        "factorize": {"energy": Choice((1.0, 0.9))},
        "finetune": {"epochs": Choice((0, 1))},
    },
    orders=("pipeline", "factorize_first", "distill_first"),
)
SPARSE = Space(
    "s",
    {
        "sparsify": {"ratio": Choice((0.0, 0.5)), "pattern": Choice(("unstructured", "2:4", "1:4"))},
        "quantize": {"scheme": Choice(("fp32", "fp16"))},
    },
)


class Asked:
    """Gives wished values, else the first, and remembers the dimensions it was asked for."""

    def __init__(self, wishes: Mapping[str, Scalar] | None = None) -> None:
        self.wishes = wishes or {}
        self.dimensions: dict[str, Dimension] = {}

    def __call__(self, name: str, dimension: Dimension) -> Scalar:
        self.dimensions[name] = dimension
        first = dimension.values[0] if isinstance(dimension, Choice) else dimension.low
        return self.wishes.get(name, first)


def random_value(source: random.Random, dimension: Dimension) -> Scalar:
    if isinstance(dimension, Choice):
        return source.choice(dimension.values)
    return source.uniform(dimension.low, dimension.high)


def names(recipe: Recipe) -> list[str]:
    return [stage.technique for stage in recipe.stages]


def a_target(**changes: object) -> Target:
    precisions = {"fp32": Precision(), "fp16": Precision("storage"), "int8_static": Precision()}
    return replace(Target("device", "onnxruntime", precisions), **changes)  # type: ignore[arg-type]


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


def test_orders_move_only_what_they_are_about() -> None:
    def arranged(order: str, *techniques: str) -> list[str]:
        return [stage.technique for stage in arrange(map(StageSpec, techniques), order)]

    everything = tuple(TECHNIQUES)
    assert arranged("pipeline", *reversed(everything)) == list(everything)
    assert arranged("factorize_first", *everything)[:4] == ["student", "factorize", "prune", "finetune"]
    assert arranged("distill_first", *everything)[:4] == ["student", "finetune", "prune", "factorize"]
    assert arranged("factorize_first", "finetune", "prune") == ["prune", "finetune"]
    assert arranged("distill_first", "finetune", "prune") == ["prune", "finetune"]


@pytest.mark.parametrize(
    ("wishes", "offers"),
    [
        ({}, None),
        ({"prune.ratio": 0.5}, None),
        ({"student.width": 0.5, "finetune.epochs": 1}, None),
        ({"student.width": 0.5, "prune.ratio": 0.5}, None),
        ({"prune.ratio": 0.5, "factorize.energy": 0.9}, ("pipeline", "factorize_first")),
        ({"prune.ratio": 0.5, "factorize.energy": 0.9, "finetune.epochs": 1}, ("pipeline", "factorize_first")),
        ({"student.width": 0.5, "prune.ratio": 0.5, "finetune.epochs": 1}, ("pipeline", "distill_first")),
        (
            {"student.width": 0.5, "prune.ratio": 0.5, "factorize.energy": 0.9, "finetune.epochs": 1},
            ("pipeline", "factorize_first", "distill_first"),
        ),
    ],
)
def test_an_order_is_asked_where_the_stages_move_and_named_by_its_offers(
    wishes: dict[str, Scalar], offers: tuple[str, ...] | None
) -> None:
    asked = Asked(wishes)
    recipe = draw(ORDERED, asked)
    orders = {name: dimension for name, dimension in asked.dimensions.items() if name.startswith("order")}
    assert orders == ({} if offers is None else {f"order({'|'.join(offers)})": Choice(offers)})
    for order in offers or ("pipeline",):
        found = complete(ORDERED, {**wishes, "order": order})
        assert found == Recipe(arrange(recipe.stages, order))
        parameters = parameters_of(ORDERED, found)
        assert parameters is not None
        assert draw(ORDERED, lambda name, _dimension, known=parameters: known[name]) == found  # type: ignore[misc]
    assert complete(replace(ORDERED, orders=("pipeline",)), {**wishes, "order": "distill_first"}) is None


def test_enumeration_holds_every_order_once() -> None:
    recipes = enumerate_recipes(ORDERED, 1000)
    assert recipes is not None
    by_stages: dict[frozenset[str], set[tuple[str, ...]]] = {}
    for recipe in recipes:
        by_stages.setdefault(frozenset(names(recipe)), set()).add(tuple(names(recipe)))
    # Of 2^4 subsets the one with fine-tuning alone is none: there is nothing to mend.
    assert len(by_stages) == 15
    assert len(recipes) == sum(map(len, by_stages.values())) == 15 + 7
    assert by_stages[frozenset(ORDERED.techniques)] == {
        ("student", "prune", "factorize", "finetune"),
        ("student", "factorize", "prune", "finetune"),
        ("student", "finetune", "prune", "factorize"),
    }


def test_without_the_order_of_the_table_one_that_moves_nothing_stands_for_it() -> None:
    space = replace(ORDERED, orders=("factorize_first",))
    asked = Asked({"prune.ratio": 0.5, "factorize.energy": 0.9})
    assert names(draw(space, asked)) == ["factorize", "prune"]
    assert not any(name.startswith("order") for name in asked.dimensions)


def test_a_technique_that_an_earlier_one_excludes_is_not_asked() -> None:
    space = Space(
        "s",
        {
            "cluster": {"centroids": Choice((0, 16))},
            "qat": {"allocation": Choice(("off", "uniform"))},
            "quantize": {"scheme": Choice(("fp32", "int8_static"))},
        },
    )
    asked = Asked({"cluster.centroids": 16})
    assert names(draw(space, asked)) == ["cluster"]
    assert list(asked.dimensions) == ["cluster.centroids", "quantize.scheme"]
    asked = Asked({"qat.allocation": "uniform"})
    assert names(draw(space, asked)) == ["qat"]
    assert list(asked.dimensions) == ["cluster.centroids", "qat.allocation"]
    clustered = complete(space, {"cluster.centroids": 16, "quantize.scheme": "int8_static"})
    assert clustered is not None
    assert parameters_of(space, clustered) == {"cluster.centroids": 16, "quantize.scheme": "int8_static"}


def test_a_technique_that_is_off_by_a_later_parameter_has_a_way_back() -> None:
    space = Space(
        "s",
        {
            "student": {
                "width": Choice((0.5, 1.0)),
                "depth": Choice((0.5, 1.0)),
                "convolutions": Choice(("separable", "dense")),
            },
            "factorize": {"rule": Choice(("budget", "energy")), "budget": Choice((0.5,)), "energy": Range(0.8, 1.0)},
        },
    )
    parameters = parameters_of(space, Recipe())
    assert parameters is not None
    assert draw(space, lambda name, _dimension: parameters[name]) == Recipe()
    assert complete(space, {}) == Recipe()


def test_what_has_no_wish_is_left_out_whatever_its_first_value() -> None:
    space = replace(WHOLE, techniques={**WHOLE.techniques, "cluster": {"centroids": Choice((16, 0))}})
    recipe = complete(space, {"quantize.scheme": "int8_static"})
    assert recipe is not None
    assert names(recipe) == ["quantize"]


def test_steps_lie_on_one_grid_without_rounding_errors() -> None:
    space = Space("s", {"prune": {"ratio": Range(0.1, 0.7, 0.1)}})
    recipes = enumerate_recipes(space, 100) or []
    assert [(recipe.settings("prune") or {})["ratio"] for recipe in recipes].count(0.3) == 1
    assert draw(space, lambda _name, _dimension: 0.1 + 2 * 0.1) in recipes
    off_grid = replace_ratio(recipes[0], 0.35)
    assert parameters_of(space, off_grid) is None


def replace_ratio(recipe: Recipe, ratio: float) -> Recipe:
    return Recipe.from_json([{**recipe.to_json()[0], "ratio": ratio}])


def test_without_a_training_set_the_values_that_train_go_with_their_reason() -> None:
    task = replace(tiny_task("cnn"), train=None, loss=None)
    space = Space(
        "s",
        {
            "prune": {
                "ratio": Choice((0.0, 0.5)),
                "importance": Choice(("magnitude", "taylor")),
                "steps": Choice((1, 3)),
            },
            "cluster": {"centroids": Choice((0, 16)), "epochs": Choice((0.0, 1.0))},
            "binarize": {},
        },
    )
    reduced, removed = reduce_space(space, a_target(), frozenset(), task)
    assert reduced.techniques["prune"]["importance"] == Choice(("magnitude",))
    assert reduced.techniques["prune"]["steps"] == Choice((1,))
    assert reduced.techniques["cluster"]["epochs"] == Choice((0.0,))
    reasons = {removal.what: removal.why for removal in removed}
    assert list(reasons) == ["prune.importance taylor", "prune.steps 3", "cluster.epochs other than 0", "binarize"]
    assert all("brings no training set and loss" in why for why in reasons.values())
    with_training, removed = reduce_space(space, a_target(), frozenset(), tiny_task("cnn"))
    assert with_training == space and removed == ()


def test_without_a_family_a_student_keeps_its_width_and_depth() -> None:
    student: dict[str, Dimension] = {
        "width": Range(0.25, 1.0),
        "depth": Choice((1.0, 0.5)),
        "convolutions": Choice(("dense", "separable")),
    }
    space = Space("s", {"student": student})
    reduced, removed = reduce_space(space, a_target(), frozenset(), replace(tiny_task("cnn"), student=None))
    assert reduced.techniques["student"] == {**student, "width": Choice((1.0,)), "depth": Choice((1.0,))}
    assert [removal.what for removal in removed] == ["student.width other than 1", "student.depth other than 1"]
    assert all("brings no student family" in removal.why for removal in removed)
    family = replace(tiny_task("cnn"), student=lambda _width, _depth: tiny_task("cnn").model())
    assert reduce_space(space, a_target(), frozenset(), family) == (space, ())


def test_epochs_that_are_not_listed_are_held_too_when_their_default_trains() -> None:
    task = replace(tiny_task("cnn"), train=None, loss=None)
    space = Space("s", {"cluster": {"centroids": Choice((0, 16))}})
    assert get_technique("cluster").parameters["epochs"].default != 0
    reduced, _removed = reduce_space(space, a_target(), frozenset(), task)
    assert reduced.techniques["cluster"]["epochs"] == Choice((0.0,))


def test_a_parameter_without_any_value_takes_its_technique_with_it() -> None:
    task = replace(tiny_task("cnn"), train=None, loss=None)
    prune = {"ratio": Choice((0.0, 0.5)), "importance": Choice(("taylor",))}
    space = Space("s", {"prune": prune, "quantize": {"scheme": Choice(("fp32", "fp16"))}})
    reduced, removed = reduce_space(space, a_target(), frozenset(), task)
    assert list(reduced.techniques) == ["quantize"]
    assert [removal.what for removal in removed] == ["prune.importance taylor"]


def test_a_conditional_parameter_without_any_value_takes_its_condition_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Parameter(Range(1, 9), 1, "exists for taylor only", ("importance", ("taylor",)), trains=(1, 2))
    monkeypatch.setattr(Prune, "parameters", {**Prune.parameters, "passes": steps})
    task = replace(tiny_task("cnn"), train=None, loss=None)
    prune = {"importance": Choice(("magnitude", "taylor")), "passes": Choice((1, 2))}
    reduced, removed = reduce_space(Space("s", {"prune": prune}), a_target(), frozenset(), task)
    assert reduced.techniques["prune"]["importance"] == Choice(("magnitude",))
    assert [removal.what for removal in removed] == ["prune.importance taylor", "prune.passes 1", "prune.passes 2"]


def test_qat_needs_static_int8() -> None:
    space = Space("s", {"qat": {}, "quantize": {"scheme": Choice(("fp16",))}})
    without = a_target(precisions={"fp32": Precision(), "fp16": Precision()}, unsupported={"int8_static": "no kernels"})
    reduced, removed = reduce_space(space, without, frozenset(), tiny_task("cnn"))
    assert list(reduced.techniques) == ["quantize"]
    assert [(removal.what, removal.why) for removal in removed] == [("qat", "needs int8_static: no kernels")]
    vnni = a_target(precisions={"fp32": Precision(), "fp16": Precision(), "int8_static": Precision(requires="VNNI")})
    _reduced, removed = reduce_space(space, vnni, frozenset(), tiny_task("cnn"))
    assert "needs VNNI" in removed[0].why
    assert reduce_space(space, vnni, frozenset({"VNNI"}), tiny_task("cnn"))[1] == ()


AVOIDING = {"sparsify": "no kernel skips zeros", "sparsify.pattern=2:4": "for GPUs"}


@pytest.mark.parametrize(
    ("force", "patterns", "left_out"),
    [
        ((), None, ["sparsify"]),
        (("sparsify",), ("unstructured", "2:4", "1:4"), []),
        (("sparsify.pattern=2:4",), ("unstructured", "2:4", "1:4"), []),
        (("sparsify.pattern=1:4",), ("unstructured", "1:4"), ["sparsify.pattern 2:4"]),
        (("sparsify.ratio=0.5",), ("unstructured", "1:4"), ["sparsify.pattern 2:4"]),
    ],
)
def test_what_a_target_avoids_is_left_out_unless_it_is_forced(
    force: tuple[str, ...], patterns: tuple[str, ...] | None, left_out: list[str]
) -> None:
    reduced, removed = reduce_space(SPARSE, a_target(avoid=AVOIDING), frozenset(), tiny_task("cnn"), force)
    kept = reduced.techniques.get("sparsify", {}).get("pattern")
    assert kept == (None if patterns is None else Choice(patterns))
    assert sorted(removal.what for removal in removed) == sorted(left_out)
    for removal in removed:
        assert "for GPUs (--force sparsify.pattern=2:4 keeps it)" in removal.why or (
            removal.why == "no kernel skips zeros (--force sparsify keeps it)"
        )


def test_a_value_that_is_avoided_leaves_the_rest_of_its_technique() -> None:
    target = a_target(avoid={"sparsify.pattern=2:4": "for GPUs", "prune.ratio=0.5": "why"})
    reduced, _removed = reduce_space(SPARSE, target, frozenset(), tiny_task("cnn"))
    assert reduced.techniques["sparsify"]["pattern"] == Choice(("unstructured", "1:4"))
    stepped = Space("s", {"prune": {"ratio": Range(0.0, 0.75, 0.25)}})
    reduced, _removed = reduce_space(stepped, target, frozenset(), tiny_task("cnn"))
    assert reduced.techniques["prune"]["ratio"] == Choice((0.0, 0.25, 0.75))


@pytest.mark.parametrize("name", profile_names("search_spaces"))
def test_random_recipes_of_every_shipped_space_lead_back_and_resolve_on_every_shipped_target(name: str) -> None:
    source, space = random.Random(0), load_space(name)
    targets = [
        (load_target(target), reduce_space(space, load_target(target), frozenset({"BF16"}), tiny_task("cnn"))[0])
        for target in profile_names("targets")
    ]
    for target, reduced in [(None, space), *targets]:
        for _ in range(300):
            recipe = draw(reduced, lambda _name, dimension: random_value(source, dimension))
            parameters = parameters_of(reduced, recipe)
            assert parameters is not None, recipe
            assert draw(reduced, lambda name, _dimension, known=parameters: known[name]) == recipe  # type: ignore[misc]
            assert Recipe.from_json(recipe.to_json()) == recipe
            assert describe(recipe)
            for stage in recipe.stages if target else ():
                technique = get_technique(stage.technique)
                assert not technique.is_off(dict(stage.settings))
                technique.resolve(dict(stage.settings), target)  # type: ignore[arg-type]


def test_the_full_space_is_too_large_to_list_and_its_starts_lie_within_it() -> None:
    space = load_space("full")
    assert enumerate_recipes(space, 20_000) is None
    starts = start_recipes(space)
    words = [describe(recipe) for recipe in starts]
    assert all(parameters_of(space, recipe) is not None for recipe in starts)
    assert words[0] == "int8 static"
    assert any(text.startswith("8-bit weights, 8-bit activations") for text in words)
    assert any(text.startswith("student 0.5 wide + int8 static") for text in words)
    assert any(text.startswith("4-bit weights") for text in words)
    assert any(text.startswith("binary weights") for text in words)


def test_the_starts_of_the_standard_space_stay_what_they_were() -> None:
    assert [describe(recipe) for recipe in start_recipes(load_space("standard"))] == [
        "int8 static",
        "int8 dynamic",
        "bf16",
        "fp16",
        "prune 50 % + fine-tune 2 epochs + int8 static",
        "prune 62.5 % + fine-tune 2 epochs + int8 static",
        "prune 25 % + fine-tune 2 epochs + int8 static",
        "prune 75 % + fine-tune 2 epochs + int8 static",
        "prune 50 % + fine-tune 2 epochs",
    ]
