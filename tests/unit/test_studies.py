"""The rows of the studies: what is best, how trials ended, what is broken, and which rows are shown in what order."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from autoshrink.dashboard.ages import age_seconds, ago
from autoshrink.dashboard.library import Library
from autoshrink.dashboard.studies import StudyRow, StudyRows, TargetRow, chosen_rows
from autoshrink.records import StudyFolder
from autoshrink.types import Outcome
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_trial

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
PRUNED = [{"technique": "prune", "ratio": 0.5}]
FP16 = [{"technique": "quantize", "scheme": "fp16"}]
ONE = {"onnxruntime-cpu": FAKE_TARGETS["onnxruntime-cpu"]}


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-11-22T11:59:40+00:00", "just now"),
        ("2026-11-22T12:00:30+00:00", "just now"),
        ("2026-11-22T11:59:10+00:00", "1 min ago"),
        ("2026-11-22T11:18:00+00:00", "42 min ago"),
        ("2026-11-22T09:00:00", "3 h ago"),
        ("2026-11-22T11:00:00+01:00", "2 h ago"),
        ("2026-11-10T12:00:00+00:00", "12 days ago"),
        ("2025-01-05T12:00:00+00:00", "2025-01-05"),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_ages_in_words(moment: str, said: str) -> None:
    assert ago(moment, NOON) == said


def test_an_age_is_in_seconds() -> None:
    assert age_seconds("2026-11-22T11:59:00+00:00", NOON) == 60
    assert age_seconds("no time", NOON) is None


def make(results: Path, name: str, **changes: object) -> StudyFolder:
    return StudyFolder.create(results / name, fake_meta(ONE, 3, name=name, **changes))


def test_a_row_says_what_is_best_and_how_trials_ended(tmp_path: Path) -> None:
    study = make(tmp_path, "one")
    # Half the time and a quarter of the bytes, without loss: of loss, latency and size, 1 * 0.5 * 0.75 is gained.
    study.write(fake_trial(0, size=4_000_000, finished="2026-11-22T14:05:00+00:00"))
    study.write(fake_trial(1, PRUNED, ratio=0.5, size=1_000_000, finished="2026-11-22T14:09:00+00:00"))
    study.write(fake_trial(2, FP16, outcome=Outcome.FAILED))
    (row,) = StudyRows(Library(tmp_path)).all()
    assert (row.name, row.state, row.task, row.trials, row.planned) == ("one", "done", "fashion-mini", 3, 3)
    assert row.outcomes == {Outcome.COMPLETE: 2, Outcome.FAILED: 1}
    assert row.latest == "2026-11-22T14:09:00+00:00"
    (target,) = row.targets
    assert (target.chosen, target.recipe) == (1, "prune 50 %")
    assert target.best == "4.00x smaller, 2.00x faster, 0.00 points"
    assert target.hypervolume == pytest.approx(0.375)


def test_a_row_of_a_study_without_trials_or_a_baseline_invents_nothing(tmp_path: Path) -> None:
    make(tmp_path, "empty")
    (row,) = StudyRows(Library(tmp_path)).all()
    assert row.targets == (TargetRow("onnxruntime-cpu", None, "No trial has finished yet.", "", None),)
    assert (row.state, row.trials, row.hypervolume) == ("empty", 0, -1.0)


def test_a_broken_study_is_a_row_with_its_file_and_hides_no_other(tmp_path: Path) -> None:
    make(tmp_path, "whole").write(fake_trial(0))
    make(tmp_path, "torn")
    file = tmp_path / "torn" / "study.json"
    file.write_text(file.read_text()[:50])
    torn, whole = StudyRows(Library(tmp_path)).all()
    assert (torn.name, torn.state) == ("torn", "broken")
    assert f"{file}: is not JSON" in torn.problems[0]
    assert whole.trials == 1


def test_a_row_follows_its_study_and_counts_what_cannot_be_read(tmp_path: Path) -> None:
    study, rows = make(tmp_path, "one"), StudyRows(Library(tmp_path))
    study.write(fake_trial(0))
    first = rows.all()[0]
    assert rows.all()[0] is first
    study.write(fake_trial(1, PRUNED))
    study.trial_file("onnxruntime-cpu", 2).write_text("{")
    row = rows.all()[0]
    # What cannot be read has ended all the same: the study is done.
    assert (row.trials, row.unreadable, row.state) == (2, 1, "done")


ROWS = [
    StudyRow("alpha", "done", "digits", "2026-11-03", "2026-11-04", outcomes={Outcome.COMPLETE: 5}),
    StudyRow("Beta", "running", "fashion", "2026-11-01", "2026-11-09", (TargetRow("pi", 1, "", "", 0.5),)),
    StudyRow("gamma", "broken"),
]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["alpha", "Beta", "gamma"]),
        ({"order": "no such order"}, ["alpha", "Beta", "gamma"]),
        ({"order": "latest"}, ["Beta", "alpha", "gamma"]),
        ({"order": "name"}, ["alpha", "Beta", "gamma"]),
        ({"order": "state"}, ["Beta", "gamma", "alpha"]),
        ({"order": "trials"}, ["alpha", "Beta", "gamma"]),
        ({"order": "hypervolume"}, ["Beta", "alpha", "gamma"]),
        ({"find": "ET"}, ["Beta"]),
        ({"find": "pi fashion"}, ["Beta"]),
        ({"find": "pi digits"}, []),
        ({"state": "broken"}, ["gamma"]),
    ],
)
def test_rows_are_found_and_ordered(asked: dict[str, str], names: list[str]) -> None:
    assert [row.name for row in chosen_rows(ROWS, **asked)] == names
