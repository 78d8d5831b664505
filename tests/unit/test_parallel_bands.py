"""Axes of parallel coordinates are held to a value, a quarter or a half; the other lines are faint."""

from __future__ import annotations

from functools import partial

import pytest

from autoshrink.dashboard.palette import LIGHT
from autoshrink.dashboard.parallel import Axis, axes_of_lines, lines, parallel_figure
from autoshrink.dashboard.parallel_bands import bands, kept
from autoshrink.dashboard.view import TargetView
from tests.fake_study import fake_trial, fake_view

TITLES = ["prune ratio", "precision", "latency", "size", "accuracy"]


@pytest.fixture(scope="module")
def view() -> TargetView:
    records = [fake_trial(0, latency=fake_trial(0, ratio=1.0).latency)]
    for number in range(1, 13):
        recipe = [{"technique": "prune", "ratio": 0.25 * (1 + number % 3)}]
        if number > 6:
            recipe.append({"technique": "quantize", "scheme": "fp16"})
        records.append(fake_trial(number, recipe, ratio=0.05 * number, size=100_000 * number, accuracy=0.85))
    return fake_view(records)


def axes(view: TargetView) -> dict[str, Axis]:
    return {axis.title: axis for axis in axes_of_lines(view, lines(view))}


def test_few_values_are_bands_of_their_own(view: TargetView) -> None:
    found = bands(axes(view)["prune ratio"])
    assert [band.name for band in found] == ["off", "0.25", "0.5", "0.75"]
    assert found[0].members == {0}
    assert found[1].members == {3, 6, 9, 12}
    assert [band.name for band in bands(axes(view)["precision"])] == ["fp16", "fp32"]


def test_many_values_are_cut_into_quarters_and_halves(view: TargetView) -> None:
    found = {band.name: band for band in bands(axes(view)["latency"])}
    assert found["lowest-quarter"].members == {1, 2, 3, 4}
    assert found["lower-half"].members == {1, 2, 3, 4, 5, 6, 7}
    assert found["upper-half"].members == {7, 8, 9, 10, 11, 12, 0}
    assert found["highest-quarter"].members == {10, 11, 12, 0}
    # A ratio of 0.35 to 1.24 ms is the middle one.
    assert found["lower-half"].text == "lower half, to 0.434 ms"


def test_axes_are_restricted_together(view: TargetView) -> None:
    own = list(axes(view).values())
    assert [axis.title for axis in own] == TITLES
    assert kept(own, {}) == set(range(13))
    assert kept(own, {"prune ratio": "0.25", "latency": "lower-half"}) == {3, 6}
    assert kept(own, {"prune ratio": "0.25", "precision": "fp16"}) == {9, 12}
    assert kept(own, {"prune ratio": "off", "precision": "fp16"}) == set()
    assert kept(own, {"prune ratio": "nope", "no such axis": "0.25", "size": ""}) == set(range(13))


def test_what_is_left_out_is_drawn_faint_and_below(view: TargetView) -> None:
    figure = parallel_figure(view, LIGHT, partial(kept, asked={"prune ratio": "0.25"}))
    assert figure is not None
    first = figure.data[0]
    assert first.name == "left out, 9" and first.line.color == LIGHT.grid
    assert {number for number in first.customdata if number is not None} == {0, 1, 2, 4, 5, 7, 8, 10, 11}
    drawn = [number for trace in figure.data[1:] for number in trace.customdata if number is not None]
    assert set(drawn) == {3, 6, 9, 12}


def test_without_a_restriction_nothing_is_faint(view: TargetView) -> None:
    plain, asked = parallel_figure(view, LIGHT), parallel_figure(view, LIGHT, partial(kept, asked={}))
    assert plain is not None and asked is not None
    assert plain.to_json() == asked.to_json()
    assert not [trace for trace in plain.data if trace.name.startswith("left out")]
