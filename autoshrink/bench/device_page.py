"""results/devices.md, from the figures of `autoshrink.bench.devices`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autoshrink.bench.explain_cases import markdown


def page(found: Mapping[str, Any]) -> str:
    """The whole page."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    machine = found["machine"]
    sets = ", ".join(machine["instruction_sets"] or ()) or "none of those that matter"
    yield "# Devices"
    yield ""
    yield f"`make bench-devices`, {machine['processor']} ({machine['cores']} cores, {sets})."
    yield ""
    if "ways" in found:
        yield from _places(found)
    if "memory" in found:
        looks = found["memory"]["looks"]
        yield f"## The agent's own memory over {looks[-1]['jobs']:,} measurements"
        yield ""
        yield "Of the agent's process; each measurement has a child of its own."
        yield ""
        yield "| after | resident |"
        yield "|---|---|"
        for look in looks:
            yield f"| {look['jobs']:,} | {look['bytes'] / 2**20:.2f} MiB |"
        yield ""
    if "explain" in found:
        yield "## `explain --apply` on the known cases"
        yield ""
        yield (
            "Each case is a hand-built file with one known cause of lost time; the change is made, and both are "
            "measured in turn ([docs/explain.md](../docs/explain.md))."
        )
        yield ""
        yield markdown(found["explain"]).rstrip()


def _places(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## One artifact, four places"
    yield ""
    yield (
        "The demo's network in static int8 beside its own fp32, measured in turn by a child process of this machine, "
        "through an agent on loopback, in a page of this machine's Chromium, and in the phone's page (Chromium with a "
        "Pixel 7's profile, on this machine: no phone was there). Each with the protocol of its target: rounds until "
        "the ratio is known to +-2 %."
    )
    yield ""
    yield f"Seed {found['seed']}. On a processor without VNNI the native runtime's weights have 7 bits."
    yield ""
    yield "| place | times | ratio to fp32, median | its spread, 5 to 95 % | half its stated interval | a call |"
    yield "|---|---|---|---|---|---|"
    for name, figures in found["ways"].items():
        yield _ratios(name, figures)
    yield ""
    yield (
        "The pages run onnxruntime-web in WebAssembly, whose int8 is another one than the native runtime's: compare a "
        "place with its neighbour. What a measurement costs beyond the measuring itself: from the call to the result "
        "in the hands of whoever asked, less the seconds in which the artifact was warmed up and timed."
    )
    yield ""
    yield "| place | beyond measuring, median | 5 to 95 % | measuring, median | unsteady |"
    yield "|---|---|---|---|---|"
    for name, figures in found["ways"].items():
        yield _costs(name, figures)
    yield ""


def _ratios(name: str, figures: Sequence[Mapping[str, Any]]) -> str:
    ratios = np.array([figure["ratio"] for figure in figures])
    low, high = np.quantile(ratios, (0.05, 0.95))
    median = float(np.median(ratios))
    interval = float(np.median([figure["interval"] for figure in figures]))
    ms = float(np.median([figure["ms"] for figure in figures]))
    return (
        f"| {name} | {len(figures)} | {median:.3f} | {low / median - 1:+.1%} to {high / median - 1:+.1%} | "
        f"{interval:.1%} | {ms:.3f} ms |"
    )


def _costs(name: str, figures: Sequence[Mapping[str, Any]]) -> str:
    beyond = np.array([figure["seconds"] - figure["measuring"] for figure in figures])
    low, high = np.quantile(beyond, (0.05, 0.95))
    measuring = float(np.median([figure["measuring"] for figure in figures]))
    unsteady = sum(bool(figure["unrest"]) for figure in figures)
    return f"| {name} | {np.median(beyond):.2f} s | {low:.2f} to {high:.2f} s | {measuring:.2f} s | {unsteady} |"
