"""What an Android device says of itself, and whether a benchmark program is one for it."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoshrink.cache import file_sha256
from autoshrink.devices.adb_bridge import Adb, Unready
from autoshrink.devices.base import Facts

PROPERTIES = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.soc.manufacturer",
    "ro.soc.model",
    "ro.board.platform",
    "ro.hardware",
    "ro.product.cpu.abi",
    "ro.product.cpu.abilist",
    "ro.build.version.release",
)
MACHINES = {3: ("x86",), 40: ("armeabi-v7a", "armeabi"), 62: ("x86_64",), 183: ("arm64-v8a",), 243: ("riscv64",)}
"""Machine in the header of an ELF file -> Android's names of it."""
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's words for how far it throttles, by number."""
SENSOR = re.compile(r"Temperature\{mValue=([-+.\w]+), mType=(\d+)")
PROCESSOR = "0"
"""Type of the sensors of a processor in Android's list."""
PLAUSIBLE = (0.0, 150.0)
"""Degrees Celsius; a sensor that is not there reads -99.9."""
MEMORY_KEY = "MemTotal"
GET_IT = (
    "get one for its ABI: LiteRT's benchmark tools, prebuilt or by bazel build -c opt --config=android_arm64 "
    "//tflite/tools/benchmark:benchmark_model"
)


def facts_of(adb: Adb, serial: str, program: Path) -> Facts:
    """Of a device that is ready, with the benchmark program that it is to run.

    Raises:
        Unready: the program is not there, or not one for this device.
        DeviceGone: the device went away.
    """
    properties = _properties(adb, serial)
    system = properties["ro.build.version.release"]
    identity = {
        "processor": _processor(properties),
        "architecture": properties["ro.product.cpu.abi"],
        "cores": _cores(adb, serial),
        "system": f"Android {system}".strip(),
        "runtime": runtime_of(program, properties["ro.product.cpu.abilist"] or properties["ro.product.cpu.abi"]),
        "device": _together(properties["ro.product.manufacturer"], properties["ro.product.model"]),
    }
    return Facts(identity, about=_about(adb, serial))


def runtime_of(program: Path, abis: str = "") -> str:
    """`benchmark_model` and the first of its SHA-256: it does not tell a version.

    Args:
        program: the file.
        abis: names of what the device can run, with commas between; empty is not known.

    Raises:
        Unready: the file is missing, no program, or one for another processor.
    """
    try:
        with program.open("rb") as stream:
            header = stream.read(20)
        sha = file_sha256(program)
    except OSError as error:
        raise Unready(f"benchmark_model is {program}: {error.strerror}", f"{GET_IT}, and name it in device") from None
    if header[:4] != b"\x7fELF" or len(header) < 20:
        raise Unready(f"benchmark_model is {program}, which is no ELF program", f"{GET_IT}, not the .apk")
    (number,) = struct.unpack("<H" if header[5] == 1 else ">H", header[18:20])
    built_for = MACHINES.get(number, (f"machine {number}",))
    if abis and not set(built_for) & set(abis.split(",")):
        raise Unready(f"benchmark_model is {program}, for {' or '.join(built_for)}; the device runs {abis}", GET_IT)
    return f"benchmark_model {sha[:8]}"


def temperature(adb: Adb, serial: str) -> dict[str, float]:
    """`temperature`, degrees Celsius: of the hottest sensor of the processor, or of the battery where none is shown.

    Raises:
        DeviceGone: the device went away.
    """
    _, hottest = _thermal(adb, serial)
    found = hottest if hottest is not None else _battery(adb, serial).get("battery_celsius")
    return {} if found is None else {"temperature": found}


def _properties(adb: Adb, serial: str) -> dict[str, str]:
    lines = adb.ask(serial, "; ".join(f"echo $(getprop {name})" for name in PROPERTIES)).text.splitlines()
    values = [*map(str.strip, lines), *[""] * len(PROPERTIES)]
    return dict(zip(PROPERTIES, values, strict=False))


def _processor(properties: Mapping[str, str]) -> str:
    named = _together(properties["ro.soc.manufacturer"], properties["ro.soc.model"])
    return named or properties["ro.board.platform"] or properties["ro.hardware"] or "unknown"


def _cores(adb: Adb, serial: str) -> str:
    """All that are built in: `nproc` leaves out those that sleep."""
    present = adb.ask(serial, "cat /sys/devices/system/cpu/present").text.strip()
    if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", present):
        ranges = [part.split("-") for part in present.split(",")]
        return str(sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges))
    return adb.ask(serial, "nproc").text.strip()


def _about(adb: Adb, serial: str) -> dict[str, Any]:
    about: dict[str, Any] = dict(_battery(adb, serial))
    status, hottest = _thermal(adb, serial)
    if status is not None:
        about["thermal_status"] = THERMAL[status] if status < len(THERMAL) else str(status)
    if hottest is not None:
        about["temperature_celsius"] = hottest
    memory = re.search(rf"{MEMORY_KEY}:\s+(\d+) kB", adb.ask(serial, "cat /proc/meminfo").text)
    if memory:
        about["memory_bytes"] = int(memory[1]) * 1024
    return about


def _battery(adb: Adb, serial: str) -> dict[str, float]:
    text = adb.ask(serial, "dumpsys battery").text
    found: dict[str, float] = {}
    tenths, level = (re.search(rf"^\s*{name}: (-?\d+)\s*$", text, re.MULTILINE) for name in ("temperature", "level"))
    if tenths and PLAUSIBLE[0] < int(tenths[1]) / 10 < PLAUSIBLE[1]:
        found["battery_celsius"] = int(tenths[1]) / 10
    if level:
        found["battery_percent"] = float(level[1])
    return found


def _thermal(adb: Adb, serial: str) -> tuple[int | None, float | None]:
    """How far Android throttles, and its hottest processor sensor; None is not shown, as before Android 10."""
    text = adb.ask(serial, "dumpsys thermalservice").text
    status = re.search(r"Thermal Status: (\d+)", text)
    # What stands before this is old.
    now = text.partition("Current temperatures from HAL")[2].partition("cooling devices")[0]
    values = [_celsius(value) for value, kind in SENSOR.findall(now) if kind == PROCESSOR]
    hottest = max((value for value in values if PLAUSIBLE[0] < value < PLAUSIBLE[1]), default=None)
    return int(status[1]) if status else None, None if hottest is None else round(hottest, 1)


def _celsius(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _together(maker: str, name: str) -> str:
    return name if name.lower().startswith(maker.lower()) else f"{maker} {name}".strip()
