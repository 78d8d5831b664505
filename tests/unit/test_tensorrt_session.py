"""Control flow of driver, memory and engine, on a driver and a TensorRT that are fake: no GPU is here to tell more.

The fake driver is a C library with the driver's names, so that the arguments go through the C interface as they would.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autoshrink.backends import tensorrt_driver
from autoshrink.backends.tensorrt import TensorRt
from autoshrink.backends.tensorrt_cuda import Cuda, Memory, Stream
from autoshrink.backends.tensorrt_driver import Found, Gpu, find_gpus
from autoshrink.backends.tensorrt_network import audit_of_engine
from autoshrink.backends.tensorrt_rtx import TensorRtRtx
from autoshrink.backends.tensorrt_session import EngineSession
from autoshrink.errors import StageError

FAKE_DRIVER = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int events;
#ifndef INIT
#define INIT 0
#endif
int cuInit(unsigned flags) { if (INIT < 0) sleep(60); return INIT; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Fake GPU", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 9; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { return context == (void *)1 ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > 1 << 20) return 2;
    *address = (uint64_t)malloc(size);
    return 0;
}
int cuMemFree_v2(uint64_t address) { free((void *)address); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, void *from, size_t size, void *stream) {
    if (stream != (void *)0x123456789) return 400;
    memcpy((void *)to, from, size);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    if (stream != (void *)0x123456789) return 400;
    memcpy(to, (void *)from, size);
    return 0;
}
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)0x123456789; return flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *stream) { return stream == (void *)0x123456789 ? 0 : 400; }
int cuEventCreate(void **event, unsigned flags) { *event = (void *)(uint64_t)(++events); return 0; }
int cuEventRecord(void *event, void *stream) { return event && stream ? 0 : 400; }
int cuEventSynchronize(void *event) { return event ? 0 : 400; }
int cuEventElapsedTime(float *ms, void *begin, void *end) { *ms = 2.5f; return begin != end ? 0 : 400; }
int cuGetErrorString(int status, const char **text) { *text = status == 2 ? "out of memory" : "fake reason"; return 0; }
"""


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Any:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler, which the fake driver needs")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(FAKE_DRIVER)

    def made(status: int = 0) -> str:
        library = folder / f"libfakecuda{status}.so"
        asked = [compiler, "-shared", "-fPIC", f"-DINIT={status}", "-o", str(library), str(folder / "driver.c")]
        subprocess.run(asked, check=True)
        return str(library)

    return made


class FakeMode(Enum):
    INPUT = 1
    OUTPUT = 2


class FakeLogger:
    def __init__(self) -> None:
        self.lines: list[str] = []


class FakeContext:
    """Computes y = 2 x by the addresses that it was given."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0, 0)
        self.addresses: dict[str, int] = {}
        self.calls = 0
        self.profiler: Any = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 8

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 0x123456789
        count = int(np.prod(self.shape))
        x, y = ((ctypes.c_float * count).from_address(self.addresses[name]) for name in "xy")
        for index in range(count):
            y[index] = 2 * x[index]
        self.calls += 1
        if self.profiler is not None:
            self.profiler.report_layer_time("conv1 + relu1", 0.25 * self.calls)
            self.profiler.report_layer_time("Reformatting CopyNode", 0.5)
        return True


class FakeEngine:
    num_io_tensors = 2

    def __init__(self) -> None:
        self.contexts: list[FakeContext] = []

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> FakeMode:
        return FakeMode.INPUT if name == "x" else FakeMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps(REPORT))

    def create_execution_context(self) -> FakeContext:
        self.contexts.append(FakeContext())
        return self.contexts[-1]


def fake_tensorrt(engine: FakeEngine) -> Any:
    class FakeRuntime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
            if plan == b"plan":
                return engine
            self.logger.log(FakeLoggerBase.Severity.ERROR, "magic tag\ndoes not match")
            return None

    class FakeLoggerBase:
        class Severity(Enum):
            INTERNAL_ERROR = 0
            ERROR = 1

    class FakeProfiler:
        pass

    return SimpleNamespace(
        Runtime=FakeRuntime,
        ILogger=FakeLoggerBase,
        TensorIOMode=FakeMode,
        IProfiler=FakeProfiler,
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def session(engine: FakeEngine, fake_driver: Any, tmp_path: Path) -> EngineSession:
    (tmp_path / "model.engine").write_bytes(b"plan")
    return EngineSession(fake_tensorrt(engine), tmp_path / "model.engine", Cuda(fake_driver()))


def rows(count: int, value: float = 1.0) -> dict[str, Any]:
    return {"x": np.full((count, 3), value, np.float32)}


def test_arrays_go_there_and_back(session: EngineSession, engine: FakeEngine) -> None:
    first = session.run(rows(2, 1.5))["y"]
    second = session.run(rows(2, 4.0))["y"]
    np.testing.assert_array_equal(first, np.full((2, 3), 3.0))
    np.testing.assert_array_equal(second, np.full((2, 3), 8.0))
    assert len(engine.contexts) == 1
    assert session.run(rows(4))["y"].shape == (4, 3)
    assert len(engine.contexts) == 2


def test_timed_calls_have_inputs_and_outputs_of_their_own(session: EngineSession, engine: FakeEngine) -> None:
    one, two = session.timed(rows(2, 1.0)), session.timed(rows(2, 2.0))
    times = one.turn(0.0, 5)
    two.turn(0.0, 1)
    assert times.tolist() == [[0.0025, 0.0]] * 5
    assert [context.calls for context in engine.contexts] == [6, 2]
    np.testing.assert_array_equal(one.outputs()["y"], np.full((2, 3), 2.0))
    np.testing.assert_array_equal(two.outputs()["y"], np.full((2, 3), 4.0))


def test_a_profile_joins_the_profilers_times_with_the_inspectors_kernels(session: EngineSession) -> None:
    profile = session.profile(rows(2), 3)
    assert [(kernel.name, kernel.precision, kernel.ms, kernel.has_weights) for kernel in profile.kernels] == [
        ("Reformatting CopyNode", "fp32", 0.5, False),
        ("conv1 + relu1", "int8", 0.5, True),
        ("__myl_fused", "fp16", None, False),
    ]
    assert profile.kernels[0].is_conversion
    # The driver's events say 2.5 ms of every call.
    assert profile.call_ms == pytest.approx(2.5)


def test_what_the_engine_does_not_take_is_said(session: EngineSession) -> None:
    with pytest.raises(ValueError, match=r"input 'x' has shape \[3\]"):
        session.run({"x": np.zeros(3, np.float32)})
    with pytest.raises(StageError, match=r"does not take \[9, 3\] for input 'x'"):
        session.timed(rows(9))


def test_a_damaged_engine_is_refused_with_what_tensorrt_says(fake_driver: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    for content, said in ((b"garbage", "magic tag does not match"), (b"", "it is damaged")):
        path.write_bytes(content)
        with pytest.raises(StageError, match=f"model.engine: {said}") as caught:
            EngineSession(fake_tensorrt(FakeEngine()), path, Cuda(fake_driver()))
        assert caught.value.stage == "load"
    path.unlink()
    with pytest.raises(StageError, match=r"model\.engine cannot be read"):
        EngineSession(fake_tensorrt(FakeEngine()), path, Cuda(fake_driver()))


def test_a_failing_driver_gives_its_reason(fake_driver: Any) -> None:
    with pytest.raises(StageError, match="load: cuInit: fake reason"):
        Cuda(fake_driver(100))
    with pytest.raises(StageError, match="run: cuMemAlloc_v2: out of memory"):
        Memory(Cuda(fake_driver()), 2 << 20)
    with pytest.raises(StageError, match=r"libnone\.so cannot be loaded"):
        Cuda("libnone.so")


def test_memory_and_stream_move_bytes(fake_driver: Any) -> None:
    cuda = Cuda(fake_driver())
    stream, memory = Stream(cuda), Memory(cuda, 24)
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    stream.upload(values, memory)
    np.testing.assert_array_equal(stream.download(memory, (2, 3), np.dtype(np.int32)), values)


def test_gpus_are_asked_in_a_process_of_their_own(fake_driver: Any) -> None:
    assert find_gpus(fake_driver()) == Found((Gpu("Fake GPU", "SM89"),))
    assert find_gpus(fake_driver()).gpus[0].number == 89


def test_no_driver_a_broken_one_and_one_that_hangs(fake_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_gpus("libnone.so").why == "there is no NVIDIA driver (libnone.so cannot be loaded)"
    assert find_gpus(fake_driver(100)).why == "the NVIDIA driver cannot be started (fake reason)"
    monkeypatch.setattr(tensorrt_driver, "TIME_LIMIT_S", 0.5)
    assert "does not answer" in find_gpus(fake_driver(-1)).why


@pytest.mark.parametrize(
    ("capability", "state", "why"),
    [("SM89", "ready", ""), ("SM90", "compile-only", "does not run on Some GPU (SM90)")],
)
def test_rtx_runs_on_its_gpus_only(monkeypatch: pytest.MonkeyPatch, capability: str, state: str, why: str) -> None:
    monkeypatch.setattr("autoshrink.backends.tensorrt_rtx.find_gpus", lambda: Found((Gpu("Some GPU", capability),)))
    found = TensorRtRtx().machine()
    assert found.state == state
    assert why in found.why


def test_the_driver_is_asked_before_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    here = "autoshrink.backends.tensorrt"
    versions = {"tensorrt": "", "tensorrt-cu13": "11.4.0", "tensorrt-cu12": ""}
    monkeypatch.setattr(f"{here}.installed_version", lambda name: versions[name])
    monkeypatch.setattr(f"{here}.find_gpus", lambda: Found(why="there is no NVIDIA driver"))
    found = TensorRt().available()
    assert (found.state, found.why) == ("unavailable", "there is no NVIDIA driver")
    assert "driver" in found.fix
    monkeypatch.setattr(f"{here}.find_gpus", lambda: Found((Gpu("Some GPU", "SM86"),)))
    assert TensorRt().available().state == "ready"
    assert TensorRt().runtime() == "tensorrt-cu13 11.4.0"
    assert TensorRt().capabilities() == {"FP16", "INT8", "BF16"}
    versions["tensorrt-cu13"] = "8.6.1"
    assert "8.6.1 is not one of the versions 10 and 11" in TensorRt().available().why
    assert not {"tensorrt", "tensorrt_bindings"} & set(sys.modules)


TEN = "Thirty-two wide channel vectorized row major Int8 format."
REPORT = {
    "Layers": [
        {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major FP32"}]},
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "a", "Format/Datatype": TEN}],
            "Weights": {"Type": "Int8", "Count": 9216},
            "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
        },
        {
            "Name": "__myl_fused",
            "LayerType": "kgen",
            "Inputs": [{"Name": "n", "DataType": "Int32"}, {"Name": "b", "DataType": "Half", "Format": "Row major"}],
            "Metadata": "[ONNX Layer: fc]",
        },
    ]
}


def test_the_report_of_an_engine_by_the_names_of_its_network() -> None:
    audit = audit_of_engine(json.dumps(REPORT), ["conv1", "fc", "gone"])
    assert [(layer.name, layer.kind, layer.precision) for layer in audit.layers] == [
        ("conv1", "CaskConvolution", "int8"),
        ("fc", "kgen", "fp16"),
    ]
    assert (audit.conversions, audit.kernels) == (1, 3)
    assert audit.notes == ("the engine's report does not name gone",)


def test_the_report_of_an_engine_by_itself() -> None:
    audit = audit_of_engine(json.dumps(REPORT))
    assert [(layer.name, layer.precision) for layer in audit.layers] == [("conv1 + relu1", "int8")]
