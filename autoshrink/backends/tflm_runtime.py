"""TFLite Micro's Python package, without the parts of it that have no place in a process that runs models."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_TOOLS = "tflite_micro.tensorflow.lite.micro.compression"


def runtime() -> Any:
    """The module with the interpreter."""
    _without_tools()
    from tflite_micro.python.tflite_micro import runtime as module

    return module


def schema() -> Any:
    """The module with the classes of a `.tflite` file's flatbuffer."""
    _without_tools()
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as module

    return module


def _without_tools() -> None:
    # The package imports its own compression tools, and those a YAML parser; an empty module in their place does.
    sys.modules.setdefault(_TOOLS, ModuleType(_TOOLS))
