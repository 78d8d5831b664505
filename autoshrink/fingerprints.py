"""What a result depends on, as SHA-256: the model with its code, and the training set with its loss."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from autoshrink.cache import file_sha256
from autoshrink.task import Task
from autoshrink.types import content_key

if TYPE_CHECKING:
    import torch


def model_fingerprint(task: Task) -> str:
    """Of a task's trained model: its tensors, the source of its classes, and `task.fingerprint_extra`."""
    return content_key([module_fingerprint(task.model()), task.fingerprint_extra])


def module_fingerprint(model: torch.nn.Module) -> str:
    """Of a model: names, shapes, dtypes and bytes of its state, and the classes of its layers.

    A class counts with its qualified name, and, unless it is torch's own, with the whole file that defines it: an
    edited `forward` is another model. Files that it imports do not count; `Task.fingerprint_extra` is for those.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not hasattr(tensor, "shape"):
            digest.update(f"{name} {tensor!r}\n".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    layers = [[name, _qualified(type(layer))] for name, layer in model.named_modules()]
    classes = {base for layer in model.modules() for base in type(layer).__mro__ if not _is_library(base)}
    files = sorted({str(file) for cls in classes for file in _files(cls)})
    return content_key([digest.hexdigest(), layers, sorted(file_sha256(Path(file)) for file in files)])


def training_fingerprint(task: Task) -> str:
    """Of everything that training on a task depends on: samples, batch size, augmentation and loss (their code)."""
    if task.train is None or task.loss is None:
        return ""
    train = task.train
    augment = function_fingerprint(train.augment) if train.augment else ""
    return content_key(
        [train.split.fingerprint(), train.batch_size, augment, function_fingerprint(task.loss), task.fingerprint_extra]
    )


def function_fingerprint(function: Callable[..., Any]) -> str:
    """Of a function's code: its bytecode, constants and names, those of functions nested in it included.

    What it calls and closes over does not count; `Task.fingerprint_extra` is for that. A callable object counts with
    its class's `__call__`, a partial with the function and the values it binds.
    """
    bound = [_stable(getattr(function, part, None)) for part in ("args", "keywords")]
    inner = getattr(function, "func", function)
    inner = inspect.unwrap(getattr(inner, "__func__", inner))
    defaults = [_stable(getattr(inner, part, None)) for part in ("__defaults__", "__kwdefaults__")]
    called = inspect.getattr_static(type(inner), "__call__", None)
    code = getattr(inner, "__code__", None) or getattr(called, "__code__", None)
    if code is None:
        return content_key([_qualified(inner if isinstance(inner, type) else type(inner)), bound])
    return content_key([_code(code), bound, defaults])


def _code(code: CodeType) -> list[Any]:
    constants = [_code(value) if isinstance(value, CodeType) else _stable(value) for value in code.co_consts]
    return [code.co_name, code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _stable(value: object) -> str:
    # The repr of a set depends on the process's hash seed, that of an object on its address.
    text = repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _is_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in ("torch", "builtins", "typing", "abc", "collections")


def _qualified(cls: type) -> str:
    # A task's file gets another module name at each load; torch's names are stable.
    return f"{cls.__module__}.{cls.__qualname__}" if _is_library(cls) else cls.__qualname__


def _files(cls: type) -> Iterator[Path]:
    """The files that hold the functions of a class; none for one that was typed into an interpreter."""
    for member in vars(cls).values():
        code = getattr(inspect.unwrap(getattr(member, "__func__", member)), "__code__", None)
        if isinstance(code, CodeType) and Path(code.co_filename).is_file():
            yield Path(code.co_filename)
