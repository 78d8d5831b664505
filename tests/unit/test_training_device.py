from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoshrink.techniques import training_device


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu avx2", torch.contiguous_format),
        ("flags : fpu avx2 avx512f avx512_vnni", torch.channels_last),
        ("CPU part : 0xd0b", torch.channels_last),
    ],
)
def test_convolutions_lie_channels_last_where_that_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, expected: torch.memory_format
) -> None:
    (tmp_path / "cpuinfo").write_text(f"{flags}\n")
    monkeypatch.setattr(training_device, "CPUINFO", tmp_path / "cpuinfo")
    assert training_device.layout(torch.device("cpu")) is expected
    assert training_device.layout(torch.device("cuda")) is torch.channels_last
