"""What is said of the machine: JSON, complete, and nothing that names somebody or something."""

from __future__ import annotations

import getpass
import json
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoshrink.measure import environment
from autoshrink.measure.environment import describe_machine, instruction_sets

KEYS = {
    "processor",
    "architecture",
    "cores",
    "usable_cores",
    "memory_bytes",
    "system",
    "python",
    "instruction_sets",
    "versions",
    "load_1_min",
    "frequency_mhz",
    "temperature_celsius",
}


def test_description_is_json_with_the_documented_keys() -> None:
    machine = describe_machine()
    assert json.loads(json.dumps(machine, allow_nan=False)) == machine
    assert set(machine) == KEYS
    assert machine["processor"]
    assert 1 <= machine["usable_cores"] <= machine["cores"]
    assert machine["memory_bytes"] > 1 << 28
    assert machine["python"] == platform.python_version()
    assert machine["versions"]["onnxruntime"]


def test_description_names_no_host_user_or_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.18.44-built-by-somebody")
    text = json.dumps(describe_machine())
    assert "somebody" not in text
    assert "6.18.44" in text
    for private in (platform.node(), getpass.getuser(), str(Path.home()), str(Path.cwd())):
        # Too short a name may be part of a word by chance.
        assert len(private) < 4 or private not in text


def test_instruction_sets_are_read_from_the_flags(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "model name\t: Some processor\nflags\t\t: fpu sse2 avx2 avx512_vnni avx512f amx_int8 avx512foo\n"
    )
    assert instruction_sets(cpuinfo) == ["avx2", "avx512f", "avx512_vnni", "amx_int8"]
    cpuinfo.write_text("flags\t\t: fpu sse2 avx512fp16\n")
    assert instruction_sets(cpuinfo) == []


def test_instruction_sets_are_unknown_where_no_flags_are_shown(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert instruction_sets(cpuinfo) is None
    cpuinfo.write_text("Features\t: fp asimd asimddp\n")
    assert instruction_sets(cpuinfo) is None


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-distribution"))
    assert list(describe_machine()["versions"]) == ["numpy"]


def test_without_psutil_what_it_knows_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    machine = describe_machine()
    assert (machine["memory_bytes"], machine["frequency_mhz"], machine["temperature_celsius"]) == (None, None, None)
    assert machine["processor"]


def test_sensors_that_are_there_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = {
        "k10temp": [SimpleNamespace(current=51.5), SimpleNamespace(current=48.0)],
        "nvme": [SimpleNamespace(current=70.0)],
    }
    fake_psutil = SimpleNamespace(
        virtual_memory=lambda: SimpleNamespace(total=8 << 30),
        cpu_freq=lambda: SimpleNamespace(current=2400.04),
        sensors_temperatures=lambda: readings,
    )
    monkeypatch.setitem(sys.modules, "psutil", fake_psutil)
    machine = describe_machine()
    assert (machine["memory_bytes"], machine["frequency_mhz"], machine["temperature_celsius"]) == (
        8 << 30,
        2400.0,
        51.5,
    )


def test_sensors_that_fail_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise FileNotFoundError("scaling_cur_freq")

    fake_psutil = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(total=1), cpu_freq=broken)
    monkeypatch.setitem(sys.modules, "psutil", fake_psutil)
    machine = describe_machine()
    assert (machine["frequency_mhz"], machine["temperature_celsius"]) == (None, None)


def test_systems_without_cpuinfo_load_and_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "none")
    monkeypatch.delattr(environment.os, "getloadavg", raising=False)
    monkeypatch.delattr(environment.os, "sched_getaffinity", raising=False)
    machine = describe_machine()
    assert (machine["instruction_sets"], machine["load_1_min"]) == (None, None)
    assert machine["usable_cores"] == machine["cores"]
    assert set(machine) == KEYS
