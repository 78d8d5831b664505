"""What a search is doing now, in `search.json` of its study's folder, for whoever looks at the study meanwhile.

The file is there while a search works, and stays after one that was broken off: it says so, or, after a crash, the
process that it names is gone. It is of use to nobody but readers; `resume` goes by `running.json` of each target.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from autoshrink.errors import ConfigError
from autoshrink.records import SCHEMA, read_json
from autoshrink.types import Recipe

ACTIVITY_FILE = "search.json"
ELSEWHERE_S = 60.0
"""For so many seconds after it was written, the file of a search on another machine says that it runs."""
CLOCK_S = 2.0
"""Two readings of when a process began may differ by so much."""


@dataclass(frozen=True)
class Underway:
    """A trial on its way.

    Attributes:
        number: of the trial, within study and target.
        stage: the one it is in; empty before the first.
        device: which one works on it; empty is the machine that searches.
        since: when the stage began, ISO 8601.
        began: when the trial did.
    """

    number: int
    recipe: Recipe
    stage: str
    device: str
    since: str
    began: str


@dataclass(frozen=True)
class Activity:
    """What a search is doing.

    Attributes:
        pid: of the process that searches.
        started: when that process began, seconds since 1970: together they tell it from a later one of the same number.
        host: name of the machine it runs on.
        began: when the search did, ISO 8601; of a resumed one, its last start.
        planned: trials over all targets; None is no limit.
        time_limit_s: seconds after `began` at which no further trial begins; None is no limit.
        written: when the file was.
        targets: target -> its trials on their way, by number; a search of several devices has several.
        ended: when the search was broken off by an error or an interrupt; empty while it works, and after a crash.
    """

    pid: int
    started: float
    host: str
    began: str
    planned: int | None
    time_limit_s: float | None
    written: str
    targets: Mapping[str, tuple[Underway, ...]] = field(default_factory=dict)
    ended: str = ""

    @classmethod
    def here(cls, planned: int | None, time_limit_s: float | None) -> Activity:
        """Of this process, beginning now, with no trial on its way."""
        moment = now()
        started = psutil.Process().create_time()
        return cls(os.getpid(), started, platform.node(), moment, planned, time_limit_s, moment)

    @property
    def is_alive(self) -> bool:
        """Whether the search goes on: its process runs, or on another machine has written within `ELSEWHERE_S`."""
        if self.ended:
            return False
        if self.host != platform.node():
            try:
                age = (datetime.now(UTC) - datetime.fromisoformat(self.written)).total_seconds()
            except (ValueError, TypeError):
                return False
            return age < ELSEWHERE_S
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK_S
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except (psutil.Error, ValueError, OverflowError):
            return False


def now() -> str:
    """The time as the file has it: ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_activity(study: Path, activity: Activity) -> None:
    """Writes the file so that a reader sees the old one or the new one. After a crash of the machine it may be either.

    Raises:
        OSError: it cannot be written.
    """
    data = {
        "schema": SCHEMA,
        "pid": activity.pid,
        "started": activity.started,
        "host": activity.host,
        "began": activity.began,
        "planned": activity.planned,
        "time_limit_s": activity.time_limit_s,
        "written": activity.written,
        "ended": activity.ended,
        "targets": {target: [_to_json(trial) for trial in trials] for target, trials in activity.targets.items()},
    }
    path = study / ACTIVITY_FILE
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(data, indent=1))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_activity(study: Path) -> None:
    """Says that the search has come to its end."""
    (study / ACTIVITY_FILE).unlink(missing_ok=True)


def read_activity(study: Path) -> Activity | None:
    """What the search says that it is doing; None where none works, nor was broken off.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = study / ACTIVITY_FILE
    try:
        data = read_json(path)
    except ConfigError:
        # It may have gone since it was looked for.
        if not path.exists():
            return None
        raise
    try:
        return Activity(
            int(data["pid"]),
            float(data["started"]),
            str(data["host"]),
            str(data["began"]),
            None if data["planned"] is None else int(data["planned"]),
            None if data["time_limit_s"] is None else float(data["time_limit_s"]),
            str(data["written"]),
            {str(target): tuple(map(_underway, trials)) for target, trials in data["targets"].items()},
            str(data["ended"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError([f"{path}: is not what a search writes ({error!r})"]) from error


def _to_json(trial: Underway) -> dict[str, Any]:
    return {
        "number": trial.number,
        "recipe": trial.recipe.to_json(),
        "stage": trial.stage,
        "device": trial.device,
        "since": trial.since,
        "began": trial.began,
    }


def _underway(data: Mapping[str, Any]) -> Underway:
    return Underway(
        int(data["number"]),
        Recipe.from_json(data["recipe"]),
        str(data["stage"]),
        str(data["device"]),
        str(data["since"]),
        str(data["began"]),
    )
