"""What the machine shows of its own state beside a measurement: temperature, clock, load. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SYSFS = Path("/sys")
PROCESSOR_ZONES = ("cpu", "soc", "x86_pkg", "package", "core", "tdie", "tctl", "k10temp", "zenpower", "coretemp")
"""How the names of sensors of a processor begin, in lower case."""

UNITS = {"temperature": "°C", "frequency": "MHz", "load": "processes"}


def read_sensors(sysfs: Path = SYSFS) -> dict[str, float]:
    """What the system shows now; what it does not show is absent.

    Returns:
        `temperature` (the hottest sensor of the processor, degrees Celsius), `frequency` (of the fastest core, MHz),
        `load` (runnable processes on average over a minute). See `UNITS`.
    """
    found: dict[str, float] = {}
    temperatures = [value / 1000 for value in _temperatures(sysfs)]
    if temperatures:
        found["temperature"] = round(max(temperatures), 1)
    frequencies = _numbers((sysfs / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if frequencies:
        found["frequency"] = round(max(frequencies) / 1000, 1)
    with suppress(OSError, AttributeError):
        found["load"] = round(os.getloadavg()[0], 2)
    return found


def _temperatures(sysfs: Path) -> list[float]:
    """Thousandths of a degree of every sensor of the processor: boards have thermal zones, others monitors."""
    places = [(zone, zone.parent / "type") for zone in sysfs.glob("class/thermal/thermal_zone*/temp")]
    places += [(sensor, sensor.parent / "name") for sensor in sysfs.glob("class/hwmon/hwmon*/temp*_input")]
    return _numbers(value for value, name in places if _text(name).lower().startswith(PROCESSOR_ZONES))


def _numbers(paths: Iterable[Path]) -> list[float]:
    numbers = []
    for path in paths:
        try:
            numbers.append(float(_text(path)))
        except ValueError:
            continue
    return numbers


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
