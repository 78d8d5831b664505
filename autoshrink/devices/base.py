"""The contract of a device that is not this machine: it takes jobs whose artifact is compiled, and says what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoshrink.backends.base import State
from autoshrink.errors import AutoshrinkError
from autoshrink.isolate.job import Job, JobResult
from autoshrink.target import RemoteDevice, Target

OnStage = Callable[[str], None]


class DeviceGone(AutoshrinkError):
    """The device went away, or what it measured was disturbed: nothing of it counts, and it is to be done again.

    Args:
        why: in one line.
        disturbed: somebody or something else disturbed it for certain; the artifact cannot be what made it go.
    """

    def __init__(self, why: str, disturbed: bool = False) -> None:
        self.disturbed = disturbed
        super().__init__(why)


@dataclass(frozen=True)
class Facts:
    """What a device says of itself now.

    Attributes:
        identity: what must be the same of all devices whose figures stand in one front: `processor`, `architecture`,
            `cores`, `system`, `runtime`, as the device shows them.
        state: what the target's runtime can do there; with `why` not more, and the `fix`.
        capabilities: see `Backend.capabilities`.
        about: what else is worth a word, in JSON values: `queue` (jobs that wait), `memory_bytes`, `versions`, ...
    """

    identity: Mapping[str, str]
    state: State = "ready"
    why: str = ""
    fix: str = ""
    capabilities: frozenset[str] = frozenset()
    about: Mapping[str, Any] = field(default_factory=dict)


class Device(ABC):
    """One device, for jobs of one target. One job at a time; may be closed from another thread.

    Args:
        spec: of the profile.
        target: whose jobs it takes.
        say: told what a user must know or do, one line each.
    """

    def __init__(self, spec: RemoteDevice, target: Target, say: Callable[[str], None]) -> None:
        self.spec = spec
        self.target = target
        self.say = say

    @property
    def name(self) -> str:
        """As it is shown and recorded; without anything secret."""
        return self.spec.name

    @abstractmethod
    def facts(self) -> Facts:
        """What it is now. Answers within seconds.

        Raises:
            DeviceGone: it is not there now.
            TargetUnavailable: it is there, and refuses to work with this side; with the way out.
        """

    @abstractmethod
    def run(self, job: Job, work: Path, on_stage: OnStage) -> JobResult:
        """Does a job that compiles nothing: its artifact and reference lie on this machine.

        The result's files lie in `work`: `samples.npy` and `outputs/` of this very run, and `child.log`.

        Args:
            job: with `source` None.
            work: folder for what comes back; is made.
            on_stage: told the stages as for a child, and `wait for the device` while another one has it.

        Raises:
            DeviceGone: it went away, or was disturbed; nothing is recorded.
            ChildError: the artifact does not run there; stage, reason and log file say why.
        """

    def turn_away(self, why: str) -> bool:
        """Told that what is there is of another kind than the front needs.

        Returns:
            Whether another one may come in its place: anybody may open a page.
        """
        del why
        return False

    @classmethod
    def look(cls, spec: RemoteDevice, target: Target) -> Facts:
        """What can be said of a device without a search, for `doctor` and `devices`. Never raises."""
        try:
            device = cls(spec, target, lambda _text: None)
        except AutoshrinkError as error:
            return Facts({}, "unavailable", str(error), cls.remedy(spec))
        try:
            return device.facts()
        except AutoshrinkError as error:
            return Facts({}, "unavailable", str(error), cls.remedy(spec))
        finally:
            device.close()

    @classmethod
    def remedy(cls, spec: RemoteDevice) -> str:
        """What to do about a device that is not there, where its own words do not say it."""
        del spec
        return ""

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """Ends what was started for it, here and there. May be called twice, and while a job runs, which then ends."""
