"""The command that runs on a device: `agent`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from autoshrink import units
from autoshrink.cli_common import app, log, out, quantity
from autoshrink.errors import ConfigError
from autoshrink.tokens import is_loopback, token_of, url_host

TOKEN = "AUTOSHRINK_TOKEN"  # noqa: S105 - the name of a variable


@app.command()
def agent(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:8765",
    token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the token; a new one when not given.")
    ] = None,
    valid_for: Annotated[
        float | None,
        typer.Option(parser=quantity(units.seconds), metavar="8h", help="The token is refused after this."),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    max_file: Annotated[
        int, typer.Option(parser=quantity(units.size_bytes), metavar="1GB", help="Largest file that is taken.")
    ] = "1GB",  # type: ignore[assignment]
    max_stored: Annotated[
        int, typer.Option(parser=quantity(units.size_bytes), metavar="4GB", help="Most bytes kept for searches.")
    ] = "4GB",  # type: ignore[assignment]
) -> None:
    """Runs and measures models on this device, for searches on other machines; until Ctrl-C."""
    from autoshrink.agent.guard import Rules
    from autoshrink.agent.serve import Settings, serve

    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit():
        raise ConfigError([f"--listen: {listen!r} is not HOST:PORT, such as 127.0.0.1:8765 or 0.0.0.0:8765"])
    token = token_of(token_env)
    scheme = "https" if certificate else "http"
    until = None if valid_for is None else time.monotonic() + valid_for

    def ready(port: int) -> None:
        where = f"{scheme}://{url_host(host)}:{port}"
        log.print(Text.assemble("listens on ", (where, "bold"), f", runs {_runtimes()}"), soft_wrap=True)
        if not is_loopback(host) and certificate is None:
            log.print(
                "the token and the models travel unencrypted: use --certificate and --key, or listen on 127.0.0.1 and "
                f"`ssh -L {port}:127.0.0.1:{port}` from the other machine",
                style="yellow",
            )
        log.print("on the machine that searches, in a target's profile:", style="dim")
        address = where.replace("0.0.0.0", "THIS-DEVICE").replace("[::]", "THIS-DEVICE")  # noqa: S104 - told, not bound
        log.print(f"  device: {{agent: '{address}', token_env: {token_env or TOKEN}}}", highlight=False, soft_wrap=True)
        if token_env is None:
            log.print("and in its shell:", style="dim")
            # The one thing that a program may read of it.
            out.print(f"export {TOKEN}={token}", highlight=False, soft_wrap=True)

    rules = Rules(token, until, most_file=max_file)
    serve(Settings(host, int(port), rules, max_stored, certificate=certificate, key=key), ready)


def _runtimes() -> str:
    """The runtimes that are here, with their versions."""
    from autoshrink.backends import BACKENDS, get_backend

    backends = [get_backend(name) for name in BACKENDS]
    ready = [each.runtime() for each in backends if each.available_to_run().state in ("ready", "untimed")]
    return ", ".join(ready) or "no runtime: none is installed; pip install 'autoshrink[onnxruntime]', or another"
