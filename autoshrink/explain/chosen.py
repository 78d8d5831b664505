"""What of a study is to be explained. Imports nothing heavy: a mistake is said at once."""

from __future__ import annotations

from autoshrink.errors import ConfigError
from autoshrink.records import StudyFolder
from autoshrink.target import Target
from autoshrink.types import TrialRecord


def chosen_target(folder: StudyFolder, name: str | None) -> Target:
    """The target of a study that is meant; its only one where none is named.

    Raises:
        ConfigError: there is no such target, or there are several.
    """
    targets = folder.meta.targets
    if name is None and len(targets) > 1:
        raise ConfigError([f"--target: {folder.meta.name} has {', '.join(targets)}; name one of them"])
    if name is not None and name not in targets:
        raise ConfigError([f"--target: {name!r} is not in study {folder.meta.name}; it has {', '.join(targets)}"])
    return targets[name or next(iter(targets))]


def chosen_record(folder: StudyFolder, target: str, number: int) -> TrialRecord:
    """The record of a trial of `target`.

    Raises:
        ConfigError: there is no such trial.
    """
    records = folder.records(target)
    record = next((each for each in records if each.number == number), None)
    if record is None:
        known = ", ".join(str(each.number) for each in records) or "none"
        raise ConfigError([f"TRIAL: {target} has no trial {number}; it has {known}"])
    return record
