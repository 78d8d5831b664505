"""The package for ExecuTorch: `run.py`, and the source in Kotlin.

There is no ExecuTorch for Kotlin on a computer. FakeExecuTorch stands for it: it demands of the buffers what the real
one does, and has ExecuTorch for Python run the program, so that every number is the runtime's.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from autoshrink.package import verify
from tests.package_programs import make_package
from tests.package_study import failures
from tests.package_worlds import run

pytest.importorskip("executorch", reason="ExecuTorch is not installed: pip install 'autoshrink[executorch]'")

FAKE_EXECUTORCH = Path(__file__).parents[1] / "fakes/FakeExecuTorch"
RUN_KOTLIN = """
import java.io.File
import java.nio.ByteBuffer

fun main(arguments: Array<String>) {
    CompressedModel(arguments[0]).use { model ->
        val inputs = CompressedModel.INPUTS.map { it.name to CompressedModel.buffer(it) }.toMap()
        for (port in CompressedModel.INPUTS) {
            inputs.getValue(port.name).put(File(arguments[1], port.name).readBytes())
        }
        val outputs = model.run(inputs)
        println(outputs.getValue("scores").dataAsFloatArray.joinToString(" "))
        println(outputs.getValue("total").dataAsLongArray.joinToString(" "))
        try {
            model.run(HashMap())
        } catch (error: IllegalArgumentException) {
            println(error.message)
        }
    }
}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a model with two inputs and two outputs, of floats and of 64-bit integers."""
    return make_package(tmp_path_factory.mktemp("pair"), "executorch", "two_by_two")


def test_run_py_gives_what_was_recorded(package: Path, tmp_path: Path) -> None:
    said = run([sys.executable, package / "run.py"], tmp_path, {"PATH": "/usr/bin"})
    assert said.count("equal to the recorded outputs") == 2
    required = (package / "requirements.txt").read_text().splitlines()
    assert required[0].startswith("executorch==") and required[1].startswith("torch==2.")


def test_it_verifies_here(package: Path) -> None:
    assert not failures(verify(package))


def test_the_card_tells_what_to_do_on_android(package: Path) -> None:
    card = (package / "README.md").read_text()
    assert 'implementation("org.pytorch:executorch-android:1.' in card
    assert 'inputs.getValue("token_ids") // int64 [2, 3]' in card
    assert "@{" not in card


@pytest.mark.skipif(not shutil.which("kotlinc"), reason="no Kotlin compiler on the PATH: apt-get install kotlin")
def test_the_kotlin_source_runs(package: Path, tmp_path: Path) -> None:
    (tmp_path / "RunKotlin.kt").write_text(RUN_KOTLIN)
    fakes = sorted((FAKE_EXECUTORCH / "org/pytorch/executorch").glob("*.java"))
    run(["javac", "-d", tmp_path, *fakes], tmp_path)
    sources = [package / "android/kotlin/CompressedModel.kt", tmp_path / "RunKotlin.kt"]
    run(["kotlinc", *sources, "-cp", tmp_path, "-include-runtime", "-d", tmp_path / "run.jar"], tmp_path)
    for name in ("features", "token_ids"):
        (tmp_path / name).write_bytes(np.load(package / f"samples/inputs/{name}.npy")[:2].tobytes())
    bridge = [f"-Dpython={sys.executable}", f"-Dbridge={FAKE_EXECUTORCH / 'bridge.py'}"]
    jar = f"{tmp_path / 'run.jar'}:{tmp_path}"
    said = run(["java", *bridge, "-cp", jar, "RunKotlinKt", package / "artifact/model.pte", tmp_path], tmp_path)
    scores, total, refused = said.splitlines()
    expected = {name: np.load(package / f"samples/outputs/{name}.npy")[:2] for name in ("scores", "total")}
    np.testing.assert_allclose(np.array(scores.split(), np.float32), expected["scores"].ravel(), rtol=1e-6)
    assert np.array_equal(np.array(total.split(), np.int64), expected["total"])
    assert refused == "input features must be a buffer of 48 bytes"
