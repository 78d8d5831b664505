"""The package for Core ML, which nothing here can run: what it holds, and what it says of itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoshrink.package import verify
from autoshrink.package.manifest import read_manifest
from tests.package_programs import make_package
from tests.package_worlds import run

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'autoshrink[coreml]'")
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="a Mac runs it; this is of machines that do not")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSHRINK_CACHE", str(tmp_path_factory.mktemp("cache")))
        options = {"minimum_ios": 17, "compute_units": "cpu_and_ne"}
        yield make_package(tmp_path_factory.mktemp("coreml"), "coreml", "two_by_two", options=options)


def test_files_in_folders_ship_as_they_are(package: Path) -> None:
    manifest = read_manifest(package)
    assert manifest.runtime.artifact[0] == "model.mlpackage/Manifest.json"
    assert all((package / "artifact" / name).is_file() for name in manifest.runtime.artifact)
    assert manifest.figures.size_bytes == sum(
        path.stat().st_size for path in (package / "artifact").rglob("*") if path.is_file()
    )


def test_nothing_is_said_to_be_measured(package: Path) -> None:
    card, manifest = (package / "README.md").read_text(), read_manifest(package)
    assert "Core ML runs on Apple devices only" in manifest.not_run
    assert "**Compiled, not measured**: accuracy and latency are not known" in card
    assert not (package / "samples/outputs").exists()
    assert np.load(package / "samples/float/total.npy").dtype == np.int64
    assert "@{" not in card and "has never been compiled" in card
    found = verify(package)
    assert found.ok and [check.name for check in found.checks] == ["files", "runtime"]
    assert "compiled, not measured" in found.checks[1].text


def test_run_py_says_where_it_runs(package: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Core ML runs on Apple devices only"):
        run([sys.executable, package / "run.py"], tmp_path)


def test_the_swift_source_has_names_types_and_units(package: Path) -> None:
    source = (package / "swift/CompressedModel.swift").read_text()
    assert "@available(iOS 17, macOS 14, *)" in source
    assert 'Port(name: "features", feature: "features", type: .float32, shape: [2, 6]),' in source
    assert 'Port(name: "token_ids", feature: "token_ids", type: .int32, shape: [2, 3]),' in source
    assert "configuration.computeUnits = .cpuAndNeuralEngine" in source
    assert source.count("{") == source.count("}") and source.count("(") == source.count(")")
