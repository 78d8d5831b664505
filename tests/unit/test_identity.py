from __future__ import annotations

from pathlib import Path

import pytest

from autoshrink.backends import get_backend
from autoshrink.measure.identity import describe_identity, differences, fingerprint, identity_here, model_of
from autoshrink.measure.sensors import read_sensors

PI = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nprocessor\t: 1\nCPU part\t: 0xd0b\n"
BIG_LITTLE = "CPU part\t: 0xd05\nCPU part\t: 0xd41\nCPU part\t: 0xd05\n"
SERVER = "model name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: 1\ncpu family\t: 25\nmodel\t\t: 1\n"


@pytest.mark.parametrize(
    ("cpuinfo", "board", "model"),
    [
        (PI, "Raspberry Pi 5 Model B Rev 1.0\0", "Raspberry Pi 5 Model B Rev 1.0, parts 0xd0b"),
        (BIG_LITTLE, None, "parts 0xd05 0xd41"),
        (SERVER, None, "family 25 model 1"),
        ("", None, ""),
    ],
)
def test_the_model_is_read_from_the_system(tmp_path: Path, cpuinfo: str, board: str | None, model: str) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    if board:
        (tmp_path / "board").write_text(board)
    assert model_of(tmp_path / "cpuinfo", tmp_path / "board") == model


def test_no_such_files(tmp_path: Path) -> None:
    assert model_of(tmp_path / "cpuinfo", tmp_path / "board") == ""


def test_this_machine_has_all_of_it() -> None:
    found = identity_here(get_backend("onnxruntime"))
    assert {"processor", "architecture", "cores", "system", "runtime"} <= set(found) and all(found.values())
    assert differences(found, found) == [] and fingerprint(found) == fingerprint(dict(found))
    other = found | {"runtime": "onnxruntime 0"}
    assert differences(found, other) == [f"runtime: {found['runtime']} and onnxruntime 0"]
    assert fingerprint(found) != fingerprint(other)


def test_it_is_said_in_one_line() -> None:
    said = describe_identity({"runtime": "r 1", "cores": "4", "processor": "A76", "other": "not said"})
    assert said == "A76, 4 cores, r 1"


def test_sensors_of_a_board_and_of_a_server(tmp_path: Path) -> None:
    for path, text in {
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "class/thermal/thermal_zone0/temp": "48312",
        "class/thermal/thermal_zone1/type": "battery",
        "class/thermal/thermal_zone1/temp": "99000",
        "class/hwmon/hwmon0/name": "coretemp",
        "class/hwmon/hwmon0/temp1_input": "61000",
        "class/hwmon/hwmon0/temp2_input": "not a number",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = read_sensors(tmp_path)
    assert found["temperature"] == 61.0 and found["frequency"] == 2400.0


def test_sensors_that_the_system_does_not_show_are_absent(tmp_path: Path) -> None:
    assert not {"temperature", "frequency"} & set(read_sensors(tmp_path))
