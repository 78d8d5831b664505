"""The whole way as a newcomer goes it: search, look, pick, verify; on two real runtimes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshrink.search.words import describe
from autoshrink.types import Recipe
from autoshrink.val_set import read_per_sample, read_val_set
from tests.end_to_end.conftest import MEASURING, SPACE, TARGET, Workplace

REPOSITORY = Path(__file__).parents[2]

ROW_KEYS = {
    "number", "target", "recipe", "outcome", "accuracy", "accuracy_ci", "latency_ms", "latency_ci_ms", "latency_ratio",
    "size_bytes", "gzip_bytes", "size_ratio", "test_accuracy", "test_accuracy_ci",
}  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Workplace:
    """One study of two targets, searched once for all tests of this file (some 40 s: 12 real trials)."""
    path = tmp_path_factory.mktemp("newcomer")
    place = Workplace(path, shared_cache, warm=False)
    (path / "small.yaml").write_text(SPACE)
    from autoshrink.config import profile_folder

    for name in ("onnxruntime-cpu", "openvino-cpu"):
        text = (profile_folder("targets") / f"{name}.yaml").read_text()
        # A quick protocol: what is tested here is the way, not the figures.
        head, _, tail = text.partition("measuring:")
        (path / f"{name}.yaml").write_text(head + MEASURING + "\n\nchild:" + tail.partition("child:")[2])
    done = place.run(
        *("search", "digits", "--target", "onnxruntime-cpu.yaml", "--target", "openvino-cpu.yaml"),
        *("--space", "small.yaml", "--trials", 6, "--seed", 0, "--study", "s"),
    )
    assert done.returncode == 0, done.stderr
    (path / "stdout.txt").write_text(done.stdout)
    (path / "stderr.txt").write_text(done.stderr)
    return replace(place, warm=True)


def test_the_search_says_what_it_left_out_and_what_to_do_next(searched: Workplace) -> None:
    said = " ".join((searched.path / "stdout.txt").read_text().split())
    assert "autoshrink pick s" in said and "autoshrink verify" in said
    assert "report.html" in said
    assert (searched.path / "results" / "s" / "report.html").stat().st_size > 10_000


def test_every_recipe_is_measured_once_on_each_target(searched: Workplace) -> None:
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        records = searched.records("s", target)
        assert [record["number"] for record in records] == list(range(6))
        recipes = [json.dumps(record["recipe"]) for record in records]
        assert len(set(recipes)) == 6
        assert recipes[0] == "[]"
        assert {record["outcome"] for record in records} == {"complete"}, [r["reason"] for r in records]


def test_what_each_trial_predicts_is_kept_beside_the_true_classes(searched: Workplace) -> None:
    study = searched.path / "results" / "s"
    val = read_val_set(study)
    assert val is not None and val.targets is not None and val.pictures is not None
    assert (val.count, val.classes, val.pictures.shape) == (300, tuple("0123456789"), (300, 8, 8, 1))
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        baseline, *others = searched.records("s", target)
        for record in (baseline, *others):
            predicted = read_per_sample(study / record["predictions"], "u")
            assert predicted.dtype == np.uint8
            assert (predicted == val.targets).mean() == pytest.approx(record["val"]["value"], abs=1e-12)
            assert list(record["weights"]) == list(baseline["weights"])
            is_pruned = any(stage["technique"] == "prune" and stage["ratio"] for stage in record["recipe"])
            assert (record["weights"] != baseline["weights"]) == is_pruned
    assert not (study / "search.json").exists()


def test_training_is_shared_by_the_targets(searched: Workplace) -> None:
    trained = [
        record
        for target in ("onnxruntime-cpu", "openvino-cpu")
        for record in searched.records("s", target)
        if any(stage["technique"] == "finetune" for stage in record["recipe"]) and "finetune" not in record["reused"]
    ]
    assert len(trained) <= 1  # none when another test's study has filled the shared cache


def test_front_json_has_what_is_promised(searched: Workplace) -> None:
    document = searched.ok("front", "s")
    assert set(document["targets"]) == {"onnxruntime-cpu", "openvino-cpu"}
    for rows in document["targets"].values():
        assert set(rows["baseline"]) >= ROW_KEYS
        assert rows["baseline"]["size_ratio"] == 1.0
        assert rows["baseline"]["latency_ratio"] == pytest.approx(1.0, abs=0.5)
        assert rows["front"]
        for row in rows["front"]:
            assert set(row) >= ROW_KEYS
            low, high = row["accuracy_ci"]
            assert low <= row["accuracy"] <= high
            low, high = row["test_accuracy_ci"]
            assert low <= row["test_accuracy"] <= high
            assert 0 < row["gzip_bytes"] < row["size_bytes"] and row["latency_ms"] > 0
    one = searched.ok("front", "s", "--target", "openvino-cpu")
    assert list(one["targets"]) == ["openvino-cpu"]


def weights_of(record: dict[str, Any]) -> int:
    """Bytes of the file that holds the weights: OpenVINO keeps the graph in another one."""
    return max(file["size"] for file in record["artifact"]["files"] if not file["name"].endswith(".xml"))


def test_int8_is_smaller_and_really_int8_on_both(searched: Workplace) -> None:
    for target in ("onnxruntime-cpu", "openvino-cpu"):
        records = {json.dumps(r["recipe"]): r for r in searched.records("s", target)}
        baseline = records["[]"]
        plain = next(r for r in records.values() if describe(Recipe.from_json(r["recipe"])) == "int8 static")
        # So small a net is mostly graph and names, not weights: it cannot reach the factor of 4.
        assert weights_of(plain) < weights_of(baseline)
        layers = plain["audit"]["layers"]
        assert sum(layer["precision"] == "int8" for layer in layers) >= len(layers) - 1 > 0
        assert not any(layer["precision"] == "int8" for layer in baseline["audit"]["layers"])
        assert plain["agreement_db"] > 20 and baseline["agreement_db"] > 60


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_pick_writes_a_package_that_verifies_and_runs_alone(searched: Workplace, target: str) -> None:
    package = searched.path / f"package-{target}"
    # One of the two in processes that import anew, as a newcomer's do.
    searched = replace(searched, warm=target == "openvino-cpu")
    picked = searched.ok("pick", "s", "--target", target, "--max-drop", "20%", "--out", package)
    assert picked["trial"]["outcome"] == "complete"
    assert {"package.json", "README.md", "run.py"} <= {path.name for path in package.iterdir()}
    verified = searched.ok("verify", package)
    # The ratio of so small a net is noisy on a busy machine; everything else must hold.
    assert all(check["ok"] for check in verified["checks"] if check["name"] != "latency"), verified
    alone = subprocess.run(
        [sys.executable, "-I", str(package / "run.py")], cwd=package, capture_output=True, text=True, timeout=120
    )
    assert alone.returncode == 0, alone.stderr


def test_a_broken_package_fails_with_exit_code_1(searched: Workplace) -> None:
    package = searched.path / "package-broken"
    searched.ok("pick", "s", "--target", "onnxruntime-cpu", "--out", package)
    artifact = next(package.rglob("model.onnx"))
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 0xFF
    artifact.write_bytes(content)
    assert "failed" in searched.refused(1, "verify", package)


def test_pick_says_the_nearest_misses(searched: Workplace) -> None:
    said = searched.refused(1, "pick", "s", "--target", "onnxruntime-cpu", "--max-size", "1kB", "--out", "nothing")
    assert "--max-size" in said
    assert not (searched.path / "nothing").exists()


def test_resume_of_a_finished_study_adds_what_is_asked_and_no_more(searched: Workplace) -> None:
    before = searched.records("s", "onnxruntime-cpu")
    document = searched.ok("resume", "s", "--trials", 6)
    assert set(document["targets"]) == {"onnxruntime-cpu", "openvino-cpu"}
    assert searched.records("s", "onnxruntime-cpu") == before


def test_the_same_from_python(searched: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    import autoshrink

    study = autoshrink.open_study(searched.path / "results" / "s")
    frame = study.front()
    assert set(frame["target"]) == {"onnxruntime-cpu", "openvino-cpu"}
    assert len(study.front("openvino-cpu")) < len(frame)
    assert study.choose("onnxruntime-cpu", autoshrink.Limits(drop=0.2)).is_measured


def test_listing_commands(searched: Workplace) -> None:
    states = {found["target"]: found["state"] for found in searched.ok("doctor")["targets"]}
    assert states["onnxruntime-cpu"] == states["openvino-cpu"] == "ready"
    assert set(states.values()) <= {"ready", "untimed", "compile-only", "unavailable"}
    assert [target["name"] for target in searched.ok("targets")["targets"]] == sorted(states)
    spaces = {space["name"]: space["recipes"] for space in searched.ok("spaces")["spaces"]}
    # No figure for a space of too many recipes to list: the table says "over 20,000".
    assert spaces.pop("full") is None
    assert set(spaces) == {"ptq", "standard", "tiny"} and all(spaces.values())
    cache = searched.ok("cache")
    assert cache["bytes"] > 0 and "export" in cache["kinds"]


def test_a_task_file_of_ones_own_goes_the_whole_way(tmp_path: Path, shared_cache: Path) -> None:
    """The example of the docs: two inputs and two outputs, through search, pick and verify, by a relative path."""
    place = Workplace(tmp_path, shared_cache, warm=False)
    for file in (REPOSITORY / "docs" / "examples").glob("my_task.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "small.yaml").write_text(SPACE)
    (tmp_path / "quick.yaml").write_text(TARGET)
    done = place.run(
        "search", "my_task.py", "--target", "quick.yaml", "--space", "small.yaml", "--trials", 4, "--study", "own"
    )
    assert done.returncode == 0, done.stderr
    records = place.records("own", "quick")
    assert {record["outcome"] for record in records} == {"complete"}, [record["reason"] for record in records]
    assert any(stage["technique"] == "prune" for record in records for stage in record["recipe"])
    place.ok("pick", "own", "--target", "quick", "--max-drop", "50%", "--out", "package")
    verified = place.ok("verify", "package", "--task", "my_task.py")
    assert len([check for check in verified["checks"] if check["name"].startswith("parity")]) == 2


def test_the_python_of_the_readme_runs(tmp_path: Path, shared_cache: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert len(code) == 1
    place = Workplace(tmp_path, shared_cache, warm=False)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code[0]],
        cwd=tmp_path,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "package" / "package.json").exists()
    assert "latency_ratio" in done.stdout
