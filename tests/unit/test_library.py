"""The studies of a results folder: their states, and that a broken file hides nothing."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoshrink.activity import Activity, now, write_activity
from autoshrink.dashboard import shelf
from autoshrink.dashboard.library import Broken, Library, Snapshot, StudyState
from autoshrink.errors import ConfigError
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


def test_a_new_trial_is_read_and_the_others_are_not_read_again(tmp_path: Path) -> None:
    study = study_of(tmp_path, 4, 2)
    library = Library(tmp_path)
    before = library.snapshot("s")
    study.write(fake_trial(2))
    after = library.snapshot("s")
    assert after.version != before.version
    assert [record.number for record in after.views[TARGET].records] == [0, 1, 2]
    for old, new in zip(before.views[TARGET].records, after.views[TARGET].records, strict=False):
        assert old is new
    study.trial_file(TARGET, 1).unlink()
    assert [record.number for record in library.snapshot("s").views[TARGET].records] == [0, 2]


def test_a_record_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    study = study_of(tmp_path, 4, 2)
    library = Library(tmp_path)
    assert library.snapshot("s").views[TARGET].records[1].test is None
    study.write(fake_trial(1, test=fake_score(0.89)))
    assert library.snapshot("s").views[TARGET].records[1].test == fake_score(0.89)


def test_trials_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    study = study_of(tmp_path, None, 2)
    for number in (10_000, 9_999, 1_001):
        study.write(fake_trial(number))
    found = Library(tmp_path).snapshot("s").views[TARGET].records
    assert [record.number for record in found] == [0, 1, 1_001, 9_999, 10_000]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not JSON"),
        (b'{"schema": 1, "number": 1', "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "schema: list"),
        (b'{"schema": 99}', "schema: 99; this autoshrink reads 1"),
        (b'{"schema": 1}', "recipe"),
        (b'{"schema": 1, "recipe": 3}', "is not a list of stages"),
        (b'{"schema": 1, "recipe": [{"technique": [1]}]}', "a technique is a name"),
        (b'{"schema": 1, "recipe": [{"technique": "prune", "ratio": {}}]}', "a technique is a name"),
        (b'{"schema": 1, "recipe": [], "number": "many"}', "number"),
        (b'{"schema": 1, "recipe": [], "number": NaN}', "NaN is no number of JSON"),
        (b" " * 5_000_000, "no search writes so many"),
    ],
)
def test_a_broken_record_is_named_and_hides_no_other(tmp_path: Path, content: bytes, why: str) -> None:
    study = study_of(tmp_path, 4, 3)
    study.trial_file(TARGET, 1).write_bytes(content)
    snapshot = Library(tmp_path).snapshot("s")
    assert [record.number for record in snapshot.views[TARGET].records] == [0, 2]
    (broken,) = snapshot.broken
    assert broken.file == f"s/{TARGET}/trials/0001.json"
    assert why in broken.why


def test_what_is_no_file_is_broken(tmp_path: Path) -> None:
    study = study_of(tmp_path, 4, 1)
    study.trial_file(TARGET, 1).mkdir()
    os.mkfifo(study.trial_file(TARGET, 2))
    study.trial_file(TARGET, 3).symlink_to("nowhere.json")
    snapshot = Library(tmp_path).snapshot("s")
    assert [record.number for record in snapshot.views[TARGET].records] == [0]
    assert [broken.file[-9:] for broken in snapshot.broken] == ["0001.json", "0002.json", "0003.json"]


def test_a_record_in_the_wrong_place_is_broken(tmp_path: Path) -> None:
    study = study_of(tmp_path, 4, 2)
    study.trial_file(TARGET, 3).write_bytes(study.trial_file(TARGET, 1).read_bytes())
    (broken,) = Library(tmp_path).snapshot("s").broken
    assert "is trial 1 of onnxruntime-cpu; a record lies in its target's folder, under its number" in broken.why


def test_a_broken_activity_is_named(tmp_path: Path) -> None:
    study = study_of(tmp_path, 4, 4)
    (study.path / "search.json").write_text("{")
    snapshot = Library(tmp_path).snapshot("s")
    assert snapshot.state is StudyState.DONE
    assert [broken.file for broken in snapshot.broken] == ["s/search.json"]


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "", ".", "a/b"])
def test_a_target_whose_folder_would_lie_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    study = study_of(tmp_path, 4, 1)
    file = study.path / "study.json"
    data = json.loads(file.read_text())
    data["targets"] = {name: data["targets"][TARGET]}
    file.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="a name may hold letters, digits"):
        Library(tmp_path).snapshot("s")


def test_entries_are_studies_or_why_they_cannot_be_read(tmp_path: Path) -> None:
    study_of(tmp_path, 4, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.json").write_text('{"schema": 1, "name": 3}')
    (tmp_path / "folder" / "study.json").mkdir(parents=True)
    library = Library(tmp_path)
    entries = library.entries()
    assert list(entries) == ["broken", "folder", "s"]
    assert entries["s"] is library.snapshot("s")
    broken, folder = entries["broken"], entries["folder"]
    assert isinstance(broken, Broken) and isinstance(folder, Broken)
    assert broken.file == "broken/study.json" and "task: Field required" in broken.why
    assert "is no file" in folder.why
    for _ in range(2):
        with pytest.raises(ConfigError, match="task: Field required"):
            library.snapshot("broken")


def test_a_study_that_is_mended_is_read(tmp_path: Path) -> None:
    file = study_of(tmp_path, 4, 1).path / "study.json"
    whole = file.read_text()
    library = Library(tmp_path)
    file.write_text("{")
    assert isinstance(library.entries()["s"], Broken)
    file.write_text(whole)
    assert isinstance(library.entries()["s"], Snapshot)


def test_a_study_that_is_gone_is_unknown(tmp_path: Path) -> None:
    study = study_of(tmp_path, 4, 1)
    library = Library(tmp_path)
    library.snapshot("s")
    before = library.version_of_all()
    shutil.rmtree(study.path)
    assert library.version_of_all() != before
    for ask in (library.snapshot, library.version):
        with pytest.raises(ConfigError, match="there is no study of this name"):
            ask("s")
    assert library.names() == [] and library.entries() == {}


def test_a_study_is_called_by_its_folder(tmp_path: Path) -> None:
    study_of(tmp_path, 4, 1).path.rename(tmp_path / "renamed")
    assert Library(tmp_path).snapshot("renamed").name == "renamed"


def test_any_damage_to_any_file_leaves_the_rest(tmp_path: Path) -> None:
    """300 seeded damages: bytes cut off, changed, and put in."""
    study = make_fake_study(tmp_path / "s", 1, 6, running=True)
    library, random = Library(tmp_path), np.random.default_rng(0)
    files = [study.path / "study.json", study.path / "search.json", study.trial_file(TARGET, 2)]
    for turn in range(300):
        file = files[turn % 3]
        whole = file.read_bytes()
        at = int(random.integers(len(whole)))
        damages = (whole[:at], whole[:at] + random.bytes(3) + whole[at + 3 :], whole[:at] + b'"' + whole[at:])
        file.write_bytes(damages[turn // 3 % 3])
        entry = library.entries()["s"]
        if isinstance(entry, Snapshot) and file != files[0]:
            numbers = {record.number for record in entry.views[TARGET].records}
            assert numbers >= {0, 1, 3, 4, 5}
        file.write_bytes(whole)


class TestManyFiles:
    @pytest.fixture
    def few_are_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shelf, "MANY", 1)

    def test_files_that_come_are_seen_at_once(self, tmp_path: Path, few_are_many: None) -> None:
        study = study_of(tmp_path, None, 3)
        library = Library(tmp_path)
        for number in range(3, 8):
            library.snapshot("s")
            study.write(fake_trial(number))
            assert len(library.snapshot("s").views[TARGET].records) == number + 1

    def test_a_folder_that_stays_as_it_is_is_looked_through_now_and_then(
        self, tmp_path: Path, few_are_many: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        study = study_of(tmp_path, None, 3)
        trials = study.trial_file(TARGET, 0).parent
        os.utime(trials, (1, 1))
        looks: list[Path] = []
        look_through = shelf._stamps
        monkeypatch.setattr(shelf, "_stamps", lambda folder: [looks.append(folder), *look_through(folder)][1:])
        library = Library(tmp_path)
        before = library.snapshot("s")
        assert library.snapshot("s") is before and looks == [trials]
        # Changed in its place, which no search does.
        study.trial_file(TARGET, 2).write_text("{")
        os.utime(trials, (1, 1))
        assert library.snapshot("s") is before and looks == [trials]
        monkeypatch.setattr(shelf, "LOOK_THROUGH_S", 0.0)
        monkeypatch.setattr(shelf, "LOOK_THROUGH_SHARE", float("inf"))
        assert [broken.file[-9:] for broken in library.snapshot("s").broken] == ["0002.json"]
        assert looks == [trials] * 2


def test_several_threads_read_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_of(tmp_path, None, 20)
    library, reads = Library(tmp_path), []
    read = shelf.record_from_json
    monkeypatch.setattr(shelf, "record_from_json", lambda data, file: [reads.append(file), read(data, file)][1])
    with ThreadPoolExecutor(8) as threads:
        snapshots = list(threads.map(lambda _: library.snapshot("s"), range(40)))
    assert len(reads) == 20
    assert all(snapshot is snapshots[0] for snapshot in snapshots)
