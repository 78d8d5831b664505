"""An Android device over `adb`: LiteRT's `benchmark_model`, which the user brings, times the `.tflite` file there.

The program gives times and no outputs for a set of samples, so the audit and the accuracy are of the same file in
LiteRT on this machine, in a child as everywhere; the audit says so. What is timed runs on the job's example.

A turn is one start of the program, of the candidate or of the reference, in shuffled order as everywhere; it warms up
before it times. The program prints statistics, not single calls: one turn is one sample, the mean of its calls. So the
quartile of a round is that mean, and `p50_ms` and `p90_ms` are over turns. Its whole text is kept as
`benchmark/0001.txt` and so on.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoshrink.cache import file_sha256
from autoshrink.devices.adb_benchmark import Benchmark, flags, parse_benchmark, why_failed
from autoshrink.devices.adb_bridge import CLOSED, Adb, Ran, Unready
from autoshrink.devices.adb_facts import facts_of, runtime_of, temperature
from autoshrink.devices.base import Device, DeviceGone, Facts, OnStage
from autoshrink.errors import ChildError, ConfigError
from autoshrink.isolate.device import device_lock
from autoshrink.isolate.evaluate import map_arrays
from autoshrink.isolate.job import LOG, SAMPLES, Job, JobResult, Loaded
from autoshrink.isolate.parent import WAITING, run_job
from autoshrink.isolate.process import ChildProcess
from autoshrink.measure.timing import Floats, RemoteCalls, sample, summarise
from autoshrink.target import RemoteDevice, Target
from autoshrink.types import Audit

PLACE = "/data/local/tmp"
"""The folder in which adb's shell may run programs, on every device."""
RAW = "benchmark"
HERE = "accuracy of the same file in LiteRT on this machine: benchmark_model gives no outputs"
WORD = re.compile(r"[A-Za-z0-9_./:,=-]+")
"""What no shell reads anything into."""
OVER_S = 10.0
"""Seconds beyond the time limit for the program to end by itself, which it does after the call it is in."""

Inputs = Sequence[tuple[str, Sequence[int]]]


def state_of(spec: RemoteDevice) -> Facts:
    """The facts of a profile's device, or the state `unavailable` with `why` and `fix`; for `doctor`. Never raises."""
    try:
        adb = Adb()
        return facts_of(adb, adb.pick(spec.adb), _program(spec))
    except Unready as error:
        return Facts({}, "unavailable", error.why, error.fix)
    except DeviceGone as error:
        return Facts({}, "unavailable", str(error), "attach it again")


class AdbDevice(Device):
    """See `Device`. Files lie in a folder of this object's own on the device until `close`; candidates go earlier.

    Raises:
        ConfigError: there is no adb here, or `benchmark_model` is missing or no program.
    """

    def __init__(self, spec: RemoteDevice, target: Target, say: Callable[[str], None]) -> None:
        super().__init__(spec, target, say)
        try:
            self._adb = Adb()
            runtime_of(_program(spec))
        except Unready as error:
            raise ConfigError([f"device.adb: {error}"]) from error
        self._serial = ""
        self._folder = f"{PLACE}/autoshrink-{secrets.token_hex(6)}"
        self._child: ChildProcess | None = None
        self._closed = False
        self._used = False

    @classmethod
    def look(cls, spec: RemoteDevice, target: Target) -> Facts:
        """See `Device.look`: each state of Android's own list has its way out."""
        del target
        return state_of(spec)

    def facts(self) -> Facts:
        """See `Device.facts`.

        Raises:
            DeviceGone: it was there before.
            TargetUnavailable: there is no device, it is not ready, or the program is none for it; an `Unready`, which
                has `why` and `fix` apart.
        """
        self._find()
        return facts_of(self._adb, self._serial, _program(self.spec))

    def run(self, job: Job, work: Path, on_stage: OnStage) -> JobResult:
        """See `Device.run`.

        Raises:
            DeviceGone: it went away, or was closed.
            TargetUnavailable: as `facts`.
            ChildError: the file does not run there, or not here for its accuracy; or not in `child.time_limit_s`.
        """
        if job.probe:
            return JobResult(capabilities=self.facts().capabilities)
        self._find()
        if not self._used:
            self._used = True
            self.say(f"{self.name}: {HERE}")
        work.mkdir(parents=True, exist_ok=True)
        (work / LOG).touch()
        # Of a try before, which the device did not stay for.
        shutil.rmtree(work / RAW, ignore_errors=True)
        with device_lock(f"adb-{self._serial}", lambda: on_stage(WAITING)):
            run = _Run(self._adb, self._serial, self._folder, _program(self.spec), job, work, on_stage)
            timed = run.result()
        return self._with_accuracy(job, work, on_stage, timed, run)

    def close(self) -> None:
        """See `Device.close`."""
        self._closed = True
        child = self._child
        if child is not None and child.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
        self._adb.stop()
        if self._used:
            self._adb.remove(self._serial, self._folder)

    def _find(self) -> None:
        """The device's serial number, which is kept: `any` is the same one from then on."""
        if self._closed:
            raise DeviceGone(CLOSED)
        try:
            self._serial = self._adb.pick(self._serial or self.spec.adb)
        except Unready as error:
            if self._serial:
                raise DeviceGone(str(error)) from error
            raise

    def _with_accuracy(self, job: Job, work: Path, on_stage: OnStage, timed: JobResult, run: _Run) -> JobResult:
        """`timed`, with the audit and the outputs of the same file here."""
        limits = replace(job.limits, time_limit_s=max(1.0, run.left()))
        # The processors to keep to are those of the device. The audit carries what the device says.
        here = replace(job, measure=None, reference=None, profile=0, pin=(), limits=limits, audit=True)
        try:
            with ChildProcess(work, job.threads) as child:
                self._child = child
                if self._closed:
                    raise DeviceGone(CLOSED)
                result = run_job(here, work, on_stage, child=child)
        except ChildError as error:
            if self._closed:
                raise DeviceGone(CLOSED) from error
            raise
        finally:
            self._child = None
        seconds = {**result.seconds, **timed.seconds}
        seconds["load"] = timed.seconds["load"] + result.seconds.get("load", 0.0)
        audit = result.audit and _noted(result.audit, run.notes)
        return replace(
            timed,
            files=result.files,
            audit=audit,
            outputs=result.outputs,
            seconds=seconds,
        )


class _Run:
    """The part of one job that the device does.

    Attributes:
        notes: what the program says of the candidate beside its times.
    """

    def __init__(
        self, adb: Adb, serial: str, folder: str, program: Path, job: Job, work: Path, on_stage: OnStage
    ) -> None:
        self._adb, self._serial, self._folder, self._program = adb, serial, folder, program
        self._job, self._work, self._on_stage = job, work, on_stage
        self._ends = time.monotonic() + job.limits.time_limit_s
        self._stage = "load"
        self._benchmarks = 0
        self._binary = ""
        self.notes: tuple[str, ...] = ()

    def left(self) -> float:
        """Seconds of the job's time limit."""
        return self._ends - time.monotonic()

    def result(self) -> JobResult:
        job = self._job
        pushed: list[str] = []
        try:
            seconds = {"load": -time.monotonic()}
            self._on_stage("load")
            self._adb.ask(self._serial, _line("mkdir", "-p", self._folder))
            # Its mode comes after it: adb keeps that of this machine, where it need not be executable.
            self._binary = self._put(self._program)
            self._adb.ask(self._serial, _line("chmod", "755", self._binary))
            candidate = self._put(_file(job.artifact))
            reference = self._put(_file(job.reference)) if job.reference else candidate
            pushed += [candidate] if candidate != reference else []
            inputs = self._inputs(job.artifact)
            # Not one that is timed: watching the memory takes a thread beside.
            first = self.benchmark(candidate, inputs, 1, 0.0, memory=True)
            self.notes = first.notes
            seconds["load"] += time.monotonic()
            found = JobResult(runtime=runtime_of(self._program), peak_memory_bytes=first.peak_bytes, seconds=seconds)
            return self._measured(found, candidate, reference, inputs) if job.measure else found
        finally:
            with suppress(DeviceGone):
                for place in pushed:
                    self._adb.ask(self._serial, _line("rm", "-f", place))

    def _measured(self, found: JobResult, candidate: str, reference: str, inputs: Inputs) -> JobResult:
        job = self._job
        assert job.measure  # noqa: S101 - the caller looked
        self._stage = "measure"
        self._on_stage("measure")
        began = time.monotonic()
        reference_inputs = self._inputs(job.reference) if job.reference else inputs
        before = temperature(self._adb, self._serial)
        samples = sample(
            BenchmarkCalls(self, candidate, inputs),
            BenchmarkCalls(self, reference, reference_inputs),
            job.measure,
            job.seed,
        )
        after = temperature(self._adb, self._serial)
        samples.save(self._work / SAMPLES)
        return replace(
            found,
            latency=summarise(samples, job.measure, job.seed),
            samples=self._work / SAMPLES,
            sensors={name: (before[name], after[name]) for name in before if name in after},
            seconds={**found.seconds, "measure": time.monotonic() - began},
        )

    def benchmark(self, graph: str, inputs: Inputs, calls: int, seconds: float, memory: bool = False) -> Benchmark:
        """One start of the program; its text is kept.

        Raises:
            DeviceGone: the device went away.
            ChildError: the program fails, prints something else, or takes too long.
        """
        self._benchmarks += 1
        kept = self._work / RAW / f"{self._benchmarks:04}.txt"
        kept.parent.mkdir(exist_ok=True)
        left = self.left()
        if left <= 0:
            kept.touch()
            raise self._too_long(kept)
        command = [self._binary, *flags(graph, self._job.threads, calls, seconds, left, inputs, memory)]
        if self._job.pin:
            command = ["taskset", f"{sum(1 << number for number in self._job.pin):x}", *command]
        pid = f"{self._folder}/pid"
        line = f"sh -c 'echo $$ >{_line(pid)}; exec {_line(*command)}' 2>&1"
        try:
            ran = self._adb.shell(self._serial, line, left + OVER_S)
        except TimeoutError:
            kept.touch()
            self._adb.ask(self._serial, f"kill -9 $(cat {_line(pid)})")
            raise self._too_long(kept) from None
        kept.write_text(f"$ {' '.join(command)}\n{ran.text}\nended with code {ran.code}\n")
        if ran.code:
            raise ChildError(self._stage, why_failed(ran.text, ran.code), str(kept))
        try:
            found = parse_benchmark(ran.text)
        except ValueError as error:
            raise ChildError(self._stage, f"what benchmark_model prints {error}", str(kept)) from None
        if found.calls < calls:
            raise self._too_long(kept)
        return found

    def _put(self, file: Path) -> str:
        """Where the file lies on the device, under a name of its content; it is pushed unless it is there."""
        try:
            sha = file_sha256(file)
        except OSError as error:
            raise ChildError("load", f"{file.name} cannot be read: {error.strerror}", str(self._work / LOG)) from None
        place, size = f"{self._folder}/{sha[:32]}", file.stat().st_size
        if not self._lies(place, size, sha):
            refused = self._adb.push(self._serial, file, place)
            if refused:
                raise ChildError("load", f"the device does not take {file.name}: {refused}", str(self._work / LOG))
            if not self._lies(place, size, sha):
                raise DeviceGone(f"{file.name} did not arrive on device {self._serial} as it was sent")
        return place

    def _lies(self, place: str, size: int, sha: str) -> bool:
        ran: Ran = self._adb.ask(self._serial, f"wc -c <{_line(place)}; sha256sum {_line(place)}")
        sums = re.findall(r"\b[0-9a-f]{64}\b", ran.text)
        # Devices before Android 6 have no sha256sum.
        return ran.text.split()[:1] == [str(size)] and all(each == sha for each in sums)

    def _inputs(self, artifact: Loaded) -> Inputs:
        """The example's arrays as the file takes them, pushed, in the order of its inputs."""
        if self._job.example is None:
            return []
        from autoshrink.backends.tflite_graph import Graph

        path = _file(artifact)
        try:
            graph = Graph(path.read_bytes())
            names = {index: name for name, index in graph.ports()[0].items()}
            wanted = [(names[index], graph.shape(index)) for index in graph.inputs]
        except Exception as error:
            reason = f"{path.name} is no .tflite file with a signature: {type(error).__name__}: {error}"
            raise ChildError("load", reason, str(self._work / LOG)) from None
        arrays = map_arrays(self._job.example)
        return [self._input(arrays, name, shape) for name, shape in wanted]

    def _input(self, arrays: Mapping[str, np.ndarray], name: str, shape: Sequence[int]) -> tuple[str, Sequence[int]]:
        if name not in arrays:
            raise ChildError("load", f"the example has {sorted(arrays)}, and not {name!r}", str(self._work / LOG))
        array = np.asarray(arrays[name])
        if str(self._job.options.get("layout", "nchw")) == "nhwc" and array.ndim == 4:
            array = np.moveaxis(array, 1, -1)
        if array.shape != tuple(shape):
            reason = f"input {name!r} has shape {list(array.shape)}; the model takes {list(shape)}"
            raise ChildError("load", reason, str(self._work / LOG))
        content = np.ascontiguousarray(array).tobytes()
        file = self._work / RAW / "input"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        try:
            return self._put(file), array.shape
        finally:
            file.unlink()

    def _too_long(self, log: Path) -> ChildError:
        limit = self._job.limits.time_limit_s
        reason = f"did not end within child.time_limit_s = {limit:g}; child.time_limit_s in the target raises it"
        return ChildError(self._stage, reason, str(log))


class BenchmarkCalls(RemoteCalls):
    """Turns of one file: each is a start of the program."""

    def __init__(self, run: _Run, graph: str, inputs: Inputs) -> None:
        self._run, self._graph, self._inputs = run, graph, inputs

    def turn(self, least_s: float, least_calls: int) -> Floats:
        """See `RemoteCalls.turn`: one row, the mean of the calls. The program tells no CPU time: that column is 0."""
        found = self._run.benchmark(self._graph, self._inputs, least_calls, least_s)
        return np.array([[found.seconds, 0.0]])


def _program(spec: RemoteDevice) -> Path:
    return Path(spec.benchmark_model).expanduser()


def _file(artifact: Loaded) -> Path:
    return artifact.folder / artifact.files[0]


def _noted(audit: Audit, notes: Sequence[str]) -> Audit:
    return replace(audit, notes=(*audit.notes, HERE, *(f"on the device: {note}" for note in notes)))


def _line(*words: str) -> str:
    """The words as one line for the device's shell.

    Raises:
        ValueError: one of them is more than a plain word there.
    """
    for word in words:
        if not WORD.fullmatch(word):
            raise ValueError(
                f"{word!r} is no plain word; only letters, digits and _ . / : , = - go to a device's shell"
            )
    return " ".join(words)
