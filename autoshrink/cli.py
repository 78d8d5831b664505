"""The command line: one thin function a command. Documents go to standard output, logs to standard error."""

from __future__ import annotations

import os
import sys

from rich.text import Text

# Each brings its commands along: in this order they are listed.
import autoshrink.cli_search

# isort: split
import autoshrink.cli_study

# isort: split
import autoshrink.cli_dashboard

# isort: split
import autoshrink.cli_explain

# isort: split
import autoshrink.cli_machine

# isort: split
import autoshrink.cli_agent

# isort: split
import autoshrink.cli_devices  # noqa: F401

# isort: split
from autoshrink.cli_common import BAD_INPUT, DOES_NOT_HOLD, INTERRUPTED, app, log
from autoshrink.errors import AutoshrinkError, ConfigError, NothingFits

EXTRAS = {
    "search": (
        *("torch", "torch_pruning", "onnx", "onnxscript", "optuna", "sqlalchemy", "pandas", "plotly", "safetensors"),
        "httpx",
    ),
    "agent": ("fastapi", "uvicorn"),
    "dashboard": ("dash", "dash_ag_grid", "waitress", "PIL"),
}
"""Extra -> the modules that only it brings; a device that measures has not all of them, and needs not."""


def main() -> None:
    """Runs a command; a mistake of the user's becomes a message and an exit code, never a stack trace."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            # Python remembers an interrupt that passed through exec(), as imports use it, and would end by the signal.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
    except ModuleNotFoundError as error:
        wanted = next((extra for extra, names in EXTRAS.items() if (error.name or "").partition(".")[0] in names), None)
        if wanted is None:
            raise
        _complain(AutoshrinkError(f"{error.name} is not installed; pip install 'autoshrink[{wanted}]'"))
        sys.exit(BAD_INPUT)
    except NothingFits as error:
        _complain(error)
        sys.exit(DOES_NOT_HOLD)
    except (AutoshrinkError, OSError) as error:
        _complain(error)
        sys.exit(BAD_INPUT)


def _complain(error: Exception) -> None:
    problems = error.problems if isinstance(error, ConfigError) else (str(error),)
    for problem in problems:
        log.print(Text.assemble(("error: ", "bold red"), problem), soft_wrap=True)


if __name__ == "__main__":
    main()
