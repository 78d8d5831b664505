"""Trials are found among many by number, words of the recipe, and whether they are on the front."""

from __future__ import annotations

import pytest

from autoshrink.dashboard.app.trial_choice import MOST_OPTIONS, found_lines, lines_of, trial_options
from autoshrink.dashboard.view import TargetView
from tests.fake_study import fake_trial, fake_view


@pytest.fixture(scope="module")
def view() -> TargetView:
    records = [fake_trial(0)]
    for number in range(1, 400):
        recipe = [{"technique": "prune", "ratio": 0.25 if number % 2 else 0.5}]
        if number == 340:
            recipe = [{"technique": "quantize", "scheme": "int8_static"}]
        good = {"accuracy": 0.899, "ratio": 0.2, "size": 400_000} if number == 340 else {"accuracy": 0.8, "ratio": 1.2}
        records.append(fake_trial(number, recipe, **good))  # type: ignore[arg-type]
    return fake_view(records)


def found(view: TargetView, asked: str) -> list[int]:
    return [line.number for line in found_lines(lines_of(view), asked)]


def test_without_words_the_list_is_cut(view: TargetView) -> None:
    offered = trial_options(view, current=(399,))
    assert len(offered) == MOST_OPTIONS + 1
    assert next(iter(offered)) == 340
    assert 399 in offered


def test_by_number(view: TargetView) -> None:
    assert found(view, "39")[:12] == [39, *range(390, 400), 139]
    assert found(view, " 399 ") == [399]


def test_by_words_of_the_recipe(view: TargetView) -> None:
    assert found(view, "INT8") == [340]
    assert set(found(view, "prune 25")) >= {1, 3, 399}
    assert 2 not in found(view, "prune 25 %")
    assert found(view, "nothing-like-this") == []


def test_by_standing(view: TargetView) -> None:
    assert set(found(view, "front")) == {member.number for member in view.members}
    assert found(view, "recommended") == [340]


def test_what_is_chosen_stays_in_the_list(view: TargetView) -> None:
    assert list(trial_options(view, current=(7,), asked="int8")) == [340, 7]


def test_described_once(view: TargetView) -> None:
    assert lines_of(view) is lines_of(view)
