"""The page that shows the benchmark of the techniques: a table a model, the goals, the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autoshrink.dashboard.formatting import factor
from autoshrink.search.words import human_bytes, human_ms

Json = Mapping[str, Any]

HEAD = (
    "technique", "recipe", "runtime", "accuracy", "change, points", "latency", "faster", "size", "smaller", "gzip",
    "smaller", "8-bit layers", "minutes",
)  # fmt: skip


def markdown(document: Json) -> str:
    """The document of the benchmark as a Markdown page."""
    rows, goals = document["rows"], document["goals"]
    lines = [
        "# What every technique does",
        "",
        f"Made by `{document['command']}` on {document['date']}, seed {document['seed']}. Accuracy is of the compiled "
        "artifact on the test split, in percent with its 95 % interval; the change is to the fp32 baseline of the same "
        "runtime on the same samples, with the interval of the paired difference. Latency is of one call with one "
        "thread; how much faster is the ratio to the baseline, measured interleaved. Size is that of the files that "
        "ship, as they are and compressed with gzip; both are compared with the baseline's. Minutes are what it took "
        "to make the model when it was made for the first time, training and measured sensitivities included; what "
        "two rows share is counted in both. The encoder's baseline stopped learning early: where a row of it gains "
        "accuracy, that is the training it got, not the compression.",
        "",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        lines += [f"## {model}", "", line(HEAD), line("---" for _ in HEAD)]
        lines += [line(_cells(row)) for row in of_model if not row["reason"]]
        reasons = dict.fromkeys(
            f"- {_name(row)} on {row['target']}: {text(row['reason'])}" for row in of_model if row["reason"]
        )
        lines += ["", *(["Not measured:", "", *reasons, ""] if reasons else [])]
    if goals:
        head = ("goal", "runtime", "technique", "change, points", "smaller", "faster", "reached")
        lines += ["## Goals", "", line(head), line("---" for _ in head), *(line(_goal(goal)) for goal in goals), ""]
    return "\n".join([*lines, machine_line(document["machine"]), ""])


def _cells(row: Json) -> list[str]:
    ratio_low, ratio_high = row["latency_ratio_ci"]
    return [
        _name(row),
        text(row["words"]),
        row["target"],
        f"{_percent(row['accuracy'])} [{', '.join(map(_percent, row['accuracy_ci']))}]",
        f"{_change(row['drop'])} [{', '.join(_change(end) for end in reversed(row['drop_ci']))}]",
        human_ms(row["latency_ms"]) + ("" if row["stable"] else " (unstable)"),
        f"{factor(row['speedup'])} [{factor(1 / ratio_high)}, {factor(1 / ratio_low)}]",
        human_bytes(row["size_bytes"]),
        factor(row["size_ratio"]),
        "-" if row["compressed_bytes"] is None else human_bytes(row["compressed_bytes"]),
        "-" if row["size_ratio_compressed"] is None else factor(row["size_ratio_compressed"]),
        "-" if row["layers"] is None else f"{row['int8_layers']}/{row['layers']}",
        f"{row['minutes']:.1f}",
    ]


def _goal(goal: Json) -> list[str]:
    return [
        text(goal["goal"]),
        goal["target"],
        _name(goal),
        "-" if goal["drop"] is None else _change(goal["drop"]),
        "-" if goal["size_ratio"] is None else factor(goal["size_ratio"]),
        "-" if goal["speedup"] is None else factor(goal["speedup"]),
        "yes" if goal["reached"] else f"no: {text('; '.join(goal['missed']))}",
    ]


def _name(row: Json) -> str:
    return str(row["technique"]).replace("_", " ")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _change(drop: float) -> str:
    text = f"{-100 * drop:+.2f}"
    return text[1:] if float(text) == 0 else text


def text(value: object) -> str:
    """A text that stays in its cell and its line."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def machine_line(machine: Json) -> str:
    """What `describe_machine` gave, in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    sets = machine["instruction_sets"]
    return (
        f"Machine: {machine['processor']}, {machine['usable_cores']} cores{', ' + ', '.join(sets) if sets else ''}, "
        f"{machine['system']}, Python {machine['python']}, {versions}, load before it began {machine['load_1_min']}."
    )
