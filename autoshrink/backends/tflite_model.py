"""From a backend's source to a `.tflite` file: what LiteRT and TFLite Micro both start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoshrink.backends.base import Array, Source
from autoshrink.backends.tflite_audit import audit_of
from autoshrink.backends.tflite_convert import float_tflite
from autoshrink.backends.tflite_graph import Graph
from autoshrink.backends.tflite_qat import quantized_tflite
from autoshrink.backends.tflite_quantize import load_calibration, quantize
from autoshrink.types import Audit


def write_tflite(source: Source, out: Path, integer_ports: bool = False) -> Audit:
    """Writes the program of `source` in its precision to `out`.

    Args:
        source: int8_static without settings is a program with trained quantizers. The option `layout` (`nchw` or
            `nhwc`) is that of the file's inputs of 4 dimensions.
        out: the file.
        integer_ports: for int8_static: float inputs and outputs become int8, and what lies between them as far as the
            grid's operators go.

    Returns:
        The layers of the file, by the names of the user's model. It says nothing of the kernels of a runtime.

    Raises:
        StageError: of stage `compile`; the program cannot be converted or quantized.
    """
    layout = str(source.options.get("layout", "nchw"))
    rows = load_calibration(source.calibration) if source.calibration else None
    if source.precision == "int8_static" and not source.settings:
        result = quantized_tflite(source.model, layout, rows, source.batch, integer_ports)
    else:
        content = float_tflite(source.model, layout)
        rows = {name: to_layout(array, layout) for name, array in rows.items()} if rows else None
        result = quantize(content, source.precision, source.settings, rows, source.batch, integer_ports)
    out.write_bytes(result.content)
    return audit_of(Graph(result.content), result.notes)


def to_layout(array: Array, layout: str) -> Array:
    """An input of the task [N, C, H, W] as a file of `layout` takes it; others come back as they are."""
    return np.moveaxis(array, 1, -1) if layout == "nhwc" and array.ndim == 4 else array
