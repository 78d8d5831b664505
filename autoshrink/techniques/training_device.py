"""Where training runs, and in which arithmetic."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch


def training_device() -> torch.device:
    """CUDA, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to bf16 where the device multiplies in it natively; elsewhere it is emulated, slower than float32."""
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and _bf16_processor()
    return torch.autocast(device.type, torch.bfloat16) if native else contextlib.nullcontext()


def _bf16_processor() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
