"""Commands in processes that are forked from one with the imports of a search behind it.

Such a process is as much the command's own as a started one: arguments, folder, environment, output, exit code,
signals. Only its imports are not fresh, which takes seconds off each; `test_way.py` starts some of each the plain way.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.end_to_end.warm_imports"])


def run_command(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """`python -W error -m autoshrink` with `arguments`, as `subprocess.run` would run it.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was killed.
    """
    with TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("stdout", "stderr")]
        process = _context.Process(target=_command, args=(list(arguments), folder, dict(environment), files))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        said = [file.read_text() for file in files]
        return subprocess.CompletedProcess(list(arguments), process.exitcode, *said)


def _command(arguments: list[str], folder: Path, environment: dict[str, str], files: list[Path]) -> None:
    for number, file in enumerate(files, 1):
        with file.open("w") as opened:
            os.dup2(opened.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["autoshrink", *arguments]
    # As -W error has it, whatever was imported before.
    warnings.resetwarnings()
    warnings.simplefilter("error")
    from autoshrink.cli import main

    main()
