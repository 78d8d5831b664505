"""The package for a microcontroller: `run.py` and the C sources.

There is no library of TFLite Micro for C++ here. FakeTfliteMicro stands for it: it declares what the program uses, and
has TFLM for Python run the model, in the arena and with the operators that the program gives it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from autoshrink.package import verify
from autoshrink.package.manifest import read_manifest
from tests.package_programs import make_package
from tests.package_study import failures
from tests.package_worlds import run

pytest.importorskip("tflite_micro", reason="TFLite Micro is not installed: pip install 'autoshrink[mcu]'")

ROOT = Path(__file__).parents[2]
FAKE_TFLM = ROOT / "tests/fakes/FakeTfliteMicro"
needs_gcc = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler on the PATH: apt-get install g++")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a static int8 model, whose inputs and outputs are integers."""
    return make_package(tmp_path_factory.mktemp("micro"), "microcontroller", precision="int8_static")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a float model with two inputs and two outputs."""
    return make_package(tmp_path_factory.mktemp("pair"), "microcontroller", "two_outputs")


@pytest.mark.parametrize("which", ["package", "pair"])
def test_run_py_gives_what_was_recorded(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = request.getfixturevalue(which)
    said = run([sys.executable, found / "run.py"], tmp_path, {"PATH": "/usr/bin"})
    assert said.count("equal to the recorded outputs") == (1 if which == "package" else 2)


def test_it_verifies_without_a_latency(package: Path) -> None:
    found = verify(package)
    assert not failures(found)
    assert found.latency is None
    assert any("latency was not measured" in note for note in found.notes)


def test_the_card_tells_flash_and_arena_as_what_they_are(package: Path) -> None:
    card, manifest = (package / "README.md").read_text(), read_manifest(package)
    arena = manifest.figures.figures["arena"]
    assert arena.estimate and "| arena | ~" in card and "(estimate)" in card
    assert f"the arena {arena.value:.0f} bytes of RAM" in card
    assert "| latency of one call | not measured |" in card
    assert "@{" not in card


@needs_gcc
@pytest.mark.parametrize("which", ["package", "pair"])
def test_the_c_array_is_the_model(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = request.getfixturevalue(which)
    mcu = found / "mcu"
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    run(["gcc", *strict, mcu / "check.c", mcu / "model_data.c", "-lm", "-o", tmp_path / "check"], tmp_path)
    said = run([tmp_path / "check", found / "artifact/model.tflite"], tmp_path)
    assert f"model_data: {(found / 'artifact/model.tflite').stat().st_size} bytes, equal to" in said
    assert ("image: -128 to 127 stand for" in said) == (which == "package")
    other = tmp_path / "other.tflite"
    content = bytearray((found / "artifact/model.tflite").read_bytes())
    content[100] ^= 1
    other.write_bytes(content)
    with pytest.raises(AssertionError, match="they differ at byte 100"):
        run([tmp_path / "check", other], tmp_path)


@needs_gcc
@pytest.mark.parametrize("which", ["package", "pair"])
def test_the_program_runs_the_sample_in_its_arena(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = request.getfixturevalue(which)
    mcu = found / "mcu"
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    run(["gcc", "-c", mcu / "model_data.c", "-o", tmp_path / "model_data.o"], tmp_path)
    built = [tmp_path / "model_data.o", "-o", tmp_path / "main"]
    run(["g++", *strict, f"-I{FAKE_TFLM}", mcu / "main.cc", *built], tmp_path)
    env = {
        "PATH": "/usr/bin:/bin",
        "FAKE_BRIDGE": f"{sys.executable} {FAKE_TFLM / 'bridge.py'}",
        "PYTHONPATH": str(ROOT),
    }
    said = run([tmp_path / "main"], tmp_path, env)
    assert "The model runs here." in said
    assert said.count("at most 0 thousandths from the recorded output") == (1 if which == "package" else 2), said
    # With other outputs on record it says so.
    data = (mcu / "sample_data.h").read_text()
    wrong = re.sub(r"(sample_output_0\[\] = \{)[^,}]+", r"\g<1>99", data)
    for name in ("main.cc", "model_data.h", "model_ports.h"):
        shutil.copyfile(mcu / name, tmp_path / name)
    (tmp_path / "sample_data.h").write_text(wrong)
    run(["g++", *strict, f"-I{FAKE_TFLM}", tmp_path / "main.cc", *built], tmp_path)
    with pytest.raises(AssertionError, match="NOT those that were recorded"):
        run([tmp_path / "main"], tmp_path, env)


def test_the_sample_in_the_firmware_is_the_first_of_the_package(package: Path) -> None:
    data = (package / "mcu/sample_data.h").read_text()
    integers = np.array(re.search(r"sample_output_0\[\] = \{([^}]*)\}", data)[1].split(","), int)
    ports = (package / "mcu/model_ports.h").read_text()
    scale, zero = re.search(r'"logits", "int8", 10u, ([\d.e-]+)f, (-?\d+)', ports).groups()
    recorded = np.load(package / "samples/outputs/logits.npy")[:2]
    np.testing.assert_allclose((integers - int(zero)) * np.float32(float(scale)), recorded.ravel(), rtol=1e-5)
