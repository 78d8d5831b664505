"""What `explain --apply` brings on the known cases: `python -m autoshrink.bench.explain_cases --out FILE.json`.

Each case is a hand-built file with one known cause of lost time (see `autoshrink.bench.explain_files`). It is
explained, the change is made, and both are measured turn by turn. The machine must be quiet otherwise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autoshrink.bench.explain_files import CASES, Case
from autoshrink.config import load_target
from autoshrink.errors import AutoshrinkError
from autoshrink.explain.apply_file import apply_to_file
from autoshrink.explain.place import Place
from autoshrink.explain.run import CALLS, explain_file
from autoshrink.measure.environment import describe_machine
from autoshrink.target import Measuring

COMMAND = "python -m autoshrink.bench.explain_cases"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one")
    options = parser.parse_args(arguments)
    chosen = [case for case in CASES if not options.case or case.name in options.case]
    # An absolute path would publish a folder of this machine.
    out = options.out.name if options.out.is_absolute() else options.out
    report = benchmark(chosen, f"{COMMAND} --out {out}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(markdown(report))


def benchmark(cases: Sequence[Case], command: str, protocol: Measuring | None = None) -> dict[str, Any]:
    """The cases as JSON values: command, machine, and a row a case. `protocol` is that of the targets if None."""
    return {"command": command, "machine": describe_machine(), "rows": [_row(case, protocol) for case in cases]}


def _row(case: Case, protocol: Measuring | None) -> dict[str, Any]:
    target = load_target(case.target)
    place = Place(replace(target, measuring=protocol) if protocol else target)
    row: dict[str, Any] = {"case": case.name, "target": case.target, "rule": case.rule}
    with tempfile.TemporaryDirectory(prefix="autoshrink-") as temporary:
        work = Path(temporary)
        file = work / f"case{case.ending}"
        case.write(file)
        try:
            explained, subject = explain_file(file, place, work / "work", CALLS)
            finding = next((each for each in explained.explanation.findings if each.rule == case.rule), None)
            if finding is None or finding.change is None:
                return {**row, "reason": "the cause was not found"}
            # The change of this cause alone: the files have no other, but rules may see one.
            alone = replace(explained, explanation=replace(explained.explanation, findings=(finding,)))
            (tried,) = apply_to_file(alone, subject, place, work / "out", work / "applied")
        except AutoshrinkError as error:
            return {**row, "reason": str(error)}
    return {
        **row,
        "finding": finding.what,
        "layers": list(finding.layers),
        "change": finding.change.text,
        "expected_ms": tried.expected_ms,
        "expected_basis": finding.expected.basis,
        "before_ms": tried.before_ms,
        "after_ms": tried.after_ms,
        "ratio": tried.ratio,
        "ratio_ci": None if tried.ratio_ci is None else asdict(tried.ratio_ci),
        "int8_before": tried.int8_before,
        "int8_after": tried.int8_after,
        "agreement_db": tried.agreement_db,
        "verdict": tried.verdict,
        "reason": tried.why,
    }


def markdown(report: dict[str, Any]) -> str:
    """The rows as a table."""
    lines = [
        "| case | target | change | before | after | time x | int8 layers | expected | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if row.get("ratio") is None:
            lines.append(f"| {row['case']} | {row['target']} | not measured: {row.get('reason', '')} | | | | | | |")
            continue
        interval = f"{row['ratio']:.2f} [{row['ratio_ci']['low']:.2f}, {row['ratio_ci']['high']:.2f}]"
        expected = "not known" if row["expected_ms"] is None else f"{row['expected_ms']:.3f} ms less"
        before, after = (f"{row[name]:.4f} ms" for name in ("before_ms", "after_ms"))
        layers = "{} of {} -> {} of {}".format(*row["int8_before"], *row["int8_after"])
        lines.append(
            f"| {row['case']} | {row['target']} | {row['change']} | {before} | {after} | {interval} | {layers} "
            f"| {expected} | {row['verdict']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
