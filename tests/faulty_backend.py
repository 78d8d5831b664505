"""A fake backend that dies on int8 files in the way that the environment asks for; otherwise it is ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from autoshrink.backends.base import Compiled, Source
from autoshrink.backends.onnxruntime import OnnxRuntime


class FakeFaultyBackend(OnnxRuntime):
    """Segfaults, hangs or eats memory while it compiles an int8 file."""

    def compile(self, source: Source, folder: Path) -> Compiled:
        if source.precision == "int8_static":
            fault = os.environ["AUTOSHRINK_TEST_FAULT"]
            if fault == "segfault":
                ctypes.string_at(0)
            elif fault == "hang":
                time.sleep(600)
            else:
                hoard = []
                while True:
                    hoard.append(bytearray(64 * 2**20))
        return super().compile(source, folder)
