"""How a study stands, in words above its figures: running, interrupted, without trials, and what of it is broken."""

from __future__ import annotations

from autoshrink.dashboard.commands import resume_command
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.library import Broken, Snapshot, StudyState
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.pace import roughly, seconds_left

BROKEN_SHOWN = 5
"""Broken files that are listed at once; the others unfold."""


def trials_so_far(snapshot: Snapshot) -> str:
    """`14 of 48 trials`, or without a number of trials that was asked for, `14 trials`; of those that can be read."""
    done = sum(len(view.records) for view in snapshot.views.values())
    asked = snapshot.meta.trials
    if asked is None:
        return counted(done, "trial")
    planned = asked * len(snapshot.views)
    return f"{done} of {counted(planned, 'trial')}" if done <= planned else counted(done, "trial")


def state_markup(snapshot: Snapshot) -> Markup | None:
    """What a study is doing and what its user can do about it; None of one that is done."""
    command = element("code", resume_command(snapshot.folder))
    if snapshot.state is StudyState.RUNNING:
        left = seconds_left(snapshot)
        ended = f": {trials_so_far(snapshot)} ended{'' if left is None else f', {roughly(left)} left'}. "
        return element("p", element("b", "Running"), ended, underway(snapshot), class_="notice")
    if snapshot.state is StudyState.INTERRUPTED:
        ended = trials_so_far(snapshot)
        return element("p", element("b", "Interrupted"), f" after {ended}. ", command, " goes on.", class_="notice")
    if snapshot.state is StudyState.EMPTY:
        return element(
            "p", element("b", "No trial yet"), ", and no search is running. ", command, " begins.", class_="notice"
        )
    return None


def underway(snapshot: Snapshot) -> str:
    """What a search is doing: `Now: phone, trial 7, measure on adb 3A2F.`; empty when that is not known."""
    if snapshot.activity is None:
        return ""
    found = [
        f"{target}, trial {trial.number}{f', {trial.stage}' if trial.stage else ''}"
        f"{f' on {trial.device}' if trial.device else ''}"
        for target, trials in snapshot.activity.targets.items()
        for trial in trials
    ]
    return f"Now: {'; '.join(found)}." if found else ""


def broken_markup(snapshot: Snapshot) -> Markup | None:
    """How many files of a study cannot be read, which, and why; None when all can."""
    broken = snapshot.broken
    if not broken:
        return None
    one = len(broken) == 1
    listed = [_broken(snapshot, each) for each in broken]
    rest = listed[BROKEN_SHOWN:]
    return element(
        "div",
        element(
            "p",
            element("b", f"{counted(len(broken), 'file')} cannot be read"),
            f" and {'is' if one else 'are'} missing below; everything else is shown.",
        ),
        element("ul", listed[:BROKEN_SHOWN]),
        element("details", element("summary", f"{len(rest)} more"), element("ul", rest)) if rest else None,
        class_="notice bad",
    )


def _broken(snapshot: Snapshot, broken: Broken) -> Markup:
    return element("li", element("code", broken.file), " ", why_broken(snapshot, broken))


def why_broken(snapshot: Snapshot, broken: Broken) -> str:
    """The reason without the file's whole path, which stands beside it."""
    return broken.why.replace(str(snapshot.folder.path.parent / broken.file), "").lstrip(": ")
