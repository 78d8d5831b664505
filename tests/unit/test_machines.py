"""What is known of targets and devices: kept by doctor and by searches, read without asking anybody."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autoshrink import doctor
from autoshrink.cache import CACHE_VARIABLE
from autoshrink.dashboard.app.page_devices import _with_code
from autoshrink.dashboard.library import Library
from autoshrink.dashboard.machines import HERE, LATEST, known_targets, shipped, steadiness
from autoshrink.records import StudyFolder
from autoshrink.target import Precision, Target
from autoshrink.target_states import FOLDER, all_known, remember
from autoshrink.types import Interval
from tests.fake_study import FAKE_TARGETS, fake_latency, fake_meta, fake_trial

TARGET = Target("my-board", "fake", {"fp32": Precision()}, "a board of mine")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_found_is_kept_until_it_is_found_anew() -> None:
    assert all_known() == {}
    remember(TARGET, {"state": "unavailable", "why": "no board", "fix": "buy one"}, "search")
    remember(TARGET, {"state": "ready", "runtime": "fake 1.0"}, "doctor")
    known = all_known()["my-board"]
    assert (known.state, known.runtime, known.why, known.fix, known.asked_by) == ("ready", "fake 1.0", "", "", "doctor")
    assert known.when.endswith("+00:00")


def test_a_file_that_nobody_wrote_is_passed_over(cache: Path) -> None:
    remember(TARGET, {"state": "ready"}, "doctor")
    for name, text in (("torn", '{"target": '), ("list", "[1]"), ("other", '{"target": "x"}')):
        (cache / FOLDER / f"{name}.json").write_text(text)
    assert list(all_known()) == ["my-board"]


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    remember(TARGET, {"state": "ready"}, "doctor")
    assert all_known() == {}


def test_doctor_keeps_what_it_found() -> None:
    found = doctor.examine(replace(TARGET, backend="no-such-backend"))
    known = all_known()["my-board"]
    assert (known.state, known.why, known.asked_by) == (found["state"], found["why"], "doctor")
    assert known.state == "unavailable"


def make_study(results: Path, name: str = "one") -> StudyFolder:
    return StudyFolder.create(
        results / name, fake_meta({"onnxruntime-cpu": FAKE_TARGETS["onnxruntime-cpu"]}, name=name)
    )


def test_shipped_targets_and_those_of_studies_are_known_with_their_state(tmp_path: Path) -> None:
    results = tmp_path / "results"
    make_study(results)
    remember(TARGET, {"state": "compile-only"}, "doctor")
    remember(replace(TARGET, name="openvino-cpu"), {"state": "ready"}, "search")
    targets = known_targets(Library(results))
    assert [target.name for target in targets][:3] == ["openvino-cpu", "my-board", "onnxruntime-cpu"]
    assert targets[0].state is not None
    assert targets[0].summary == "OpenVINO, CPU, one thread"
    assert (targets[2].state, targets[2].studies) == (None, ("one",))
    assert {target.name for target in targets} == {*shipped(), "my-board"}


def test_a_torn_study_hides_no_target(tmp_path: Path) -> None:
    make_study(tmp_path / "results")
    (tmp_path / "results" / "one" / "study.json").write_text("{")
    assert {target.name for target in known_targets(Library(tmp_path / "results"))} == set(shipped())
    assert steadiness(Library(tmp_path / "results")) == []


def test_steadiness_is_that_of_the_latest_measurements_of_each_device(tmp_path: Path) -> None:
    study = make_study(tmp_path / "results")
    for number in range(LATEST + 5):
        # The first five, of an old day, were bad.
        latency = (
            replace(fake_latency(0.5), ratio_ci=Interval(0.4, 0.6), stable=False) if number < 5 else fake_latency(0.5)
        )
        study.write(fake_trial(number, latency=latency, finished=f"2026-11-22T14:{number:02d}:00+00:00"))
    hot = replace(fake_latency(1.0), drift=-0.3, contended=True)
    study.write(fake_trial(50, latency=hot, device="adb 3A2F", finished="2026-11-23T10:00:00+00:00"))
    study.write(fake_trial(51, latency=None, finished="2026-11-24T10:00:00+00:00"))
    phone, here = steadiness(Library(tmp_path / "results"))
    assert (phone.device, phone.count, phone.contended, phone.drift, phone.is_steady) == ("adb 3A2F", 1, 1, -0.3, False)
    assert (here.device, here.count, here.unstable, here.is_steady) == (HERE, LATEST, 0, True)
    assert here.interval == pytest.approx(0.012)
    assert (here.when, here.studies) == ("2026-11-22T14:24:00+00:00", ("one",))


def test_a_fix_is_a_command_or_a_sentence_with_commands() -> None:
    assert [getattr(part, "children", part) for part in _with_code("pip install x")] == ["pip install x"]
    parts = _with_code("start it with `adb devices`, then allow it")
    assert [type(part).__name__ for part in parts] == ["str", "Code", "str"]


def test_the_page_loads_no_runtime() -> None:
    heavy = "('torch', 'optuna', 'onnx', 'onnxruntime', 'openvino', 'autoshrink.doctor')"
    code = (
        "from pathlib import Path; from autoshrink.dashboard.app.page_devices import _targets, _devices, _steady;"
        "from autoshrink.dashboard.library import Library; from autoshrink.devices.seen import all_seen;"
        "from autoshrink.dashboard.machines import known_targets, steadiness;"
        "library = Library(Path('no-such-folder'));"
        "_targets(known_targets(library)), _devices(all_seen()), _steady(steadiness(library));"
        f"import sys; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
