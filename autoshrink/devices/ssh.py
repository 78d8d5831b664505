"""A device that the user reaches by ssh: an agent is started there for the time of the search, and nothing stays.

One connection carries both: the agent's standard input, whose end is the agent's end, and its port.
"""

from __future__ import annotations

import secrets
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from autoshrink import __version__
from autoshrink.agent.__main__ import READY, TAKEN
from autoshrink.devices.agent import Link
from autoshrink.devices.base import Device, DeviceGone, Facts, OnStage
from autoshrink.errors import ConfigError, TargetUnavailable
from autoshrink.isolate.job import Job, JobResult
from autoshrink.target import RemoteDevice, Target

START_S = 60.0
END_S = 10.0
PORTS = range(20000, 32000)
TRIES = 5
OPTIONS = (
    # No question could be answered; keys, agents and everything else are as the user's own configuration has them.
    *("-o", "BatchMode=yes"),
    *("-o", "ExitOnForwardFailure=yes"),
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "ConnectTimeout=15"),
)


class SshDevice(Device):
    """A device behind the user's own ssh, with autoshrink's light core and the runtime in its Python.

    Raises:
        ConfigError: there is no ssh program here.
    """

    def __init__(self, spec: RemoteDevice, target: Target, say: Callable[[str], None]) -> None:
        super().__init__(spec, target, say)
        if shutil.which("ssh") is None:
            raise ConfigError(["device.ssh: there is no ssh program on this machine; install OpenSSH's client"])
        self._python = spec.python or "python3"
        self._connection: Connection | None = None
        self._closed = False

    @classmethod
    def remedy(cls, spec: RemoteDevice) -> str:
        """See `Device.remedy`."""
        return f"name your own device in a copy of the profile; `ssh {spec.ssh}` must work without a question"

    def facts(self) -> Facts:
        """See `Device.facts`. Connects when there is no connection."""
        connection = self._connection
        if connection is None or connection.is_over:
            self._end()
            if self._closed:
                raise DeviceGone(f"{self.name}: the search has ended")
            connection = self._connection = connect(self.spec.ssh, self._python)
        return connection.link.facts(self)

    def run(self, job: Job, work: Path, on_stage: OnStage) -> JobResult:
        """See `Device.run`."""
        connection = self._connection
        if connection is None:
            raise DeviceGone(f"{self.name} is not connected")
        return connection.link.run(job, work, on_stage)

    def close(self) -> None:
        """Ends the connection, and the agent with it."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.close()


class Connection:
    """A running ssh with an agent at its other end.

    Attributes:
        link: to the agent.
    """

    def __init__(self, process: subprocess.Popen[bytes], link: Link) -> None:
        self._process = process
        self.link = link

    @property
    def is_over(self) -> bool:
        """Whether ssh has ended."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Ends it. May be called twice."""
        self.link.close()
        _end(self._process)


def connect(host: str, python: str) -> Connection:
    """Starts an agent on `host` by ssh.

    Raises:
        DeviceGone: the host cannot be reached.
        TargetUnavailable: it can, and refuses, or has no agent; with ssh's own words and the way out.
    """
    for _ in range(TRIES):
        # Which ports are free there is not known beforehand: one that is taken is told, and another one tried.
        there, here = secrets.choice(PORTS), _free_port()
        command = [
            *("ssh", *OPTIONS, "-L", f"127.0.0.1:{here}:127.0.0.1:{there}", "--", host),
            f"exec {shlex.quote(python)} -m autoshrink.agent {there}",
        ]
        token = secrets.token_urlsafe(24)
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            said = _started(process, token)
        except BaseException:
            _end(process)
            raise
        if said is None:
            return Connection(process, Link(f"http://127.0.0.1:{here}", token, known_as="the agent's own token"))
        _end(process)
        if process.returncode != TAKEN:
            raise _refused(host, python, said)
    raise TargetUnavailable(f"ssh {host}: {TRIES} ports of {PORTS.start} to {PORTS.stop} were all taken there")


def _started(process: subprocess.Popen[bytes], token: str) -> list[str] | None:
    """None once the agent is ready, else what ssh or the other side said before it ended."""
    assert process.stdin and process.stdout and process.stderr  # noqa: S101 - all are pipes
    with suppress(BrokenPipeError):
        # On standard input: everybody on that machine can read arguments and environments.
        process.stdin.write(f"{token}\n".encode())
        process.stdin.flush()
    lines: SimpleQueue[tuple[bool, str]] = SimpleQueue()
    for stream, is_error in ((process.stdout, False), (process.stderr, True)):
        threading.Thread(target=_read, args=(stream, is_error, lines), daemon=True).start()
    said: list[str] = []
    open_streams = 2
    while open_streams:
        try:
            is_error, line = lines.get(timeout=START_S)
        except Empty:
            return [*said, f"nothing more came in {START_S:g} s"]
        if not line:
            open_streams -= 1
        elif not is_error and line.startswith(READY):
            return None
        elif line.strip():
            said.append(line.strip())
    return said


def _read(stream: IO[bytes], is_error: bool, lines: SimpleQueue[tuple[bool, str]]) -> None:
    """Passes lines on for as long as they come: a full pipe would stop ssh."""
    with suppress(ValueError, OSError):
        for line in stream:
            lines.put((is_error, line.decode(errors="replace")))
    lines.put((is_error, ""))


def _refused(host: str, python: str, said: list[str]) -> DeviceGone | TargetUnavailable:
    words = " | ".join(said[-3:]) or "it ended without a word"
    if "No module named" in words and "autoshrink" in words:
        return TargetUnavailable(
            f"ssh {host}: {python} there has no autoshrink; {python} -m pip install 'autoshrink[agent]=={__version__}' "
            "there, or name another Python with device.python"
        )
    unreachable = ("timed out", "No route to host", "Connection refused", "Could not resolve", "Connection reset")
    if any(each in words for each in unreachable):
        return DeviceGone(f"ssh {host}: {words}")
    return TargetUnavailable(f"ssh {host}: {words}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends ssh: first by the end of the input, on which the agent tidies up."""
    if process.stdin:
        with suppress(BrokenPipeError, ValueError):
            process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            with suppress(OSError):
                stream.close()
