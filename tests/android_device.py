"""An Android device that is FAKE: a folder, and a fake `adb` first on the PATH. And tiny real `.tflite` files."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FAKES = Path(__file__).parent / "fakes" / "FakeAdb"
SERIAL = "FAKE0123"
LISTED = f"{SERIAL}               device usb:1-1 product:fake model:Fake_9 device:fake transport_id:1\n"
PROPERTIES = {
    "ro.product.manufacturer": "Fake",
    "ro.product.model": "Fake 9",
    "ro.soc.manufacturer": "FakeCorp",
    "ro.soc.model": "F900",
    "ro.hardware": "fake",
    "ro.product.cpu.abi": "x86_64",
    "ro.product.cpu.abilist": "x86_64,arm64-v8a",
    "ro.build.version.release": "14",
}
BATTERY = "Current Battery Service state:\n  AC powered: true\n  level: 85\n  temperature: 281\n"
THERMAL = """IsStatusOverride: false
Thermal Status: 1
Cached temperatures:
\tTemperature{mValue=91.5, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=-99.9, mType=6, mName=PA, mStatus=0}
\tTemperature{mValue=41.25, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=43.36, mType=0, mName=CPU1, mStatus=0}
\tTemperature{mValue=45.0, mType=3, mName=SKIN, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=fake}
"""


class FakeAdb:
    """The fake program's folder; see tests/fakes/FakeAdb/adb for what lies there."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        for folder in ("program", "bin", "root/data/local/tmp", "root/proc", "root/sys/devices/system/cpu"):
            (home / folder).mkdir(parents=True)
        script = (FAKES / "adb").read_text().partition("\n")[2]
        program = home / "program" / "adb"
        # This interpreter, without its packages: it starts in a tenth of the time.
        program.write_text(f"#!{sys.executable} -SE\n{script}")
        program.chmod(0o755)
        self.attach(LISTED)
        self.tell(
            "getprop", f"case $1 in {''.join(f'{key}) echo {value!r};; ' for key, value in PROPERTIES.items())} esac"
        )
        self.tell(
            "dumpsys", f"case $1 in battery) cat <<'E'\n{BATTERY}E\n;; thermalservice) cat <<'E'\n{THERMAL}E\n;; esac"
        )
        (home / "root/sys/devices/system/cpu/present").write_text("0-7\n")
        (home / "root/proc/meminfo").write_text("MemTotal:        8000000 kB\nMemFree:          100000 kB\n")
        monkeypatch.setenv("PATH", f"{home / 'program'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_ADB", str(home))
        self._monkeypatch = monkeypatch

    def attach(self, listed: str) -> None:
        (self.home / "devices").write_text(listed)

    def tell(self, program: str, script: str) -> None:
        path = self.home / "bin" / program
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def fault(self, name: str, text: str = "") -> None:
        (self.home / name).write_text(text)

    def mend(self, name: str) -> None:
        (self.home / name).unlink()

    def benchmark(self, mode: str) -> None:
        """How the fake benchmark_model fails; see its source."""
        self._monkeypatch.setenv("FAKE_BENCHMARK", mode)

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    @property
    def files(self) -> list[Path]:
        """What this package left on the device."""
        return sorted((self.home / "root/data/local/tmp").glob("autoshrink-*/*"))

    @property
    def folders(self) -> list[Path]:
        return sorted((self.home / "root/data/local/tmp").iterdir())


def build_benchmark(folder: Path) -> Path:
    """The FAKE benchmark_model, built for this machine."""
    program = folder / "benchmark_model"
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler
    source = str(FAKES / "benchmark_model.c")
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", "-o", str(program), source], check=True)
    return program


def weights(outputs: int, inputs: int = 3) -> np.ndarray:
    return np.arange(outputs * inputs, dtype=np.float32).reshape(outputs, inputs) / 7 - 1


def write_linear(path: Path, outputs: int, inputs: int = 3, batch: int = 2) -> Path:
    """A real `.tflite` file by hand: `logits` = `image` @ `weights(outputs, inputs)`.T."""
    from ai_edge_litert.tools import flatbuffer_utils

    schema = flatbuffer_utils.schema_fb
    model = schema.ModelT()
    model.version, model.description = 3, b"by hand"
    values = schema.BufferT()
    values.data = np.frombuffer(weights(outputs, inputs).tobytes(), np.uint8)
    model.buffers = [schema.BufferT(), values]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    model.operatorCodes = [code]
    tensors = []
    ports = (("image", (batch, inputs), 0), ("fc.weight", (outputs, inputs), 1), ("logits", (batch, outputs), 0))
    for name, shape, buffer in ports:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name.encode(), list(shape), buffer, 0
        tensors.append(tensor)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, -1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [2], [operator]
    graph.name = b"main"
    model.subgraphs = [graph]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    for port, name, index in ((signature.inputs[0], b"image", 0), (signature.outputs[0], b"logits", 2)):
        port.name, port.tensorIndex = name, index
    model.signatureDefs = [signature]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return path
