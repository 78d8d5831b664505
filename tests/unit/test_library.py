"""The studies of a results folder: their states, and that a broken file hides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoshrink.activity import Activity, now, write_activity
from autoshrink.dashboard.library import Library, StudyState
from autoshrink.records import StudyFolder
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_score, fake_trial, make_fake_study

TARGET = "onnxruntime-cpu"


def study_of(results: Path, trials: int | None, ended: int, test: bool = False) -> StudyFolder:
    """A study that was asked for `trials` and has `ended` of them."""
    study = StudyFolder.create(results / "s", fake_meta({TARGET: FAKE_TARGETS[TARGET]}, trials, name="s"))
    for number in range(ended):
        study.write(fake_trial(number, test=fake_score(0.89) if test else None))
    return study


@pytest.mark.parametrize(
    ("trials", "ended", "test", "state"),
    [
        (4, 0, False, StudyState.EMPTY),
        (4, 2, False, StudyState.INTERRUPTED),
        (4, 4, False, StudyState.DONE),
        (4, 2, True, StudyState.DONE),
        (None, 2, False, StudyState.DONE),
    ],
)
def test_without_a_search_the_records_tell(
    tmp_path: Path, trials: int | None, ended: int, test: bool, state: StudyState
) -> None:
    study_of(tmp_path, trials, ended, test)
    snapshot = Library(tmp_path).snapshot("s")
    assert (snapshot.state, snapshot.activity) == (state, None)


def test_a_search_that_lives_runs_and_one_that_died_was_interrupted(tmp_path: Path) -> None:
    study = study_of(tmp_path, 4, 2)
    library = Library(tmp_path)
    activity = Activity.here(4, None)
    write_activity(study.path, activity)
    running = library.snapshot("s")
    assert running.state is StudyState.RUNNING and running.activity == activity
    write_activity(study.path, replace(activity, started=activity.started - 60))
    assert library.snapshot("s").state is StudyState.INTERRUPTED
    write_activity(study.path, replace(activity, ended=now()))
    assert library.snapshot("s").state is StudyState.INTERRUPTED


def test_the_version_changes_when_a_search_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_fake_study(tmp_path / "s", 1, 4, running=True)
    library = Library(tmp_path)
    before = library.snapshot("s")
    assert library.snapshot("s") is before and before.state is StudyState.RUNNING
    monkeypatch.setattr(Activity, "is_alive", False)
    assert library.version("s") != before.version
    assert library.snapshot("s").state is StudyState.INTERRUPTED
