"""What the commands share: the application, consoles, options, and how results are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from autoshrink import units
from autoshrink.errors import ConfigError
from autoshrink.target import Limits

DONE, DOES_NOT_HOLD, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finds the best compressed version of a trained model for a given device, measured on the compiled artifact.",
)
out = Console()
log = Console(stderr=True)

_T = TypeVar("_T")


def quantity(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """A parser of options that says what is wrong with a value."""

    def checked(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return checked


def _figure(text: str) -> tuple[str, float]:
    """`arena=262144` -> ("arena", 262144.0)."""
    name, _, value = text.rpartition("=")
    try:
        if name:
            return name, float(value)
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r} is not NAME=MOST, such as arena=262144, in the figure's own unit")


AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Results = Annotated[Path, typer.Option("--results", help="Folder that holds the studies.")]
MaxLatency = Annotated[
    float | None,
    typer.Option(parser=quantity(units.milliseconds), metavar="2ms", help="Latency of one call, at most."),
]
MaxSize = Annotated[
    int | None,
    typer.Option(parser=quantity(units.size_bytes), metavar="1MB", help="Size of the files that ship, at most."),
]
MaxDrop = Annotated[
    float | None, typer.Option(parser=quantity(units.share), metavar="1%", help="Loss of the metric, at most.")
]
MinThroughput = Annotated[
    float | None, typer.Option(parser=quantity(units.rate), metavar="500/s", help="Rows a second, at least.")
]
MaxFigure = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=MOST", help="A figure that the target finds in compiling, at most: arena=262144."),
]
TimeLimit = Annotated[
    float | None, typer.Option(parser=quantity(units.seconds), metavar="10min", help="No trial begins after this.")
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name within --results, or the study's folder.")]
RESULTS = Path("results")


def limits_of(
    latency_ms: float | None,
    size_bytes: int | None,
    drop: float | None,
    throughput: float | None,
    figures: list[str] | None,
) -> Limits:
    """The limits of the options of their names.

    Raises:
        ConfigError: one that no artifact can keep.
    """
    try:
        return Limits(latency_ms, size_bytes, drop, throughput, dict(map(_figure, figures or ())))
    except ValueError as error:
        raise ConfigError([str(error)]) from None


def print_json(value: Any) -> None:
    """One document on standard output."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
