"""The sessions of an agent and their jobs: one job at a time runs, the others wait in the order they came.

All of it lives in one event loop. What runs a job blocks, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from autoshrink.agent.store import Store, TooLarge
from autoshrink.agent.wire import JobRequest, job_of, result_without_paths
from autoshrink.cache import file_sha256
from autoshrink.errors import StageError
from autoshrink.isolate.job import LOG, OUTPUTS, SAMPLES, Job, JobResult
from autoshrink.isolate.parent import HOST

State = Literal["queued", "files", "running", "done", "failed"]
OVER: tuple[State, ...] = ("done", "failed")
MOST_SESSIONS = 16
LOOK_S = 2.0
"""How often the agent looks for clients that went away."""


class Refused(Exception):
    """What a client asked for is not done; with the HTTP status that says so."""

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        super().__init__(why)


class Running(Protocol):
    """What runs jobs: `autoshrink.agent.runner.Runner`, or a test's fake."""

    def prepare(self, threads: int, backend: str) -> Path:
        """The folder for a job of this kind."""

    def run(self, job: Job, folder: Path, on_stage: Callable[[str], None]) -> JobResult:
        """Does it."""

    def stop(self) -> None:
        """Ends the job that runs."""

    def close(self) -> None:
        """Ends everything."""


@dataclass(eq=False)
class Entry:
    """A job of a session.

    Attributes:
        number: of the job in its session, counted up.
        state: `queued`; `files`: it is this job's turn, and files are missing; `running`; `done` or `failed`.
        missing: SHA-256 of the files that are to be sent.
        stage: of the run, or of the failure.
        reason: why it failed.
        result: without its files, which are `files`: name -> (bytes, SHA-256), in `folder`.
        version: counted up with each change of what a client sees.
    """

    session: Session
    number: int
    request: JobRequest
    state: State = "queued"
    missing: set[str] = field(default_factory=set)
    stage: str = ""
    reason: str = ""
    result: dict[str, Any] | None = None
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    folder: Path | None = None
    version: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False


@dataclass(eq=False)
class Session:
    """A client that works with the agent. Its jobs are numbered upwards, so that none can be sent twice.

    Attributes:
        heard: `time.monotonic()` of its last request; `waiting` are those that wait for their answer now.
        last: number of its latest job.
    """

    name: str
    heard: float
    waiting: int = 0
    last: int = 0
    entry: Entry | None = None


class Queue:
    """See the module.

    Args:
        runner: runs the jobs.
        store: holds their files.
        grace_s: seconds after which a client that says nothing is given up.
    """

    def __init__(self, runner: Running, store: Store, grace_s: float) -> None:
        self.latest: Mapping[str, Any] = {}
        self._runner, self._store, self._grace = runner, store, grace_s
        self._sessions: dict[str, Session] = {}
        self._waiting: deque[Entry] = deque()
        self._current: Entry | None = None
        self._more = asyncio.Event()
        # The children die with the thread that started them, so it stays as long as the agent does.
        self._thread = ThreadPoolExecutor(1)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to work, in the loop that runs."""
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._look_for_leavers())]

    async def close(self) -> None:
        """Ends the job that runs, and everything else."""
        self._runner.stop()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.get_running_loop().run_in_executor(self._thread, self._runner.close)
        self._thread.shutdown()

    @property
    def length(self) -> int:
        """Jobs that run or wait."""
        return len(self._waiting) + (self._current is not None)

    def open(self) -> Session:
        """A new session.

        Raises:
            Refused: there are too many.
        """
        if len(self._sessions) >= MOST_SESSIONS:
            raise Refused(429, f"{MOST_SESSIONS} clients are connected already; try again when one has left")
        session = Session(secrets.token_hex(16), time.monotonic())
        self._sessions[session.name] = session
        return session

    def session(self, name: str) -> Session:
        """The session of a name, which has been heard of now.

        Raises:
            Refused: there is none, or not any more.
        """
        session = self._sessions.get(name)
        if session is None:
            raise Refused(410, "this session is not open: it was ended, or its client was silent for too long")
        session.heard = time.monotonic()
        return session

    def end(self, session: Session) -> None:
        """Ends a session, its job with it, and forgets its files."""
        self._drop(session)
        self._sessions.pop(session.name, None)
        self._store.forget(session.name)

    def submit(self, session: Session, number: int, request: JobRequest) -> Entry:
        """Queues a job. The same one sent again, as when an answer was lost, is the one that is there.

        Raises:
            Refused: its number is used up, or the session's job before is not over.
        """
        entry = session.entry
        if entry and entry.number == number and entry.request == request:
            return entry
        if number <= session.last:
            raise Refused(409, f"job {number} was sent before; a job is done once. The next is {session.last + 1}")
        if entry and entry.state not in OVER:
            raise Refused(409, f"job {entry.number} is not over; a session has one job at a time")
        self._drop(session)
        session.last = number
        session.entry = Entry(session, number, request)
        self._waiting.append(session.entry)
        self._more.set()
        return session.entry

    def entry(self, session: Session, number: int) -> Entry:
        """A job of a session.

        Raises:
            Refused: it is not there.
        """
        if session.entry is None or session.entry.number != number:
            raise Refused(404, f"there is no job {number} in this session")
        return session.entry

    def remove(self, session: Session, number: int) -> None:
        """Ends a job and forgets what it gave."""
        self.entry(session, number)
        self._drop(session)

    def position(self, entry: Entry) -> int:
        """How many jobs come before it."""
        ahead = list(self._waiting).index(entry) if entry in self._waiting else 0
        return ahead + (self._current is not None and self._current is not entry)

    async def receive(self, entry: Entry, sha256: str, chunks: Any) -> None:
        """A file of the job whose turn it is, as bytes that come in parts.

        Raises:
            Refused: the job does not want it now.
            Wrong: it is not what the job announced.
        """
        if entry.state != "files" or sha256 not in entry.missing:
            raise Refused(409, "this file is not wanted now: files are sent when it is the job's turn, each once")
        with self._store.receive(sha256, entry.request.files()[sha256], entry.session.name) as upload:
            async for chunk in chunks:
                entry.session.heard = time.monotonic()
                upload.write(chunk)
            if entry.gone:
                raise Refused(410, "the job was ended meanwhile")
            upload.finish()
        entry.missing.discard(sha256)
        if not entry.missing:
            self._say(entry)

    async def wait(self, entry: Entry, version: int, seconds: float) -> None:
        """Returns when the job has changed since `version`, or after so many seconds."""
        session = entry.session
        session.waiting += 1
        try:
            if entry.version == version and not entry.gone:
                with suppress(TimeoutError):
                    await asyncio.wait_for(entry.changed.wait(), seconds)
        finally:
            session.waiting -= 1
            session.heard = time.monotonic()

    def _say(self, entry: Entry, state: State | None = None, stage: str = "") -> None:
        entry.state = state or entry.state
        entry.stage = stage or entry.stage
        entry.version += 1
        entry.changed.set()
        entry.changed = asyncio.Event()

    def _drop(self, session: Session) -> None:
        entry, session.entry = session.entry, None
        if entry is None:
            return
        entry.gone = True
        if entry in self._waiting:
            self._waiting.remove(entry)
        if entry is self._current:
            # Its folder goes when the run has ended.
            if entry.state == "running":
                self._runner.stop()
        elif entry.folder:
            shutil.rmtree(entry.folder, ignore_errors=True)
        self._say(entry)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            self._current = entry = self._waiting.popleft()
            try:
                await self._do(entry)
            finally:
                self._current = None
                if entry.gone and entry.folder:
                    shutil.rmtree(entry.folder, ignore_errors=True)
                for waiting in self._waiting:
                    self._say(waiting)

    async def _do(self, entry: Entry) -> None:
        loop = asyncio.get_running_loop()
        request = entry.request
        try:
            entry.missing = set(self._store.missing(request.files(), entry.session.name))
            if entry.missing:
                self._say(entry, "files")
            while entry.missing and not entry.gone:
                await entry.changed.wait()
            if entry.gone:
                return
            prepared = loop.run_in_executor(self._thread, self._runner.prepare, request.threads, request.backend)
            entry.folder = folder = await prepared
            job, places = job_of(request, folder, HOST)
            self._store.put(places)
            self._say(entry, "running", "start")

            def on_stage(stage: str) -> None:
                loop.call_soon_threadsafe(self._say, entry, "running", stage)

            result = await loop.run_in_executor(self._thread, self._runner.run, job, folder, on_stage)
            entry.files = await loop.run_in_executor(self._thread, _files_of, result, folder)
            entry.result = result_without_paths(result)
            if result.latency:
                self.latest = {"ratio": result.latency.ratio, "ms": result.latency.ms, "unrest": result.latency.unrest}
            self._say(entry, "done")
        except TooLarge as error:
            self._fail(entry, "send", str(error))
        except StageError as error:
            if entry.folder:
                entry.files = _described({LOG: entry.folder / LOG})
            self._fail(entry, error.stage, error.reason)
        except (OSError, ValueError, KeyError) as error:
            self._fail(entry, entry.stage or "start", f"the agent cannot do it: {error!r}")
        # The next job finds a child that has its imports behind it.
        await loop.run_in_executor(self._thread, self._runner.prepare, request.threads, request.backend)

    def _fail(self, entry: Entry, stage: str, reason: str) -> None:
        entry.reason = reason
        self._say(entry, "failed", stage)

    async def _look_for_leavers(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK_S, self._grace / 2))
            now = time.monotonic()
            for session in list(self._sessions.values()):
                if not session.waiting and now - session.heard > self._grace:
                    self.end(session)


def _files_of(result: JobResult, folder: Path) -> dict[str, tuple[int, str]]:
    """What a client fetches of a result: name -> (bytes, SHA-256)."""
    paths = {LOG: folder / LOG}
    if result.samples:
        paths[SAMPLES] = result.samples
    for name, outputs in result.outputs.items():
        paths |= {f"{OUTPUTS}/{name}/{path.name}": path for path in sorted(outputs.glob("*.npy"))}
    return _described(paths)


def _described(paths: Mapping[str, Path]) -> dict[str, tuple[int, str]]:
    return {name: (path.stat().st_size, file_sha256(path)) for name, path in paths.items() if path.is_file()}
