"""Runs a task's model, metric, loss and augmentation on a few samples: a slip shows now, not after an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autoshrink.errors import ConfigError
from autoshrink.task import Split, Task
from autoshrink.tasks.forward import run_forward
from autoshrink.tasks.user_code import running, wrong

if TYPE_CHECKING:
    import torch

SAMPLES = 16
"""Of val for the metric, of train for the loss; spread evenly, so that sorted data show more than one class."""
SAME = 1e-3
"""Two calls of `model()` may differ by this share of the largest output (a library may reorder its sums)."""


def check_by_running(task: Task) -> None:
    """Runs a task whose attributes `check_task` has passed.

    Raises:
        ConfigError: the model is not in eval mode, not fresh, or answers differently at each call; its forward fails
            (names the layer), gives NaN, or other outputs than named; `keep` names no layer; metric, loss or
            augmentation fail or give the wrong kind. Problems that do not hide one another come together.
    """
    model = _trained_model(task)
    _check_repeats(task, model)
    problems: list[str] = []
    for check in (_check_keep, _check_classes, _check_metric, _check_training):
        try:
            check(task, model)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _trained_model(task: Task) -> torch.nn.Module:
    import torch

    with running(task, "model"):
        model = task.model()
    if not isinstance(model, torch.nn.Module):
        raise wrong(task, "model", f"gives a {type(model).__name__}; it must give a torch.nn.Module")
    if model.training:
        raise wrong(task, "model", "is in training mode; it must be in eval mode: return net.eval()")
    return model


def _check_repeats(task: Task, model: torch.nn.Module) -> None:
    with running(task, "model"):
        again = task.model()
    if again is model:
        raise wrong(task, "model", "gives one object twice; it must give a fresh one at each call: copy.deepcopy(net)")
    first, second = (run_forward(task, net, task.example_inputs) for net in (model, again))
    for name, output in first.items():
        largest = output.double().abs().max().item()
        difference = (output.double() - second[name].double()).abs().max().item()
        if difference > SAME * max(largest, 1e-6):
            raise wrong(
                task,
                "model",
                f"two calls give models whose output {name!r} differs by {difference:.3g} on example_inputs; "
                "it must give the trained model: load its weights, leave nothing random in forward",
            )


def _check_keep(task: Task, model: torch.nn.Module) -> None:
    layers = [name for name, _ in model.named_modules() if name]
    unknown = [name for name in task.keep if name not in layers]
    if unknown:
        raise wrong(task, "keep", f"{', '.join(unknown)}: no layer of the model, which has {', '.join(layers)}")


def _check_classes(task: Task, model: torch.nn.Module) -> None:
    outputs = run_forward(task, model, task.example_inputs)
    for name, output in outputs.items():
        if task.classes and output.ndim and output.shape[-1] != len(task.classes):
            text = f"{len(task.classes)} names; output {name!r} of the model has {output.shape[-1]} classes"
            raise wrong(task, "classes", text)


def _check_metric(task: Task, model: torch.nn.Module) -> None:
    few = _spread(task.val)
    outputs = {name: output.numpy() for name, output in run_forward(task, model, few.inputs).items()}
    with running(task, "metric"):
        score = task.metric(outputs, few.targets)
    rule = f"it must be a finite float, or a float array of shape ({len(few)},) with one score a sample"
    if isinstance(score, np.ndarray) and score.ndim:
        if score.shape != (len(few),):
            raise wrong(task, "metric", f"gives shape {score.shape} for {len(few)} samples; {rule}")
        if not np.issubdtype(score.dtype, np.floating):
            raise wrong(task, "metric", f"gives an array of {score.dtype}; {rule}: .astype(float)")
    elif not isinstance(score, float | int | np.floating):
        raise wrong(task, "metric", f"gives a {type(score).__name__}; {rule}")
    if not np.isfinite(score).all():
        raise wrong(task, "metric", f"gives NaN or infinity on {len(few)} samples spread over val; {rule}")


def _check_training(task: Task, model: torch.nn.Module) -> None:
    """The loss on an (augmented) batch has a gradient."""
    import torch

    if task.train is None or task.loss is None:
        return
    few = _spread(task.train.split)
    if task.train.augment is not None:
        with running(task, "train.augment"):
            augmented = task.train.augment(few, np.random.default_rng(0))
        _check_alike(task, few, augmented)
        few = augmented
    outputs = run_forward(task, model, few.inputs, gradient=True)
    targets = {name: torch.tensor(array) for name, array in few.targets.items()}
    with running(task, "loss"):
        loss = task.loss(outputs, targets)
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
        raise wrong(task, "loss", f"gives {found}; it must give a scalar tensor: .mean()")
    if not torch.isfinite(loss):
        raise wrong(task, "loss", f"gives {loss.item()} on samples of train; it must be finite")
    if not loss.requires_grad:
        raise wrong(task, "loss", "has no gradient; compute it with torch operations on the outputs")


def _check_alike(task: Task, batch: Split, augmented: Split) -> None:
    if not isinstance(augmented, Split):
        raise wrong(task, "train.augment", f"gives a {type(augmented).__name__}; it must give a Split")
    for part in ("inputs", "targets"):
        before, after = (
            {name: f"{array.dtype} {array.shape}" for name, array in getattr(split, part).items()}
            for split in (batch, augmented)
        )
        if list(before.items()) != list(after.items()):
            raise wrong(task, "train.augment", f"makes of the {part} {before} these: {after}; they must stay alike")


def _spread(split: Split) -> Split:
    count = min(SAMPLES, len(split))
    return split.rows(np.linspace(0, len(split) - 1, count).astype(np.int64))
