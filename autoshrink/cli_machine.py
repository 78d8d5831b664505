"""The commands about this machine and what ships: `doctor`, `targets`, `spaces`, `cache`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from autoshrink import units
from autoshrink.cli_common import DOES_NOT_HOLD, AsJson, app, log, out, print_json, quantity

_STATES = {"ready": "green", "untimed": "yellow", "compile-only": "yellow", "unavailable": "red"}


@app.command()
def doctor(
    target: Annotated[list[str] | None, typer.Option(help="Only these: names or YAML files.")] = None,
    fix: Annotated[
        list[str] | None, typer.Option(metavar="TARGET", help="Installs what these targets lack, after asking.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: does not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Says for each target whether it is ready on this machine, why not, and the fix; or fixes it."""
    from autoshrink.config import load_target, profile_names
    from autoshrink.doctor import examine_all

    if fix:
        _fix(fix, yes)
    named = [*(target or ()), *(fix or ())]
    profiles = {reference: load_target(reference) for reference in named or profile_names("targets")}
    findings = examine_all(profiles.values())
    for (reference, profile), found in zip(profiles.items(), findings, strict=True):
        # The one who reads it named a file; what the profile is called in itself would not be found.
        found["fix"] = found["fix"].replace(f"--fix {profile.name}", f"--fix {reference}")
    if as_json:
        print_json({"targets": findings})
    else:
        table = Table(box=None, pad_edge=False)
        for name in ("target", "state"):
            table.add_column(name, no_wrap=True)
        for name in ("runtime", "why", "fix"):
            table.add_column(name, overflow="fold")
        for found in findings:
            state = Text(found["state"], _STATES[found["state"]])
            # As text: the brackets of an extra are no markup.
            texts = (Text(found[name]) for name in ("runtime", "why", "fix"))
            table.add_row(found["target"], state, *texts)
        out.print(table)
    if named and any(found["state"] == "unavailable" for found in findings):
        raise typer.Exit(DOES_NOT_HOLD)


def _fix(targets: list[str], yes: bool) -> None:
    from autoshrink.config import load_target
    from autoshrink.fix import fixes

    for name in targets:
        profile = load_target(name)
        steps = fixes(profile)
        if not steps:
            log.print(f"{profile.name}: there is nothing here that could be installed for it", style="dim")
        for step in steps:
            log.print(Text.assemble((f"{profile.name}: ", "bold"), step.text), soft_wrap=True)
            if yes or typer.confirm("Do this?", default=True, err=True):
                step.run()
            else:
                break


@app.command()
def targets(as_json: AsJson = False) -> None:
    """Lists the shipped targets: copy one and edit it for your own device."""
    from dataclasses import asdict

    from autoshrink.config import load_target, profile_folder, profile_names

    folder = profile_folder("targets")
    profiles = [load_target(name) for name in profile_names("targets")]
    if as_json:
        print_json({"targets": [{"file": str(folder / f"{t.name}.yaml"), **asdict(t)} for t in profiles]})
        return
    table = Table("target", "what", "precisions", "left out", "file", box=None, pad_edge=False)
    for profile in profiles:
        left_out = ", ".join([*map(str, profile.unsupported), *profile.avoid]) or "-"
        table.add_row(
            profile.name,
            profile.summary,
            ", ".join(map(str, profile.precisions)),
            left_out,
            str(folder / f"{profile.name}.yaml"),
        )
    out.print(table)


@app.command()
def spaces(as_json: AsJson = False) -> None:
    """Lists the shipped search spaces: copy one and edit it."""
    from dataclasses import asdict

    from autoshrink.config import load_space, profile_folder, profile_names
    from autoshrink.search.space import enumerate_recipes

    most = 20_000
    folder = profile_folder("search_spaces")
    listed = []
    for name in profile_names("search_spaces"):
        space = load_space(name)
        recipes = enumerate_recipes(space, most)
        listed.append((space, folder / f"{name}.yaml", len(recipes) if recipes is not None else None))
    if as_json:
        print_json(
            {"spaces": [{"file": str(file), "recipes": count, **asdict(space)} for space, file, count in listed]}
        )
        return
    table = Table("space", "what", "techniques", "recipes", "file", box=None, pad_edge=False)
    for space, file, count in listed:
        table.add_row(
            space.name,
            space.summary,
            ", ".join(space.techniques),
            f"{count:,}" if count else f"over {most:,}",
            str(file),
        )
    out.print(table)


@app.command()
def cache(
    trim: Annotated[
        int | None,
        typer.Option(
            parser=quantity(units.size_bytes),
            metavar="2GB",
            help="Remove what was unused longest down to this; 0MB empties it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows what the stage cache holds, and trims it."""
    from autoshrink.cache import StageCache
    from autoshrink.search.words import human_bytes

    store = StageCache()
    removed = store.trim(trim) if trim is not None else []
    kinds: dict[str, list[int]] = {}
    for entry in store.entries():
        kinds.setdefault(entry.kind, []).append(entry.size)
    if as_json:
        print_json(
            {
                "folder": str(store.root),
                "bytes": sum(map(sum, kinds.values())),
                "kinds": {kind: {"entries": len(sizes), "bytes": sum(sizes)} for kind, sizes in kinds.items()},
                "removed": [{"key": entry.key, "kind": entry.kind, "bytes": entry.size} for entry in removed],
            }
        )
        return
    table = Table("stage", "entries", "size", box=None, pad_edge=False)
    for kind, sizes in sorted(kinds.items()):
        table.add_row(kind, str(len(sizes)), human_bytes(sum(sizes)))
    table.add_row(
        "in all", str(sum(map(len, kinds.values()))), human_bytes(sum(map(sum, kinds.values()))), style="bold"
    )
    out.print(str(store.root), highlight=False, soft_wrap=True)
    out.print(table)
    if removed:
        out.print(
            f"removed {len(removed)} entries, {human_bytes(sum(entry.size for entry in removed))}", highlight=False
        )
