"""What a search says that it is doing, and who is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autoshrink.activity import ACTIVITY_FILE, Activity, Underway, read_activity, remove_activity, write_activity
from autoshrink.errors import ConfigError
from autoshrink.types import Recipe

RECIPE = Recipe.from_json([{"technique": "prune", "ratio": 0.5}])
MOMENT = "2026-11-22T14:03:00.000+00:00"


def activity() -> Activity:
    trials = (Underway(3, RECIPE, "finetune", "", MOMENT, MOMENT), Underway(4, Recipe(), "", "pi-2", MOMENT, MOMENT))
    return replace(Activity.here(48, 600.0), targets={"cpu": trials, "phone": ()})


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_activity(tmp_path) is None
    write_activity(tmp_path, activity())
    read = read_activity(tmp_path)
    assert read == replace(activity(), began=read.began, written=read.written) if read else False
    assert [path.name for path in tmp_path.iterdir()] == [ACTIVITY_FILE]
    remove_activity(tmp_path)
    remove_activity(tmp_path)
    assert read_activity(tmp_path) is None


@pytest.mark.parametrize("change", [{"pid": "x"}, {"targets": [1]}, {"started": None}, {"targets": {"cpu": [{}]}}])
def test_a_file_that_no_search_wrote_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    write_activity(tmp_path, activity())
    path = tmp_path / ACTIVITY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=r"search\.json: is not what a search writes"):
        read_activity(tmp_path)


def test_this_process_lives() -> None:
    assert activity().pid == os.getpid()
    assert activity().is_alive


def test_a_later_process_of_the_same_number_is_another() -> None:
    assert not replace(activity(), started=activity().started - 60).is_alive


def test_a_process_that_has_ended_does_not_live() -> None:
    code = "from autoshrink.activity import Activity; a = Activity.here(None, None); print(a.pid, a.started)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not replace(activity(), pid=int(printed[0]), started=float(printed[1])).is_alive


@pytest.mark.parametrize("pid", [-1, 0, 2**40, 2**70])
def test_a_number_that_no_process_has_does_not_live(pid: int) -> None:
    assert not replace(activity(), pid=pid).is_alive


@pytest.mark.parametrize(("age_s", "alive"), [(5, True), (90, False)])
def test_on_another_machine_what_was_written_lately_lives(age_s: float, alive: bool) -> None:
    written = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    assert replace(activity(), host="another-machine", written=written).is_alive is alive
    assert not replace(activity(), host="another-machine", written="yesterday").is_alive
