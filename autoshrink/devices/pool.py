"""The devices of one target: each leased to one job at a time, a job done again when its device went away.

They are alike: a device with another identity than the front's is refused.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoshrink.backends.base import State
from autoshrink.devices.base import Device, DeviceGone, Facts, OnStage
from autoshrink.devices.seen import remember
from autoshrink.errors import ChildError, ConfigError, TargetUnavailable
from autoshrink.isolate.job import LOG, OUTPUTS, SAMPLES, Job, JobResult
from autoshrink.isolate.parent import WAITING
from autoshrink.measure.identity import describe_identity, differences

ASK_AGAIN_S = 3.0
"""Seconds between two questions whether a device has come back."""
LOSSES = 3
"""So often a job may lose its device before it is the artifact that is blamed."""


class Pool:
    """See the module. Its methods may be called from several threads.

    Attributes:
        identity: what its devices are; of the study, or of the first that answered.
        capabilities: of the first that answered; see `Backend.capabilities`.
        state: what they can do: `ready`, or `untimed`.
        why: why not more.

    Args:
        devices: one or more; are closed by `close`.
        identity: that they must have; None takes the first's.
        say: told what a user should know, one line each.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        identity: Mapping[str, str] | None,
        say: Callable[[str], None],
        ask_again_s: float = ASK_AGAIN_S,
    ) -> None:
        self.identity = identity
        self.capabilities: frozenset[str] = frozenset()
        self.state: State = "unavailable"
        self.why = ""
        self._say = say
        self._ask_again = ask_again_s
        self._devices = tuple(devices)
        self._away = dict.fromkeys(devices, "it has not answered yet")
        self._refused: dict[Device, str] = {}
        self._leased: set[Device] = set()
        self._asked: dict[Device, float] = {}
        self._begun: dict[Device, float] = {}
        self._changed = threading.Condition()
        self._closed = False

    @property
    def size(self) -> int:
        """How many jobs it may be given at once."""
        return max(1, len(self._devices) - len(self._refused))

    def open(self) -> None:
        """Waits until one device is there, and looks which others are.

        Raises:
            TargetUnavailable: all of them refuse, or none came in time.
        """
        device = self._take(lambda _stage: None)
        self._begun.clear()
        self._give_back(device)
        for other in self._devices:
            if other in self._away:
                self._ask(other)

    def run(self, job: Job, work: Path, on_stage: OnStage) -> tuple[JobResult, str]:
        """The result of a job, and the name of the device that did it.

        Raises:
            TargetUnavailable: no device is left, or none came back in time.
            ChildError: the artifact does not run; or it made three devices go away.
        """
        losses: list[str] = []
        while True:
            device = self._take(on_stage)
            try:
                on_stage(f"on {device.name}")
                result = device.run(job, work, on_stage)
                self._check(device, result)
                if result.latency:
                    remember(device, self.identity or {}, result.latency)
                return result, device.name
            except DeviceGone as error:
                self._lose(device, str(error))
                losses += [] if error.disturbed else [str(error)]
                _forget(work)
            except TargetUnavailable as error:
                self._refuse(device, str(error))
                _forget(work)
            finally:
                self._give_back(device)
            if len(losses) >= LOSSES:
                work.mkdir(parents=True, exist_ok=True)
                (work / LOG).write_text("\n".join(losses) + "\n")
                reason = f"{LOSSES} times the device went away while it worked on this artifact; last: {losses[-1]}"
                raise ChildError("measure", reason, str(work / LOG))

    def close(self) -> None:
        """Closes the devices; what runs ends. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for device in self._devices:
            device.close()

    def _take(self, on_stage: OnStage) -> Device:
        """A device that is there, alike and free, leased to the caller."""
        began = time.monotonic()
        told = False
        while True:
            with self._changed:
                if self._closed:
                    raise TargetUnavailable("the search has ended")
                there = [device for device in self._devices if device not in self._refused]
                if not there:
                    raise TargetUnavailable("; ".join(self._refused.values()))
                free = [device for device in there if device not in self._leased and device not in self._away]
                if free:
                    # In turn: each warms up as much as the others do.
                    device = min(free, key=lambda each: self._begun.get(each, 0.0))
                    self._begun[device] = time.monotonic()
                    self._leased.add(device)
                    return device
                all_away = all(device in self._away for device in there)
                due = self._due()
                if due is None:
                    self._changed.wait(self._ask_again)
            if due is not None:
                self._ask(due)
            if all_away:
                patience = max(device.spec.patience_s for device in there)
                with self._changed:
                    still_away = all(device in self._away for device in there)
                if still_away and time.monotonic() - began > patience:
                    why = "; ".join(f"{device.name}: {self._away[device]}" for device in there if device in self._away)
                    raise TargetUnavailable(f"no device came within {patience:g} s: {why}")
            if not told:
                told = True
                on_stage(WAITING)

    def _due(self) -> Device | None:
        """A device that is away and should be asked now; nobody else asks it meanwhile."""
        now = time.monotonic()
        for device in self._devices:
            asked = self._asked.get(device, -self._ask_again)
            if device in self._away and device not in self._leased and now - asked >= self._ask_again:
                self._asked[device] = now
                return device
        return None

    def _ask(self, device: Device) -> None:
        """Looks whether a device is there, and alike."""
        try:
            facts = device.facts()
        except DeviceGone as error:
            with self._changed:
                if device in self._away:
                    self._away[device] = str(error)
            return
        except (TargetUnavailable, ConfigError, ChildError) as error:
            self._refuse(device, str(error))
            return
        self._admit(device, facts)

    def _admit(self, device: Device, facts: Facts) -> None:
        if facts.state not in ("ready", "untimed"):
            self._refuse(device, f"{device.name} is {facts.state}: {facts.why}; {facts.fix}")
            return
        with self._changed:
            first = self.state == "unavailable"
            wanted = self.identity = self.identity or dict(facts.identity)
            unlike = differences(wanted, facts.identity)
            if first and not unlike:
                self.state, self.why, self.capabilities = facts.state, facts.why, facts.capabilities
        if unlike:
            why = (
                f"{device.name} is another device than those of this front ({'; '.join(unlike)}): figures of two "
                "kinds are never mixed; give it a target, or a study, of its own"
            )
            if device.turn_away(why):
                self._say(why)
                with self._changed:
                    self._away[device] = why
            else:
                self._refuse(device, why)
            return
        with self._changed:
            self._away.pop(device, None)
            self._changed.notify_all()
        remember(device, facts.identity)
        self._say(f"{device.name} is there: {describe_identity(facts.identity)}")

    def _check(self, device: Device, result: JobResult) -> None:
        """That the runtime is the front's, also after an update while the search ran.

        Raises:
            TargetUnavailable: it is another one.
        """
        wanted = (self.identity or {}).get("runtime", "")
        if result.runtime and wanted and result.runtime != wanted:
            raise TargetUnavailable(
                f"{device.name} has {result.runtime} now, and this front is of {wanted}: figures of two kinds are "
                "never mixed; start a new study"
            )

    def _lose(self, device: Device, why: str) -> None:
        with self._changed:
            closed = self._closed
            self._away[device] = why
            self._asked.pop(device, None)
        if not closed:
            self._say(f"{device.name} went away: {why}; its measurement is done again")

    def _refuse(self, device: Device, why: str) -> None:
        with self._changed:
            self._refused[device] = why
            self._away.pop(device, None)
            self._changed.notify_all()
        self._say(why)

    def _give_back(self, device: Device) -> None:
        with self._changed:
            self._leased.discard(device)
            self._changed.notify_all()


def _forget(work: Path) -> None:
    """Removes what an interrupted run has left: of a job that is done again, only the last run counts."""
    for name in (OUTPUTS, "benchmark"):
        shutil.rmtree(work / name, ignore_errors=True)
    for name in (SAMPLES, LOG):
        (work / name).unlink(missing_ok=True)
