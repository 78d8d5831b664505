"""The child as a process: started early, so that its imports cost no time of the trial, and told later to begin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from autoshrink.isolate.job import LOG
from autoshrink.target import Target

CHILD = ("-P", "-X", "faulthandler", "-m", "autoshrink.isolate.child")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ChildProcess:
    """A child that has been started for the folder `work` and waits for `begin`.

    Leaving its context kills it and what it started, unless it has ended and was waited for.

    Attributes:
        process: the child itself.
        stages: file descriptor on which it announces its stages; ends when the child does.

    Args:
        work: an existing folder; `child.log` appears there.
        threads: of the numeric libraries in the child.
        python: its interpreter.
        preload: a backend whose runtime the child imports while it waits; empty is none.
    """

    def __init__(self, work: Path, threads: int, python: str = sys.executable, preload: str = "") -> None:
        self.stages, announce_to = os.pipe()
        try:
            with (work / LOG).open("wb") as log:
                self.process = subprocess.Popen(
                    [python, *CHILD, str(work), str(announce_to), *([preload] if preload else [])],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=_environment(threads, python),
                    pass_fds=(announce_to,),
                    # A group of its own can be killed as a whole, and an interrupt from the keyboard is left to us.
                    start_new_session=True,
                )
        except BaseException:
            os.close(self.stages)
            raise
        finally:
            # With our end closed, the pipe ends when the child does.
            os.close(announce_to)

    def begin(self) -> None:
        """Tells the child that `job.json` is there. One that has died meanwhile is found out by waiting for it."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.write(b"begin\n")
                self.process.stdin.flush()

    def kill(self) -> None:
        """Ends it and what it started; whoever waits for it is told. May be called from another thread."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.stages)
        # Unless it was waited for, the number is still its own, even when it has ended.
        if self.process.returncode is None:
            self.kill()
            self.process.wait()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()


def interpreter(target: Target) -> str:
    """The Python that runs the target's children: its own, or this process'."""
    return str(Path(target.python).expanduser()) if target.python else sys.executable


def _environment(threads: int, python: str) -> dict[str, str]:
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    if python == sys.executable:
        # The child finds what this process finds: autoshrink itself and a user's own backend, installed or not.
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return environment
