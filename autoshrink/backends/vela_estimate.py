"""What Vela, Arm's compiler for Ethos-U processors, estimates of a model: cycles, memory, and what it cannot place."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from autoshrink.backends.base import installed_version
from autoshrink.backends.tflm_model import operator_names
from autoshrink.errors import StageError
from autoshrink.types import Figure, Kernel

PACKAGE = "ethos-u-vela"
CONFIGURATION = "Arm/vela.ini"
"""The file of systems and memory modes that comes with Vela."""
TIME_LIMIT_S = 240.0
PLACED = "ethos-u"
"""The custom operator that stands for all that Vela has put on the neural processor, up to where it must leave it."""

ACCELERATORS = (
    *("ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512"),
    *("ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048"),
)
SYSTEMS: Mapping[str, tuple[str, str]] = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_Embedded", "Shared_Sram"),
    "ethos-u85": ("Ethos_U85_SYS_Flash_High", "Shared_Sram"),
}
"""Family -> system configuration and memory mode of Vela's file in which the weights lie in flash."""

_REFUSED = re.compile(r"operator: (\w+), ofm: .*\n\s*(?:Reason: )?(.*)")


@dataclass(frozen=True)
class Estimate:
    """What Vela says of a model on one processor.

    Attributes:
        figures: `npu_cycles`, `npu_ms`, `npu_coverage`, `npu_sram` and `npu_flash`; empty when nothing can be placed
            there.
        notes: what stays on the main processor, or why there are no figures.
    """

    figures: Mapping[str, Figure]
    notes: tuple[str, ...]


def estimate(model: Path, accelerator: str, system: str = "", memory: str = "") -> Estimate:
    """Compiles a model for an Ethos-U and reads what Vela estimates of it.

    Cycles and milliseconds are of the neural processor alone, at the clock of the system configuration: operators that
    stay on the main processor are not in them. The coverage is the share of the model's operators that do not stay
    there. `npu_sram` is what Vela places in SRAM, bytes. `npu_flash` is no estimate: the bytes of the file that Vela
    makes for the device, in which it has compressed the weights; few values and many zeros make it smaller.

    Args:
        model: a `.tflite` file, its weights inside the flatbuffer.
        accelerator: one of `ACCELERATORS`.
        system: name of a system configuration in Vela's own file; empty is that of `SYSTEMS`.
        memory: name of a memory mode in it; likewise.

    Raises:
        StageError: of stage `compile`: Vela does not know the system or the memory mode, or the system is that of
            another family.
    """
    family = accelerator.rpartition("-")[0]
    system, memory = system or SYSTEMS[family][0], memory or SYSTEMS[family][1]
    name = f"Vela {installed_version(PACKAGE)} {accelerator}"
    if not system.lower().replace("_", "-").startswith(f"{family}-"):
        # Vela itself takes it, and estimates a processor that nobody builds.
        raise StageError(
            "compile", f"system {system!r} is none of {accelerator}; its usual one is {SYSTEMS[family][0]}"
        )
    with TemporaryDirectory() as folder:
        failed, said = _vela(model, Path(folder), accelerator, system, memory)
        if "OptionError" in said:
            raise StageError("compile", f"{name} refuses system {system!r} with memory {memory!r}: {_last(said)}")
        compiled = list(Path(folder).glob("*_vela.tflite"))
        summaries = list(Path(folder).glob("*_summary_*.csv"))
        if failed or not compiled or not summaries:
            return Estimate({}, (f"{name} gives no estimate of this model: {failed or _last(said)}",))
        content = compiled[0].read_bytes()
        with summaries[0].open(newline="") as rows:
            row = next(csv.DictReader(rows))
    names = operator_names(content)
    left = [operator for operator in names if operator != PLACED]
    if PLACED not in names:
        refused = _REFUSED.search(said)
        why = f", the first since: {_plain(refused[2])}" if refused else ""
        return Estimate({}, (f"{name} can place no operator of this model, so there are no figures of it{why}",))
    source = f"{name}, {system}, {memory}"
    values = {
        "npu_cycles": (float(row["cycles_total"]), "cycles"),
        "npu_ms": (float(row["inference_time"]) * 1e3, "ms"),
        "npu_coverage": (100 * (1 - len(left) / len(operator_names(model.read_bytes()))), "%"),
        "npu_sram": (float(row["sram_memory_used"]) * 1024, "bytes"),
    }
    figures = {key: Figure(value, unit, source, True) for key, (value, unit) in values.items()}
    figures["npu_flash"] = Figure(len(content), "bytes", source)
    return Estimate(figures, left_note(left, said, name))


def per_layer(model: Path, accelerator: str, system: str = "", memory: str = "") -> tuple[tuple[Kernel, ...], str]:
    """What Vela estimates of each operator that it places, and its name with that of the system.

    Milliseconds are the operator's cycles at the clock of the system configuration; an operator that stays on the main
    processor has none. The names are Vela's, of the tensors that are computed.

    Args:
        model: as in `estimate`.
        accelerator: as in `estimate`.
        system: as in `estimate`.
        memory: as in `estimate`.

    Raises:
        StageError: of stage `profile`: Vela gives no estimate of this model.
    """
    family = accelerator.rpartition("-")[0]
    system, memory = system or SYSTEMS[family][0], memory or SYSTEMS[family][1]
    name = f"Vela {installed_version(PACKAGE)} {accelerator}"
    with TemporaryDirectory() as folder:
        failed, said = _vela(model, Path(folder), accelerator, system, memory, "--verbose-performance")
        layers, summaries = (list(Path(folder).glob(f"*_{end}.csv")) for end in ("per-layer", "summary_*"))
        if failed or not layers or not summaries:
            raise StageError("profile", f"{name} gives no estimate of this model: {failed or _last(said)}")
        with summaries[0].open(newline="") as rows:
            clock = float(next(csv.DictReader(rows))["core_clock"])
        with layers[0].open(newline="") as rows:
            kernels = [_kernel(row, clock) for row in csv.DictReader(rows)]
    return _whole(kernels), f"{name}, {system}, {memory}"


def _kernel(row: Mapping[str, str], clock: float) -> Kernel:
    operator, placed = row["Original Operator"], row["Target"] == "NPU"
    ms = 1000 * float(row["Op Cycles"]) / clock if placed else None
    has_weights = placed and operator.startswith(("Conv2D", "DepthwiseConv2D", "FullyConnected", "TransposeConv"))
    return Kernel(row["Name"] or operator, operator, "int8" if has_weights else "", ms, has_weights=has_weights)


def _whole(parts: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The operators whose parts Vela lists one by one: all but an operator's last part have made-up names."""
    found: list[Kernel] = []
    ms: list[float] = []
    for place, part in enumerate(parts):
        ms += [] if part.ms is None else [part.ms]
        goes_on = part.name.startswith("#") or part.name.endswith("_act")
        if goes_on and place + 1 < len(parts) and parts[place + 1].kind == part.kind:
            continue
        found.append(replace(part, ms=sum(ms) if ms else None))
        ms = []
    return tuple(found)


def left_note(left: Sequence[str], said: str, name: str) -> tuple[str, ...]:
    """The note on operators that stay on the main processor, each kind with Vela's first reason for it."""
    reasons: dict[str, str] = {}
    for refused in _REFUSED.finditer(said):
        reasons.setdefault(refused[1], _plain(refused[2]))
    kinds = [
        f"{left.count(kind)} {kind}" + (f" ({reasons[kind]})" if kind in reasons else "")
        for kind in dict.fromkeys(left)
    ]
    if not kinds:
        return ()
    return (f"{name} leaves to the main processor, whose time is not in its cycles: {', '.join(kinds)}",)


def _plain(reason: str) -> str:
    """Without the name of a tensor, which the file does not keep."""
    return " ".join(reason.replace("(<unnamed>)", "").split())


def _vela(model: Path, folder: Path, accelerator: str, system: str, memory: str, *more: str) -> tuple[str, str]:
    """How Vela failed, or an empty string, and what it printed. A process of its own: it crashes on some models."""
    command = [sys.executable, "-P", "-m", "ethosu.vela", str(model), "--output-dir", str(folder)]
    command += ["--accelerator-config", accelerator, "--config", CONFIGURATION]
    command += ["--system-config", system, "--memory-mode", memory, *more]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"it did not end within {TIME_LIMIT_S:g} s", ""
    said = done.stdout + done.stderr
    if done.returncode < 0:
        return f"it ended with signal {-done.returncode}", said
    return (_last(said) if done.returncode else ""), said


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"
