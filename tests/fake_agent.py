"""A real agent for tests, whose table of runtimes has those of `tests.fake_backends` too; or one with a fake runner.

`python -m tests.fake_agent '{"token": ..., ...}'`; tells its port in a line on standard output.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from autoshrink.agent import serve
from autoshrink.agent.guard import Rules
from autoshrink.backends import BACKENDS
from autoshrink.isolate.job import LOG, Job, JobResult
from autoshrink.types import ArtifactFile

FAKES = ("FakeBackend", "FakeSegfault", "FakeHang", "FakeBroken", "FakeHungry", "FakeSegfaultAtLoad")


class FakeRunner:
    """Runs nothing and gives an empty result at once."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def prepare(self, threads: int, backend: str) -> Path:
        folder = self._place / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def run(self, job: Job, folder: Path, on_stage: Callable[[str], None]) -> JobResult:
        on_stage("measure")
        (folder / LOG).write_text("x" * 10_000)
        return JobResult((ArtifactFile("artifact", 1, "0" * 64),), "fake 1")

    def stop(self) -> None:
        pass

    def close(self) -> None:
        shutil.rmtree(self._place)


def main() -> None:
    asked = json.loads(sys.argv[1])
    for name in FAKES:
        BACKENDS[f"tests.fake_backends:{name}"] = ("tests.fake_backends", name)
    if asked.get("fake_runner"):
        serve.Runner = FakeRunner  # type: ignore[assignment,misc]
    serve.HEADER_S = asked.get("header_s", serve.HEADER_S)
    valid_for = asked.get("valid_for")
    rules = Rules(
        asked["token"],
        None if valid_for is None else time.monotonic() + valid_for,
        most_json=asked.get("most_json", 2**20),
        most_file=asked.get("most_file", 2**30),
        silence_s=asked.get("silence_s", 20.0),
    )
    settings = serve.Settings(
        "127.0.0.1",
        asked.get("port", 0),
        rules,
        most_stored=asked.get("most_stored", 2**30),
        grace_s=asked.get("grace_s", 60.0),
        certificate=Path(asked["certificate"]) if "certificate" in asked else None,
        key=Path(asked["key"]) if "key" in asked else None,
    )

    def ready(port: int) -> None:
        sys.stdout.write(f"{port} {os.getpid()}\n")
        sys.stdout.flush()

    serve.serve(settings, ready)


if __name__ == "__main__":
    main()
