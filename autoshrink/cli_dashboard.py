"""The command that shows studies: `dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoshrink.cli_common import RESULTS, app, log
from autoshrink.errors import ConfigError


@app.command()
def dashboard(
    results: Annotated[Path, typer.Argument(metavar="RESULTS_DIR", help="Folder that holds the studies.")] = RESULTS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")] = 8050,
) -> None:
    """Shows the studies in the browser, live while searches run; until Ctrl-C."""
    from autoshrink.dashboard.app.server import serve
    from autoshrink.dashboard.library import Library

    if not results.is_dir():
        raise ConfigError([f"{results}: there is no such folder; name the one that holds the studies"])
    log.print(f"http://{host}:{port}")
    serve(Library(results), host, port)
