"""The command about devices that are not this machine: `devices`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from autoshrink.cli_common import AsJson, app, log, out, print_json

if TYPE_CHECKING:
    from autoshrink.devices.base import Facts
    from autoshrink.devices.seen import Seen
    from autoshrink.target import RemoteDevice, Target

_STATES = {"ready": "green", "busy": "yellow", "untimed": "yellow", "compile-only": "yellow", "unavailable": "red"}
AT_ONCE = 8


@app.command()
def devices(
    target: Annotated[list[str] | None, typer.Option(help="Of these: names or YAML files, as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Asks the devices that searches have used, and those of --target: what they are, how steady, who waits."""
    from concurrent.futures import ThreadPoolExecutor

    from autoshrink.config import load_target
    from autoshrink.devices import look_at

    pairs = _known([load_target(reference) for reference in target or ()])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        looks = list(pool.map(lambda pair: look_at(*pair), pairs))
    seen = _seen()
    rows = [
        _row(spec, profile, facts, seen.get((spec.name, profile.name)))
        for (spec, profile), facts in zip(pairs, looks, strict=True)
    ]
    if as_json:
        print_json({"devices": rows})
        return
    if not rows:
        log.print("no search has used a device yet; a target's profile names one under `device`: see docs/devices.md")
        return
    for row in rows:
        out.print(Text.assemble((row["device"], "bold"), f"  of target {row['target']}"), soft_wrap=True)
        out.print(_about(row))


def _about(row: Mapping[str, Any]) -> Table:
    """What is known of a device, a line each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    waiting = f", {row['queue']} in its queue" if row["queue"] else ""
    table.add_row("  state", Text.assemble((row["state"], _STATES[row["state"]]), waiting))
    if row["what"]:
        table.add_row("  it is", Text.assemble(row["what"], (f"  {row['fingerprint']}", "dim")))
    table.add_row("  measured", _steadiness(row["latest"]))
    if row["why"]:
        table.add_row("  why", row["why"])
    if row["fix"]:
        table.add_row("  to do", row["fix"])
    return table


def _known(targets: list[Target]) -> list[tuple[RemoteDevice, Target]]:
    """The devices of these profiles, and all that were seen before, for their targets; each once."""
    from dataclasses import replace

    from autoshrink.config import load_target
    from autoshrink.devices.seen import all_seen
    from autoshrink.errors import ConfigError
    from autoshrink.target import RemoteDevice

    found = {(spec.name, target.name): (spec, target) for target in targets for spec in target.devices}
    for seen in all_seen():
        try:
            spec = RemoteDevice(**seen.profile)
            profile = replace(load_target("onnxruntime-cpu"), name=seen.target, backend=seen.backend, devices=(spec,))
        except (ConfigError, TypeError, ValueError):
            continue
        found.setdefault((seen.name, seen.target), (spec, profile))
    return list(found.values())


def _seen() -> dict[tuple[str, str], Seen]:
    from autoshrink.devices.seen import all_seen

    return {(seen.name, seen.target): seen for seen in all_seen()}


def _row(spec: RemoteDevice, target: Target, facts: Facts, seen: Seen | None) -> dict[str, Any]:
    from autoshrink.measure.identity import describe_identity, fingerprint

    identity = facts.identity or (seen.identity if seen else {})
    queue = facts.about.get("queue")
    return {
        "device": spec.name,
        "target": target.name,
        "state": "busy" if facts.state == "ready" and queue else facts.state,
        "queue": queue,
        "identity": dict(identity),
        "what": describe_identity(identity),
        "fingerprint": fingerprint(identity) if identity else "",
        "latest": dict(seen.latest) if seen else {},
        "last_seen": seen.when if seen else None,
        "why": facts.why,
        "fix": facts.fix,
        "profile": asdict(spec),
    }


def _steadiness(latest: Mapping[str, Any]) -> Text:
    if not latest:
        return Text("none yet", "dim")
    if latest.get("unrest"):
        return Text(f"unstable: {latest['unrest']}", "yellow")
    return Text(f"steady, +-{100 * latest['interval']:.1f} %", "green")
