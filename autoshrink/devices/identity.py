"""What a device is, for the rule that one front holds figures of one kind of device only."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

from autoshrink.backends.base import Backend, processor_name
from autoshrink.types import content_key

WORDS = {
    "processor": "processor",
    "architecture": "architecture",
    "cores": "cores",
    "system": "system",
    "runtime": "runtime",
    "browser": "browser",
    "device": "device",
}
"""What an identity may hold, in the order in which it is said."""


def identity_here(backend: Backend) -> dict[str, str]:
    """Of this machine with a backend's runtime."""
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "cores": str(os.cpu_count() or 0),
        "system": platform.system(),
        "runtime": backend.runtime(),
    }


def fingerprint(identity: Mapping[str, str]) -> str:
    """8 hex digits that are equal where the identity is."""
    return content_key(dict(identity))[:8]


def describe_identity(identity: Mapping[str, str]) -> str:
    """In one line, such as `Cortex-A76, aarch64, 4 cores, Linux, onnxruntime 1.31.1`."""
    known = [key for key in WORDS if identity.get(key)]
    return ", ".join(f"{identity[key]} cores" if key == "cores" else identity[key] for key in known)


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """What differs, each as `runtime: onnxruntime 1.31.1 and onnxruntime 1.30.0`."""
    keys = [*WORDS, *sorted((set(first) | set(second)) - set(WORDS))]
    return [
        f"{key}: {first.get(key) or 'none'} and {second.get(key) or 'none'}"
        for key in keys
        if first.get(key) != second.get(key)
    ]
