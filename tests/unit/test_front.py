from __future__ import annotations

import itertools

import numpy as np
import pytest

from autoshrink.search.front import front, hypervolume, non_dominated
from autoshrink.types import Artifact, ArtifactFile, Interval, Latency, Outcome, Recipe, Score, TrialRecord


def test_non_dominated_known_answer() -> None:
    points = np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [2.0, 2.0], [1.0, 5.0]])
    assert non_dominated(points).tolist() == [True, True, True, False, True, False]


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
