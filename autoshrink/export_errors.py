"""Why a model cannot be exported: which layer, which line of it, which operator, and what to do about it."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from autoshrink.errors import StageError

if TYPE_CHECKING:
    import torch

STAGE = "export"


@dataclass(frozen=True)
class Culprit:
    """Where in the user's model an exception arose.

    Attributes:
        layer: qualified name of the innermost module whose code was running; empty for the model itself.
        kind: its class.
        line: file name, line number and source line of that module's code.
    """

    layer: str
    kind: str
    line: str

    def __str__(self) -> str:
        where = f"layer {self.layer!r}" if self.layer else "the model itself"
        return f"{where} ({self.kind}), {self.line}"


def find_culprit(model: torch.nn.Module, error: BaseException) -> Culprit | None:
    """The innermost frame of `error`'s traceback that runs a method of one of `model`'s modules; None without one."""
    names = {id(module): name for name, module in model.named_modules()}
    found = None
    for frame in _frames(error.__traceback__):
        owner = frame.tb_frame.f_locals.get("self")
        code = frame.tb_frame.f_code
        # torch's own machinery of a call also has the module as `self`; the line that the user wrote is further in.
        if id(owner) in names and code.co_name not in ("_call_impl", "_wrapped_call_impl"):
            source = linecache.getline(code.co_filename, frame.tb_lineno).strip()
            line = f"{Path(code.co_filename).name}:{frame.tb_lineno} `{source}`"
            found = Culprit(names[id(owner)], type(owner).__name__, line)
    return found


def model_fails(model: torch.nn.Module, error: Exception, shapes: str) -> StageError:
    """The model raised on its own example inputs, before anything was exported."""
    culprit = find_culprit(model, error)
    return StageError(
        STAGE,
        f"the model fails on example_inputs ({shapes}) at {culprit or 'its call'}: {_said(error)}\n"
        "It must run in evaluation mode on a batch of copies of example_inputs; mend the layer or the example.",
    )


def not_traceable(model: torch.nn.Module, error: Exception) -> StageError:
    """`torch.export` could not trace the model, which does run."""
    import torch

    culprit = find_culprit(model, error) or "the model"
    if isinstance(error, torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode):
        return StageError(
            STAGE,
            f"{culprit}: Python code takes the value of a tensor (aten.item) to decide or compute with.\n"
            "A compiled model has no Python: stay with tensors (torch.where instead of `if`, torch.clamp instead of "
            "min/max, no float(), int(), bool() or .item()), or choose by torch.cond.",
        )
    return StageError(
        STAGE,
        f"{culprit}: torch.export cannot trace it: {_said(error)}\n"
        "Write it with torch operators on tensors alone (no numpy, no .tolist(), no data-dependent Python).",
    )


def not_translatable(error: Exception) -> StageError:
    """The traced model has an operator for which torch has no ONNX translation."""
    node = _fx_node(error)
    if node is None:
        return StageError(STAGE, f"torch.onnx could not translate the traced model: {_said(_root(error))}")
    layer, kind = _module_of(node)
    where = f"layer {layer!r}" if layer else "the model itself"
    root = _root(error)
    why = "torch.onnx has no translation for it" if type(root).__name__ == "DispatchError" else _said(root)
    return StageError(
        STAGE,
        f"operator {node.target} in {where}{f' ({kind})' if kind else ''} cannot be written as ONNX: {why}.\n"
        "Compute it from operators that ONNX has, or move it out of the model.",
    )


def _frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace:
        yield trace
        trace = trace.tb_next


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__


def _root(error: BaseException) -> BaseException:
    return list(_chain(error))[-1]


def _said(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {text}"


def _fx_node(error: BaseException) -> torch.fx.Node | None:
    import torch

    found = None
    for link in _chain(error):
        for frame in _frames(link.__traceback__):
            node = frame.tb_frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node):
                found = node
    return found


def _module_of(node: torch.fx.Node) -> tuple[str, str]:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return "", ""
    path, kind = stack[-1]
    return wrapped_name(str(path)), str(kind).rpartition(".")[2]


def wrapped_name(path: str) -> str:
    """A module's qualified name in the user's model from its name below the wrapper that is exported (`model.`)."""
    return "" if path == "model" else path.removeprefix("model.")
