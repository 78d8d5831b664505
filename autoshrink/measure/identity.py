"""What a device is, for the rule that one front holds figures of one kind of device only."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from autoshrink.backends.base import Backend, processor_name
from autoshrink.measure.environment import instruction_sets
from autoshrink.types import content_key

WORDS = (
    "device",
    "processor",
    "model",
    "architecture",
    "instructions",
    "cores",
    "graphics",
    "system",
    "browser",
    "runtime",
)
"""What an identity may hold, in the order in which it is said."""
CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")


def identity_here(backend: Backend) -> dict[str, str]:
    """Of this machine with a backend's runtime: what decides which kernels run, and how fast.

    The name of a processor alone does not: hypervisors give many of them one.
    """
    found = {
        "processor": processor_name(),
        "model": model_of(CPUINFO, BOARD),
        "architecture": platform.machine(),
        "instructions": " ".join(instruction_sets(CPUINFO) or ()),
        "cores": str(os.cpu_count() or 0),
        "system": platform.system(),
        "runtime": backend.runtime(),
    }
    return {name: value for name, value in found.items() if value}


def model_of(cpuinfo: Path, board: Path) -> str:
    """Which processor it is, by its numbers: `family 25 model 1` on x86, the board and `parts 0xd0b` on ARM."""
    fields: dict[str, list[str]] = {}
    try:
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            seen = fields.setdefault(name.strip(), [])
            seen += [value.strip()] if value.strip() not in seen else []
    except OSError:
        pass
    try:
        said = [board.read_text().strip("\0\n ")]
    except OSError:
        said = []
    if "cpu family" in fields:
        said.append(f"family {fields['cpu family'][0]} model {' '.join(fields.get('model', []))}")
    if "CPU part" in fields:
        said.append(f"parts {' '.join(fields['CPU part'])}")
    return ", ".join(said)


def fingerprint(identity: Mapping[str, str]) -> str:
    """8 hex digits that are equal where the identity is."""
    return content_key(dict(identity))[:8]


def describe_identity(identity: Mapping[str, str]) -> str:
    """In one line, such as `Cortex-A76, aarch64, 4 cores, Linux, onnxruntime 1.31.1`."""
    known = [key for key in WORDS if identity.get(key)]
    return ", ".join(f"{identity[key]} cores" if key == "cores" else identity[key] for key in known)


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """What differs, each as `runtime: onnxruntime 1.31.1 and onnxruntime 1.30.0`."""
    keys = (*WORDS, *sorted((set(first) | set(second)) - set(WORDS)))
    return [
        f"{key}: {first.get(key) or 'none'} and {second.get(key) or 'none'}"
        for key in keys
        if first.get(key) != second.get(key)
    ]
