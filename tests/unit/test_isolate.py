from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from autoshrink.backends.base import Source
from autoshrink.errors import ChildError
from autoshrink.isolate.device import device_lock
from autoshrink.isolate.job import Failure, Job, JobResult, Loaded, parse_answer
from autoshrink.isolate.parent import WAITING, joined, run_job
from autoshrink.isolate.process import ChildProcess
from autoshrink.measure.timing import Samples
from autoshrink.target import ChildLimits, Measuring
from autoshrink.types import ArtifactFile, Audit, Figure, Interval, Latency, Layer, Recipe, StageSpec
from tests.fake_backends import PID

MOMENT = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=3, time_limit_s=5)
PATIENCE_S = 20
PLENTY = ChildLimits(60, 2048)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.fake"
    path.write_text("y rows")
    return path


def fake_job(model: Path, backend: str = "FakeBackend", limits: ChildLimits = PLENTY) -> Job:
    artifact = Loaded(model.parent / "artifact", (), "fp32")
    return Job(f"tests.fake_backends:{backend}", 1, 3, limits, artifact, source=Source(model))


def arrays(folder: Path, **named: np.ndarray) -> Path:
    folder.mkdir()
    for name, array in named.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def failure(job: Job, work: Path) -> ChildError:
    with pytest.raises(ChildError) as caught:
        run_job(job, work)
    assert caught.value.log == str(work / "child.log")
    return caught.value


def wait_for_pids(folder: Path) -> list[int]:
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / PID).exists():
        assert time.monotonic() < deadline, "the fake backend never began"
        time.sleep(0.01)
    return [int(pid) for pid in (folder / PID).read_text().split()]


def end(pid: int) -> bool:
    """Whether the process is gone, or goes within the time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_a_job_survives_json() -> None:
    plain = Job("onnxruntime", 1, 2, ChildLimits(), Loaded(Path("a"), ("m.onnx",), "fp32"))
    full = Job(
        "openvino",
        4,
        8,
        ChildLimits(10, 1024),
        Loaded(Path("/a"), (), "bf16"),
        source=Source(
            Path("m.onnx"),
            "bf16",
            Recipe((StageSpec.of("quantize", {"scheme": "bf16"}),)),
            {"scheme": "bf16"},
            Path("c"),
            8,
            4,
            {"layout": "nhwc"},
        ),
        run=False,
        options={"layout": "nhwc"},
        pin=(0, 1),
        reference=Loaded(Path("r"), ("m.xml", "m.bin"), "fp32"),
        example=Path("e"),
        measure=Measuring(interval=0.1),
        audit=True,
        evaluate={"val": Path("v"), "test": Path("t")},
        seed=3,
        device="cuda:1",
    )
    for job in (plain, full, replace(plain, probe=True)):
        assert Job.from_json(job.to_json()) == job


def test_a_result_survives_json() -> None:
    interval = Interval(0.1, 0.2)
    full = JobResult(
        files=(ArtifactFile("m.onnx", 3, "0" * 64),),
        runtime="fake 1",
        audit=Audit((Layer("a", "Conv", "int8"),), 1, 2, ("a 6-bit weight in 8 bits",)),
        figures={"arena": Figure(3.0, "bytes", "fake", True)},
        latency=Latency(0.1, interval, 1.0, interval, 0.1, 0.2, 8, 1, True, False),
        samples=Path("s.npy"),
        outputs={"val": Path("o/val")},
        capabilities=frozenset({"BF16", "INT8"}),
        seconds={"start": 0.5},
        peak_memory_bytes=7,
        modules=("numpy", "sys"),
    )
    for result in (JobResult(), full):
        assert parse_answer(result.to_json()) == result
    assert parse_answer(Failure("load", "no").to_json()) == Failure("load", "no")


def test_the_audit_of_two_parts_is_that_of_compiling_with_the_notes_of_both() -> None:
    compiled = JobResult(audit=Audit((Layer("a", "Conv", "int8"),), 1, 2, ("kept in float", "same")))
    device = JobResult(audit=Audit((), 0, 0, ("same", "of the device")))
    both = joined(compiled, device).audit
    assert both == Audit((Layer("a", "Conv", "int8"),), 1, 2, ("kept in float", "same", "of the device"))
    assert joined(compiled, JobResult()).audit == compiled.audit
    assert joined(JobResult(), device).audit == device.audit


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"error": {}}', '{"files": 3}'])
def test_half_an_answer_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_answer(text)


def test_a_job_without_work_or_input_is_refused(model: Path) -> None:
    job = fake_job(model)
    with pytest.raises(ValueError, match="a model to compile"):
        replace(job, source=None)
    with pytest.raises(ValueError, match="a model to compile"):
        replace(job, artifact=Loaded(model.parent, ("artifact",), "fp32"))
    with pytest.raises(ValueError, match="needs an input"):
        replace(job, measure=MOMENT)


def test_the_whole_way(model: Path, tmp_path: Path) -> None:
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    job = replace(
        fake_job(model),
        example=arrays(tmp_path / "example", x=x[:3]),
        measure=MOMENT,
        audit=True,
        evaluate={"val": arrays(tmp_path / "val", x=x), "one": arrays(tmp_path / "one", x=x[:1])},
    )
    stages: list[str] = []
    result = run_job(job, tmp_path / "new" / "work", stages.append)
    assert stages == ["compile", "load", "audit", "measure", "evaluate"]
    assert list(result.seconds) == ["start", *stages]
    assert all(value > 0 for value in result.seconds.values())
    assert result.audit == Audit((Layer("layer", "Fake", "int8"),), 1, 2)
    assert [(file.name, file.size) for file in result.files] == [("artifact", 6)]
    assert result.latency and result.latency.rounds == 3
    assert result.samples == tmp_path / "new" / "work" / "samples.npy"
    assert len(np.unique(Samples.load(result.samples).table[:, 1])) == 2
    assert result.outputs["val"] == tmp_path / "new" / "work" / "outputs" / "val"
    y = np.load(result.outputs["val"] / "y.npy", allow_pickle=False)
    np.testing.assert_array_equal(y, 2 * x)
    assert y.dtype == np.float32
    # Not a byte more: what the filled-up last batch gave is not in the file.
    np.save(tmp_path / "y.npy", y)
    assert (result.outputs["val"] / "y.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
    np.testing.assert_array_equal(np.load(result.outputs["one"] / "y.npy"), 2 * x[:1])
    # Every call had the whole batch, the last ones too.
    np.testing.assert_array_equal(np.load(result.outputs["val"] / "rows.npy"), np.full(7, 3))
    assert 2**20 < result.peak_memory_bytes < 2**30
    assert {"autoshrink", "numpy", "sys"} <= set(result.modules)
    assert not {"torch", "onnx", "pydantic", "filelock"} & set(result.modules)


def test_the_peak_memory_is_the_childs_own(model: Path, tmp_path: Path) -> None:
    ballast = np.ones(2**24)
    assert run_job(fake_job(model), tmp_path / "work").peak_memory_bytes < ballast.nbytes


def test_a_job_can_be_run_again_in_the_same_folder(model: Path, tmp_path: Path) -> None:
    first = run_job(fake_job(model), tmp_path / "work")
    again = replace(fake_job(model), source=None, artifact=Loaded(tmp_path / "artifact", ("artifact",), "fp32"))
    assert run_job(again, tmp_path / "work").files == first.files
    # What an earlier run answered is not taken for the answer of this one.
    assert failure(fake_job(model, "FakeExit"), tmp_path / "work").stage == "compile"


def test_a_probe_only_asks_for_capabilities(model: Path, tmp_path: Path) -> None:
    job = replace(fake_job(model), source=None, probe=True)
    stages: list[str] = []
    assert run_job(job, tmp_path / "work", stages.append).capabilities == {"FAKE"}
    assert stages == ["probe"]


def test_the_childs_libraries_have_the_targets_threads(model: Path, tmp_path: Path) -> None:
    job = replace(fake_job(model, "FakeThreadCounter"), probe=True, threads=3)
    assert run_job(job, tmp_path / "work").capabilities == {"3"}


def test_another_interpreter(model: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\ntouch {started}\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", root)
        run_job(fake_job(model), tmp_path / "work", python=str(wrapper))
    assert started.exists()


@pytest.mark.parametrize(
    ("backend", "stage", "parts"),
    [
        ("FakeSegfault", "compile", ("SIGSEGV", "reading the graph")),
        ("FakeHungry", "compile", ("ran over child.memory_limit_mb = 1024", "raises it")),
        ("FakeBadAlloc", "compile", ("ran over child.memory_limit_mb = 1024", "std::bad_alloc")),
        ("FakeKilled", "compile", ("killed from outside", "child.memory_limit_mb than 1024")),
        ("FakeExit", "compile", ("code 3", "out of ideas")),
        ("FakeRefusing", "compile", ("operator Nonsense is not known",)),
        ("FakeBroken", "load", ("RuntimeError: a shape is wrong",)),
        ("NoSuchClass", "start", ("NoSuchClass",)),
    ],
)
def test_a_child_that_goes_wrong_says_why(
    model: Path, tmp_path: Path, backend: str, stage: str, parts: tuple[str, ...]
) -> None:
    error = failure(fake_job(model, backend, ChildLimits(60, 1024)), tmp_path / "work")
    assert error.stage == stage
    for part in parts:
        assert part in error.reason
    assert "\n" not in error.reason


def test_the_log_has_the_traceback_and_the_stack_of_a_crash(model: Path, tmp_path: Path) -> None:
    assert "in line 3" in Path(failure(fake_job(model, "FakeBroken"), tmp_path / "a").log).read_text()
    (tmp_path / "artifact").rename(tmp_path / "old")
    log = Path(failure(fake_job(model, "FakeSegfault"), tmp_path / "b").log).read_text()
    assert "Segmentation fault" in log and "fake_backends.py" in log


def test_a_hanging_child_is_killed_with_its_helpers(model: Path, tmp_path: Path) -> None:
    job = fake_job(model, "FakeHang", ChildLimits(3, 2048))
    error = failure(job, tmp_path / "work")
    assert error.stage == "load"
    assert "child.time_limit_s = 3" in error.reason and "in the target raises it" in error.reason
    assert all(end(pid) for pid in wait_for_pids(tmp_path / "artifact"))


def parent_of_a_hanging_child(model: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A process of its own that waits for a job: a signal to pytest itself would meet whatever else it has loaded."""
    (folder / "job.json").write_text(fake_job(model, "FakeHang").to_json())
    code = (
        "import sys; from pathlib import Path; from autoshrink.isolate.job import Job; "
        "from autoshrink.isolate.parent import run_job; folder = Path(sys.argv[1]); "
        "run_job(Job.from_json((folder / 'job.json').read_text()), folder / 'work')"
    )
    root = str(Path(__file__).parents[2])
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=root, stderr=subprocess.PIPE)


def test_ctrl_c_in_the_parent_kills_the_child(model: Path, tmp_path: Path) -> None:
    with parent_of_a_hanging_child(model, tmp_path) as parent:
        pids = wait_for_pids(tmp_path / "artifact")
        parent.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    assert all(end(pid) for pid in pids)


def test_an_error_of_the_listener_kills_the_child(model: Path, tmp_path: Path) -> None:
    def listener(stage: str) -> None:
        if stage == "load":
            wait_for_pids(tmp_path / "artifact")
            raise RuntimeError("the listener is broken")

    with pytest.raises(RuntimeError, match="listener"):
        run_job(fake_job(model, "FakeHang"), tmp_path / "work", listener)
    assert all(end(pid) for pid in wait_for_pids(tmp_path / "artifact"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child ends with its next stage only")
def test_the_child_dies_when_its_parent_is_killed(model: Path, tmp_path: Path) -> None:
    parent = parent_of_a_hanging_child(model, tmp_path)
    child, helper = wait_for_pids(tmp_path / "artifact")
    parent.kill()
    parent.communicate()
    try:
        assert end(child)
    finally:
        # The helper is nobody's child now; a child that wrongly lives is in its group.
        os.killpg(os.getpgid(helper), signal.SIGKILL)


@pytest.mark.parametrize(
    ("outputs", "inputs", "parts"),
    [
        ("kept", {"x": np.ones((7, 2))}, ("'kept' has shape [1] for a batch of 3",)),
        ("y a/b", {"x": np.ones((7, 2))}, ("'a/b'", "without '/'")),
        ("y", {"x": np.ones((7, 2)), "z": np.ones(6)}, ("{'x': 7, 'z': 6} rows",)),
        ("y", {"x": np.float32(1)}, ("{'x': 0} rows",)),
        ("y", {}, ("{} rows",)),
    ],
)
def test_what_cannot_be_evaluated_says_why(
    model: Path, tmp_path: Path, outputs: str, inputs: dict[str, np.ndarray], parts: tuple[str, ...]
) -> None:
    model.write_text(outputs)
    job = replace(fake_job(model), evaluate={"val": arrays(tmp_path / "val", **inputs)})
    error = failure(job, tmp_path / "work")
    assert error.stage == "evaluate"
    for part in parts:
        assert part in error.reason
    assert not (tmp_path / "work" / "outputs" / "val").exists()


def test_arrays_of_python_objects_are_refused(model: Path, tmp_path: Path) -> None:
    folder = arrays(tmp_path / "val", x=np.array([{}], dtype=object))
    error = failure(replace(fake_job(model), evaluate={"val": folder}), tmp_path / "work")
    assert error.stage == "evaluate" and "ValueError" in error.reason


def _hold(device: str, holding: object, let_go: object) -> None:
    with device_lock(device):
        holding.set()
        let_go.wait(PATIENCE_S)


def test_a_device_is_held_once_over_processes_and_waited_for(model: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    holding, let_go = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=("cpu", holding, let_go))
    holder.start()
    assert holding.wait(PATIENCE_S)
    stages: list[str] = []

    def listener(stage: str) -> None:
        stages.append(stage)
        if stage == WAITING:
            let_go.set()

    run_job(fake_job(model), tmp_path / "work", listener)
    holder.join()
    assert stages == [WAITING, "compile", "load"]


def test_a_killed_process_lets_go_of_the_device() -> None:
    context = multiprocessing.get_context("spawn")
    holding, let_go = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=("killed", holding, let_go))
    holder.start()
    assert holding.wait(PATIENCE_S)
    holder.kill()
    holder.join()
    with device_lock("killed", lambda: pytest.fail("the dead process still holds the device")):
        pass


def test_one_thread_may_hold_a_device_twice_and_another_may_not() -> None:
    waited: list[str] = []
    order: list[str] = []

    def other() -> None:
        with device_lock("cpu", lambda: (waited.append("other"), began.set())):
            order.append("other")

    began = threading.Event()
    thread = threading.Thread(target=other)
    with device_lock("cpu", lambda: waited.append("outer")):
        with device_lock("cpu", lambda: waited.append("inner")):
            pass
        # The inner one let go of nothing.
        thread.start()
        assert began.wait(PATIENCE_S)
        order.append("outer")
    thread.join()
    assert waited == ["other"] and order == ["outer", "other"]


def test_devices_are_held_one_by_one() -> None:
    with device_lock("cuda:0"), device_lock("cuda:1", lambda: pytest.fail("another device")):
        pass
    with device_lock("../../etc/passwd"):
        pass


def test_a_child_started_early_does_its_job_when_told(model: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with ChildProcess(work, 1) as child:
        assert child.process.poll() is None
        result = run_job(fake_job(model), work, child=child)
    assert [file.name for file in result.files] and result.seconds["start"] >= 0


def test_a_child_that_is_never_told_ends_with_its_context(tmp_path: Path) -> None:
    with ChildProcess(tmp_path, 1) as child:
        assert child.process.poll() is None
    assert child.process.returncode is not None
