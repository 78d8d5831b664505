"""The time that a search has worked, and what is left of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autoshrink.activity import Activity
from autoshrink.dashboard.library import Library, Snapshot, StudyState
from autoshrink.dashboard.pace import in_order_of_end, roughly, seconds_left, worked_seconds
from autoshrink.records import StudyFolder
from autoshrink.types import TrialRecord
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_trial


def ended(number: int, clock: str, seconds: float) -> TrialRecord:
    finished = f"2026-11-22T{clock}+00:00" if clock else ""
    return fake_trial(number, seconds={"measure": seconds}, finished=finished)


def test_time_goes_on_between_ends_and_stands_still_in_pauses() -> None:
    records = [
        ended(0, "10:00:00", 20),
        ended(1, "10:00:50", 40),  # 10 s of something else: within the slack
        ended(2, "23:00:00", 60),  # the search was resumed in the evening
        ended(3, "", 5),
        ended(4, "23:00:30", 25),
    ]
    assert worked_seconds(records) == [20, 70, 130, 135, 165]


def test_trials_that_devices_measure_side_by_side_count_once() -> None:
    assert worked_seconds([ended(0, "10:00:00", 60), ended(1, "10:00:05", 62), ended(2, "10:00:05", 61)]) == [
        60,
        65,
        65,
    ]
    assert worked_seconds([]) == []


def test_trials_are_put_in_the_order_of_their_ends() -> None:
    records = [ended(0, "10:00:00", 1), ended(1, "10:09:00", 1), ended(2, "", 1), ended(3, "10:05:00", 1)]
    assert [record.number for record in in_order_of_end(records)] == [0, 3, 1, 2]


@pytest.fixture
def running(tmp_path: Path) -> Snapshot:
    """Ten minutes into a run that was resumed: 2 trials before it, 4 in it, 12 asked for."""
    target = "onnxruntime-cpu"
    study = StudyFolder.create(tmp_path / "study", fake_meta({target: FAKE_TARGETS[target]}, 12, name="study"))
    for number, clock in enumerate(("09:00:00", "09:01:00", "10:02:00", "10:04:00", "10:06:00", "10:08:00")):
        study.write(ended(number, clock, 60))
    activity = replace(Activity.here(12, None), began="2026-11-22T10:00:00.500+00:00")
    return replace(Library(tmp_path).snapshot("study"), state=StudyState.RUNNING, activity=activity)


NOW = datetime(2026, 11, 22, 10, 10, 0, 500_000, tzinfo=UTC)


def test_the_pace_of_this_run_tells_what_is_left(running: Snapshot) -> None:
    assert seconds_left(running, NOW) == pytest.approx(6 * 600 / 4)


def limited(snapshot: Snapshot, planned: int | None, limit: float | None) -> Snapshot:
    assert snapshot.activity is not None
    return replace(snapshot, activity=replace(snapshot.activity, planned=planned, time_limit_s=limit))


def test_the_nearer_end_counts(running: Snapshot) -> None:
    assert seconds_left(limited(running, 12, 700.0), NOW) == pytest.approx(100)
    assert seconds_left(limited(running, None, 700.0), NOW) == pytest.approx(100)
    assert seconds_left(limited(running, 4, None), NOW) == 0


def test_nothing_is_said_too_early_without_an_end_or_of_a_search_that_rests(running: Snapshot) -> None:
    early = datetime(2026, 11, 22, 10, 3, 0, tzinfo=UTC)
    assert running.activity is not None
    late_start = replace(running, activity=replace(running.activity, began="2026-11-22T10:07:00+00:00"))
    assert seconds_left(late_start, NOW) is None
    assert seconds_left(limited(running, None, None), NOW) is None
    assert seconds_left(replace(running, state=StudyState.DONE), early) is None
    assert seconds_left(replace(running, activity=None), early) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (20, "under a minute"),
        (59 * 60 + 20, "about 59 min"),
        (140 * 60, "about 2 h 20 min"),
        (181 * 60, "about 3 h"),
    ],
)
def test_waiting_is_told_roughly(seconds: float, said: str) -> None:
    assert roughly(seconds) == said
