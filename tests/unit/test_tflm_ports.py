"""Inputs and outputs as the task has them and as the model's integers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from autoshrink.backends.tflm_ports import PORTS, MicroPort, MicroPorts, read_ports
from autoshrink.errors import StageError

FLOATS = MicroPort("x", (4,), "float32", "int8", 0.5, 3)
MODEL = b"the bytes of a model"


def ports(folder: Path) -> MicroPorts:
    made = MicroPorts((FLOATS,), (), ("y",), 1000, hashlib.sha256(MODEL).hexdigest())
    (folder / "model.tflite").write_bytes(MODEL)
    made.write(folder / PORTS)
    return made


def test_rounds_halves_away_from_zero_and_saturates() -> None:
    values = np.array([0, 0.25, -0.25, 0.24999999, 1, -1.2, 1e9, -1e9], np.float32)
    found = FLOATS.to_model(values)
    assert found.dtype == np.int8
    assert found.tolist() == [3, 4, 2, 3, 5, 1, 127, -128]


def test_every_integer_survives_the_way_to_the_task_and_back() -> None:
    port = MicroPort("x", (256,), "float32", "int8", 0.0392156862745098, -7)
    integers = np.arange(-128, 128).astype(np.int8)
    values = port.to_task(integers)
    assert values.dtype == np.float32
    assert values[0] == np.float32(0.0392156862745098) * -121
    np.testing.assert_array_equal(port.to_model(values), integers)


def test_what_has_no_scale_is_passed_on() -> None:
    port = MicroPort("ids", (3,), "int64", "int32")
    ids = np.array([1, -2, 2**31 - 1])
    assert port.to_model(ids).dtype == np.int32
    back = port.to_task(port.to_model(ids))
    assert back.dtype == np.int64
    np.testing.assert_array_equal(back, ids)


def test_results_are_memory_of_their_own() -> None:
    inside = np.zeros(3, np.float32)
    result = MicroPort("y", (3,), "float32", "float32").to_task(inside)
    inside[:] = 1
    assert not result.any()


def test_written_and_read(tmp_path: Path) -> None:
    made = ports(tmp_path)
    assert read_ports(tmp_path, "model.tflite") == (made, MODEL)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.tflite", MODEL[:-1], "not the file that ports.json was written for"),
        ("model.tflite", MODEL[:-1] + b"X", "not the file that ports.json was written for"),
        ("model.tflite", None, "cannot be read"),
        (PORTS, b"", "cannot be read"),
        (PORTS, b"{}", "cannot be read"),
        (PORTS, b"[1]", "cannot be read"),
        (PORTS, b"\xff\xfe", "cannot be read"),
        (PORTS, b'{"inputs": [{"nonsense": 1}]}', "cannot be read"),
        (PORTS, None, "cannot be read"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    ports(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=says) as caught:
        read_ports(tmp_path, "model.tflite")
    assert caught.value.stage == "load"
    assert name in caught.value.reason
    assert "model.tflite" in caught.value.reason
    assert "\n" not in caught.value.reason
