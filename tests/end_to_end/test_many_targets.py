"""One search over every target that this machine can at least compile for, and what becomes of it.

Slow, for each runtime's own converter takes seconds a model: that they all work together is what is tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoshrink.config import profile_folder
from tests.end_to_end.conftest import MEASURING, Workplace

MEASURED = ("onnxruntime-cpu", "openvino-cpu", "tflite-mobile", "executorch-mobile", "browser-wasm")
UNTIMED = ("microcontroller",)
COMPILED = ("coreml-iphone", "tensorrt-rtx-sm89")
SPACE = """
name: few
techniques:
  prune: {ratio: [0.0, 0.5]}
  finetune: {epochs: 0.25}
  quantize: {scheme: int8_static, samples: 64}
"""
BOUND = 0.04
"""Most that a recipe's accuracy may differ between two targets, of 360 digits."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("cache"))
    # The runtime of the browser is in the cache, which is a new one here.
    subprocess.run(
        [sys.executable, "-m", "autoshrink.backends.browser_runtime"],
        env=place.environment(), check=True, capture_output=True,
    )  # fmt: skip
    arguments: list[object] = []
    for name in (*MEASURED, *UNTIMED, *COMPILED):
        profile = yaml.safe_load((profile_folder("targets") / f"{name}.yaml").read_text())
        (place.path / f"{name}.yaml").write_text(yaml.safe_dump({**profile, **yaml.safe_load(MEASURING), "limits": {}}))
        arguments += ["--target", f"{name}.yaml"]
    (place.path / "few.yaml").write_text(SPACE)
    done = place.run(
        "search", "digits", *arguments, "--space", "few.yaml", "--study", "s", "--trials", 3, "--seed", 0, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return place


def by_recipe(place: Workplace, target: str) -> dict[str, dict[str, Any]]:
    return {json.dumps(record["recipe"]): record for record in place.records("s", target)}


@pytest.mark.parametrize("target", MEASURED)
def test_a_target_that_is_here_is_measured(searched: Workplace, target: str) -> None:
    records = by_recipe(searched, target)
    assert len(records) == 3
    for record in records.values():
        assert record["outcome"] == "complete", record["reason"]
        assert record["latency"]["ratio"] > 0
        assert record["audit"]["layers"]
        assert record["agreement_db"] > 25


def test_an_imitated_target_has_accuracy_and_estimates(searched: Workplace) -> None:
    for record in by_recipe(searched, "microcontroller").values():
        assert record["outcome"] == "complete", record["reason"]
        assert record["latency"] is None
        assert record["figures"]["arena"]["estimate"]


@pytest.mark.parametrize("target", COMPILED)
def test_a_target_that_is_away_is_compiled(searched: Workplace, target: str) -> None:
    for record in by_recipe(searched, target).values():
        assert record["outcome"] == "compiled", record["reason"]
        assert record["val"] is None and record["latency"] is None
        assert record["artifact"]["files"]


def test_the_same_recipe_means_the_same_everywhere(searched: Workplace) -> None:
    reference = by_recipe(searched, "onnxruntime-cpu")
    for target in (*MEASURED[1:], *UNTIMED):
        for recipe, record in by_recipe(searched, target).items():
            assert abs(record["val"]["value"] - reference[recipe]["val"]["value"]) <= BOUND, (target, recipe)
            if "int8_static" in recipe:
                assert all(layer["precision"] in ("int8", "uint8") for layer in record["audit"]["layers"]), target


def test_what_trains_is_trained_once(searched: Workplace) -> None:
    trained = [
        json.dumps(record["recipe"][:-1])
        for target in (*MEASURED, *UNTIMED, *COMPILED)
        for record in searched.records("s", target)
        if "finetune" in record["seconds"]
    ]
    assert trained and len(trained) == len(set(trained))


def test_one_recipe_can_serve_all(searched: Workplace) -> None:
    assert searched.ok("front", "s", "--across", "--max-drop", "10%")
    shown = searched.run("front", "s", "--across", "--max-drop", "10%")
    assert shown.returncode == 0, shown.stderr
    for target in (*MEASURED, *UNTIMED):
        assert target in shown.stdout


@pytest.mark.parametrize("target", [*MEASURED, *UNTIMED, *COMPILED])
def test_a_package_for_each_world(searched: Workplace, target: str, tmp_path: Path) -> None:
    package = tmp_path / "package"
    trial = max(record["number"] for record in searched.records("s", target))
    searched.ok("pick", "s", "--target", target, "--trial", trial, "--out", package)
    assert (package / "README.md").read_text()
    verified = searched.run("verify", package, "--json")
    checks = json.loads(verified.stdout)
    assert verified.returncode == 0, (checks, verified.stderr)
