"""What was found out about targets on this machine, for whoever only wants to know what is known: one JSON file each.

`autoshrink doctor` and the start of a search ask; they keep the answer here, in the cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from autoshrink.cache import cache_root
from autoshrink.target import Target
from autoshrink.types import content_key

FOLDER = "targets"


@dataclass(frozen=True)
class TargetState:
    """A target as it was found last.

    Attributes:
        state: see `Availability`.
        runtime: with its version; empty where it was not asked for.
        why: what is missing; empty when nothing is.
        fix: what to do about it.
        asked_by: `doctor` or `search`.
        when: ISO 8601.
    """

    target: str
    backend: str
    state: str
    runtime: str
    why: str
    fix: str
    asked_by: str
    when: str


def remember(target: Target, found: Mapping[str, str], asked_by: str) -> None:
    """Keeps `state`, `runtime`, `why` and `fix` of a target, where `found` has them. What cannot be kept is not."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    state, runtime, why, fix = (str(found.get(name, "")) for name in ("state", "runtime", "why", "fix"))
    known = TargetState(target.name, target.backend, state, runtime, why, fix, asked_by, now)
    path = _path(target.name)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(known), indent=1))
        partial.replace(path)


def all_known() -> dict[str, TargetState]:
    """Name of a target -> what is known of it. A file that cannot be read is passed over."""
    found = (_read(path) for path in sorted((cache_root() / FOLDER).glob("*.json")))
    return {state.target: state for state in found if state}


def _path(name: str) -> Path:
    return cache_root() / FOLDER / f"{content_key(name)[:16]}.json"


def _read(path: Path) -> TargetState | None:
    try:
        found = TargetState(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if all(isinstance(value, str) for value in asdict(found).values()) else None
