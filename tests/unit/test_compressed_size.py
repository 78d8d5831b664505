"""The compressed size of files: what the gzip program would make of them, file by file."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from autoshrink.compressed_size import PIECE, gzip_bytes


def test_it_is_what_gzip_writes(tmp_path: Path) -> None:
    contents = {
        "zeros.bin": bytes(100_000),
        "noise.bin": np.random.default_rng(0).bytes(PIECE + 12_345),
        "empty.bin": b"",
        "text.xml": b"<layer/>" * 999,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert gzip_bytes([tmp_path / name]) == len(gzip.compress(content, 6, mtime=0)), name
    assert gzip_bytes(tmp_path / name for name in contents) == sum(gzip_bytes([tmp_path / name]) for name in contents)
    assert gzip_bytes([]) == 0


def test_sparse_weights_compress_and_dense_ones_do_not(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal(50_000).astype(np.float32)
    weights.tofile(tmp_path / "dense.bin")
    np.where(random.random(50_000) < 0.8, np.float32(0), weights).tofile(tmp_path / "sparse.bin")
    assert gzip_bytes([tmp_path / "dense.bin"]) > 0.85 * 200_000
    assert gzip_bytes([tmp_path / "sparse.bin"]) < 0.35 * 200_000


def test_the_name_and_the_time_of_a_file_do_not_count(tmp_path: Path) -> None:
    for name in ("a", "a-much-longer-name.onnx"):
        (tmp_path / name).write_bytes(b"weights" * 100)
    assert gzip_bytes([tmp_path / "a"]) == gzip_bytes([tmp_path / "a-much-longer-name.onnx"])


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.onnx"):
        gzip_bytes([tmp_path / "model.onnx"])
