"""A torch model on its way to a graph: tried on its example, traced, with its names kept and the exporter silenced."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from autoshrink.errors import ConfigError, StageError
from autoshrink.export_errors import STAGE, model_fails, not_traceable
from autoshrink.task import call
from autoshrink.tensors import as_tensors

if TYPE_CHECKING:
    from autoshrink.task import Array, Arrays, Task

EXPORTER_LOGGERS = (
    "torch.onnx._internal.exporter._registration",
    "torch.fx.experimental.symbolic_shapes",
    "torch._subclasses.fake_tensor",
    "torch.export",
)


def try_torch(model: nn.Module, task: Task, example: Arrays) -> None:
    """Runs `model` on `example` once.

    Raises:
        StageError: it fails; names layer and line. Or it changes its own buffers, which are put back.
        ConfigError: it returns other outputs than the task names.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        run_torch(model, example, tuple(task.outputs))
    except ConfigError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in example.items())
        raise model_fails(model, error, shapes) from error
    changed = [(name, buffer) for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    for name, buffer in changed:
        buffer.copy_(before[name])
    if changed:
        raise StageError(
            STAGE,
            f"the model changes its buffers {', '.join(repr(name) for name, _ in changed)} at a call in evaluation "
            "mode; a compiled model keeps nothing between calls.\n"
            "Update them in training mode only, or make them inputs and outputs.",
        )


class _Named(nn.Module):
    """A model that returns its outputs as a tuple in the task's order."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs = outputs

    def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(call(self.model, dict(zip(self.inputs, arrays, strict=True)), self.outputs).values())


def trace(model: nn.Module, task: Task, example: Arrays) -> torch.export.ExportedProgram:
    """The program of `model`, which is in evaluation mode, for inputs like `example`; it returns a tuple.

    Raises:
        StageError: the model cannot be traced; names layer and line.
    """
    wrapper = _Named(model, tuple(task.example_inputs), tuple(task.outputs)).eval()
    with quiet_exporter():
        try:
            return torch.export.export(wrapper, tuple(_tensors(model, example).values()), strict=False)
        except Exception as error:
            raise not_traceable(model, error) from error


def run_torch(model: nn.Module, inputs: Arrays, outputs: tuple[str, ...]) -> dict[str, Array]:
    """The outputs of `model`, name -> array, for named arrays with a batch in the first dimension."""
    return {name: value.cpu().numpy() for name, value in call(model, _tensors(model, inputs), outputs).items()}


def _tensors(model: nn.Module, inputs: Arrays) -> dict[str, torch.Tensor]:
    first = next(model.parameters(), None)
    return as_tensors(inputs, "cpu" if first is None else first.device)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts `model` into evaluation mode and every module of it back into its own mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silences the exporter: its loggers, its warnings, the graphs it prints when it fails; errors are still raised."""
    loggers = [logging.getLogger(name) for name in EXPORTER_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.|contextlib")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
