from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoshrink.search.front import Volume, axes_of, compiled, front, hypervolume, non_dominated, objectives
from autoshrink.types import Artifact, ArtifactFile, Interval, Latency, Outcome, Recipe, Score, StageSpec, TrialRecord


def test_non_dominated_known_answer() -> None:
    points = np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [2.0, 2.0], [1.0, 5.0]])
    assert non_dominated(points).tolist() == [True, True, True, False, True, False]


def dominated_by_definition(points: np.ndarray) -> list[bool]:
    """Every row against every other."""
    return [bool(((points <= row).all(1) & (points < row).any(1)).any()) for row in points]


@settings(max_examples=300, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=st.sampled_from([0, 1, 2, 3])))
def test_non_dominated_is_what_its_definition_says_ties_included(points: np.ndarray) -> None:
    assert non_dominated(points).tolist() == [not each for each in dominated_by_definition(points)]


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_non_dominated_of_many_points_is_what_its_definition_says(dimensions: int) -> None:
    points = np.random.default_rng(dimensions).random((400, dimensions)).round(2)
    assert non_dominated(points).tolist() == [not each for each in dominated_by_definition(points)]


def test_infinity_can_be_dominated_and_nan_cannot() -> None:
    inf, nan = np.inf, np.nan
    points = np.array([[1.0, inf], [2.0, inf], [nan, 0.0], [0.0, nan], [inf, inf]])
    assert non_dominated(points).tolist() == [True, False, True, True, False]
    assert non_dominated(np.full((2, 2), inf)).tolist() == [True, True]
    assert non_dominated(np.empty((2, 0))).tolist() == [True, True]
    assert non_dominated(np.empty((0, 3))).tolist() == []


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(0, 10), st.integers(1, 4)), elements=st.floats(0, 1.2)))
def test_points_one_by_one_dominate_what_they_do_together(points: np.ndarray) -> None:
    volume = Volume(np.ones(points.shape[1]))
    for count, point in enumerate(points, 1):
        assert volume.add(point) == pytest.approx(hypervolume(points[:count], np.ones(points.shape[1])), abs=1e-12)
    assert Volume(np.ones(2)).value == 0


def test_hypervolume_of_a_staircase() -> None:
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert hypervolume(points, np.array([4.0, 4.0])) == 6.0


def test_hypervolume_of_a_box_and_of_nothing() -> None:
    reference = np.array([2.0, 3.0, 4.0])
    assert hypervolume(np.zeros((1, 3)), reference) == 24.0
    assert hypervolume(np.array([[2.0, 0.0, 0.0]]), reference) == 0.0
    assert hypervolume(np.zeros((0, 3)), reference) == 0.0


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_hypervolume_agrees_with_inclusion_and_exclusion(dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    reference = np.ones(dimensions)
    for count in range(1, 7):
        points = random.random((count, dimensions))
        expected = 0.0
        for size in range(1, count + 1):
            for chosen in itertools.combinations(points, size):
                expected -= (-1) ** size * float(np.prod(reference - np.max(chosen, axis=0)))
        assert hypervolume(points, reference) == pytest.approx(expected)


def test_hypervolume_of_a_sphere_front_nears_its_closed_form() -> None:
    # Points on the unit circle around (1, 1): the dominated area under reference (1, 1) is a quarter of the disc.
    angles = np.linspace(0, np.pi / 2, 2000)
    points = 1 - np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert hypervolume(points, np.array([1.0, 1.0])) == pytest.approx(np.pi / 4, abs=2e-3)


def record(number: int, metric: float, ratio: float, size: int, outcome: Outcome = Outcome.COMPLETE) -> TrialRecord:
    any_interval = Interval(0.0, 1.0)
    return TrialRecord(
        number,
        "target",
        Recipe(),
        outcome,
        val=Score(metric, any_interval, 100, "wilson"),
        latency=Latency(ratio, any_interval, ratio, any_interval, ratio, ratio, 8, 0, True, False),
        artifact=Artifact("onnxruntime", "fp32", (ArtifactFile("model.onnx", size, ""),), "", ""),
    )


def test_front_leaves_out_dominated_infeasible_and_unmeasured_trials() -> None:
    records = [
        record(0, 0.93, 1.0, 400),
        record(1, 0.92, 0.3, 100),
        record(2, 0.91, 0.4, 120),
        record(3, 0.90, 0.1, 50, Outcome.INFEASIBLE),
        TrialRecord(4, "target", Recipe(), Outcome.FAILED, "why"),
        record(5, 0.80, 0.2, 100),
    ]
    assert [member.number for member in front(records)] == [5, 1, 0]
    assert front([]) == []


def test_axes_are_what_is_known_of_the_best_known_trial() -> None:
    measured = record(1, 0.9, 1.0, 100)
    untimed = replace(measured, latency=None)
    built = replace(untimed, val=None, outcome=Outcome.COMPILED)
    failed = TrialRecord(4, "target", Recipe(), Outcome.FAILED, "why")
    assert axes_of([failed]) == ()
    assert axes_of([failed, built]) == ("size",)
    assert axes_of([built, untimed]) == ("metric", "size")
    assert axes_of([untimed, built, measured]) == ("metric", "latency", "size")
    assert objectives([untimed], axes_of([untimed])).tolist() == [[-0.9, 100.0]]
    with pytest.raises(ValueError, match="trial 1 of target was not measured in metric, latency, size"):
        objectives([untimed])


def test_without_latency_the_front_is_of_metric_and_size() -> None:
    records = [
        replace(record(number, metric, 1.0, size), latency=None)
        for number, metric, size in [(0, 0.93, 400), (1, 0.92, 100), (2, 0.91, 120), (3, 0.90, 50)]
    ]
    assert [member.number for member in front(records)] == [3, 1, 0]
    # One trial that was timed as well makes it a front of all three, of what has all three.
    assert [member.number for member in front([*records, record(4, 0.5, 1.0, 500)])] == [4]


def test_compiled_trials_have_no_front_but_what_another_target_measured() -> None:
    def recipe(number: int) -> Recipe:
        return Recipe((StageSpec.of("prune", {"ratio": number / 10}),))

    built = [
        replace(
            record(number, 0.0, 1.0, size, Outcome.COMPILED),
            target="phone",
            recipe=recipe(number),
            val=None,
            latency=None,
        )
        for number, size in [(1, 400), (2, 100), (3, 200)]
    ]
    assert front(built) == []
    assert [member.number for member in compiled(built)] == [2, 3, 1]
    measured = [
        replace(record(number, metric, 1.0, 100), recipe=recipe(number))
        for number, metric in [(1, 0.9), (2, 0.8), (3, 0.9)]
    ]
    assert [member.number for member in compiled(built, measured)] == [3, 1]
