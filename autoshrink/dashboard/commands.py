"""The commands that a report shows: the one that made the study, and those that come next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from autoshrink.records import StudyFolder, StudyMeta
from autoshrink.search.limits import Limit, given
from autoshrink.target import Limits
from autoshrink.types import TrialRecord

RESULTS = "results"


def search_command(meta: StudyMeta) -> str:
    """The `autoshrink search` that asks for this study.

    A task or a target from a file is named without its folder. Limits are named where all targets share them.
    """
    arguments = ["autoshrink", "search", Path(meta.task).name]
    for target in meta.targets:
        arguments += ["--target", target]
    arguments += ["--space", meta.space.name]
    if meta.trials is not None:
        arguments += ["--trials", str(meta.trials)]
    if meta.time_limit_s is not None:
        arguments += ["--time", f"{meta.time_limit_s:g}s"]
    first, *others = [target.limits for target in meta.targets.values()]
    if all(limits == first for limits in others):
        arguments += limit_options(first)
    if meta.fidelity != 1:
        arguments += ["--fidelity", f"{meta.fidelity:g}"]
    for key in meta.force:
        arguments += ["--force", key]
    return shlex.join([*arguments, "--seed", str(meta.seed), "--study", meta.name])


def next_commands(study: StudyFolder, target: str, limits: Limits, trial: int | None = None) -> list[tuple[str, str]]:
    """(What it does, command) of what a user does with a front; `trial` is to be packed whatever the limits."""
    options = limit_options(limits) or ["--max-drop", "1%"]
    if trial is not None:
        options = ["--trial", str(trial)]
    before, after = pick_words(study, target)
    return [
        ("Write the chosen trial as a package for the device", shlex.join([*before, *options, *after])),
        (
            "Check the package on the device: hashes, outputs, latency",
            shlex.join(["autoshrink", "verify", after[-1]]),
        ),
        more_trials(study),
    ]


def pick_words(study: StudyFolder, target: str) -> tuple[list[str], list[str]]:
    """The words of `autoshrink pick` before and after its limits; the last is the folder of the package."""
    package = "package" if len(study.meta.targets) == 1 else f"package-{target}"
    return ["autoshrink", "pick", study.meta.name, *_where(study), "--target", target], ["--out", package]


def more_trials(study: StudyFolder) -> tuple[str, str]:
    """What it does, and the command that goes on with twice the trials."""
    trials = 2 * (study.meta.trials or max(len(study.records(target)) for target in study.meta.targets))
    return "Search on, with more trials", f"{resume_command(study)} --trials {trials}"


def explain_command(study: StudyFolder, record: TrialRecord) -> str:
    """The command that finds where the time of a trial goes."""
    name, number = study.meta.name, str(record.number)
    return shlex.join(["autoshrink", "explain", name, number, *_where(study), "--target", record.target])


def resume_command(study: StudyFolder) -> str:
    """The command that goes on with the study."""
    return shlex.join(["autoshrink", "resume", study.meta.name, *_where(study)])


def limit_options(limits: Limits) -> list[str]:
    """Limits as options of the command line."""
    return [part for limit in given(limits) for part in limit.option(_short(limit)).split(" ", 1)]


def _short(limit: Limit) -> str:
    """The value of a limit; a size in a larger unit only where it is a round number of it."""
    if limit.name != "size_bytes" or limit.is_figure:
        return limit.text(limit.value)
    size = round(limit.value)
    for unit, factor in (("MB", 10**6), ("kB", 10**3)):
        if size % (factor // 100) == 0 and size >= factor:
            return f"{size / factor:g}{unit}"
    return f"{size}B"


def _where(study: StudyFolder) -> Sequence[str]:
    folder = study.path.resolve().parent
    here = Path.cwd().resolve()
    if folder == here / RESULTS:
        return ()
    return ("--results", str(folder.relative_to(here) if folder.is_relative_to(here) else folder))
