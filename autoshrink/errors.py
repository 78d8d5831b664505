"""What can go wrong, said so that the reader knows the value, the rule and the way out."""

from __future__ import annotations

from collections.abc import Iterable


class AutoshrinkError(Exception):
    """Anything that is shown to the user as a message, never as a stack trace."""


class ConfigError(AutoshrinkError):
    """What the user brought is wrong: every problem at once, each as `file:key: value, rule, way out`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class TargetUnavailable(AutoshrinkError):
    """The target's runtime is not on this machine; the message says what to install."""


class StageError(AutoshrinkError):
    """A stage of a trial failed for a reason that is known; the trial fails with it, the study goes on."""

    def __init__(self, stage: str, reason: str) -> None:
        self.stage = stage
        self.reason = reason
        super().__init__(f"{stage}: {reason}")


class ChildError(StageError):
    """The child process ended without a result; `log` is the file with what it printed."""

    def __init__(self, stage: str, reason: str, log: str) -> None:
        self.log = log
        super().__init__(stage, reason)


class NothingFits(AutoshrinkError):
    """What was asked for does not hold: no feasible trial, a package that regressed."""
