"""What `autoshrink doctor --fix` does: an environment for a target's child, its packages, its runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoshrink import __version__
from autoshrink.backends import get_backend
from autoshrink.backends.base import Backend, installed_version
from autoshrink.doctor import version_mismatch
from autoshrink.errors import AutoshrinkError
from autoshrink.isolate.probe import availability
from autoshrink.isolate.process import interpreter
from autoshrink.target import Target


@dataclass(frozen=True)
class Fix:
    """Something that can be done for a target.

    Attributes:
        text: what `run` does, in one line.
        run: does it, with the tools' own words on standard error; raises `AutoshrinkError` when it fails.
    """

    text: str
    run: Callable[[], None]


def fixes(target: Target) -> list[Fix]:
    """What has to be done, in this order; empty when nothing that can be installed is missing.

    Raises:
        AutoshrinkError: the profile names a Python that cannot be made.
    """
    try:
        backend = get_backend(target.backend)
    except (KeyError, ImportError, AttributeError) as error:
        raise AutoshrinkError(f"{target.name}: backend {target.backend} is not there: {error}") from error
    python = Path(interpreter(target))
    steps = []
    if target.python and not python.exists():
        folder = _environment_of(target, python)
        make = [sys.executable, "-m", "venv", str(folder)]
        steps.append(Fix(f"makes an environment in {folder}", lambda: _run(make)))
    state = "unavailable" if steps else availability(target).state
    if target.python:
        lacks_packages = state == "unavailable" or bool(version_mismatch(target))
    else:
        lacks_packages = not all(map(installed_version, backend.packages))
    if lacks_packages:
        command = [str(python), "-m", "pip", "install", *_wanted(target, backend)]
        steps.append(Fix(" ".join(command), lambda: _run(command)))
    if backend.installs and state != "ready":
        steps.append(Fix(f"installs {backend.installs}", lambda: _install(target, backend)))
    return steps


def _environment_of(target: Target, python: Path) -> Path:
    if python.parent.name not in ("bin", "Scripts"):
        raise AutoshrinkError(
            f"{target.name}: python is {target.python}; an environment can be made for a path that ends in bin/python "
            "only. Change it in the profile, or make that Python yourself"
        )
    return python.parent.parent


def _wanted(target: Target, backend: Backend) -> list[str]:
    """What pip is to install: autoshrink itself in an environment of the target's own, with the backend's extra."""
    if not backend.extra and not target.python:
        return list(backend.packages)
    extra = f"[{backend.extra}]" if backend.extra else ""
    source = Path(__file__).parents[1]
    if (source / "pyproject.toml").is_file():
        # From the sources that run here, so that both sides are the same autoshrink.
        return ["--editable", f"{source}{extra}"]
    return [f"autoshrink{extra}=={__version__}"]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, stdout=sys.stderr.fileno(), check=False)
    except OSError as error:
        raise AutoshrinkError(f"{command[0]} cannot be started: {error.strerror or error}") from error
    if done.returncode:
        raise AutoshrinkError(f"`{' '.join(command)}` ended with code {done.returncode}; its last lines say why")


def _install(target: Target, backend: Backend) -> None:
    try:
        backend.install()
    except Exception as error:
        raise AutoshrinkError(f"{target.name}: {backend.installs} could not be installed: {error}") from error
