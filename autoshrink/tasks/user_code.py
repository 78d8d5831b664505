"""Turns whatever a user's code raises into one line that names the place, so that nobody reads autoshrink's stack."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from autoshrink.errors import AutoshrinkError, ConfigError
from autoshrink.task import Task


@contextmanager
def user_code(where: str, source: str) -> Iterator[None]:
    """Runs a piece of a user's code.

    Args:
        where: how the message begins: a file, or `file:attribute`.
        source: the task's file as the user named it, or the name of a built-in task.

    Raises:
        ConfigError: the code raised anything but an error of autoshrink or an interrupt; its type, its message, and
            the line of `source` that led there.
    """
    try:
        yield
    except AutoshrinkError:
        raise
    except SyntaxError as error:
        raise ConfigError([f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"]) from error
    except ImportError as error:
        raise ConfigError(
            [
                f"{where}: {described(error, source)}; install it into this environment, or, if it is a module of "
                "your own, put it beside the task's file and import it at the top of that"
            ]
        ) from error
    except SystemExit as error:
        raise ConfigError(
            [
                f"{where}: ends the program with {described(error, source)}; put what is to run only as a script under "
                "`if __name__ == '__main__':`"
            ]
        ) from error
    except Exception as error:
        raise ConfigError([f"{where}: {described(error, source)}"]) from error


def running(task: Task, attribute: str) -> AbstractContextManager[None]:
    """`user_code` around a call of the task's `attribute`."""
    return user_code(f"{task.source or task.name}:{attribute}", task.source)


def wrong(task: Task, attribute: str, text: str) -> ConfigError:
    """The error `task:attribute: text`, to be raised."""
    return ConfigError([f"{task.source or task.name}:{attribute}: {text}"])


def described(error: BaseException, source: str) -> str:
    """Type, message, and the line of `source` that led to `error`, if there is one."""
    message = f"{type(error).__name__}: {error}".removesuffix(": ")
    file = Path(source).resolve()
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return f"{message} ({source}:{lines[-1]})" if lines else message
