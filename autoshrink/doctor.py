"""Whether a target is ready: its packages, and its runtime really started in a child; or its devices, asked."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from autoshrink import __version__
from autoshrink.backends import get_backend
from autoshrink.backends.base import State
from autoshrink.devices import look_at
from autoshrink.errors import ChildError
from autoshrink.isolate.probe import availability, probe
from autoshrink.isolate.process import interpreter
from autoshrink.target import Target
from autoshrink.target_states import remember

SECONDS = 90.0
"""A target that does not answer in this time is unavailable. Starting the largest runtime takes a tenth of it."""
STATES: tuple[State, ...] = ("ready", "untimed", "compile-only", "unavailable")
ASK_VERSION = "import platform, autoshrink; print(autoshrink.__version__, platform.python_version())"


def examine_all(targets: Iterable[Target]) -> list[dict[str, str]]:
    """`examine` of each, two at a time: most of it is waiting for runtimes to start."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(examine, targets))


def examine(target: Target, seconds: float = SECONDS) -> dict[str, str]:
    """`target`, `state`, `runtime` (with its version), `why`, `fix`. Never raises, nor takes longer than `seconds`.

    The state is that of `Availability`. What runs is started in a child; what is only compiled is not. What is found is
    kept for the dashboard, which asks nobody.
    """
    found = _answered(target, seconds)
    remember(target, found, "doctor")
    return found


def _answered(target: Target, seconds: float) -> dict[str, str]:
    answers: Queue[dict[str, str]] = Queue()

    def ask() -> None:
        try:
            answers.put(_examine(target, seconds))
        except Exception as error:
            answers.put(_found(target, "unavailable", f"{type(error).__name__}: {error}", _reinstall(target)))

    # A thread that hangs in a user's own backend must not keep this process from ending.
    Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return _found(target, "unavailable", f"gave no answer in {seconds:g} s", _reinstall(target))


def _examine(target: Target, seconds: float) -> dict[str, str]:
    try:
        backend = get_backend(target.backend)
    except (KeyError, ImportError, AttributeError) as error:
        return _found(target, "unavailable", f"backend {target.backend} is not there: {error}", _reinstall(target))
    mismatch = version_mismatch(target)
    if mismatch:
        return _found(target, "unavailable", mismatch, f"autoshrink doctor --fix {target.name}")
    available = availability(target)
    found = _found(target, available.state, available.why, available.fix)
    if available.state == "unavailable":
        return found
    if target.devices:
        return _elsewhere(target)
    if not target.python:
        found["runtime"] = backend.runtime()
    if available.state != "compile-only":
        # The child has its own limit on time, which a study's trials may need; a probe does not.
        limit = min(target.child.time_limit_s, seconds * 0.8)
        try:
            probe(replace(target, child=replace(target.child, time_limit_s=limit)))
        except ChildError as error:
            found |= {"state": "unavailable", "why": str(error), "fix": _reinstall(target)}
    return found


def _elsewhere(target: Target) -> dict[str, str]:
    """What is to be said of a target whose devices are not this machine: the best of them, and each that is less."""
    looks = [(spec, look_at(spec, target)) for spec in target.devices]
    best = min((facts for _, facts in looks), key=lambda facts: STATES.index(facts.state))
    less = [(spec, facts) for spec, facts in looks if facts.state != "ready"]
    several = len(looks) > 1
    whys = [f"{spec.name}: {facts.why}" if several else facts.why for spec, facts in less]
    found = _found(target, best.state, "; ".join(whys), "; ".join(dict.fromkeys(f.fix for _, f in less if f.fix)))
    return found | {"runtime": best.identity.get("runtime", "")}


def version_mismatch(target: Target) -> str:
    """Why the target's own Python cannot take jobs of this process; empty when it can, or when it has none of its own.

    A missing file, and one without autoshrink, is for `availability` to say.
    """
    python = interpreter(target)
    if not target.python or not Path(python).is_file():
        return ""
    try:
        answer = subprocess.run([python, "-c", ASK_VERSION], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    theirs, _, their_python = answer.stdout.strip().partition(" ")
    if answer.returncode or theirs == __version__:
        return ""
    return (
        f"autoshrink {theirs} is in {target.python} (Python {their_python}), and {__version__} here (Python "
        f"{platform.python_version()}); jobs pass between them, so they must be the same"
    )


def _found(target: Target, state: str, why: str, fix: str) -> dict[str, str]:
    return {"target": target.name, "state": state, "runtime": "", "why": why, "fix": fix}


def _reinstall(target: Target) -> str:
    if target.python:
        return f"autoshrink doctor --fix {target.name}"
    try:
        packages = get_backend(target.backend).packages
    except Exception:
        return f"look at backend: {target.backend} in the profile of {target.name}"
    return f"{Path(sys.executable).name} -m pip install --force-reinstall {' '.join(packages)}" if packages else ""
