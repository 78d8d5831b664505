"""What autoshrink itself costs: `python -m autoshrink.bench.overhead --study results/demo --out results/overhead.json`.

Two figures. The share of a study's trials that is neither training, compiling, evaluating nor measuring, from the
seconds in its records; and the time of `import autoshrink` in a fresh process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from autoshrink.measure.environment import describe_machine
from autoshrink.records import StudyFolder, write_json

WORK = {
    "training": ("prune", "finetune"),
    "compiling": ("export", "quantize", "compile", "load", "audit"),
    "measuring": ("measure",),
    "evaluating": ("evaluate", "score"),
}
IMPORTS = 20
IMPORT = (
    "import sys, time; began = time.perf_counter(); import autoshrink; "
    "print(time.perf_counter() - began, 'torch' in sys.modules)"
)


def shares(folder: StudyFolder) -> dict[str, float]:
    """Seconds by kind of work over every trial of a study that came to its end, `overhead` among them."""
    kinds = {stage: kind for kind, stages in WORK.items() for stage in stages}
    totals = dict.fromkeys((*WORK, "overhead"), 0.0)
    for target in folder.meta.targets:
        for record in folder.records(target):
            for stage, seconds in record.seconds.items():
                totals[kinds.get(stage, "overhead")] += seconds
    return totals


def import_seconds() -> tuple[list[float], bool]:
    """Seconds of `import autoshrink` in fresh processes, and whether any of them loaded torch."""
    seconds, torch = [], False
    for _ in range(IMPORTS):
        printed = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True).stdout
        value, with_torch = printed.split()
        seconds.append(float(value))
        torch = torch or with_torch == "True"
    return seconds, torch


def main() -> None:
    """Reads the study, imports the package in fresh processes, and writes JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=Path("results/demo"))
    parser.add_argument("--out", type=Path, default=Path("results/overhead.json"))
    arguments = parser.parse_args()
    totals = shares(StudyFolder.open(arguments.study))
    whole = sum(totals.values())
    imports, torch = import_seconds()
    write_json(
        arguments.out,
        {
            "schema": 1,
            "command": f"python -m autoshrink.bench.overhead --study {arguments.study}",
            "machine": describe_machine(),
            "trial_seconds": {kind: round(seconds, 2) for kind, seconds in totals.items()},
            "overhead_share": round(totals["overhead"] / whole, 4),
            "import_seconds": [round(value, 4) for value in imports],
            "import_loads_torch": torch,
        },
    )
    lines = [
        "# What autoshrink itself costs",
        "",
        f"`python -m autoshrink.bench.overhead --study {arguments.study}`",
        "",
        "| kind of work | seconds | share |",
        "|---|---|---|",
        *(f"| {kind} | {seconds:.1f} | {seconds / whole:.1%} |" for kind, seconds in totals.items()),
        "",
        f"`import autoshrink`: median {statistics.median(imports):.3f} s, largest {max(imports):.3f} s of {IMPORTS}; "
        f"it {'loads' if torch else 'does not load'} torch.",
    ]
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
