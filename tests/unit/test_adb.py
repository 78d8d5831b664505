"""AdbDevice on a FAKE device (see tests/android_device.py): its states, a whole job, and every way in which one fails.

What is real here: AdbDevice, sh, the `.tflite` files and LiteRT, which gives their outputs; in the last class the
program adb too, which talks to a FAKE daemon. No phone was ever attached.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoshrink.config import load_target
from autoshrink.devices import adb_bridge, open_device
from autoshrink.devices.adb import HERE, AdbDevice, _line, _Run, state_of
from autoshrink.devices.base import DeviceGone
from autoshrink.errors import ChildError, ConfigError, TargetUnavailable
from autoshrink.isolate.device import device_lock
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import WAITING
from autoshrink.measure.timing import Samples
from autoshrink.target import ChildLimits, Measuring, Precision, RemoteDevice, Target
from tests.android_device import LISTED, SERIAL, FakeAdb, build_benchmark, weights, write_linear
from tests.fake_adbd import FakeAdbd

MOMENT = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=1, time_limit_s=60)
PATIENCE_S = 20

needs_cc = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler: apt-get install gcc"
)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAdb:
    return FakeAdb(tmp_path / "phone", monkeypatch)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture
def spec(program: Path) -> RemoteDevice:
    return RemoteDevice(adb="any", benchmark_model=str(program))


@pytest.fixture
def device(phone: FakeAdb, spec: RemoteDevice) -> Iterator[AdbDevice]:
    device = fake_target_device(spec)
    yield device
    device.close()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A candidate of 4 outputs beside a reference of 40, 5 samples in batches of 2."""
    write_linear(tmp_path / "small" / "model.tflite", 4)
    write_linear(tmp_path / "large" / "model.tflite", 40)
    inputs = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
    for name, array in (("example", inputs[:2]), ("val", inputs)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "image.npy", array)
    return Job(
        "litert",
        1,
        2,
        ChildLimits(120),
        Loaded(tmp_path / "small", ("model.tflite",), "fp32"),
        reference=Loaded(tmp_path / "large", ("model.tflite",), "fp32"),
        example=tmp_path / "example",
        measure=MOMENT,
        audit=True,
        evaluate={"val": tmp_path / "val"},
    )


def fake_target_device(spec: RemoteDevice, say: list[str] | None = None) -> AdbDevice:
    target = Target("phone", "litert", {"fp32": Precision()}, devices=(spec,))
    device = open_device(spec, target, (say if say is not None else []).append)
    assert isinstance(device, AdbDevice)
    return device


def timed_only(job: Job) -> Job:
    return replace(job, audit=False, evaluate={})


def failure(device: AdbDevice, job: Job, work: Path) -> ChildError:
    with pytest.raises(ChildError) as caught:
        device.run(job, work, lambda _stage: None)
    assert Path(caught.value.log).is_file()
    return caught.value


def test_the_shipped_profile_names_a_device() -> None:
    target = load_target("android-adb")
    (spec,) = target.devices
    assert (spec.kind, spec.adb, target.backend) == ("adb", "any", "litert")
    # A warm-up counts turns, each of which is a start of the program.
    assert target.measuring.warm_up_calls == 3


@needs_cc
class TestStates:
    def test_a_device_that_is_ready_says_what_it_is(
        self, phone: FakeAdb, device: AdbDevice, spec: RemoteDevice
    ) -> None:
        found = device.facts()
        assert found.state == "ready"
        runtime = found.identity["runtime"]
        assert runtime.startswith("benchmark_model ")
        assert len(runtime.split()[1]) == 8
        assert found.identity == {
            "processor": "FakeCorp F900",
            "architecture": "x86_64",
            "cores": "8",
            "system": "Android 14",
            "runtime": runtime,
            "device": "Fake 9",
        }
        assert found.about == {
            "battery_celsius": 28.1,
            "battery_percent": 85.0,
            "thermal_status": "light",
            "temperature_celsius": 43.4,
            "memory_bytes": 8000000 * 1024,
        }
        assert state_of(spec) == found

    def test_a_device_that_shows_little_says_what_it_shows(self, phone: FakeAdb, device: AdbDevice) -> None:
        phone.tell("getprop", "case $1 in ro.product.cpu.abi) echo x86_64;; ro.hardware) echo fake;; esac")
        phone.tell("dumpsys", 'echo "Can\'t find service: $1"; exit 1')
        phone.tell("nproc", "echo 4")
        (phone.home / "root/sys/devices/system/cpu/present").unlink()
        (phone.home / "root/proc/meminfo").unlink()
        found = device.facts()
        assert (found.state, found.about) == ("ready", {})
        assert found.identity["processor"] == "fake"
        assert (found.identity["cores"], found.identity["system"], found.identity["device"]) == ("4", "Android", "")

    @pytest.mark.parametrize(
        ("listed", "why", "fix"),
        [
            ("\n", "no device is attached", "USB debugging"),
            (
                f"{SERIAL}  unauthorized usb:1-1 transport_id:1\n",
                "does not let this computer in",
                "allow USB debugging",
            ),
            (f"{SERIAL}  offline transport_id:1\n", "does not answer (offline)", "unplug it"),
            (
                f"{SERIAL}  no permissions (user in plugdev group; are your udev rules wrong?); see [a] usb:1-1\n",
                "may not be opened by this user (no permissions)",
                "udev rules",
            ),
            (
                "(no serial number)   no permissions (missing udev rules?); see [a]\n",
                "(no serial number) may not be",
                "udev",
            ),
            (f"{SERIAL}  recovery usb:1-1\n", "is in recovery mode", "adb reboot"),
            (f"{SERIAL}  bootloader usb:1-1\n", "is in its bootloader", "fastboot reboot"),
            (f"{SERIAL}  authorizing usb:1-1\n", "about to ask", "unlock its screen"),
            (f"{SERIAL}  dreaming usb:1-1\n", "is in the state 'dreaming'", "adb devices"),
            (
                f"{LISTED}FAKE4567  unauthorized usb:1-2\n",
                f"2 devices are attached: {SERIAL} (device), FAKE4567 (una",
                "any",
            ),
        ],
    )
    def test_each_state_is_said_with_the_way_out(
        self, phone: FakeAdb, device: AdbDevice, spec: RemoteDevice, listed: str, why: str, fix: str
    ) -> None:
        phone.attach(listed)
        found = state_of(spec)
        assert (found.state, dict(found.identity)) == ("unavailable", {})
        assert why in found.why
        assert fix in found.fix
        with pytest.raises(TargetUnavailable) as caught:
            device.facts()
        assert str(caught.value) == f"{found.why}; {found.fix}"

    def test_one_of_several_is_taken_by_its_serial_number(self, phone: FakeAdb, spec: RemoteDevice) -> None:
        phone.attach(f"FAKE4567  unauthorized usb:1-2\n{LISTED}")
        assert state_of(replace(spec, adb=SERIAL)).state == "ready"
        found = state_of(replace(spec, adb="FAKE8"))
        assert (
            found.why
            == "no device with the serial number FAKE8 is attached; there is FAKE4567 (unauthorized), FAKE0123 (device)"
        )

    def test_what_the_profile_names_and_is_not_here_is_said_before_a_search(
        self, phone: FakeAdb, spec: RemoteDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ConfigError, match=r"device.adb: benchmark_model is .*nowhere: No such file"):
            fake_target_device(replace(spec, benchmark_model=str(tmp_path / "nowhere")))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigError, match=r"device.adb: adb is not on this machine's PATH; apt-get install adb"):
            fake_target_device(spec)

    def test_a_device_that_was_only_looked_at_is_left_as_it_was(self, phone: FakeAdb, device: AdbDevice) -> None:
        device.facts()
        device.close()
        assert not any("rm -rf" in call[-1] for call in phone.calls)

    def test_no_adb_is_said(self, spec: RemoteDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        found = state_of(spec)
        assert (found.state, found.why) == ("unavailable", "adb is not on this machine's PATH")
        assert "apt-get install adb" in found.fix
        (tmp_path / "adb").write_text("no program")
        (tmp_path / "adb").chmod(0o755)
        assert state_of(spec).why == f"{tmp_path / 'adb'} does not start: Exec format error"

    def test_a_server_that_does_not_start_or_answer_is_said(
        self, phone: FakeAdb, spec: RemoteDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        phone.fault("server", "adb: failed to check server version: cannot connect to daemon at tcp:5037")
        found = state_of(spec)
        assert "failed to check server version: cannot connect to daemon" in found.why
        assert "adb start-server" in found.fix
        phone.mend("server")
        phone.fault("silent")
        monkeypatch.setattr(adb_bridge, "CALL_S", 0.5)
        assert state_of(spec).why == "adb devices gave no answer in 0.5 s"

    def test_a_benchmark_program_that_is_none_for_the_device_is_said(
        self, phone: FakeAdb, spec: RemoteDevice, tmp_path: Path, program: Path
    ) -> None:
        missing = state_of(replace(spec, benchmark_model=str(tmp_path / "nowhere")))
        assert missing.state == "unavailable"
        assert missing.why.endswith("nowhere: No such file or directory")
        text = tmp_path / "text"
        text.write_text("#!/bin/sh\necho this is a script, no program\n")
        assert "is no ELF program" in state_of(replace(spec, benchmark_model=str(text))).why
        phone.tell("getprop", "case $1 in ro.product.cpu.abilist) echo arm64-v8a,armeabi-v7a,armeabi;; esac")
        arm = tmp_path / "arm"
        header = bytearray(program.read_bytes()[:64])
        header[18:20] = (62).to_bytes(2, "little")
        arm.write_bytes(header)
        wrong = state_of(replace(spec, benchmark_model=str(arm)))
        assert wrong.why.endswith(", for x86_64; the device runs arm64-v8a,armeabi-v7a,armeabi")
        header[18:20] = (183).to_bytes(2, "little")
        arm.write_bytes(header)
        assert state_of(replace(spec, benchmark_model=str(arm))).state == "ready"

    def test_a_device_that_was_there_and_went_is_gone_and_any_stays_the_same_one(
        self, phone: FakeAdb, device: AdbDevice
    ) -> None:
        device.facts()
        phone.attach(f"{SERIAL}  offline transport_id:1\n")
        with pytest.raises(DeviceGone, match=r"does not answer \(offline\)"):
            device.facts()
        phone.attach("FAKE4567  device usb:1-2\n")
        with pytest.raises(DeviceGone, match=f"no device with the serial number {SERIAL}"):
            device.facts()
        phone.attach(f"FAKE4567  device usb:1-2\n{LISTED}")
        assert device.facts().state == "ready"


@needs_cc
class TestAJob:
    def test_it_is_timed_there_and_its_accuracy_is_found_here(
        self, phone: FakeAdb, spec: RemoteDevice, job: Job, tmp_path: Path
    ) -> None:
        said: list[str] = []
        stages: list[str] = []
        device = fake_target_device(spec, said)
        work = tmp_path / "work"
        result = device.run(job, work, stages.append)
        assert stages == ["load", "measure", "load", "audit", "evaluate"]
        # The fake program tells a microsecond for every 8 bytes of the file.
        sizes = [(tmp_path / name / "model.tflite").stat().st_size for name in ("small", "large")]
        assert result.latency is not None
        assert result.latency.ms == pytest.approx(sizes[0] / 8000, rel=1e-4)
        assert result.latency.ratio == pytest.approx(sizes[0] / sizes[1], rel=1e-4)
        assert result.latency.rounds == 3
        assert result.latency.stable
        assert not result.latency.contended
        assert result.runtime == device.facts().identity["runtime"]
        assert result.peak_memory_bytes == int(12.5 * 2**20)
        assert result.sensors == {"temperature": (43.4, 43.4)}
        assert [file.name for file in result.files] == ["model.tflite"]
        assert {"start", "load", "measure", "audit", "evaluate"} <= set(result.seconds)
        inputs = np.load(tmp_path / "val" / "image.npy")
        np.testing.assert_allclose(np.load(result.outputs["val"] / "logits.npy"), inputs @ weights(4).T, rtol=1e-5)
        assert result.audit is not None
        assert [layer.kind for layer in result.audit.layers] == ["FULLY_CONNECTED"]
        assert result.audit.notes[-2:] == (
            HERE,
            "on the device: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by "
            "the delegate.",
        )
        assert said == [f"adb any: {HERE}"]
        assert result.samples is not None
        table = Samples.load(result.samples).table
        assert set(table[:, 0]) == {0.0, 1.0, 2.0}
        raw = sorted((work / "benchmark").iterdir())
        # One that watches the memory, two turns to warm each up, and a row of the table for every other.
        assert [file.name for file in raw] == [f"{number:04}.txt" for number in range(1, 1 + 1 + 4 + len(table))]
        texts = [file.read_text() for file in raw]
        assert all("Inference (avg): " in text and text.endswith("ended with code 0\n") for text in texts)
        assert [("--report_peak_memory_footprint" in text) for text in texts] == [True] + [False] * (len(texts) - 1)
        device.close()
        device.close()
        assert phone.folders == []

    def test_a_file_is_pushed_once_and_a_candidate_goes_with_its_job(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        for number in (1, 2):
            device.run(timed_only(job), tmp_path / f"work{number}", lambda _stage: None)
        pushed = [Path(call[3]).name for call in phone.calls if call[2:3] == ["push"]]
        assert pushed == ["benchmark_model", "model.tflite", "model.tflite", "input", "model.tflite"]
        # The program, the reference, the example, and the number of the process.
        assert len(phone.files) == 4
        # The user's names never come to the device.
        lines = [call[3] for call in phone.calls if call[2:3] == ["shell"]]
        assert lines
        assert not any("model.tflite" in line or str(tmp_path) in line for line in lines)

    def test_without_a_reference_it_is_timed_beside_itself(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        result = device.run(timed_only(replace(job, reference=None)), tmp_path / "work", lambda _stage: None)
        assert result.latency is not None
        assert result.latency.ratio == 1.0
        # It was not asked for, and says all the same where the accuracy is from.
        assert result.audit is not None
        assert HERE in result.audit.notes

    def test_channels_come_last_where_the_file_has_them_so(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        run = timed_only(replace(job, reference=None, options={"layout": "nhwc"}))
        np.save(tmp_path / "example" / "image.npy", np.zeros((2, 3, 1, 1), np.float32))
        found = failure(device, run, tmp_path / "work")
        assert found.reason == "input 'image' has shape [2, 1, 1, 3]; the model takes [2, 3]"

    def test_the_example_must_be_the_models(self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path) -> None:
        (tmp_path / "example" / "image.npy").rename(tmp_path / "example" / "picture.npy")
        assert failure(device, job, tmp_path / "work").reason == "the example has ['picture'], and not 'image'"
        (tmp_path / "small" / "model.tflite").write_bytes(b"no flatbuffer at all")
        assert "model.tflite is no .tflite file" in failure(device, job, tmp_path / "work").reason
        (tmp_path / "small" / "model.tflite").unlink()
        assert failure(device, job, tmp_path / "work").reason.startswith("model.tflite cannot be read: No such file")

    def test_it_keeps_to_the_processors_of_the_profile(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        phone.tell("taskset", f'echo "$1" >>{phone.home}/masks; shift; exec "$@"')
        # The child here must not: this machine need not have so many.
        device.run(replace(job, pin=(4, 5, 6, 63)), tmp_path / "work", lambda _stage: None)
        assert set((phone.home / "masks").read_text().split()) == {"8000000000000070"}

    def test_a_device_before_android_7_passes_no_exit_status_on_and_ends_lines_otherwise(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        phone.fault("dull")
        phone.benchmark("old")
        result = device.run(job, tmp_path / "work", lambda _stage: None)
        assert result.latency is not None
        assert result.latency.ratio == pytest.approx(
            (tmp_path / "small" / "model.tflite").stat().st_size / (tmp_path / "large" / "model.tflite").stat().st_size,
            rel=1e-4,
        )
        assert result.peak_memory_bytes == 0
        assert result.audit is not None
        assert any("Unconsumed cmdline flags: --input_layer_value_files" in note for note in result.audit.notes)
        phone.benchmark("unsupported")
        assert "ended with code 1" in failure(device, job, tmp_path / "work").reason

    def test_a_probe_asks_nothing_of_the_runtime_here(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        assert device.run(replace(job, probe=True), tmp_path / "work", lambda _stage: None).capabilities == frozenset()

    def test_another_process_that_has_the_device_is_waited_for(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AUTOSHRINK_CACHE", str(tmp_path / "cache"))
        held, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with device_lock(f"adb-{SERIAL}"):
                held.set()
                let_go.wait(PATIENCE_S)

        other = threading.Thread(target=hold)
        other.start()
        assert held.wait(PATIENCE_S)
        stages: list[str] = []

        def on_stage(stage: str) -> None:
            stages.append(stage)
            let_go.set()

        device.run(timed_only(job), tmp_path / "work", on_stage)
        other.join()
        assert stages[0] == WAITING


@needs_cc
class TestFailures:
    @pytest.mark.parametrize(
        ("mode", "why"),
        [
            ("unsupported", "ERROR: Node number 3 (FakeOp) failed to prepare. | ERROR: Failed to allocate tensors!"),
            (
                "memory",
                "the device has no memory left for it (terminating with uncaught exception of type std::bad_alloc",
            ),
            ("crash", "benchmark_model ended by signal 11 (SIGSEGV), a fault in native code"),
            ("killed", "was killed on the device, as Android does when memory is short"),
            ("garbage", "what benchmark_model prints has not the lines of statistics"),
            ("half", "what benchmark_model prints has not the lines of statistics"),
            ("disagree", "us a call in one line and"),
            ("zero", "too short for its clock"),
        ],
    )
    def test_the_reason_is_the_programs_own(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path, mode: str, why: str
    ) -> None:
        phone.benchmark(mode)
        found = failure(device, job, tmp_path / "work")
        assert found.stage == "load"
        assert why in found.reason
        assert Path(found.log) == tmp_path / "work" / "benchmark" / "0001.txt"
        # The candidate is not left behind.
        assert len(phone.files) == 4

    def test_calls_cut_short_by_the_time_limit_do_not_count(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        phone.benchmark("short")
        found = failure(device, job, tmp_path / "work")
        assert (found.stage, found.reason.partition(" =")[0]) == ("measure", "did not end within child.time_limit_s")

    def test_a_program_that_hangs_is_ended_there(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # However long the pushes took on a busy machine, the program has this long.
        monkeypatch.setattr(_Run, "left", lambda _run: 3.0)
        monkeypatch.setattr("autoshrink.devices.adb.OVER_S", 0.0)
        phone.benchmark("hang")
        found = failure(device, job, tmp_path / "work")
        assert found.reason.startswith("did not end within child.time_limit_s = 120;")
        (number,) = (phone.home / "root/data/local/tmp").glob("autoshrink-*/pid")
        assert ended(int(number.read_text()))

    def test_a_job_whose_time_is_up_begins_nothing_more(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_Run, "left", lambda _run: 0.0)
        assert failure(device, job, tmp_path / "work").reason.startswith("did not end within child.time_limit_s")
        assert not any("--graph" in call[-1] for call in phone.calls)

    def test_a_device_without_room_is_said(self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path) -> None:
        phone.fault("full")
        found = failure(device, job, tmp_path / "work")
        assert "the device does not take benchmark_model: " in found.reason
        assert found.reason.endswith("No space left on device")

    def test_what_arrives_changed_is_done_again(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        phone.fault("spoil")
        with pytest.raises(DeviceGone, match="did not arrive on device FAKE0123 as it was sent"):
            device.run(job, tmp_path / "work", lambda _stage: None)
        phone.mend("spoil")
        assert device.run(timed_only(job), tmp_path / "work", lambda _stage: None).latency

    def test_a_device_unplugged_in_the_middle_is_gone_and_goes_on_when_it_is_back(
        self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path
    ) -> None:
        phone.fault("unplug", "--min_secs=0.0010")
        with pytest.raises(DeviceGone, match=f"device {SERIAL} is not attached any more"):
            device.run(job, tmp_path / "work", lambda _stage: None)
        with pytest.raises(DeviceGone, match="no device is attached"):
            device.run(job, tmp_path / "work", lambda _stage: None)
        phone.mend("unplug")
        phone.attach(LISTED)
        stale = tmp_path / "work" / "benchmark" / "9999.txt"
        stale.write_text("of the try that was broken off")
        assert device.run(timed_only(job), tmp_path / "work", lambda _stage: None).latency
        assert not stale.exists()

    @pytest.mark.parametrize("stage", ["measure", "evaluate"])
    def test_closing_ends_a_job(self, phone: FakeAdb, device: AdbDevice, job: Job, tmp_path: Path, stage: str) -> None:
        if stage == "measure":
            job = replace(job, measure=replace(MOMENT, rounds_min=10**6, rounds_max=10**6, time_limit_s=10**6))
        closing: list[threading.Thread] = []

        def on_stage(now: str) -> None:
            if now == stage:
                closing.append(threading.Thread(target=device.close))
                closing[0].start()

        with pytest.raises(DeviceGone, match="closed"):
            device.run(job, tmp_path / "work", on_stage)
        closing[0].join()
        with pytest.raises(DeviceGone, match="closed"):
            device.run(job, tmp_path / "work", on_stage)

    @pytest.mark.parametrize("word", ["", "a b", "a;b", "$(b)", "a'b", "a\nb", "../`b`"])
    def test_only_plain_words_go_to_the_devices_shell(self, word: str) -> None:
        with pytest.raises(ValueError, match="no plain word"):
            _line("rm", word)


def ended(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def real_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real program with a server and a key of its own: whatever server this machine has is left alone."""
    if not shutil.which("adb"):
        pytest.skip("no adb on the PATH: apt-get install adb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    subprocess.run(["adb", "kill-server"], capture_output=True, timeout=30)


@pytest.mark.usefixtures("real_adb")
class TestTheRealAdb:
    def test_without_a_device_it_says_that_there_is_none(self) -> None:
        found = state_of(RemoteDevice(adb="any", benchmark_model="benchmark_model"))
        if "no device is attached" not in found.why:
            listed = subprocess.run(["adb", "devices"], capture_output=True, text=True, timeout=30).stdout
            pytest.skip(f"a device is attached to this machine: {listed}")
        assert found.state == "unavailable"
        with pytest.raises(DeviceGone, match=r"FAKE0123 is not attached any more \(adb: .*device 'FAKE0123' not found"):
            adb_bridge.Adb().ask("FAKE0123", "true")

    @needs_cc
    @pytest.mark.parametrize("features", ["shell_v2", ""])
    def test_it_takes_a_job_to_a_fake_daemon(
        self, spec: RemoteDevice, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str
    ) -> None:
        with fake_daemon(tmp_path, monkeypatch, features) as daemon:
            device = fake_target_device(replace(spec, adb=daemon.address))
            assert device.facts().identity["processor"] == "FakeCorp F900"
            daemon.full = True
            assert failure(device, job, tmp_path / "work").reason.endswith("No space left on device")
            daemon.full = False
            result = device.run(timed_only(job), tmp_path / "work", lambda _stage: None)
            sizes = [(tmp_path / name / "model.tflite").stat().st_size for name in ("small", "large")]
            assert result.latency is not None
            assert result.latency.ratio == pytest.approx(sizes[0] / sizes[1], rel=1e-4)
            monkeypatch.setenv("FAKE_BENCHMARK", "crash")
            assert "signal 11 (SIGSEGV)" in failure(device, job, tmp_path / "work").reason
            monkeypatch.setenv("FAKE_BENCHMARK", "")
            on_phone = tmp_path / "phone" / "root" / "data" / "local" / "tmp"
            assert len(list(on_phone.glob("autoshrink-*/*"))) == 4
            device.close()
            assert list(on_phone.iterdir()) == []

    @needs_cc
    def test_a_fake_daemon_that_goes_away_in_the_middle_is_gone(
        self, spec: RemoteDevice, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with fake_daemon(tmp_path, monkeypatch) as daemon:
            device = fake_target_device(replace(spec, adb=daemon.address))
            daemon.unplug_at = "--min_secs=0.0010"
            with pytest.raises(DeviceGone, match=daemon.address):
                device.run(timed_only(job), tmp_path / "work", lambda _stage: None)
            with pytest.raises(DeviceGone):
                device.facts()
            device.close()


@contextmanager
def fake_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str = "shell_v2") -> Iterator[FakeAdbd]:
    phone = FakeAdb(tmp_path / "phone", monkeypatch)
    # The files and programs of the fake device, and the real adb.
    (phone.home / "program" / "adb").unlink()
    daemon = FakeAdbd(phone.home, features)
    try:
        subprocess.run(["adb", "connect", daemon.address], capture_output=True, timeout=30, check=True)
        deadline = time.monotonic() + PATIENCE_S
        while (daemon.address, "device") not in {(each.serial, each.state) for each in adb_bridge.Adb().devices()}:
            assert time.monotonic() < deadline, "the real adb never took the fake daemon for a device"
            time.sleep(0.05)
        yield daemon
    finally:
        daemon.close()
