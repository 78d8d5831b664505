"""`load_task`: a built-in name or a user's Python file -> a Task that was checked and run once."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from autoshrink.errors import ConfigError
from autoshrink.task import Task, check_task
from autoshrink.tasks import TASKS
from autoshrink.tasks.checking import check_kinds
from autoshrink.tasks.running import check_by_running
from autoshrink.tasks.user_code import user_code

HOW_TO_DEFINE = "write `task = Task(...)`, or `def task() -> Task:` without arguments"

# Top-level modules that a task's file imported from its own folder -> that folder.
_neighbours: dict[str, Path] = {}


def load_task(reference: str) -> Task:
    """The task that `reference` names, its `source` filled in.

    Args:
        reference: a built-in name, or the path of a `.py` file that defines `task`: a Task, or a function without
            arguments that returns one. The file's folder can be imported from while it is loaded.

    Raises:
        ConfigError: there is no such task; the file cannot be run; the task breaks the contract; or its model, metric
            or loss does not work on some of its own samples. Says which line, layer or attribute it was.
    """
    if reference in TASKS:
        module, function = TASKS[reference]
        task: Task = getattr(importlib.import_module(module), function)()
    elif reference.endswith(".py"):
        task = _from_file(reference)
    else:
        raise ConfigError(
            [f"task {reference!r}: not a built-in one ({', '.join(TASKS)}); one of your own is a file that ends in .py"]
        )
    task = replace(task, source=reference)
    check_thoroughly(task)
    return task


def check_thoroughly(task: Task) -> None:
    """All that `load_task` checks of a task, whoever made it.

    Raises:
        ConfigError: the task breaks the contract, or does not work on some of its own samples.
    """
    check_kinds(task)
    check_task(task)
    check_by_running(task)


def _from_file(reference: str) -> Task:
    path = Path(reference).resolve()
    if not path.is_file():
        raise ConfigError(
            [f"{reference}: there is no such file; give the path of a task's file, or {_or(list(TASKS))}"]
        )
    with _importable(path.parent):
        with user_code(reference, reference):
            module = _execute(path)
        return _task_of(module, reference)


def _execute(path: Path) -> ModuleType:
    """The module of `path`, run anew, under a name of its own: another file of the same name does not replace it."""
    name = f"autoshrink_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and inspect look a class's module up here.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _task_of(module: ModuleType, reference: str) -> Task:
    task = getattr(module, "task", None)
    if task is None:
        raise ConfigError([f"{reference}: defines no `task`; {HOW_TO_DEFINE}"])
    if inspect.isroutine(task):
        needed = [p.name for p in inspect.signature(task).parameters.values() if _is_required(p)]
        if needed:
            raise ConfigError([f"{reference}:task: the function needs {_or(needed)}; {HOW_TO_DEFINE}"])
        with user_code(f"{reference}:task", reference):
            task = task()
        if not isinstance(task, Task):
            raise ConfigError([f"{reference}:task: the function returns {_kind(task)}; it must return a Task"])
    if not isinstance(task, Task):
        raise ConfigError([f"{reference}:task: is {_kind(task)}; {HOW_TO_DEFINE}"])
    return task


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _or(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Puts `folder` first on the import path; afterwards takes it off again.

    A module that the file of another folder imported must not answer for one of the same name in this folder.
    """
    for name, owner in list(_neighbours.items()):
        if owner != folder and ((folder / f"{name}.py").exists() or (folder / name).is_dir()):
            for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
                del sys.modules[loaded]
            del _neighbours[name]
    importlib.invalidate_caches()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and "." not in name and Path(file).is_relative_to(folder):
                _neighbours[name] = folder
