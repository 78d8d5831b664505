"""The fewest recipes that serve all targets, on trials whose answer is known or can be had by trying everything."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from autoshrink.dashboard.across import RecipeSet, across
from autoshrink.dashboard.across_terminal import across_tables
from autoshrink.dashboard.across_words import across_json
from autoshrink.dashboard.target_agreement import disagreements
from autoshrink.dashboard.view import TargetView
from autoshrink.target import Limits, Precision, Target
from autoshrink.types import Interval, Outcome, TrialRecord
from tests.fake_field import NOTE, fake_field_views
from tests.fake_study import fake_trial

A, B, C, D = ([{"technique": "prune", "ratio": ratio}] for ratio in (0.1, 0.2, 0.3, 0.4))


def views(ratios: Mapping[str, Mapping[str, float]], limits: Limits | None = None) -> dict[str, TargetView]:
    """FAKE targets on which recipes, named by the share they prune, have these latency ratios; all of one size."""
    records = {
        target: [
            fake_trial(number, [{"technique": "prune", "ratio": float(name)}], target=target, ratio=ratio, size=1000)
            for number, (name, ratio) in enumerate(of_target.items())
        ]
        for target, of_target in ratios.items()
    }
    return of_records(records, limits)


def of_records(records: Mapping[str, Sequence[TrialRecord]], limits: Limits | None = None) -> dict[str, TargetView]:
    precisions = {"fp32": Precision(), "int8_static": Precision()}
    return {
        name: TargetView(
            Target(name, "fake", precisions, limits=limits or Limits()),
            own,
            [record for other, theirs in records.items() if other != name for record in theirs],
        )
        for name, own in records.items()
    }


def named(each: RecipeSet) -> dict[str, float]:
    """Target -> what the recipe that serves it prunes."""
    return {name: float(dict(found.record.recipe.stages[0].settings)["ratio"]) for name, found in each.services.items()}


def test_one_recipe_that_is_best_everywhere_is_enough() -> None:
    found = across(views({"x": {"0.1": 0.5, "0.2": 0.9}, "y": {"0.1": 0.4, "0.2": 0.8}}))
    assert [named(each) for each in found.sets] == [{"x": 0.1, "y": 0.1}]
    assert [service.penalty for service in found.sets[0].services.values()] == [1, 1]
    assert (found.tried, found.everywhere) == (2, 2)


def test_each_further_recipe_is_the_one_that_helps_the_worst_target_most() -> None:
    found = across(
        views(
            {
                "x": {"0.1": 0.20, "0.2": 0.30, "0.3": 0.90},
                "y": {"0.1": 0.80, "0.2": 0.40, "0.3": 0.20},
                "z": {"0.1": 0.50, "0.2": 0.60, "0.3": 0.90},
            }
        )
    )
    one, two = found.sets
    # Penalties of 0.2 are 1.5, 2 and 1.2; of 0.1 and 0.3 the worst is 4 and 4.5.
    assert named(one) == {"x": 0.2, "y": 0.2, "z": 0.2}
    assert one.worst == "y"
    assert one.services["y"].penalty == pytest.approx(2)
    # The best pair leaves 0.2 behind: sets of different size need not hold each other.
    assert named(two) == {"x": 0.1, "y": 0.3, "z": 0.1}
    assert two.gains_over(one) == {
        "x": pytest.approx((1.5, 1)), "y": pytest.approx((2, 1)), "z": pytest.approx((1.2, 1))
    }  # fmt: skip


def test_latencies_within_noise_are_no_reason_for_a_further_recipe() -> None:
    found = across(views({"x": {"0.1": 0.500, "0.2": 0.9}, "y": {"0.1": 0.416, "0.2": 0.4}}))
    assert [named(each) for each in found.sets] == [{"x": 0.1, "y": 0.1}]
    assert found.sets[0].services["y"].penalty == pytest.approx(1.04)


def test_of_equal_sets_the_smaller_files() -> None:
    records = {
        name: [fake_trial(0, A, target=name, ratio=0.5, size=900), fake_trial(1, B, target=name, ratio=0.51, size=300)]
        for name in ("x", "y")
    }
    assert named(across(of_records(records)).sets[0]) == {"x": 0.2, "y": 0.2}


def test_recipes_that_no_target_shares_need_one_each() -> None:
    found = across(views({"x": {"0.1": 0.5}, "y": {"0.2": 0.5}}))
    assert [len(each.recipes) for each in found.sets] == [2]
    assert (found.tried, found.everywhere) == (2, 0)


def test_a_recipe_serves_only_where_its_bounds_keep_the_limits() -> None:
    slow, fast = fake_trial(0, A, target="x", ratio=0.5), fake_trial(1, B, target="x", ratio=0.3)
    lossy = fake_trial(2, C, target="x", ratio=0.1, accuracy=0.88)
    failed = replace(fake_trial(3, D, target="x"), outcome=Outcome.FAILED)
    own = of_records({"x": [slow, fast, lossy, failed]}, Limits(latency_ms=0.5))
    assert named(across(own).sets[0]) == {"x": 0.2}
    # Two points and the half interval of 0.4.
    assert named(across(own, max_drop=0.025).sets[0]) == {"x": 0.3}
    none = across(of_records({"x": [slow, fast], "y": [replace(slow, target="y")]}, Limits(latency_ms=0.4)))
    assert list(none.unserved) == ["y"]
    assert "--max-latency 0.628ms instead of 0.4ms would give trial 0" in none.unserved["y"]
    assert named(none.sets[0]) == {"x": 0.2}


def test_where_nothing_is_timed_sizes_are_compared_and_compiled_targets_take_the_accuracy_of_others() -> None:
    field = fake_field_views()
    one, two = across(field).sets
    assert {service.record.number for service in one.services.values()} == {1}
    assert (one.services["microcontroller"].is_timed, one.services["server"].is_timed) == (False, True)
    tablet = one.services["tablet"]
    assert (tablet.record.target, tablet.scored.target, tablet.record.val) == ("tablet", "phone", None)
    assert list(two.gains_over(one)) == ["cloud"]
    found = across(field)
    assert found.unchecked == {"microcontroller": ["latency"], "tablet": ["latency"]}
    # Where nobody measured the recipes, a target that only compiles is served by none.
    alone = fake_field_views(["tablet"])
    assert "compiled, not measured" in across(alone).unserved["tablet"]
    assert across(alone).sets == ()


def brute_force(table: Mapping[str, Mapping[str, float]], count: int) -> list[float] | None:
    """Penalties of the best set of so many recipes, worst first, by trying every set."""
    recipes = sorted({name for of_target in table.values() for name in of_target})
    best = {target: min(of_target.values()) for target, of_target in table.items()}
    found = []
    for chosen in itertools.combinations(recipes, min(count, len(recipes))):
        penalties = []
        for target, of_target in table.items():
            served = [of_target[name] for name in chosen if name in of_target]
            penalty = min(served, default=float("inf")) / best[target]
            penalties.append(1.0 if penalty <= 1.04 else penalty)
        found.append(sorted(penalties, reverse=True))
    least = min(found)
    return None if least[0] == float("inf") else least


@pytest.mark.parametrize("seed", range(25))
def test_the_best_sets_are_those_of_trying_everything(seed: int) -> None:
    draw = random.Random(seed)
    names = [f"{place / 20:g}" for place in range(1, 8)]
    table = {
        target: {name: round(draw.uniform(0.1, 0.9), 2) for name in names if draw.random() < 0.7} or {names[0]: 0.5}
        for target in "vwxyz"[: draw.randint(2, 5)]
    }
    sets = across(views(table)).sets
    counts = [len(each.recipes) for each in sets]
    assert counts == sorted(set(counts))
    for count in range(1, counts[0]):
        assert brute_force(table, count) is None
    for each in sets:
        own = sorted((max(1.0, s.penalty if s.penalty > 1.04 else 1.0) for s in each.services.values()), reverse=True)
        assert own == pytest.approx(brute_force(table, len(each.recipes)))
    assert all(service.is_as_good for service in sets[-1].services.values())


def test_targets_that_disagree_about_a_recipe_are_listed_with_what_the_audits_say() -> None:
    field = fake_field_views()
    shared, found = disagreements(field)
    assert shared == 6
    (only,) = found
    assert (only.high.target, only.low.target, only.high.number) == ("server", "phone", 3)
    assert only.difference == pytest.approx(0.022)
    assert only.reasons == (
        "phone runs 4 of 10 layers in float: stem.conv, blocks.3.conv1, blocks.3.conv2, ...",
        f"phone: {NOTE}",
        "outputs agree with the float model to 60 dB on server and 14 dB on phone",
    )


def test_a_difference_within_the_intervals_is_none() -> None:
    def pair(other: float) -> dict[str, TargetView]:
        return of_records({"x": [fake_trial(0, A, target="x")], "y": [fake_trial(0, A, target="y", accuracy=other)]})

    # The drops' intervals are +- 0.4 points each, 0.57 together.
    assert disagreements(pair(0.8945)) == (1, [])
    _, (found,) = disagreements(pair(0.8940))
    assert found.reasons[0] == "the audits show no difference between the two"
    # The baseline has no drop to speak of: its own intervals of +- 0.83 points are taken.
    bases = {name: [fake_trial(0, target=name, accuracy=value)] for name, value in (("x", 0.9), ("y", 0.89))}
    assert disagreements(of_records(bases))[1] == []
    bases["y"] = [replace(bases["y"][0], val=replace(bases["x"][0].val, value=0.88, ci=Interval(0.875, 0.885)))]  # type: ignore[type-var]
    assert len(disagreements(of_records(bases))[1]) == 1


def test_the_terminal_and_the_document_say_the_same() -> None:
    field = fake_field_views()
    found = across(field)
    text = StringIO()
    for each in across_tables(found, *disagreements(field), field):
        Console(file=text, width=100).print(each)
    shown = text.getvalue()
    assert max(map(len, shown.splitlines())) <= 100
    for expected in (
        "1 recipe  serves all 5 targets, the fewest that do; farthest from its best: cloud, 1.86x its latency",
        "2 recipes  1 more brings cloud 1.86x to 1.00x its best latency",
        "19,048 rows/s",
        "on phone",
        "Of 6 recipes that were tried, 6 on every target",
        "1 differs in accuracy by more than the intervals allow",
    ):
        assert expected in shown
    data = across_json(found, *disagreements(field), field)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    first, second = data["sets"]
    assert first["worst_target"] == "cloud"
    tablet = first["targets"]["tablet"]
    assert (tablet["latency_ms"], tablet["accuracy_of_target"], tablet["penalty_of"]) == (None, "phone", "size")
    assert second["buys"] == {"cloud": {"penalty_before": pytest.approx(0.52 / 0.28), "penalty": 1.0}}
    assert data["agreement"]["differences"][0]["trial"] == {"server": 3, "phone": 3}
