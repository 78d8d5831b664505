"""Where training runs, and in which arithmetic."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from autoshrink.measure.environment import CPUINFO, instruction_sets


def training_device() -> torch.device:
    """CUDA, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def layout(device: torch.device) -> torch.memory_format:
    """In which order the weights of convolutions are trained: channels last is faster, where it is safe.

    torch 2.13 without AVX512 ended by SIGSEGV and with broken heaps in the backward pass of narrow convolutions that
    lie so (seen on AVX2 with a student of 4 channels); in the usual order it did not.
    """
    sets = instruction_sets(CPUINFO)
    if device.type == "cpu" and sets is not None and "avx512f" not in sets:
        return torch.contiguous_format
    return torch.channels_last


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
