"""A page on a phone, a tablet or another computer as the device: whoever opens the link lends its browser."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoshrink.backends import browser_runtime, get_backend
from autoshrink.backends.base import Session
from autoshrink.backends.browser import Browser, BrowserSession
from autoshrink.backends.browser_driver import PAGE
from autoshrink.backends.browser_runtime import FILES, PACKAGE, VERSION
from autoshrink.backends.onnxruntime import fused
from autoshrink.backends.page_frames import Buffer, Frame, PageError, first_line
from autoshrink.devices.base import Device, DeviceGone, Facts, OnStage
from autoshrink.devices.page_facts import browser_of, identity_of, tick_ms
from autoshrink.devices.page_link import Link, Visit
from autoshrink.devices.page_server import INDEX, DevicePageServer
from autoshrink.devices.qr import qr_lines
from autoshrink.errors import AutoshrinkError, ChildError, ConfigError, StageError, TargetUnavailable
from autoshrink.isolate.job import LOG, Job, JobResult, Loaded
from autoshrink.isolate.work import JobRun
from autoshrink.target import RemoteDevice, Target

PAGE_FILES = (INDEX, "phone.css", "phone.js", "models.js")
MEASURE = "measure"
ANSWER_LIMIT_S = 120.0
"""Most seconds of one task, beyond those that it was asked to take."""
STALL_S = 5.0
"""Most seconds that a timed turn may take beyond what the page says it took."""
GOODBYE_S = 2.0
"""For so long the server waits for the page when all is over, to tell it."""
SENDING_S = 0.1


class PageDevice(Device):
    """Serves a page under a link that one browser may open, which then does the jobs until it is closed.

    Raises:
        ConfigError: the address or the certificate cannot be used; the target's backend is not for pages.
        TargetUnavailable: the runtime that the page loads is not installed.
    """

    def __init__(self, spec: RemoteDevice, target: Target, say: Callable[[str], None]) -> None:
        super().__init__(spec, target, say)
        if target.backend != Browser.name:
            raise ConfigError(
                [f"device.page: backend is {target.backend}; a page runs what backend: {Browser.name} compiles"]
            )
        try:
            runtime = browser_runtime.check("start")
        except StageError as error:
            raise TargetUnavailable(error.reason) from None
        self._link = Link({"target": target.name, "threads": target.threads})
        self._link.refusal = self._refusal
        files = {name: PAGE / name for name in PAGE_FILES} | {name: runtime / name for name in FILES}
        tls = (Path(spec.certificate), Path(spec.key)) if spec.certificate else None
        self._server = DevicePageServer(spec.page, files, self._link, tls)
        self._said = ""
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def look(cls, spec: RemoteDevice, target: Target) -> Facts:
        """See `Device.look`. Serves nothing: nobody would open a link that is gone at once."""
        del spec
        if target.backend != Browser.name:
            why = f"backend is {target.backend}, and a page runs what backend: {Browser.name} compiles"
            return Facts({}, "unavailable", why, "another backend, or another device")
        here = Browser().to_compile(target.options)
        identity = {"runtime": f"{PACKAGE} {VERSION}"}
        if here.state == "unavailable":
            return Facts(identity, here.state, here.why, here.fix)
        return Facts(
            identity,
            "compile-only",
            "no device has opened the page, which is served while a search runs",
            "start a search, and open the link that it shows on the device",
        )

    def turn_away(self, why: str) -> bool:
        """See `Device.turn_away`. The link is for another browser then."""
        del why
        self._link.renew()
        return True

    @property
    def url(self) -> str:
        """The link; it is a secret until a browser has opened it."""
        return self._server.url(self._link.token)

    def facts(self) -> Facts:
        """What the open page says of itself; see `Device.facts`. Says the link when there is one to open."""
        try:
            visit = self._link.visit()
        except DeviceGone as error:
            raise DeviceGone(self._invite(str(error)), disturbed=True) from None
        why = self._refusal(visit)
        if why:
            raise TargetUnavailable(f"target {self.target.name}: {why}")
        return Facts(
            identity=identity_of(visit.facts, visit.agent, f"{PACKAGE} {VERSION}"),
            about={"clock_tick_ms": tick_ms(visit.facts), "isolated": visit.facts.get("isolated") is True},
        )

    def run(self, job: Job, work: Path, on_stage: OnStage) -> JobResult:
        """See `Device.run`. What was measured counts only if nothing disturbed the page meanwhile."""
        if job.probe:
            return JobResult()
        visit = self._link.visit()
        work.mkdir(parents=True, exist_ok=True)
        page = _PageOfJob(self._link, visit, time.monotonic() + job.limits.time_limit_s)
        backend = get_backend(job.backend)
        with (work / LOG).open("w") as log:

            def load(artifact: Loaded) -> Session:
                options = job.options if artifact.options is None else artifact.options
                return BrowserSession(page, artifact.folder / artifact.files[0], fused(artifact.precision, options))

            def announce(stage: str) -> None:
                # What comes after measuring may be disturbed; what came just before its end is known only now.
                page.begin(stage)
                log.write(f"{stage}\n")
                on_stage(stage)

            run = JobRun(replace(job, source=None, run=True), work, backend, load, announce)
            try:
                result = run.run()
                page.begin("end")
            except DeviceGone as error:
                log.write(f"{error}\n")
                raise
            except _TimeUp:
                limit = job.limits.time_limit_s
                reason = (
                    f"did not end within child.time_limit_s = {limit:g}; child.time_limit_s in the target raises it"
                )
                raise ChildError(run.stage, reason, str(work / LOG)) from None
            except Exception as error:
                traceback.print_exception(error, file=log)
                raise _child_error(error, run.stage, str(work / LOG)) from None
        if job.measure:
            self._link.count()
        # Of the process and the machine that serve the page: they say nothing of the device.
        return replace(result, sensors={}, peak_memory_bytes=0, modules=())

    def close(self) -> None:
        """Tells the page that it is over, and ends the server."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._link.end("the search has ended", GOODBYE_S)
        # The reply is on its way.
        time.sleep(SENDING_S)
        self._server.close()

    def _invite(self, why: str) -> str:
        """What is the matter, with the link to open where there is one; says that link once."""
        if self._link.is_used_up():
            self._link.renew()
            why = f"{why}, and does not come back"
        if not self._link.is_free():
            return why
        url = self.url
        if url != self._said:
            self._said = url
            self.say(f"Open {url} on the device that is to measure; the link works for one browser only")
            for line in qr_lines(url):
                self.say(line)
        return f"{why}: open {url} on the device"

    def _refusal(self, visit: Visit) -> str:
        """Why the page cannot do the target's jobs; empty when it can."""
        found = visit.facts.get("version")
        if found != VERSION:
            return f"the page has another {PACKAGE} than {VERSION}; reload it"
        if self.target.threads > 1 and visit.facts.get("isolated") is not True:
            return (
                f"threads is {self.target.threads}, and the page has one only: it is not cross-origin isolated, as no "
                "page over plain http is; set threads: 1, or name a certificate and its key under device"
            )
        return ""


class _TimeUp(Exception):
    """The job takes longer than it may."""


class _PageOfJob:
    """The page as the sessions of one job see it."""

    def __init__(self, link: Link, visit: Visit, deadline: float) -> None:
        self.browser = browser_of(visit.agent)
        self._link = link
        self._visit = visit
        self._deadline = deadline
        self._is_timed = False

    def begin(self, stage: str) -> None:
        """The stage changes; what was measured is asked for once more, whether it was undisturbed.

        Raises:
            DeviceGone: it was not.
        """
        if self._is_timed:
            self._exchange({"task": "release", "released": [], "stage": MEASURE}, (), 0.0)
        self._is_timed = stage == MEASURE
        if self._is_timed:
            self._visit.disturbed.clear()

    def ask(self, stage: str, task: Mapping[str, Any], buffers: Sequence[Buffer] = (), extra_s: float = 0.0) -> Frame:
        """See `ModelPage.ask`.

        Raises:
            DeviceGone: the page went away, or was disturbed while it measured.
            PageError: it could not do it.
        """
        if self._visit.released:
            released, self._visit.released = self._visit.released, []
            self._exchange({"task": "release", "released": released, "stage": stage}, (), 0.0)
        began = time.monotonic()
        header, answered = self._exchange({**task, "stage": stage}, buffers, extra_s)
        if "error" in header:
            raise PageError(first_line(header["error"]))
        if task["task"] == "turn":
            self._check_stall(header, time.monotonic() - began)
        return header, answered

    def release(self, number: int) -> None:
        """See `ModelPage.release`."""
        self._visit.released.append(number)

    def _exchange(self, task: Mapping[str, Any], buffers: Sequence[Buffer], extra_s: float) -> Frame:
        left = self._deadline - time.monotonic()
        limit = min(ANSWER_LIMIT_S + extra_s, left)
        answer = self._link.ask(self._visit, task, buffers, limit, self._is_timed) if limit > 0 else None
        if answer is not None:
            return answer
        if limit == left or limit <= 0:
            raise _TimeUp
        raise DeviceGone(
            f"the page did not answer within {limit:g} s: the screen is off, the network lost, or a call takes longer"
        )

    def _check_stall(self, header: Mapping[str, Any], seconds: float) -> None:
        took = header.get("took")
        if not isinstance(took, int | float) or seconds - took / 1000 > STALL_S:
            why = "the network was lost for a while, or the device slept, while it was measured"
            raise DeviceGone(why, disturbed=True)


def _child_error(error: Exception, stage: str, log: str) -> ChildError:
    if isinstance(error, StageError):
        return ChildError(error.stage, error.reason, log)
    words = first_line(error)
    return ChildError(stage, words if isinstance(error, AutoshrinkError) else f"{type(error).__name__}: {words}", log)
