"""Fine-tuning under the teacher: a changed model learns the task again from the labels and from the trained model."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.fingerprints import training_fingerprint
from autoshrink.task import Task, call
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.teacher import Teacher, distillation_loss, teacher_of
from autoshrink.techniques.training_device import precision, training_device
from autoshrink.tensors import as_tensors
from autoshrink.types import Range, Settings, Target

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
CLIP_NORM = 1.0
WARM_UP = 0.3


class FineTune(ModuleTechnique):
    """Trains what earlier stages changed, with the trained model's outputs as soft targets (Hinton et al. 2015)."""

    name: ClassVar[str] = "finetune"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "epochs": Parameter(Range(0.1, 20.0), 1.0, "passes over the training set"),
        "learning_rate": Parameter(Range(1e-4, 1.0), 0.05, "largest step of the one-cycle schedule"),
        "temperature": Parameter(Range(1.0, 20.0), 4.0, "softens the teacher's class scores"),
        "alpha": Parameter(Range(0.0, 1.0), 0.7, "share of the teacher in the loss; the rest is the task's own"),
    }
    trains: ClassVar[bool] = True
    only_after_change: ClassVar[bool] = True

    def is_off(self, settings: Settings) -> bool:
        """No epochs."""
        return settings.get("epochs") == 0

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:  # noqa: ARG002
        """The settings with their defaults, as numbers with a point: training is the same for every target."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        return {name: float(value) for name, value in {**defaults, **settings}.items()}

    def fingerprint(self, task: Task) -> str:
        """Of the training set, its augmentation and the loss."""
        return training_fingerprint(task)

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The trained model; its structure is that of `model`."""
        trained = finetune(
            model,
            context.task,
            context.teacher,
            epochs=float(settings["epochs"]),
            learning_rate=float(settings["learning_rate"]),
            temperature=float(settings["temperature"]),
            alpha=float(settings["alpha"]),
            seed=context.seed,
            progress=context.progress,
            cache=context.cache,
        )
        return trained, None

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:  # noqa: ARG002
        """The model as it is: training changes no structure."""
        return model


def finetune(
    model: nn.Module,
    task: Task,
    teacher: Callable[[], nn.Module],
    *,
    epochs: float,
    learning_rate: float = 0.05,
    temperature: float = 4.0,
    alpha: float = 0.7,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    cache: StageCache | None = None,
) -> nn.Module:
    """A trained copy of `model`, on the CPU, in eval mode.

    Nesterov SGD (momentum 0.9, weight decay 5e-4 on weights but not on biases and norms) with a one-cycle learning rate
    (Smith 2018) and gradients clipped to norm 1. Runs on CUDA or Apple's GPU where there is one; in bf16 where the
    processor computes in it natively. Every parameter is trained. The same seed gives the same weights on the same
    processor with the same number of threads; CUDA's kernels may differ in the last bits.

    Args:
        model: not touched.
        task: its `train` and `loss` are used; an incomplete last batch is dropped.
        teacher: gives the trained model; asked when `alpha` is over 0. Without augmentation its outputs are computed
            once and kept in `cache`.
        epochs: passes over the training set, may be a fraction; at least one step is made.
        learning_rate: the largest of the schedule.
        temperature: T of the soft targets.
        alpha: share of the teacher in the loss, 0 to 1.
        seed: of batch order, augmentation and dropout.
        progress: called with (steps done, steps in all) after each step.
        cache: None computes the teacher's outputs without keeping them.

    Raises:
        StageError: the task has no training set and loss, or the loss becomes NaN or infinite.
        OSError: the cache cannot be written.
    """
    if task.train is None or task.loss is None:
        reason = f"task {task.name} has no training set and loss; give it both, or leave finetune out"
        raise StageError("finetune", reason)
    from autoshrink.isolate.device import device_lock

    device = training_device()
    with device_lock(device.type), _forked_random(device):
        ask = teacher_of(task, task.train, teacher, device, cache) if alpha > 0 else None
        trained = copy.deepcopy(model).to(device).train()
        trainable = {name: parameter.requires_grad for name, parameter in trained.named_parameters()}
        for parameter in trained.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        if any(array.ndim == 4 for array in task.example_inputs.values()):
            _lay_out(trained, torch.channels_last)
        # Here, for making the teacher may have drawn numbers as well.
        torch.manual_seed(seed)
        _train(trained, task, ask, device, _Plan(epochs, learning_rate, temperature, alpha, seed), progress)
        _lay_out(trained.to("cpu"), torch.contiguous_format)
    for name, parameter in trained.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(trainable[name])
    return trained.eval()


@dataclass(frozen=True)
class _Plan:
    epochs: float
    learning_rate: float
    temperature: float
    alpha: float
    seed: int


def _train(
    model: nn.Module,
    task: Task,
    ask: Teacher | None,
    device: torch.device,
    plan: _Plan,
    progress: Callable[[int, int], None],
) -> None:
    train, loss_of = task.train, task.loss
    assert train is not None and loss_of is not None  # noqa: S101 - checked by finetune, said again for the type checker
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=plan.learning_rate, momentum=MOMENTUM, nesterov=True)
    total = max(1, round(plan.epochs * len(train)))
    step = 0
    while step < total:
        epoch_seed = int(np.random.SeedSequence([plan.seed, step // len(train)]).generate_state(1)[0])
        for rows, batch in train.epoch(epoch_seed):
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * one_cycle(step, total)
            inputs, targets = as_tensors(batch.inputs, device), as_tensors(batch.targets, device)
            with precision(device):
                outputs = call(model, inputs, tuple(task.outputs))
            # Losses lose too much in bf16.
            outputs = {name: output.float() for name, output in outputs.items()}
            loss = loss_of(outputs, targets)
            if ask is not None:
                soft = distillation_loss(outputs, ask(rows, inputs), task.outputs, plan.temperature)
                loss = (1 - plan.alpha) * loss + plan.alpha * soft
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(nn.utils.clip_grad_norm_(parameters, CLIP_NORM))
            value = loss.item()
            if not math.isfinite(value) or not math.isfinite(norm):
                what = f"the loss is {value}" if not math.isfinite(value) else f"the gradient's norm is {norm}"
                raise StageError(
                    "finetune",
                    f"{what} at step {step + 1} of {total}; lower finetune.learning_rate (now {plan.learning_rate}), "
                    "or look for the samples of train that give it",
                )
            optimizer.step()
            step += 1
            progress(step, total)
            if step == total:
                break


def one_cycle(step: int, total: int) -> float:
    """The share of the largest learning rate at a step, 0 to `total` - 1: linearly up from 1/25, then a cosine to 0."""
    peak = WARM_UP * total
    if step < peak:
        return 0.04 + 0.96 * step / peak
    return 0.5 * (1 + math.cos(math.pi * (step - peak) / (total - peak)))


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _forked_random(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Afterwards torch's random state is as if nothing had been drawn or seeded."""
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else [])
