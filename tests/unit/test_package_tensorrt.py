"""The package for TensorRT: its program in C++, over FakeTensorRt, whose engine is a matrix; and what it says."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoshrink.backends import get_backend
from autoshrink.package import verify, write_package
from autoshrink.package.manifest import read_manifest
from autoshrink.package.worlds import usage
from autoshrink.types import Outcome
from tests.package_study import a_task, float_task, make_study, weights
from tests.package_worlds import in_world, run

FAKE_TENSORRT = Path(__file__).parents[1] / "fakes/FakeTensorRt"
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=address,undefined"]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of ONNX Runtime, whose samples and outputs are taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSHRINK_CACHE", str(tmp_path_factory.mktemp("cache")))
        place = tmp_path_factory.mktemp("native")
        study, record = make_study(place / "study")
        return write_package(study, record, a_task(), place / "package", samples=9)


@pytest.fixture
def package(native: Path, tmp_path: Path) -> Path:
    """What a package holds whose engine is the matrix of that model."""
    engine = tmp_path / "model.engine"
    engine.write_bytes(np.linalg.multi_dot([w.astype(np.float64) for w in weights()]).astype(np.float32).tobytes())
    in_world(native, "tensorrt", "tensorrt-cu12 11.4.0", engine, tmp_path / "package")
    return tmp_path / "package"


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler on the PATH: apt-get install g++")
def test_the_program_runs_the_samples(package: Path, tmp_path: Path) -> None:
    main = tmp_path / "main"
    run(["g++", *STRICT, f"-I{FAKE_TENSORRT}", package / "cpp/main.cpp", "-o", main], tmp_path)
    # Nine samples in calls of two: the last one is filled up.
    said = run([main, package], tmp_path)
    first, second = said.splitlines()
    assert first.startswith("logits: within ") and first.endswith(" dB of the recorded outputs")
    assert float(first.split()[2]) > 100
    assert second == "The package runs here."
    outputs = package / "samples/outputs/logits.npy"
    np.save(outputs, -np.load(outputs), allow_pickle=False)
    with pytest.raises(AssertionError, match="NOT those that were recorded"):
        run([main, package], tmp_path)
    (package / "artifact/model.engine").write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="the engine is of another GPU or version of TensorRT"):
        run([main, package], tmp_path)


@pytest.mark.parametrize(
    ("backend", "version", "library"),
    [
        ("tensorrt", "tensorrt-cu12 11.4.0", "-lnvinfer "),
        ("tensorrt_rtx", "tensorrt-rtx-cu12 1.7.1.116", "-ltensorrt_rtx "),
    ],
)
def test_the_card_names_the_product(native: Path, tmp_path: Path, backend: str, version: str, library: str) -> None:
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"engine")
    manifest = in_world(native, backend, version, engine, tmp_path / "package")
    text = usage(manifest, tmp_path / "package")
    assert library in text and version in text
    assert "@{" not in text and "It has not run on a GPU." in text


def test_an_engine_for_a_gpu_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real engine of TensorRT-RTX, compiled with no GPU, from the trial to what the package says of itself."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'autoshrink[tensorrt-rtx]'")
    if get_backend("tensorrt_rtx").available().state != "compile-only":
        pytest.skip("there is a GPU, which runs it; this is of machines without")
    monkeypatch.setenv("AUTOSHRINK_CACHE", str(tmp_path / "cache"))
    study, record = make_study(tmp_path / "study", "tensorrt_rtx")
    unmeasured = {"val": None, "test": None, "drop": None, "drop_ci": None, "latency": None, "agreement_db": None}
    compiled = replace(record, outcome=Outcome.COMPILED, reason="there is no GPU", **unmeasured)
    package = write_package(study, compiled, float_task(), tmp_path / "package", samples=3)
    manifest = read_manifest(package)
    assert manifest.not_run and manifest.runtime.artifact == ("model.engine",)
    card = (package / "README.md").read_text()
    assert "**Compiled, not measured**: accuracy and latency are not known (there is no GPU)." in card
    found = verify(package)
    assert found.ok and "compiled, not measured" in found.checks[1].text
    assert (package / "requirements.txt").read_text().startswith("tensorrt-rtx-cu12==1.")
    with pytest.raises(AssertionError, match="there is no NVIDIA driver; the engine runs on NVIDIA's GPUs only"):
        run([sys.executable, package / "run.py"], tmp_path)
