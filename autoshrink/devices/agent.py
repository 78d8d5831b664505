"""A device on which `autoshrink agent` runs, over HTTP.

Every request may be sent again: what was done is not done twice. So a link that loses packets costs time and no trial.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import httpx

from autoshrink import __version__
from autoshrink.agent.wire import PROTOCOL, JobRequest, plain_name, request_of, result_with_paths
from autoshrink.devices.base import Device, DeviceGone, Facts, OnStage
from autoshrink.errors import ChildError, ConfigError, TargetUnavailable
from autoshrink.isolate.job import LOG, Job, JobResult, Loaded
from autoshrink.isolate.parent import WAITING
from autoshrink.target import RemoteDevice, Target

SILENT_S = 45.0
"""Seconds without an answer after which the device counts as gone."""
GREETING_S = 5.0
"""The same of a device that is only asked whether it is there."""
LOOK_S = 20.0
"""Longest that an answer is held back while nothing changes; see `agent.app.LONGEST_WAIT_S`."""
TIMES = httpx.Timeout(connect=5.0, read=LOOK_S + 10, write=30.0, pool=5.0)
CHUNK = 2**18

_T = TypeVar("_T")


class AgentDevice(Device):
    """A device with an agent that its owner started.

    Raises:
        ConfigError: the token's variable is empty, or the certificates cannot be read.
    """

    def __init__(self, spec: RemoteDevice, target: Target, say: Callable[[str], None]) -> None:
        super().__init__(spec, target, say)
        token = os.environ.get(spec.token_env, "")
        if not token:
            raise ConfigError(
                [f"device.token_env: ${spec.token_env} is empty; put the token there that the agent at {spec.agent} "
                 "printed when it was started"]
            )  # fmt: skip
        self._link = Link(spec.agent, token, spec.ca, f"${spec.token_env}")

    @classmethod
    def remedy(cls, spec: RemoteDevice) -> str:
        """See `Device.remedy`."""
        return f"start `autoshrink agent` on the device, and put the token that it prints into ${spec.token_env}"

    def facts(self) -> Facts:
        """See `Device.facts`."""
        return self._link.facts(self)

    def run(self, job: Job, work: Path, on_stage: OnStage) -> JobResult:
        """See `Device.run`."""
        return self._link.run(job, work, on_stage)

    def close(self) -> None:
        """Ends the session there; a job of it that runs is ended."""
        self._link.close()


class Link:
    """A client of one agent, with one session that is opened when it is needed.

    Args:
        url: of the agent.
        token: that it wants.
        certificates: file of those to trust for https; empty are the system's.
        known_as: what the user knows the token by, for errors.
        patience_s: seconds without an answer after which the device counts as gone.
    """

    def __init__(
        self, url: str, token: str, certificates: str = "", known_as: str = "its token", patience_s: float = SILENT_S
    ) -> None:
        self.url = url
        self._known_as = known_as
        self._patience = patience_s
        self._closed = Event()
        self._session = ""
        self._number = 0
        self._capabilities: dict[str, frozenset[str]] = {}
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMES,
            verify=_trusted(url, certificates),
            # A proxy for the internet is none for a device beside this machine.
            trust_env=False,
        )

    def facts(self, device: Device) -> Facts:
        """What the agent says of its device and of the runtime of the device's target.

        Raises:
            DeviceGone: it does not answer.
            TargetUnavailable: it is of another version, or refuses the token.
        """
        found = self._ask("GET", "/v1/device", patience_s=min(GREETING_S, self._patience))
        try:
            if found["protocol"] != PROTOCOL or found["autoshrink"] != __version__:
                raise TargetUnavailable(
                    f"{device.name}: autoshrink {found['autoshrink']} is there and {__version__} here; both must be "
                    f"the same: pip install 'autoshrink[agent]=={__version__}' there"
                )
            can = found["backends"][device.target.backend]
            machine = {name: found["machine"].get(name) for name in ("memory_bytes", "versions", "sensors")}
            about = {"queue": found["queue"], "latest": found["latest"], **machine}
            identity = {str(name): str(value) for name, value in can["identity"].items()}
            facts = Facts(identity, can["state"], can["why"], can["fix"], about=about)
        except (KeyError, TypeError, AttributeError) as error:
            raise TargetUnavailable(f"{device.name}: what answers there is no autoshrink agent ({error!r})") from error
        if facts.state not in ("ready", "untimed"):
            return facts
        return Facts(identity, facts.state, facts.why, facts.fix, self._probe(device.target, str(identity)), about)

    def run(self, job: Job, work: Path, on_stage: OnStage) -> JobResult:
        """See `Device.run`."""
        work.mkdir(parents=True, exist_ok=True)
        request, files = request_of(job)
        where, state = self._submit(request, work)
        try:
            return self._follow(where, state, files, work, on_stage)
        finally:
            with suppress(DeviceGone, TargetUnavailable, _Status):
                self._ask("DELETE", where, patience_s=2.0)

    def close(self) -> None:
        """Ends the session. May be called twice, and from another thread while a job runs."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._session:
            with suppress(httpx.HTTPError):
                self._http.delete(f"/v1/sessions/{self._session}", timeout=2.0)
        self._http.close()

    def _probe(self, target: Target, identity: str) -> frozenset[str]:
        if identity not in self._capabilities:
            job = Job(
                target.backend, target.threads, target.batch, target.child, Loaded(Path(), (), "fp32"), probe=True
            )
            where, state = self._submit(request_of(job)[0], Path())
            result = self._follow(where, state, {}, Path(), lambda _stage: None)
            self._capabilities[identity] = result.capabilities
        return self._capabilities[identity]

    def _submit(self, request: JobRequest, work: Path) -> tuple[str, Mapping[str, Any]]:
        """Sends a job; its path and what is said of it."""
        for _ in range(2):
            if not self._session:
                self._session = str(self._ask("POST", "/v1/sessions")["session"])
                self._number = 0
            self._number += 1
            where = f"/v1/sessions/{self._session}/jobs/{self._number}"
            try:
                return where, self._ask("PUT", where, json=request.model_dump(mode="json"))
            except _Status as error:
                if error.status != 410:
                    raise error.as_child_error(work) from None
                # The agent was started again, or this side was silent for too long: a new session is as good.
                self._session = ""
        raise DeviceGone(f"{self.url}: the agent ends every session")

    def _follow(
        self, where: str, state: Mapping[str, Any], files: Mapping[str, Path], work: Path, on_stage: OnStage
    ) -> JobResult:
        """Sends what is missing, waits for the end, and fetches what came out."""
        said = ""
        try:
            while True:
                if state["state"] == "files":
                    for sha256 in state["missing"]:
                        self._send(f"{where}/files/{sha256}", files[sha256])
                elif state["state"] in ("done", "failed"):
                    return self._fetch(where, state, work)
                now = WAITING if state["state"] == "queued" else state["stage"]
                if now and now != said and now != "start":
                    said = now
                    on_stage(now)
                wait = 0 if state["state"] == "files" else LOOK_S
                state = self._ask("GET", where, params={"since": state["version"], "wait": wait})
        except _Status as error:
            if error.status in (404, 410):
                raise DeviceGone(f"{self.url}: {error.why}") from None
            raise error.as_child_error(work) from None
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceGone(f"{self.url}: what it answers cannot be understood ({error!r})") from error

    def _send(self, where: str, path: Path) -> None:
        size = path.stat().st_size

        def content() -> Iterator[bytes]:
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk

        try:
            self._ask("PUT", where, content=content, headers={"Content-Length": str(size)})
        except _Status as error:
            # Sent again after its answer was lost, it is not wanted any more.
            if error.status != 409:
                raise

    def _fetch(self, where: str, state: Mapping[str, Any], work: Path) -> JobResult:
        names = []
        for name, (size, sha256) in state.get("files", {}).items():
            self._fetch_file(f"{where}/files/{name}", work / plain_name(name), int(size), sha256)
            names.append(name)
        if state["state"] == "failed":
            log = work / LOG
            if not log.exists():
                log.write_text(f"{state['reason']}\n")
            raise ChildError(str(state["stage"]), str(state["reason"]), str(log))
        return result_with_paths(state["result"], work, names)

    def _fetch_file(self, where: str, path: Path, size: int, sha256: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)

        def fetch() -> None:
            digest = hashlib.sha256()
            with self._http.stream("GET", where) as response, path.open("wb") as stream:
                _check(response)
                for chunk in response.iter_bytes(CHUNK):
                    if stream.tell() + len(chunk) > size:
                        raise httpx.ReadError("more came than was announced")
                    digest.update(chunk)
                    stream.write(chunk)
            if digest.hexdigest() != sha256:
                raise httpx.ReadError("other bytes came than were announced")

        self._again(fetch, self._patience)

    def _ask(
        self,
        method: str,
        where: str,
        patience_s: float | None = None,
        content: Callable[[], Iterator[bytes]] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """An answer in JSON. `content` gives a body anew for each try."""

        def ask() -> dict[str, Any]:
            response = self._http.request(method, where, content=content() if content else None, **more)
            _check(response)
            try:
                found = response.json()
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise TargetUnavailable(f"{self.url}: what answers there is no autoshrink agent")
            return found

        return self._again(ask, self._patience if patience_s is None else patience_s)

    def _again(self, do: Callable[[], _T], patience_s: float) -> _T:
        """What `do` gives; it is done again while the link fails, for `patience_s` seconds.

        Raises:
            DeviceGone: it failed for so long, or this side was closed.
            TargetUnavailable: the token is refused.
            _Status: the agent refuses.
        """
        began = time.monotonic()
        pause = 0.1
        while not self._closed.is_set():
            try:
                return do()
            except (httpx.TransportError, RuntimeError) as error:
                why = str(error) or type(error).__name__
            except _Status as error:
                if error.status == 401:
                    raise TargetUnavailable(f"{self.url}: {self._known_as} is refused: {error.why}") from None
                if error.status not in (408, 503):
                    raise
                why = error.why
            if time.monotonic() - began > patience_s:
                raise DeviceGone(f"{self.url} does not answer: {why}")
            self._closed.wait(pause)
            pause = min(2 * pause, 2.0)
        raise DeviceGone(f"{self.url}: the search has ended")


class _Status(Exception):
    """The agent refuses, and says why."""

    def __init__(self, status: int, why: str) -> None:
        self.status, self.why = status, why
        super().__init__(f"{status}: {why}")

    def as_child_error(self, work: Path) -> ChildError:
        """As a trial is told."""
        log = work / LOG
        with suppress(OSError):
            log.write_text(f"the agent refused the job: {self.why}\n")
        return ChildError("send", self.why, str(log))


def _trusted(url: str, certificates: str) -> ssl.SSLContext:
    """The certificates that an agent may have: the system's, or those of a file. Plain HTTP needs none."""
    if not url.startswith("https"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=certificates or None)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError([f"device.ca: {certificates} cannot be used ({why}); it must be a PEM file"]) from error


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        why = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        why = f"HTTP status {response.status_code}"
    raise _Status(response.status_code, why)
