"""Packages as they are written from a study, and their runner without autoshrink."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoshrink.errors import ConfigError, StageError
from autoshrink.package import verify, write_package
from autoshrink.package.manifest import OutputPort, Port, read_manifest
from autoshrink.records import StudyFolder
from autoshrink.types import Artifact, TrialRecord
from tests.package_study import ROWS, a_task, artifact, edit, failures, make_study, relist

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


def test_package_holds_what_was_packed(made: Made) -> None:
    study, record, package = made
    manifest = read_manifest(package)
    names = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert names == {
        "package.json",
        "README.md",
        "run.py",
        "runtime.py",
        "requirements.txt",
        "artifact/model.onnx",
        "reference/model.onnx",
        "samples/inputs/x.npy",
        "samples/targets/label.npy",
        "samples/outputs/logits.npy",
    }
    assert {file.name for file in manifest.files} == names - {"package.json"}
    assert record.artifact is not None
    assert (package / "artifact/model.onnx").stat().st_size == record.artifact.size_bytes == manifest.figures.size_bytes
    assert (package / "reference/model.onnx").stat().st_size == manifest.baseline.size_bytes
    assert manifest.figures.size_ratio == record.artifact.size_bytes / manifest.baseline.size_bytes
    assert manifest.signature.inputs == (Port("x", (2, 8), "float32"),)
    assert manifest.signature.outputs == (OutputPort("logits", (2, 4), "float32", "logits"),)
    assert manifest.figures.latency == record.latency
    assert manifest.recipe == tuple(record.recipe.to_json())
    assert manifest.target == study.meta.targets["bench"]
    assert (manifest.name, manifest.task, manifest.samples) == ("small", "products", 9)
    version = record.artifact.runtime.split()[1]
    assert (package / "requirements.txt").read_text().splitlines()[0] == f"onnxruntime=={version}"
    assert [path.name for path in package.parent.iterdir()] == ["small"], "nothing else is left beside it"


def test_samples_lie_evenly_over_the_test_split_and_outputs_are_the_artifacts(made: Made) -> None:
    package, test = made[2], a_task().test
    rows = np.linspace(0, ROWS - 1, 9).astype(int)
    inputs = np.load(package / "samples/inputs/x.npy", allow_pickle=False)
    assert np.array_equal(inputs, test.inputs["x"][rows])
    assert np.array_equal(np.load(package / "samples/targets/label.npy"), test.targets["label"][rows])
    outputs = np.load(package / "samples/outputs/logits.npy", allow_pickle=False)
    assert outputs.shape == (9, 4)
    right = outputs.argmax(1) == test.targets["label"][rows]
    assert right.mean() > 0.5, "random outputs would be right on a quarter"


def test_card_says_what_was_measured_and_leaves_nothing_to_fill_in(made: Made) -> None:
    card = (made[2] / "README.md").read_text()
    assert "prune 50 % + int8 static" in card
    assert "| accuracy on val | 0.8900 [0.7600, 0.9600], 37 samples | 0.9000 [0.7700, 0.9700], 37 samples |" in card
    assert "drop 0.0100 [-0.0200, 0.0400]" in card
    assert "ratio 0.500 [0.480, 0.520]" in card
    assert "Divide by 127.5 and subtract 1." in card
    assert "| output | `logits` | [2, 4] | float32 | logits |" in card
    for placeholder in ("TODO", "None", "nan", "{", "TBD"):
        assert placeholder not in card


def test_trial_that_was_never_scored_on_test_says_so(made: Made, tmp_path: Path) -> None:
    study, record, _ = made
    package = write_package(study, replace(record, test=None, audit=None), a_task(), tmp_path / "p", samples=2)
    assert "| accuracy on test | not scored |" in (package / "README.md").read_text()


def test_reference_can_be_left_out(made: Made, tmp_path: Path) -> None:
    study, record, _ = made
    package = write_package(study, record, a_task(), tmp_path / "p", include_reference=False, samples=4)
    assert not (package / "reference").exists()
    found = verify(package)
    assert found.ok and found.latency is None
    assert [check.name for check in found.checks] == ["files", "runtime", "parity logits", "answers logits"]
    assert any("no reference/" in note for note in found.notes)


def test_taken_folder_is_refused_and_an_empty_one_is_used(made: Made, tmp_path: Path) -> None:
    study, record, _ = made
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match=r"--out: .*out is there already"):
        write_package(study, record, a_task(), out)
    assert (out / "mine.txt").read_text() == "keep"
    (out / "mine.txt").unlink()
    assert write_package(study, record, a_task(), out, samples=2) == out
    assert (out / "package.json").is_file()


def test_changed_or_missing_artifact_of_the_study_is_refused(made: Made, tmp_path: Path) -> None:
    study = StudyFolder(Path(shutil.copytree(made[0].path, tmp_path / "study")))
    record = made[1]
    assert isinstance(record.artifact, Artifact)
    path = study.path / record.artifact.folder / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match=r"model\.onnx: was changed since the trial"):
        write_package(study, record, a_task(), tmp_path / "p")
    path.unlink()
    with pytest.raises(ConfigError, match=r"model\.onnx: No such file"):
        write_package(study, record, a_task(), tmp_path / "p")
    with pytest.raises(ConfigError, match="trial 3 of bench: has no artifact"):
        write_package(study, replace(record, artifact=None), a_task(), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_artifact_that_does_not_run_is_a_stage_error_and_leaves_nothing(made: Made, tmp_path: Path) -> None:
    study = StudyFolder(Path(shutil.copytree(made[0].path, tmp_path / "study")))
    broken = study.path / "artifacts/broken"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"no model at all")
    record = replace(made[1], artifact=artifact(study.path, "broken", ["model.onnx"], "onnxruntime", "onnxruntime 1"))
    with pytest.raises(StageError, match="load: ONNX Runtime cannot load"):
        write_package(study, record, a_task(), tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_full_disk_is_said_and_nothing_half_written_stays(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("autoshrink.package.write._write_texts", full)
    with pytest.raises(ConfigError, match=r"--out: .*No space left on device; it needs some \d.* free some space"):
        write_package(made[0], made[1], a_task(), tmp_path / "p", samples=2)
    assert list(tmp_path.iterdir()) == []


def run_alone(package: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python without the environment's variables, somewhere else, so that only the package's folder is on the path."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={"PATH": "/usr/bin"}, capture_output=True, text=True, timeout=120
    )


NO_AUTOSHRINK = """
import sys
sys.modules["autoshrink"] = None  # importing it raises ImportError
sys.path.insert(0, {folder!r})
import numpy as np
from run import Model
model = Model()
outputs = model({{"x": np.load({folder!r} + "/samples/inputs/x.npy")[:5]}})
expected = np.load({folder!r} + "/samples/outputs/logits.npy")[:5]
assert outputs["logits"].shape == (5, 4)
assert np.allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-4)
assert not [name for name in sys.modules if name.startswith("autoshrink.") or name == "torch"]
try:
    model({{"x": np.zeros((2, 9), np.float32)}})
except ValueError as error:
    print(error)
"""


def test_runner_is_a_module_without_autoshrink(package: Path, tmp_path: Path) -> None:
    done = run_alone(package, tmp_path, "-c", NO_AUTOSHRINK.format(folder=str(package)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "'x' is float32 [2, 9]; the model takes float32 [N, 8]"


def test_runner_runs_samples_and_files(package: Path, tmp_path: Path) -> None:
    done = run_alone(package, tmp_path, str(package / "run.py"))
    assert done.returncode == 0, done.stderr
    assert "logits [9, 4]: equal to the recorded outputs" in done.stdout
    assert "same answer on 100.0 % of the samples" in done.stdout
    np.save(tmp_path / "mine.npy", np.ones((3, 8), np.float32))
    done = run_alone(package, tmp_path, str(package / "run.py"), "mine.npy", "--save", "kept")
    assert done.returncode == 0, done.stderr
    assert "logits float32 [3, 4]" in done.stdout
    kept = np.load(tmp_path / "kept/logits.npy", allow_pickle=False)
    assert kept.shape == (3, 4) and np.allclose(kept[0], kept[2], rtol=1e-5)


def test_runner_refuses_what_was_changed(package: Path, tmp_path: Path) -> None:
    (package / "samples/inputs/x.npy").write_bytes(b"x")
    done = run_alone(package, tmp_path, str(package / "run.py"))
    assert done.returncode == 2
    assert "samples/inputs/x.npy is not the file that was packed" in done.stderr
    edit(package, lambda data: data["files"][0].update(name="../out"))
    done = run_alone(package, tmp_path, str(package / "run.py"))
    assert done.returncode == 2 and "leads out of the package" in done.stderr


def test_runner_says_when_the_outputs_differ(package: Path, tmp_path: Path) -> None:
    path = package / "samples/outputs/logits.npy"
    np.save(path, -np.load(path, allow_pickle=False), allow_pickle=False)
    relist(package)
    done = run_alone(package, tmp_path, str(package / "run.py"))
    assert done.returncode == 1
    assert "NOT those that were recorded" in done.stdout


def test_openvino_package_runs_and_verifies(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    study, record = make_study(tmp_path / "study", "openvino")
    package = write_package(study, record, a_task(), tmp_path / "p", samples=9)
    assert {path.name for path in (package / "artifact").iterdir()} == {"model.xml", "model.bin"}
    done = run_alone(package, tmp_path, str(package / "run.py"))
    assert done.returncode == 0, done.stderr + done.stdout
    found = verify(package)
    assert [check.name for check in failures(found) if check.name != "latency"] == []
