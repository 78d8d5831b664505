"""Whether a target is ready on this machine: its packages, and its runtime really started in a child."""

from __future__ import annotations

from autoshrink.backends import get_backend
from autoshrink.errors import AutoshrinkError
from autoshrink.isolate.probe import probe
from autoshrink.target import Target


def examine(target: Target) -> dict[str, str]:
    """`target`, `state` (ready, compile-only, unavailable), `runtime`, `why`, `fix`."""
    backend = get_backend(target.backend)
    available = backend.available()
    found = {
        "target": target.name,
        "state": str(available.state),
        "runtime": "",
        "why": available.why,
        "fix": available.fix,
    }
    if available.state == "unavailable":
        return found
    found["runtime"] = backend.runtime()
    if available.state == "ready":
        try:
            probe(target)
        except AutoshrinkError as error:
            found |= {
                "state": "unavailable",
                "why": str(error),
                "fix": f"pip install --force-reinstall {backend.packages[0]}",
            }
    return found
