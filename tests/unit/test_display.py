"""The file that says what a search does now: when it is written, when it is not, and that it ends no search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoshrink.activity import Activity, read_activity
from autoshrink.search.display import ActivityFile, Display, Tee
from autoshrink.types import Recipe
from tests.fake_study import fake_trial

RECIPE = Recipe.from_json([{"technique": "prune", "ratio": 0.5}])


def said(study: Path) -> dict[tuple[str, int], tuple[str, str]]:
    """(target, trial) -> stage and device."""
    found = read_activity(study)
    assert found is not None and found.is_alive
    return {(t, trial.number): (trial.stage, trial.device) for t, trials in found.targets.items() for trial in trials}


def file_of(study: Path) -> bytes:
    return (study / "search.json").read_bytes()


def test_it_follows_a_trial_from_stage_to_stage(tmp_path: Path) -> None:
    display = ActivityFile(tmp_path, 48, 600.0)
    assert said(tmp_path) == {}
    display.begin("cpu", 3, RECIPE)
    assert said(tmp_path) == {("cpu", 3): ("", "")}
    display.stage("finetune", 0, 0)
    written = file_of(tmp_path)
    display.stage("finetune", 1, 10)
    display.stage("finetune", 10, 10)
    assert file_of(tmp_path) == written
    found = read_activity(tmp_path)
    assert found is not None and (found.planned, found.time_limit_s) == (48, 600.0)
    (trial,) = found.targets["cpu"]
    assert (trial.recipe, trial.stage) == (RECIPE, "finetune") and trial.since >= trial.began >= found.began
    display.end(fake_trial(3, target="cpu"), 4, 48)
    assert said(tmp_path) == {}
    display.close(is_over=True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_while_this_machine_measures(tmp_path: Path) -> None:
    display = ActivityFile(tmp_path, None, None)
    display.timed_here = frozenset({"cpu"})
    display.begin("cpu", 0, Recipe())
    display.stage("compile", 0, 0)
    display.stage("load", 0, 0)
    assert said(tmp_path) == {("cpu", 0): ("measure", "")}
    written = file_of(tmp_path)
    display.stage("audit", 0, 0)
    display.stage("measure", 0, 0)
    assert file_of(tmp_path) == written
    display.stage("evaluate", 0, 0)
    assert said(tmp_path) == {("cpu", 0): ("evaluate", "")}
    display.begin("board", 0, Recipe())
    display.stage("load", 0, 0)
    assert said(tmp_path)["board", 0] == ("load", "")


def test_trials_of_devices_elsewhere_stay_until_they_end_or_are_lost(tmp_path: Path) -> None:
    display = ActivityFile(tmp_path, None, None)
    for number in (1, 2, 3):
        display.begin("phone", number, RECIPE)
        display.stage("compile", 0, 0)
    display.elsewhere("phone", 2, "wait for the device")
    display.elsewhere("phone", 1, "on pixel-7")
    assert said(tmp_path) == {
        ("phone", 1): ("start", "pixel-7"),
        ("phone", 2): ("wait for the device", ""),
        ("phone", 3): ("compile", ""),
    }
    display.elsewhere("phone", 1, "measure")
    assert said(tmp_path)["phone", 1] == ("measure", "pixel-7")
    display.end(fake_trial(1, target="phone"), 1, None)
    display.lost("phone", 2)
    display.elsewhere("phone", 2, "measure")
    assert list(said(tmp_path)) == [("phone", 3)]


def test_the_test_split_is_shown_for_one_trial_at_a_time(tmp_path: Path) -> None:
    display = ActivityFile(tmp_path, None, None)
    for number in (0, 4):
        display.scoring(fake_trial(number, target="cpu"))
        assert said(tmp_path) == {("cpu", number): ("test split", "")}


def test_one_that_was_broken_off_says_so(tmp_path: Path) -> None:
    display = ActivityFile(tmp_path, None, None)
    display.begin("cpu", 3, RECIPE)
    display.close(is_over=False)
    found = read_activity(tmp_path)
    assert found is not None and found.ended and not found.is_alive
    assert [trial.number for trial in found.targets["cpu"]] == [3]


def test_a_folder_that_cannot_be_written_ends_no_search(tmp_path: Path) -> None:
    display = ActivityFile(tmp_path / "is" / "not" / "there", None, None)
    display.begin("cpu", 0, Recipe())
    display.close(is_over=False)
    display.close(is_over=True)


def test_a_tee_tells_all_of_it_to_each(tmp_path: Path) -> None:
    class FakeDisplay:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getattr__(self, method: str) -> object:
            return lambda *arguments: told.append((self.name, method, *arguments))

    told: list[tuple[object, ...]] = []
    tee = Tee(FakeDisplay("a"), FakeDisplay("b"))  # type: ignore[arg-type]
    record = fake_trial(1)
    calls: dict[str, tuple[object, ...]] = {
        "removed": ("t", ()),
        "begin": ("t", 1, RECIPE),
        "stage": ("export", 0, 0),
        "end": (record, 1, 2),
        "elsewhere": ("t", 1, "measure"),
        "lost": ("t", 1),
        "waiting_for_devices": ("t",),
        "scoring": (record,),
        "say": ("hello",),
    }
    assert set(calls) == {name for name in vars(Display) if not name.startswith("_")}
    for method, arguments in calls.items():
        getattr(tee, method)(*arguments)
    assert told == [(name, method, *arguments) for method, arguments in calls.items() for name in "ab"]


@pytest.mark.parametrize("field", ["pid", "started", "host", "began"])
def test_it_names_this_process(tmp_path: Path, field: str) -> None:
    ActivityFile(tmp_path, None, None)
    found = read_activity(tmp_path)
    here = replace(Activity.here(None, None), began=found.began if found else "")
    assert found is not None and getattr(found, field) == getattr(here, field)
