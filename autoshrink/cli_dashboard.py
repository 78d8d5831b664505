"""The command that shows studies: `dashboard`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer
from rich.text import Text

from autoshrink.cli_common import DONE, RESULTS, app, log
from autoshrink.errors import ConfigError
from autoshrink.tokens import is_loopback, token_of, url_host

if TYPE_CHECKING:
    from autoshrink.dashboard.app.guard import Rules


@app.command()
def dashboard(
    results: Annotated[Path, typer.Argument(metavar="RESULTS_DIR", help="Folder that holds the studies.")] = RESULTS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")] = 8050,
    token_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Environment variable with the token that browsers bring; a new one where others reach it.",
        ),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Opens it in the browser.")] = False,
) -> None:
    """Shows the studies in the browser, live while searches run; until Ctrl-C."""
    from autoshrink.dashboard.app.guard import Rules
    from autoshrink.dashboard.app.server import serve
    from autoshrink.dashboard.library import Library

    folder, path = _where(results)
    bare = host.removeprefix("[").removesuffix("]")
    rules = Rules(bare, token_of(token_env) if token_env or not is_loopback(bare) else "")

    def ready(port: int) -> None:
        query = f"?token={quote(rules.token)}" if rules.token and token_env is None else ""
        url = f"http://{url_host(_reached(bare))}:{port}{path}"
        log.print(Text.assemble("the dashboard of ", str(folder), ": ", (url + query, "bold")), soft_wrap=True)
        _say_more(rules, token_env, port)
        if open_browser:
            webbrowser.open(url + query)

    try:
        serve(Library(folder), rules, port, ready)
    except KeyboardInterrupt:
        # Ctrl-C is how it ends.
        raise typer.Exit(DONE) from None


def _where(results: Path) -> tuple[Path, str]:
    """The folder of studies, and where the dashboard opens: the study itself when `results` is one."""
    from autoshrink.records import STUDY_FILE

    if (results / STUDY_FILE).is_file():
        folder = results.resolve()
        return folder.parent, f"/study/{quote(folder.name, safe='')}/front"
    if not results.is_dir():
        raise ConfigError([f"{results}: there is no such folder; name the one that holds the studies"])
    return results, "/"


def _reached(host: str) -> str:
    """An address by which this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - told, not bound


def _say_more(rules: Rules, token_env: str | None, port: int) -> None:
    if token_env is not None:
        log.print(f"once with ?token= and the value of ${token_env} at the end of the address", style="dim")
    if not is_loopback(rules.host):
        log.print(
            "the token and the pages travel unencrypted: listen on 127.0.0.1 and "
            f"`ssh -L {port}:127.0.0.1:{port}` from the other machine where others share the network",
            style="yellow",
            soft_wrap=True,
        )
    log.print("Ctrl-C ends it", style="dim")
