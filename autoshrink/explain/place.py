"""Where the jobs of a target run: in children on this machine, or on the devices that its profile names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from autoshrink.backends.base import Availability
from autoshrink.devices import open_device
from autoshrink.devices.pool import Pool
from autoshrink.isolate.job import Job, JobResult
from autoshrink.isolate.parent import run_job
from autoshrink.isolate.probe import availability, probe
from autoshrink.isolate.process import interpreter
from autoshrink.target import Target

Listen = Callable[[str], None]


def quiet(_stage: str) -> None:
    """Listens to no stage."""


class Place:
    """See the module.

    Attributes:
        target: whose jobs it runs.
        pool: of the target's devices; None is this machine.
        here: what the runtime can do there.
    """

    def __init__(self, target: Target, pool: Pool | None = None) -> None:
        self.target = target
        self.pool = pool
        self.here = Availability(pool.state, pool.why) if pool else availability(target)

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """What the runtime reports there; see `Backend.capabilities`.

        Raises:
            TargetUnavailable: it is not here.
            ChildError: it is, and cannot be started.
        """
        return self.pool.capabilities if self.pool is not None else probe(self.target)

    def run(self, job: Job, work: Path, listen: Listen = quiet) -> JobResult:
        """The result of a job that compiles nothing.

        Raises:
            ChildError: it gave none, with the reason.
            TargetUnavailable: the target's devices are gone.
        """
        if self.pool is not None:
            return self.pool.run(job, work, listen)[0]
        return run_job(job, work, listen, interpreter(self.target))


@contextmanager
def place_of(target: Target, identity: Mapping[str, str] | None = None, say: Listen = quiet) -> Iterator[Place]:
    """The place of a target, its devices open as long as the context is.

    Args:
        target: of a profile or a study.
        identity: that its devices must have; None or empty takes what is there.
        say: told what a user must know or do.

    Raises:
        TargetUnavailable: none of its devices is there.
        ConfigError: what the profile names of them is not there.
    """
    if not target.devices:
        yield Place(target)
        return
    pool = Pool([open_device(spec, target, say) for spec in target.devices], identity or None, say)
    try:
        pool.open()
        yield Place(target, pool)
    finally:
        pool.close()
