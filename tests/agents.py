"""What the tests of agents share: an agent as a process of its own, and jobs for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from autoshrink.devices.agent import Link
from autoshrink.isolate.job import Job, Loaded
from autoshrink.target import ChildLimits, Measuring
from tests import onnx_files

REPOSITORY = Path(__file__).parents[1]
TOKEN = "a-token-for-tests-only"
MOMENT = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=3, time_limit_s=5)
FAKE = "tests.fake_backends:FakeBackend"


@dataclass
class Agent:
    """An agent that runs; `place` is its folder for temporary files, which holds nothing else."""

    process: subprocess.Popen[bytes]
    port: int
    place: Path
    token: str = TOKEN
    scheme: str = "http"
    links: list[Link] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def http(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False)

    def link(self, **more: Any) -> Link:
        """A client, which `close_links` closes at the latest."""
        self.links.append(Link(self.url, self.token, **more))
        return self.links[-1]

    def close_links(self) -> None:
        while self.links:
            self.links.pop().close()

    def files(self) -> list[Path]:
        """What it keeps on the disk, beside the waiting child's empty log."""
        found = [path for path in self.place.rglob("*") if path.is_file()]
        return [path for path in found if path.name not in ("lock", "child.log")]

    def is_serving(self) -> bool:
        with self.http() as http:
            return self.process.poll() is None and http.get("/v1/device").status_code == 200


@contextmanager
def agent(place: Path, **settings: Any) -> Iterator[Agent]:
    """A `tests.fake_agent` with these settings; `place` is made for its temporary files."""
    place.mkdir(parents=True, exist_ok=True)
    asked = {"token": TOKEN, **settings}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.fake_agent", json.dumps(asked)],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(place), "AUTOSHRINK_CACHE": str(place.with_name(f"{place.name}-cache"))},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        with process.stdout:
            port, number = map(int, process.stdout.readline().split())
        assert number == process.pid
        scheme = "https" if "certificate" in asked else "http"
        running = Agent(process, port, place, asked["token"], scheme)
        try:
            yield running
        finally:
            running.close_links()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def fake_job(folder: Path, backend: str = FAKE, rows: int = 5, **changes: Any) -> Job:
    """A job of a fake backend: y is x doubled."""
    for name in ("artifact", "example", "val"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "artifact" / "artifact").write_text("y")
    np.save(folder / "example" / "x.npy", np.ones((1, 2), np.float32))
    np.save(folder / "val" / "x.npy", np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2))
    job = Job(
        backend,
        1,
        1,
        ChildLimits(30, 4096),
        Loaded(folder / "artifact", ("artifact",), "fp32"),
        example=folder / "example",
        measure=MOMENT,
        audit=True,
        evaluate={"val": folder / "val"},
    )
    return replace(job, **changes)


def onnx_job(folder: Path, **changes: Any) -> Job:
    """A job of ONNX Runtime with a small convolutional net."""
    for name in ("artifact", "example", "val"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    onnx_files.BUILDERS["cnn"](folder / "artifact" / "model.onnx")
    np.save(folder / "example" / "image.npy", onnx_files.image(0, onnx_files.BATCH))
    np.save(folder / "val" / "image.npy", onnx_files.image(9, 10))
    job = Job(
        "onnxruntime",
        1,
        onnx_files.BATCH,
        ChildLimits(60, 8192),
        Loaded(folder / "artifact", ("model.onnx",), "fp32"),
        example=folder / "example",
        measure=MOMENT,
        audit=True,
        evaluate={"val": folder / "val"},
    )
    return replace(job, **changes)


def wait_for(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Returns as soon as `is_so`; fails when it is not so in time."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it has not become so"
        time.sleep(0.05)


def resident_bytes(process: int) -> int:
    """Memory that a process holds now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children_of(process: int) -> list[int]:
    """Numbers of the processes that a process has started."""
    lists = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
    return [int(number) for numbers in lists for number in numbers.split()]
