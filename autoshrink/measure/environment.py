"""The machine that a measurement was made on. No name of a host, a user or a folder is in it."""

from __future__ import annotations

import os
import platform
from importlib import import_module
from pathlib import Path
from typing import Any

from autoshrink.backends.base import installed_version, processor_name

PACKAGES = ("autoshrink", "torch", "onnxruntime", "openvino", "optuna")
INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""x86 instruction sets that decide which precisions have real kernels, as Linux names them."""
EXACT_SUMS = ("avx_vnni", "avx512_vnni")
"""Those that add four products of 8-bit integers in 32 bits; before them it was two in saturating 16 bits."""
X86 = ("x86_64", "amd64", "i386", "i686", "x86")
"""As `platform.machine` names them, in lower case."""
TEMPERATURE_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
"""Processor sensors as Linux names them: Intel, AMD, AMD, Arm boards."""
CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, Any]:
    """The machine in JSON values; None is what the system does not show.

    Returns:
        `processor` (name), `architecture`, `cores` (logical), `usable_cores` (logical, that this process may run on),
        `memory_bytes`, `system`, `python` (version), `instruction_sets` (of `INSTRUCTION_SETS`; None off Linux on
        x86), `versions` (distribution -> version, of those that are installed), and as they are now: `load_1_min`
        (runnable processes on average), `frequency_mhz`, `temperature_celsius` (the hottest processor sensor).
    """
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "memory_bytes": _memory_bytes(),
        # The version alone: whoever builds a kernel may put a name of their own behind the hyphen.
        "system": f"{platform.system()} {platform.release().partition('-')[0]}".strip(),
        "python": platform.python_version(),
        "instruction_sets": instruction_sets(CPUINFO),
        "versions": {name: version for name in PACKAGES if (version := installed_version(name))},
        "load_1_min": _load(),
        "frequency_mhz": _frequency_mhz(),
        "temperature_celsius": _temperature_celsius(),
    }


def instruction_sets(cpuinfo: Path) -> list[str] | None:
    """Those of `INSTRUCTION_SETS` among the flags in a file like /proc/cpuinfo; None when it has no flags."""
    for line in _lines(cpuinfo):
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            flags = set(value.split())
            return [each for each in INSTRUCTION_SETS if each in flags]
    return None


def int8_sums_saturate(cpuinfo: Path = CPUINFO, architecture: str = "") -> bool:
    """Whether x86 kernels of this processor add products of 8-bit integers in pairs that saturate at 16 bits.

    The instruction is vpmaddubsw, unsigned times signed: 255 x 127 + 255 x 127 becomes 32767. With VNNI they have
    another one. Processors that are not x86 have neither. Where x86 shows no flags (off Linux) it is taken to be so:
    a bit of a weight is a smaller loss than a wrong sum.

    Args:
        cpuinfo: a file like /proc/cpuinfo.
        architecture: as `platform.machine` names it; empty is this machine's.
    """
    if (architecture or platform.machine()).lower() not in X86:
        return False
    return not set(EXACT_SUMS) & set(instruction_sets(cpuinfo) or ())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _usable_cores() -> int | None:
    # Linux only: elsewhere a process may run on every core.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def _psutil() -> Any | None:
    """psutil, which knows more systems than the standard library, if it is installed."""
    try:
        return import_module("psutil")
    except ImportError:
        return None


def _memory_bytes() -> int | None:
    psutil = _psutil()
    return int(psutil.virtual_memory().total) if psutil else None


def _frequency_mhz() -> float | None:
    psutil = _psutil()
    try:
        frequency = psutil.cpu_freq() if psutil else None
    # Some virtual machines have the folder in /sys, but not the files in it.
    except (OSError, RuntimeError, AttributeError, NotImplementedError):
        return None
    return round(float(frequency.current), 1) if frequency and frequency.current else None


def _temperature_celsius() -> float | None:
    psutil = _psutil()
    sensors = psutil.sensors_temperatures() if psutil and hasattr(psutil, "sensors_temperatures") else {}
    readings = [float(reading.current) for name in TEMPERATURE_SENSORS for reading in sensors.get(name, ())]
    return max(readings, default=None)
