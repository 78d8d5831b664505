"""The devices that searches of this machine have used, for `autoshrink devices`: one JSON file each, in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoshrink.cache import cache_root
from autoshrink.devices.base import Device
from autoshrink.types import Latency, content_key

FOLDER = "devices"


@dataclass(frozen=True)
class Seen:
    """A device as it was seen last.

    Attributes:
        name: see `Device.name`.
        target: for which it worked, and `backend` of that.
        profile: the device of the target's profile, by which it is found again; holds nothing secret.
        identity: see `Facts.identity`.
        when: of the last contact, ISO 8601.
        latest: of the last measurement: `ratio`, `interval` (half its width, a share), `unrest` (empty when steady),
            `when`.
    """

    name: str
    target: str
    backend: str
    profile: Mapping[str, Any]
    identity: Mapping[str, str]
    when: str
    latest: Mapping[str, Any] = field(default_factory=dict)


def remember(device: Device, identity: Mapping[str, str], latency: Latency | None = None) -> None:
    """Keeps that a device was there, and how steady it was. What cannot be written is not kept."""
    path = _path(device.name, device.target.name)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = _read(path)
    latest: Mapping[str, Any] = before.latest if before else {}
    if latency:
        half = (latency.ratio_ci.high - latency.ratio_ci.low) / 2 / latency.ratio
        latest = {"ratio": latency.ratio, "interval": half, "unrest": latency.unrest, "when": now}
    target = device.target
    seen = Seen(device.name, target.name, target.backend, asdict(device.spec), dict(identity), now, latest)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(seen), indent=1))
        partial.replace(path)


def all_seen() -> list[Seen]:
    """Every device that is remembered, the latest first. A file that cannot be read is passed over."""
    found = (_read(path) for path in (cache_root() / FOLDER).glob("*.json"))
    return sorted((seen for seen in found if seen), key=lambda seen: seen.when, reverse=True)


def _path(name: str, target: str) -> Path:
    return cache_root() / FOLDER / f"{content_key([name, target])[:16]}.json"


def _read(path: Path) -> Seen | None:
    try:
        return Seen(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
