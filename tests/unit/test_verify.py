"""`verify`: a package as a stranger brings it, and each of the checks."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshrink.backends.base import Availability, Option
from autoshrink.errors import ConfigError, StageError
from autoshrink.package import verify, write_package
from autoshrink.package.checks import Tolerance, check_answers, check_latency, check_parity, check_score
from autoshrink.package.manifest import Manifest, OutputPort, Port, is_inside, options_that_ship, read_manifest
from autoshrink.package.samples import read_arrays, write_arrays
from autoshrink.records import StudyFolder
from autoshrink.types import Choice, Figure, Outcome, TrialRecord
from tests.package_study import ROWS, a_task, edit, failures, float_task, latency, make_study, relist, score
from tests.package_worlds import run

Made = tuple[StudyFolder, TrialRecord, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A study, the record of its small model, and its package; tests copy before they change anything."""
    place = tmp_path_factory.mktemp("package")
    study, record = make_study(place / "study")
    return study, record, write_package(study, record, a_task(), place / "out" / "small", samples=9)


@pytest.fixture
def package(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[2], tmp_path / "small"))


def test_sound_package_verifies_here(package: Path) -> None:
    found = verify(package, task=a_task())
    assert found.ok, failures(found)
    assert [check.name for check in found.checks] == [
        *("files", "runtime", "parity logits", "answers logits", "accuracy", "latency"),
    ]
    assert found.score is not None and found.score.count == ROWS
    assert found.latency is not None
    parity = found.checks[2]
    assert (parity.found, parity.expected) == ("equal", "at least 30 dB")
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["ok"] is True and data["checks"][0]["name"] == "files"


def test_flipped_byte_fails_and_is_named(package: Path) -> None:
    path = package / "artifact/model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = verify(package)
    assert not found.ok
    assert [check.name for check in found.checks] == ["files"], "a changed model is not run"
    assert found.checks[0].text == "artifact/model.onnx was changed: its SHA-256 differs"


def test_missing_and_cut_files_are_all_named(package: Path) -> None:
    (package / "samples/outputs/logits.npy").unlink()
    (package / "README.md").write_text("short")
    text = verify(package).checks[0].text
    assert "samples/outputs/logits.npy is missing" in text
    assert "README.md has 5 bytes" in text


def test_unlisted_file_is_a_note(package: Path) -> None:
    (package / "artifact" / "extra.bin").write_bytes(b"x")
    edit(package, lambda data: data["runtime"].update(reference=[]))
    found = verify(package)
    assert found.ok
    assert any("artifact/extra.bin" in note for note in found.notes)


def test_outputs_of_another_model_fail_parity_and_answers(package: Path) -> None:
    path = package / "samples/outputs/logits.npy"
    np.save(path, -np.load(path, allow_pickle=False), allow_pickle=False)
    relist(package)
    edit(package, lambda data: data["runtime"].update(reference=[]))
    assert [check.name for check in failures(verify(package))] == ["parity logits", "answers logits"]


def test_artifact_that_became_slower_than_recorded_fails(package: Path) -> None:
    """The slow baseline and the small model change places: the same outputs, a latency ratio far over the record."""
    fast, slow = package / "artifact/model.onnx", package / "reference/model.onnx"
    fast.rename(package / "kept")
    slow.rename(fast)
    (package / "kept").rename(slow)
    relist(package)
    found = verify(package)
    assert [check.name for check in failures(found)] == ["latency"]
    assert "recorded 0.500 [0.480, 0.520]" in failures(found)[0].text


def test_model_that_does_not_load_fails_the_run(package: Path) -> None:
    (package / "artifact/model.onnx").write_bytes(b"no model at all")
    relist(package)
    found = verify(package)
    assert [check.name for check in failures(found)] == ["run"]
    assert "ONNX Runtime cannot load" in failures(found)[0].text


def test_runtime_that_is_not_installed_fails_and_says_what_to_install(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoshrink.backends.base.installed_version", lambda package: "")
    check = verify(package).checks[-1]
    assert (check.name, check.ok) == ("runtime", False)
    assert "onnxruntime is not installed; pip install" in check.text


def test_another_version_of_the_runtime_is_a_note(package: Path) -> None:
    edit(package, lambda data: data["runtime"].update(version="onnxruntime 0.1", reference=[]))
    found = verify(package)
    assert found.ok
    assert any("was made with onnxruntime 0.1" in note for note in found.notes)


def test_task_of_another_package_is_refused(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"--task: other with inputs .* the package is of task products"):
        verify(package, task=replace(a_task(), name="other"))


def test_metric_under_the_recorded_interval_fails(package: Path) -> None:
    edit(package, lambda data: data["runtime"].update(reference=[]))
    task = a_task()
    wrong = {"label": (task.test.targets["label"] + 1) % 4}
    found = verify(package, task=replace(task, test=replace(task.test, targets=wrong)))
    assert [check.name for check in failures(found)] == ["accuracy"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(schema=2), "schema: 2; this autoshrink reads 1"),
        (lambda data: data.pop("schema"), "schema: None"),
        (lambda data: data.pop("signature"), "signature: Field required"),
        (lambda data: data["files"][0].update(name="../secret"), "'../secret' is not a plain path inside"),
        (lambda data: data["files"][0].update(name="/etc/passwd"), "'/etc/passwd' is not a plain path"),
        (lambda data: data["files"][0].update(name="a\\..\\..\\b"), "is not a plain path inside"),
        (lambda data: data["runtime"].update(artifact=["../../x.onnx"]), "'artifact/../../x.onnx' is used and not"),
        (lambda data: data["runtime"].update(artifact=["other.onnx"]), "'artifact/other.onnx' is used and not listed"),
        (lambda data: data["runtime"].update(artifact=[]), "runtime.artifact: is empty"),
        (lambda data: data["runtime"].update(backend="os"), "runtime.backend: 'os'"),
        (lambda data: data["runtime"].update(precision="fp1"), "precision 'fp1' is none of"),
        (lambda data: data["target"].update(threads=10**6), "target.threads: 1000000 is over 1024"),
        (lambda data: data["target"].update(batch=0), "batch is 0"),
        (lambda data: data["target"].update(python="/tmp/python"), "target.python: '/tmp/python'"),
        (lambda data: data["target"].update(options={"chromium": "sh"}), "target.options.chromium: is none of"),
        (lambda data: data["signature"]["inputs"][0].update(name="../../x"), "is used and not listed"),
        (lambda data: data["files"].append(data["files"][0]), "a name stands there twice"),
    ],
)
def test_tampered_manifest_is_refused(package: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    edit(package, change)
    with pytest.raises(ConfigError) as refused:
        verify(package)
    assert said in str(refused.value)
    assert "package.json:" in str(refused.value)


def test_every_problem_of_a_manifest_is_said_at_once(package: Path) -> None:
    edit(package, lambda data: (data["runtime"].update(backend="os"), data["target"].update(threads=10**6)))
    with pytest.raises(ConfigError) as refused:
        read_manifest(package)
    assert len(refused.value.problems) == 2


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, '{"schema": "1"}', "\xff"])
def test_manifest_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "package.json").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"package\.json:"):
        read_manifest(tmp_path)


def test_manifest_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "package.json")
    with pytest.raises(ConfigError, match="is not there"):
        read_manifest(tmp_path)


def test_no_package_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the folder of a package"):
        verify(tmp_path / "nothing")


def test_link_out_of_the_package_is_refused(package: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    shutil.copyfile(package / "artifact/model.onnx", secret)
    (package / "artifact/model.onnx").unlink()
    (package / "artifact/model.onnx").symlink_to(secret)
    with pytest.raises(ConfigError, match="not a plain path inside"):
        verify(package)


@pytest.mark.parametrize("name", ["a", "a/b", "a b/c.npy", "ä.npy"])
def test_plain_names_are_inside(tmp_path: Path, name: str) -> None:
    assert is_inside(name, tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "/a", "a/../b", "./a", "a//b", "a/", "c:a", "a\\b", "a\0", "a\nb"])
def test_other_names_are_not(tmp_path: Path, name: str) -> None:
    assert not is_inside(name, tmp_path)


def test_arrays_are_read_with_suspicion(tmp_path: Path) -> None:
    port = Port("x", (1, 3), "float32")
    write_arrays(tmp_path / "a", {"x": np.ones((5, 3), np.float32)})
    assert read_arrays(tmp_path / "a", [port])["x"].shape == (5, 3)
    for wrong in (Port("x", (1, 4), "float32"), Port("x", (1, 3), "int64"), Port("y", (1, 3), "float32")):
        with pytest.raises(StageError):
            read_arrays(tmp_path / "a", [wrong])
    np.save(tmp_path / "a/x.npy", np.array([[{}] * 3], object), allow_pickle=True)
    with pytest.raises(StageError, match="no array of numbers"):
        read_arrays(tmp_path / "a", [port])
    with (tmp_path / "a/x.npy").open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(StageError, match="no array of numbers"):
        read_arrays(tmp_path / "a", [port])
    write_arrays(tmp_path / "b", {"x": np.ones((5, 3), np.float32), "y": np.ones((4, 3), np.float32)})
    with pytest.raises(StageError, match=r"numbers of rows are \{'x': 5, 'y': 4\}"):
        read_arrays(tmp_path / "b", [port, replace(port, name="y")])


LOGITS = OutputPort("logits", (1, 2), "float32", "logits")


def test_parity_is_of_30_decibel() -> None:
    reference = np.ones((10, 2), np.float32)
    assert check_parity(LOGITS, reference, reference, Tolerance()).ok
    # An error of 3 % is 30.46 dB, one of 3.5 % is 29.12 dB.
    assert check_parity(LOGITS, reference, reference * np.float32(1.03), Tolerance()).ok
    failed = check_parity(LOGITS, reference, reference * np.float32(1.035), Tolerance())
    assert not failed.ok and failed.found == "29.1 dB"
    assert not check_parity(LOGITS, reference, reference[:5], Tolerance()).ok


def test_answers_are_the_same_on_99_of_100() -> None:
    recorded = np.tile(np.array([[1.0, 0.0]], np.float32), (200, 1))
    found = recorded.copy()
    found[:2] = [0, 1]
    assert check_answers(LOGITS, recorded, found, Tolerance()).ok
    found[:3] = [0, 1]
    failed = check_answers(LOGITS, recorded, found, Tolerance())
    assert not failed.ok and failed.found == "98.50%"


def test_score_may_be_better_and_not_under_the_interval(made: Made) -> None:
    manifest = read_manifest(made[2])
    recorded = score(0.9, 0.8, 0.95)
    assert check_score(manifest, score(0.99, 0.9, 1.0), recorded).ok
    assert check_score(manifest, score(0.80, 0.7, 0.9), recorded).ok
    assert not check_score(manifest, score(0.79, 0.7, 0.9), recorded).ok


def elsewhere(manifest: Manifest) -> Manifest:
    return replace(manifest, machine={**manifest.machine, "processor": "Another 9000"})


def test_latency_may_be_a_tenth_over_the_record_on_its_processor(made: Made) -> None:
    manifest = read_manifest(made[2])
    # The recorded upper end is 0.52.
    check, notes = check_latency(manifest, latency(0.6, 0.571, 0.63), Tolerance())
    assert check.ok and not notes
    check, _ = check_latency(manifest, latency(0.6, 0.573, 0.63), Tolerance())
    assert not check.ok and "times 1.1 (0.572)" in check.rule


def test_latency_on_another_processor_has_to_beat_the_baseline(made: Made) -> None:
    manifest = elsewhere(read_manifest(made[2]))
    check, notes = check_latency(manifest, latency(0.9, 0.88, 0.92), Tolerance())
    assert check.ok
    assert "recorded on Another 9000: ratio 0.900 [0.880, 0.920] here, 0.500 [0.480, 0.520] there" in notes[0]
    check, _ = check_latency(manifest, latency(1.1, 1.01, 1.2), Tolerance())
    assert not check.ok and "not slower than the fp32 baseline" in check.rule
    slow = replace(manifest, figures=replace(manifest.figures, latency=latency(1.5, 1.4, 1.6)))
    assert check_latency(slow, latency(1.5, 1.4, 1.6), Tolerance())[0].ok, "it was slower when recorded, too"


def test_a_noisy_machine_is_noted(made: Made) -> None:
    noisy = replace(latency(0.5, 0.4, 0.6), stable=False, contended=True)
    notes = check_latency(read_manifest(made[2]), noisy, Tolerance())[1]
    assert len(notes) == 2 and "did not settle" in notes[0] and "quiet machine" in notes[1]


WHY = "no device of that kind is here"


@pytest.fixture
def never_run(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of a trial that was compiled for a device that is not here."""
    study, record, _ = made
    compiled = replace(
        record,
        outcome=Outcome.COMPILED,
        reason=WHY,
        val=None,
        drop=None,
        drop_ci=None,
        test=None,
        latency=None,
        agreement_db=None,
        figures={"arena": Figure(1234.0, "bytes", "a known answer", estimate=True)},
    )
    only_compiles = Availability("compile-only", WHY, "take it to its device")
    monkeypatch.setattr("autoshrink.package.write.availability", lambda target: only_compiles)
    return write_package(study, compiled, float_task(), tmp_path / "never", samples=5)


def test_package_of_a_trial_that_nothing_ran_says_so(never_run: Path) -> None:
    manifest = read_manifest(never_run)
    assert manifest.not_run == WHY
    assert (manifest.figures.val, manifest.figures.latency) == (None, None)
    assert manifest.signature.outputs == (OutputPort("logits", (2, 4), "float32", "logits"),)
    assert not (never_run / "samples/outputs").exists()
    assert np.load(never_run / "samples/float/logits.npy").shape == (5, 4)
    card = (never_run / "README.md").read_text()
    assert f"**Compiled, not measured**: accuracy and latency are not known ({WHY})." in card
    assert "| accuracy on val | not scored | 0.9000" in card
    assert "| latency of one call | not measured |" in card
    assert "| arena | ~1 kB (estimate) | - | a known answer |" in card
    for placeholder in ("None", "nan", "{", "- dB"):
        assert placeholder not in card


def test_a_device_that_can_run_it_fills_what_can_be_checked(never_run: Path) -> None:
    found = verify(never_run, task=a_task())
    assert [check.name for check in found.checks] == ["files", "runtime", "first run logits", "accuracy", "latency"]
    assert failures(found) == [] or [check.name for check in failures(found)] == ["latency"]
    near = found.checks[2].found
    assert near.endswith("dB from the float model's") and float(near.split()[0]) > 100, "the same function in float"
    assert found.checks[3].expected == "not recorded"
    assert found.latency is not None


def test_its_runner_compares_with_the_float_model(never_run: Path, tmp_path: Path) -> None:
    said = run([sys.executable, never_run / "run.py"], tmp_path, {"PATH": "/usr/bin"})
    assert f"No outputs were recorded when this package was written ({WHY})." in said
    assert "dB of the float model, before its compression" in said and "The package runs here" in said


def test_it_stays_compiled_where_nothing_runs_it(never_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_compiles = Availability("compile-only", WHY, "take it to its device")
    monkeypatch.setattr("autoshrink.backends.onnxruntime.OnnxRuntime.available", lambda self: only_compiles)
    found = verify(never_run)
    assert found.ok and [check.name for check in found.checks] == ["files", "runtime"]
    assert found.checks[1].text == f"compiled, not measured: {WHY}"
    assert any("take it to its device" in note for note in found.notes)


def test_a_package_that_was_measured_fails_where_nothing_runs_it(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_compiles = Availability("compile-only", WHY, "take it to its device")
    monkeypatch.setattr("autoshrink.backends.onnxruntime.OnnxRuntime.available", lambda self: only_compiles)
    found = verify(package)
    assert [check.name for check in failures(found)] == ["runtime"]


def test_on_an_imitation_of_the_device_nothing_is_timed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imitation = Availability("untimed", "an interpreter imitates the device", "measure on the device")
    monkeypatch.setattr("autoshrink.backends.onnxruntime.OnnxRuntime.available", lambda self: imitation)
    found = verify(package)
    assert found.ok and found.latency is None
    assert [check.name for check in found.checks] == ["files", "runtime", "parity logits", "answers logits"]
    assert "latency was not measured: an interpreter imitates the device" in found.notes


def test_processors_that_are_not_here_are_a_note(package: Path) -> None:
    edit(package, lambda data: data["target"].update(pin=[4095]))
    edit(package, lambda data: data["runtime"].update(reference=[]))
    found = verify(package)
    assert found.ok and any("processors [4095] are not here" in note for note in found.notes)


def test_a_package_cannot_name_a_program_to_start(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "program": Option(None, "", "any text: a path"),
        "layout": Option(Choice(("NCHW", "NHWC")), "NCHW", "of a list"),
    }
    monkeypatch.setattr("autoshrink.backends.onnxruntime.OnnxRuntime.options", options)
    target = read_manifest(package).target
    both = replace(target, options={"program": "/bin/sh", "layout": "NHWC"})
    assert options_that_ship(both) == {"layout": "NHWC"}
    edit(package, lambda data: data["target"].update(options={"program": "/bin/sh", "layout": "none"}))
    with pytest.raises(ConfigError) as refused:
        read_manifest(package)
    assert "target.options.program: '/bin/sh'; a package may not name" in str(refused.value)
    assert "target.options.layout: 'none' is none of NCHW, NHWC" in str(refused.value)
