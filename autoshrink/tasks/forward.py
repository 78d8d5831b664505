"""Runs a task's model by name, and when that fails says in which layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autoshrink.errors import ConfigError
from autoshrink.task import Arrays, Task, call
from autoshrink.tasks.user_code import described, running, wrong

if TYPE_CHECKING:
    import torch


def run_forward(task: Task, model: torch.nn.Module, inputs: Arrays, gradient: bool = False) -> dict[str, torch.Tensor]:
    """The outputs of `model` for `inputs` (name -> array [N, ...]), by name, each [N, ...] and finite.

    With `gradient` they can be differentiated.

    Raises:
        ConfigError: forward fails, or its outputs are not those that the task names.
    """
    import torch

    with running(task, "model"):
        tensors, before = ({name: torch.tensor(array) for name, array in inputs.items()} for _ in range(2))
    with _Path(model) as path:
        try:
            with torch.set_grad_enabled(gradient):
                outputs = call(model, tensors, tuple(task.outputs))
        except ConfigError as error:
            raise ConfigError([f"{task.source or task.name}:{problem}" for problem in error.problems]) from error
        except Exception as error:
            shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in inputs.items())
            text = f"forward fails{path.innermost()} on {shapes}: {described(error, task.source)}"
            raise wrong(task, "model", text) from error
    changed = [name for name, tensor in tensors.items() if not torch.equal(tensor, before[name])]
    if changed:
        raise wrong(
            task, "model", f"forward changes its input {', '.join(changed)}; it must leave it as it is: .clone()"
        )
    count = len(next(iter(inputs.values())))
    problems = [
        f"{task.source or task.name}:outputs: {name!r} {problem}"
        for name, output in outputs.items()
        for problem in _problems(output, task.outputs[name], count, path)
    ]
    if problems:
        raise ConfigError(problems)
    return outputs


def _problems(output: object, kind: str, count: int, path: _Path) -> list[str]:
    import torch

    if not isinstance(output, torch.Tensor):
        return [f"is a {type(output).__name__}; it must be a tensor [N, ...]"]
    shape = list(output.shape)
    if not shape or shape[0] != count:
        return [f"has shape {shape} for {count} samples; it must be [N, ...]"]
    if kind == "logits" and (len(shape) < 2 or not output.is_floating_point()):
        return [f"is {output.dtype} {shape}; logits are float [N, ..., classes], all else is 'values'"]
    if not torch.isfinite(output).all():
        return [f"holds NaN or infinity{path.first_not_finite()}"]
    return []


class _Path:
    """Follows a forward pass from layer to layer by hooks, which are gone when the `with` block ends."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._entered: list[str] = []
        self._not_finite: list[str] = []

    def __enter__(self) -> _Path:
        self._handles = [
            handle
            for name, layer in self._model.named_modules()
            if name
            for handle in (
                layer.register_forward_pre_hook(self._enter(name)),
                layer.register_forward_hook(self._leave(name)),
            )
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def innermost(self) -> str:
        """The layer that was entered and not left."""
        return f" in layer {self._entered[-1]!r}" if self._entered else ""

    def first_not_finite(self) -> str:
        """The first layer that returned a tensor with NaN or infinity in it."""
        return f", first in layer {self._not_finite[0]!r}" if self._not_finite else ""

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Module, inputs: Any) -> None:  # noqa: ARG001
            self._entered.append(name)

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            import torch

            self._entered.pop()
            if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
                self._not_finite.append(name)

        return hook
