"""autoshrink finds the best compressed version of a trained model for a given device, measured on the device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoshrink.api import Study as Study
    from autoshrink.api import open_study as open_study
    from autoshrink.api import resume as resume
    from autoshrink.api import search as search
    from autoshrink.target import Limits as Limits
    from autoshrink.task import Split as Split
    from autoshrink.task import Task as Task
    from autoshrink.task import TrainingSet as TrainingSet

# Loaded when first used: `import autoshrink` itself costs milliseconds.
_PUBLIC = {
    "Limits": "autoshrink.target",
    "Split": "autoshrink.task",
    "Study": "autoshrink.api",
    "Task": "autoshrink.task",
    "TrainingSet": "autoshrink.task",
    "open_study": "autoshrink.api",
    "resume": "autoshrink.api",
    "search": "autoshrink.api",
}

__all__ = sorted(_PUBLIC)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
