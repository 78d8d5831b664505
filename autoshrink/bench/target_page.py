"""The page that shows the benchmark of the targets: a table a model, what is not measured and why, the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoshrink.bench.technique_page import line, machine_line, text
from autoshrink.dashboard.formatting import factor
from autoshrink.search.words import human_bytes, human_figure
from autoshrink.types import Figure

Json = Mapping[str, Any]

HEAD = (
    "target", "variant", "size", "faster than its fp32", "time to ONNX Runtime fp32", "accuracy", "agreement",
    "low-precision layers", "compile",
)  # fmt: skip


def markdown(document: Json) -> str:
    """The document of the benchmark as a Markdown page."""
    rows = document["rows"]
    lines = [
        "# Every target",
        "",
        f"Made by `{document['command']}` on {document['date']}, seed {document['seed']}. Size is that of the files "
        "that ship. How much faster is the ratio to the fp32 artifact of the same runtime, measured interleaved, with "
        "its 95 % interval. The time to ONNX Runtime fp32 compares milliseconds of two processes and is rougher. "
        "Accuracy is of the compiled artifact on the test split; where there are no labels it is how often the top "
        "class is the float model's (marked =). Agreement is with the recipe's torch model in float. Low-precision "
        "layers are those with weights that do not calculate or store in fp32. A dash was not measured; the reasons "
        "stand below.",
        "",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        lines += [f"## {model}", "", line(HEAD), line("---" for _ in HEAD)]
        lines += [line(_cells(row)) for row in of_model if row["size_bytes"] is not None]
        lines += ["", *_figures(of_model), *_reasons(of_model), *_notes(of_model)]
    return "\n".join([*lines, machine_line(document["machine"]), ""])


def _cells(row: Json) -> list[str]:
    faster = "-"
    if row["latency_ratio"] is not None:
        low, high = row["latency_ratio_ci"]
        faster = f"{factor(1 / row['latency_ratio'])} [{factor(1 / high)}, {factor(1 / low)}]"
    accuracy = "-"
    if row["accuracy"] is not None:
        accuracy = f"{100 * row['accuracy']:.2f} %"
    elif row["top1_agreement"] is not None:
        accuracy = f"= {100 * row['top1_agreement']:.1f} %"
    return [
        row["target"],
        row["variant"],
        human_bytes(row["size_bytes"]),
        faster,
        "-" if row["latency_ratio_to_ort_fp32"] is None else f"{row['latency_ratio_to_ort_fp32']:.2f}",
        accuracy,
        "-" if row["agreement_db"] is None else f"{row['agreement_db']:.1f} dB",
        "-" if row["layers"] is None else f"{row['low_precision_layers']}/{row['layers']}",
        "-" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f} s",
    ]


def _figures(rows: list[Json]) -> list[str]:
    found = [f"- {row['target']}, {row['variant']}: {_named(row)}" for row in rows if row["figures"]]
    return ["Beside them (~: an estimate):", "", *found, ""] if found else []


def _named(row: Json) -> str:
    units = row["figure_units"]
    return ", ".join(
        f"{name} {human_figure(Figure(value, units[name], '', name in row['estimates']))}"
        for name, value in row["figures"].items()
    )


def _reasons(rows: list[Json]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["reason"]:
            reasons.setdefault((row["target"], row["reason"]), []).append(row["variant"])
    listed = [f"- {target}, {', '.join(names)}: {text(why)}" for (target, why), names in reasons.items()]
    return ["Not measured:", "", *listed, ""] if listed else []


def _notes(rows: list[Json]) -> list[str]:
    listed = dict.fromkeys(
        f"- {row['target']}, {row['variant']}: {text(note)}" for row in rows for note in row["notes"]
    )
    return ["What the audits say:", "", *listed, ""] if listed else []
