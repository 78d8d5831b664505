"""The table of backends: name -> module and class. A new runtime is its file and its line here."""

from __future__ import annotations

from importlib import import_module

from autoshrink.backends.base import Backend

BACKENDS = {
    "onnxruntime": ("autoshrink.backends.onnxruntime", "OnnxRuntime"),
    "openvino": ("autoshrink.backends.openvino", "OpenVino"),
    "litert": ("autoshrink.backends.litert", "LiteRt"),
    "executorch": ("autoshrink.backends.executorch", "ExecuTorch"),
    "coreml": ("autoshrink.backends.coreml", "CoreMl"),
    "tensorrt": ("autoshrink.backends.tensorrt", "TensorRt"),
    "tensorrt_rtx": ("autoshrink.backends.tensorrt_rtx", "TensorRtRtx"),
    "browser": ("autoshrink.backends.browser", "Browser"),
    "microcontroller": ("autoshrink.backends.microcontroller", "Microcontroller"),
}


def get_backend(name: str) -> Backend:
    """The backend of a target: a key of the table, or a user's own as `package.module:Class`.

    Raises:
        KeyError: no such backend; configurations are checked before this is called.
        ImportError: the module of a user's own backend is not found.
        AttributeError: it has no such class.
    """
    module, colon, cls = name.partition(":")
    if not colon:
        module, cls = BACKENDS[name]
    backend: Backend = getattr(import_module(module), cls)()
    return backend
