"""Whether the attributes of a task are of the kinds that the contract names: the slips that Python does not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autoshrink.errors import ConfigError
from autoshrink.task import Split, Task, TrainingSet

Say = Callable[[str, str], None]


def check_kinds(task: Task) -> None:
    """Checks the Python types of the attributes, and that every array has numbers in it.

    Raises:
        ConfigError: with every problem found, as `source:attribute: ...`.
    """
    problems: list[str] = []

    def say(attribute: str, text: str) -> None:
        problems.append(f"{task.source or task.name}:{attribute}: {text}")

    for attribute in ("name", "metric_name", "preprocessing", "fingerprint_extra"):
        _check(attribute, getattr(task, attribute), str, "must be a string", say)
    for attribute in ("model", "metric", "loss", "student"):
        _check_function(attribute, getattr(task, attribute), attribute in ("loss", "student"), say)
    for attribute in ("example_inputs", "calibration"):
        _check_arrays(attribute, getattr(task, attribute), say)
    _check("outputs", task.outputs, Mapping, "must be a mapping, such as {'logits': 'logits'}", say)
    _check("keep", task.keep, tuple, "must be a tuple of layer names, such as ('head',)", say)
    rule = "must be a tuple of names, such as ('cat', 'dog')"
    if _check("classes", task.classes, tuple, rule, say) and not all(isinstance(name, str) for name in task.classes):
        say(
            "classes", f"holds {', '.join(repr(name) for name in task.classes if not isinstance(name, str))}; it {rule}"
        )
    for attribute in ("val", "test"):
        _check_split(attribute, getattr(task, attribute), say)
    if task.train is not None and _check("train", task.train, TrainingSet, "must be a TrainingSet, or None", say):
        _check_split("train", task.train.split, say)
        if task.train.batch_size < 1:
            say("train", f"batch_size is {task.train.batch_size}; it must be 1 or more")
    if problems:
        raise ConfigError(problems)


def _check(attribute: str, value: Any, wanted: type, rule: str, say: Say) -> bool:
    if isinstance(value, wanted):
        return True
    say(attribute, f"is a {type(value).__name__}; it {rule}")
    return False


def _check_function(attribute: str, value: Any, may_miss: bool, say: Say) -> None:
    if value is None and may_miss:
        return
    if attribute == "model" and hasattr(value, "state_dict"):
        say(attribute, "is the model itself; it must be a function that gives a fresh one: lambda: copy.deepcopy(net)")
    elif not callable(value):
        say(attribute, f"is a {type(value).__name__}; it must be a function")


def _check_split(attribute: str, value: Any, say: Say) -> None:
    if _check(attribute, value, Split, "must be a Split(inputs, targets)", say):
        _check_arrays(attribute, value.inputs, say)
        _check_arrays(attribute, value.targets, say)


def _check_arrays(attribute: str, value: Any, say: Say) -> None:
    if not _check(attribute, value, Mapping, "must be a mapping from names to numpy arrays", say):
        return
    for name, array in value.items():
        if not isinstance(array, np.ndarray):
            say(attribute, f"{name!r} is a {type(array).__name__}; it must be a numpy array")
        elif array.dtype.kind not in "biuf":
            say(attribute, f"{name!r} is of dtype {array.dtype}; it must hold numbers (bool, integers or floats)")
        elif array.ndim == 0:
            say(attribute, f"{name!r} has no dimensions; the first one counts the samples")
