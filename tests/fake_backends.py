"""Backends without a runtime, for the child: one that works, and one for each way in which a child goes wrong.

Named in a job as `tests.fake_backends:CLASS`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoshrink.backends.base import NO_OPTIONS, Array, Arrays, Availability, Backend, Compiled, Session, Source
from autoshrink.errors import StageError
from autoshrink.types import Audit, Layer, Settings

PID = "pid"


class FakeSession(Session):
    """y is x doubled; `rows` is how many rows the call had, and `kept` a constant without a batch."""

    def __init__(self, outputs: tuple[str, ...]) -> None:
        self.outputs = outputs

    def run(self, inputs: Arrays) -> dict[str, Array]:
        x = np.asarray(inputs["x"])
        results: dict[str, Array] = {"y": 2 * x, "rows": np.full(len(x), len(x)), "a/b": x, "kept": np.ones(1)}
        return {name: results[name] for name in self.outputs}

    def timed(self, inputs: Arrays) -> Callable[[], object]:
        return lambda: self.run(inputs)

    def audit(self) -> Audit:
        return Audit((Layer("layer", "Fake", "int8"),), 1, 2)


class FakeBackend(Backend):
    """Works; the artifact is a copy of the file, which names the outputs."""

    name = "tests.fake_backends:FakeBackend"
    packages = ("numpy",)
    extra = ""

    def machine(self) -> Availability:
        return Availability("ready")

    def capabilities(self) -> frozenset[str]:
        return frozenset({"FAKE"})

    def compile(self, source: Source, folder: Path) -> Compiled:
        folder.mkdir()
        (folder / "artifact").write_bytes(source.model.read_bytes())
        return Compiled(("artifact",))

    def load(
        self, folder: Path, files: tuple[str, ...], precision: str, threads: int, options: Settings = NO_OPTIONS
    ) -> Session:
        return FakeSession(tuple((folder / files[0]).read_text().split()))


class FakeSegfault(FakeBackend):
    def compile(self, source: Source, folder: Path) -> Compiled:
        sys.stderr.write("reading the graph\n")
        sys.stderr.flush()
        ctypes.string_at(0)
        return Compiled(())


class FakeHang(FakeBackend):
    """Also starts a process of its own, as some compilers do, and writes both numbers into the artifact's folder."""

    def load(
        self, folder: Path, files: tuple[str, ...], precision: str, threads: int, options: Settings = NO_OPTIONS
    ) -> Session:
        helper = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
        partial = folder / f"{PID}.partial"
        partial.write_text(f"{os.getpid()} {helper}")
        partial.rename(folder / PID)
        time.sleep(600)
        return super().load(folder, files, precision, threads, options)


class FakeHungry(FakeBackend):
    """Takes all memory, to the last byte."""

    def compile(self, source: Source, folder: Path) -> Compiled:
        hoard = []
        size = 2**26
        while True:
            try:
                hoard.append(bytes(size))
            except MemoryError:
                if size < 64:
                    raise
                size //= 2


class FakeBadAlloc(FakeBackend):
    """What the C++ library does when no handler is there."""

    def compile(self, source: Source, folder: Path) -> Compiled:
        sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n")
        sys.stderr.flush()
        os.abort()


class FakeKilled(FakeBackend):
    def compile(self, source: Source, folder: Path) -> Compiled:
        os.kill(os.getpid(), signal.SIGKILL)
        return Compiled(())


class FakeExit(FakeBackend):
    def compile(self, source: Source, folder: Path) -> Compiled:
        sys.stdout.write("out of ideas\n")
        sys.stdout.flush()
        os._exit(3)


class FakeRefusing(FakeBackend):
    def compile(self, source: Source, folder: Path) -> Compiled:
        raise StageError("compile", "operator Nonsense is not known")


class FakeBroken(FakeBackend):
    def load(
        self, folder: Path, files: tuple[str, ...], precision: str, threads: int, options: Settings = NO_OPTIONS
    ) -> Session:
        raise RuntimeError("a shape is wrong\nin line 3")


class FakeThreadCounter(FakeBackend):
    """Tells the threads that the environment allows, as a capability."""

    def capabilities(self) -> frozenset[str]:
        return frozenset({os.environ["OMP_NUM_THREADS"]})


class FakeSegfaultAtLoad(FakeBackend):
    def load(
        self, folder: Path, files: tuple[str, ...], precision: str, threads: int, options: Settings = NO_OPTIONS
    ) -> Session:
        ctypes.string_at(0)
        return super().load(folder, files, precision, threads, options)
