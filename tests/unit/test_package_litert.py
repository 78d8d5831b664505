"""The package for Android: `run.py` over LiteRT, and the sources in Java and Kotlin.

There is no LiteRT for Java on a computer. FakeLiteRt stands for its interpreter: it demands of the buffers what the
real one does, and has LiteRT for Python run the model, so that every number is the runtime's.
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

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'autoshrink[tflite]'")

FAKE_LITERT = Path(__file__).parents[1] / "fakes/FakeLiteRt/Interpreter.java"
BRIDGE = FAKE_LITERT.with_name("bridge.py")
RUN_JAVA = """
public class RunJava {
  public static void main(String[] folder) throws Exception {
    CompressedModel.Files files = name -> new java.io.FileInputStream(folder[0] + "/" + name);
    try (CompressedModel model = new CompressedModel(files)) {
      System.out.println(model.check(files));
      try {
        model.run(new java.util.HashMap<>());
      } catch (IllegalArgumentException error) {
        System.out.println(error.getMessage());
      }
    }
  }
}
"""
RUN_KOTLIN = """
import java.io.File

fun main(folder: Array<String>) {
    CompressedModel.load { name -> File(folder[0], name).inputStream() }.use { model ->
        val inputs = CompressedModel.INPUTS.map { it.name to CompressedModel.buffer(it) }.toMap()
        val outputs = model.run(inputs)
        for (port in CompressedModel.OUTPUTS) {
            val buffer = outputs.getValue(port.name)
            val numbers = (0 until buffer.capacity() step 4).map { buffer.getFloat(it) }
            println("${port.name} ${port.shape} ${numbers.joinToString(" ")}")
        }
        try {
            model.run(HashMap())
        } catch (error: IllegalArgumentException) {
            println(error.message)
        }
    }
}
"""


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of an image model whose file has the channels last."""
    return make_package(tmp_path_factory.mktemp("last"), "litert", options={"layout": "nhwc"})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a model with two inputs and two outputs, of floats and of 64-bit integers."""
    return make_package(tmp_path_factory.mktemp("pair"), "litert", "two_by_two")


@pytest.mark.parametrize("which", ["last", "pair"])
def test_run_py_gives_what_was_recorded(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    package = request.getfixturevalue(which)
    said = run([sys.executable, package / "run.py"], tmp_path, {"PATH": "/usr/bin"})
    assert said.count("equal to the recorded outputs") == (1 if which == "last" else 2)
    assert (package / "requirements.txt").read_text().startswith("ai-edge-litert==")


def test_it_verifies_here(last: Path) -> None:
    found = verify(last)
    assert not failures(found)
    assert {check.name for check in found.checks} == {"files", "runtime", "parity logits", "answers logits"}


def test_the_card_tells_what_to_do_on_android(last: Path) -> None:
    card = (last / "README.md").read_text()
    assert 'implementation("com.google.ai.edge.litert:litert:2.' in card
    assert "`app/src/main/assets/artifact/model.tflite`" in card
    assert 'inputs.getValue("image") // float32 [2, 12, 12, 3]' in card
    assert "@{" not in card


@pytest.mark.skipif(not shutil.which("javac"), reason="no Java compiler on the PATH: apt-get install default-jdk")
@pytest.mark.parametrize("which", ["last", "pair"])
def test_the_java_source_runs_the_samples(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    package = request.getfixturevalue(which)
    (tmp_path / "RunJava.java").write_text(RUN_JAVA)
    sources = [package / "android/java/CompressedModel.java", FAKE_LITERT, tmp_path / "RunJava.java"]
    run(["javac", "-Xlint:all", "-Werror", "-d", tmp_path, *sources], tmp_path)
    bridge = [f"-Dpython={sys.executable}", f"-Dbridge={BRIDGE}"]
    said = run(["java", *bridge, "-cp", tmp_path, "RunJava", package], tmp_path)
    lines = said.splitlines()
    assert lines[0] == "true", said
    count = 1 if which == "last" else 2
    assert all(line.endswith("Infinity dB of the recorded outputs") for line in lines[1 : 1 + count]), said
    assert lines[-1].startswith("input ") and "must be a buffer of" in lines[-1]


@pytest.mark.skipif(not shutil.which("kotlinc"), reason="no Kotlin compiler on the PATH: apt-get install kotlin")
def test_the_kotlin_source_runs(last: Path, tmp_path: Path) -> None:
    (tmp_path / "RunKotlin.kt").write_text(RUN_KOTLIN)
    run(["javac", "-d", tmp_path, FAKE_LITERT], tmp_path)
    sources = [last / "android/kotlin/CompressedModel.kt", tmp_path / "RunKotlin.kt"]
    run(["kotlinc", *sources, "-cp", tmp_path, "-include-runtime", "-d", tmp_path / "run.jar"], tmp_path)
    bridge = [f"-Dpython={sys.executable}", f"-Dbridge={BRIDGE}"]
    said = run(["java", *bridge, "-cp", f"{tmp_path / 'run.jar'}:{tmp_path}", "RunKotlinKt", last], tmp_path)
    name, *_shape, numbers = said.splitlines()[0].partition("] ")
    assert name == "logits [2, 5"
    np.save(tmp_path / "zeros.npy", np.zeros((2, 3, 12, 12), np.float32))
    run([sys.executable, last / "run.py", "zeros.npy", "--save", "kept"], tmp_path)
    expected = np.load(tmp_path / "kept/logits.npy")
    np.testing.assert_allclose(np.array(numbers.split(), np.float32).reshape(2, 5), expected, rtol=1e-5)
    assert said.splitlines()[1] == "input image must be a buffer of 3456 bytes"
