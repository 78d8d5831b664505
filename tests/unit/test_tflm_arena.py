"""The arena that TFLite Micro needs, on files built by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoshrink.backends import tflm_arena
from autoshrink.backends.tflm_arena import PROBE, STEP, arena_bytes
from autoshrink.errors import StageError
from tests import tflm_files

WEIGHTS = np.ones((4, 4), np.int8)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(content)
    return path


def runs(model: Path, arena: int) -> bool:
    command = [sys.executable, "-P", str(PROBE), str(model), str(arena)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_is_enough_and_less_is_not(tmp_path: Path) -> None:
    model = written(tmp_path, tflm_files.dense(WEIGHTS))
    found = arena_bytes(model)
    assert runs(model, found)
    assert not runs(model, found - STEP)


def test_grows_by_what_the_tensors_take(tmp_path: Path) -> None:
    sizes = [arena_bytes(written(tmp_path, tflm_files.elementwise("RELU", [1, count]))) for count in (1000, 5000)]
    # Input and output, 4 bytes an element.
    assert sizes[1] - sizes[0] == 2 * 4 * 4000


def test_a_model_over_the_limit_of_every_board_has_a_figure(tmp_path: Path) -> None:
    found = arena_bytes(written(tmp_path, tflm_files.elementwise("RELU", [1, 2**20])))
    assert 8 * 2**20 < found < 8 * 2**20 + 4096


def test_beyond_the_largest_arena_is_said(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="more than 64 MiB"):
        arena_bytes(written(tmp_path, tflm_files.elementwise("RELU", [1, 9 * 2**20])))


def test_an_operator_without_kernel_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no kernel for GELU") as caught:
        arena_bytes(written(tmp_path, tflm_files.elementwise("GELU", [1, 8])))
    assert caught.value.stage == "compile"
    assert "\n" not in caught.value.reason


def test_a_kernel_that_refuses_is_named_with_its_condition(tmp_path: Path) -> None:
    # Four bits with a scale for each row.
    with pytest.raises(StageError, match=r"cannot run FULLY_CONNECTED: .*kTfLiteInt4"):
        arena_bytes(written(tmp_path, tflm_files.dense(WEIGHTS, bits=4, scales=4)))


def test_a_process_that_crashes_is_said(tmp_path: Path) -> None:
    whole = tflm_files.dense(WEIGHTS)
    with pytest.raises(StageError, match="TFLite Micro cannot run the model"):
        arena_bytes(written(tmp_path, whole[: len(whole) // 2]))


def test_searches_upwards_where_preparing_takes_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fake_run(_model: Path, arena: int) -> tuple[bool, str]:
        tried.append(arena)
        return arena >= 1000 + 5 * STEP, "Arena allocation total 1000 bytes"

    monkeypatch.setattr(tflm_arena, "_run", fake_run)
    assert arena_bytes(tmp_path) == 1000 + 5 * STEP
    assert len(tried) < 10
