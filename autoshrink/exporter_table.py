"""The exporter's table of operators, built once in a process.

`torch.onnx.export` builds it anew at each call and parses the source of some 500 functions for that: over half of the
time that a small model takes. Nothing of it depends on the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_built: dict[int, Any] = {}
"""Opset -> table, which no export changes: each gets a copy for the operators that it adds."""


@contextmanager
def kept_table() -> Iterator[None]:
    """Lets `torch.onnx.export` take the table that was built before, with the operators that it adds its own.

    With a torch that builds its table in another way, exports are what they are without.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        yield
        return
    build = ONNXRegistry.__dict__.get("from_torchlib")
    if not isinstance(build, classmethod):
        yield
        return

    def kept(kind: type[Any], opset_version: int) -> Any:
        if opset_version not in _built:
            _built[opset_version] = build.__get__(None, kind)(opset_version=opset_version)
        table = copy.copy(_built[opset_version])
        table.functions = {operator: list(known) for operator, known in table.functions.items()}
        return table

    replaced: Any = ONNXRegistry
    replaced.from_torchlib = classmethod(kept)
    try:
        yield
    finally:
        replaced.from_torchlib = build
