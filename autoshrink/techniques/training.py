"""The training loop of every technique that trains: labels and teacher, one-cycle schedule, guards, resumable."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoshrink.errors import StageError
from autoshrink.task import Split, Task, TrainingSet, call
from autoshrink.techniques.base import Context
from autoshrink.techniques.checkpoint import Checkpoint, State
from autoshrink.techniques.hints import Hint
from autoshrink.techniques.teacher import Teacher, distillation_loss, teacher_of
from autoshrink.techniques.training_device import layout, precision, training_device
from autoshrink.tensors import as_tensors

OPTIMIZERS = ("auto", "sgd", "adamw")
USUAL_RATES = {"sgd": 0.05, "adamw": 1e-3}
MOMENTUM = 0.9
WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.01}
CLIP_NORM = 1.0
WARM_UP = 0.3
VAL_ROWS = 2048
"""Samples of val that early stopping looks at."""
SPARSE_SHARE = 0.05
"""A weight tensor with more exact zeros than this was made sparse, and stays so."""

Hook = Callable[[nn.Module, int, int], None]
"""Called with (the model in training, step, steps in all) before each step."""


@dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Attributes:
        epochs: passes over the training set, may be a fraction; at least one step is made.
        learning_rate: the largest of the schedule; 0 takes `rate_share` of the optimizer's usual one.
        rate_share: see `learning_rate`.
        optimizer: `sgd` (Nesterov), `adamw`, or `auto`: SGD when most weights are in convolutions, else AdamW.
        temperature: T of the soft targets.
        alpha: share of the teacher's outputs in the loss, 0 to 1; the rest is the task's own loss.
        patience: epochs without a better loss on val after which it stops, and takes the best state; 0 never stops.
        hint: weight of the loss between the model's features and the teacher's, see `hints.Hint`, which is added.
    """

    epochs: float
    learning_rate: float = 0.0
    rate_share: float = 1.0
    optimizer: str = "auto"
    temperature: float = 4.0
    alpha: float = 0.7
    patience: int = 0
    hint: float = 0.0


def train(model: nn.Module, context: Context, plan: Plan, stage: str, before_step: Hook | None = None) -> nn.Module:
    """A trained copy of `model`, on the CPU, in eval mode.

    SGD with Nesterov momentum (0.9, weight decay 5e-4) or AdamW (Loshchilov & Hutter 2019, weight decay 0.01), decay on
    weights and not on biases and norms; one-cycle learning rate (Smith 2018), gradients clipped to norm 1. Runs on CUDA
    or Apple's GPU where there is one; in bf16 where the processor computes in it natively. Every floating-point
    parameter is trained; a weight that is exactly zero in a sparse tensor stays zero. The same seed gives the same
    weights on the same processor with the same number of threads; CUDA's kernels may differ in the last bits. With
    `context.checkpoint` an interrupted training goes on where it was, to the same result.

    Args:
        model: not touched; may hold parametrizations.
        context: its task's `train` and `loss` are used (an incomplete last batch is dropped); `fidelity` scales the
            steps; the teacher is asked when `plan.alpha` or `plan.hint` is over 0.
        plan: how.
        stage: named in errors.
        before_step: may change the model in place, such as a mask that grows.

    Raises:
        StageError: the task has no training set and loss, the loss becomes NaN or infinite, or hints are wanted of
            models whose features cannot be compared.
        OSError: the cache or the checkpoint cannot be written.
    """
    task = context.task
    if task.train is None or task.loss is None:
        raise StageError(stage, f"task {task.name} has no training set and loss; give it both, or leave {stage} out")
    from autoshrink.isolate.device import device_lock

    device = training_device()
    with device_lock(device.type), _forked_random(device):
        trained = copy.deepcopy(model).to(device).train()
        trainable = {name: parameter.requires_grad for name, parameter in trained.named_parameters()}
        for parameter in trained.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        if any(array.ndim == 4 for array in task.example_inputs.values()):
            _lay_out(trained, layout(device))
        hint, ask = None, None
        if plan.hint > 0:
            hint = Hint(trained, context.teacher(), task, stage, context.seed).to(device)
        if plan.alpha > 0 or hint is not None:
            head = hint.teacher_head if hint is not None else None
            ask = teacher_of(task, task.train, context.teacher, device, context.cache, head)
        # Here, for making the teacher may have drawn numbers as well.
        torch.manual_seed(context.seed)
        _Run(trained, context, plan, stage, ask, hint, device).go(task.train, before_step)
        if hint is not None:
            hint.close()
        _lay_out(trained.to("cpu"), torch.contiguous_format)
    for name, parameter in trained.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(trainable[name])
    return trained.eval()


class _Run:
    """One training; holds what a checkpoint keeps."""

    def __init__(
        self,
        model: nn.Module,
        context: Context,
        plan: Plan,
        stage: str,
        ask: Teacher | None,
        hint: Hint | None,
        device: torch.device,
    ) -> None:
        self._model = model
        self._task = context.task
        self._seed = context.seed
        self._progress = context.progress
        self._fidelity = context.fidelity
        self._plan = plan
        self._stage = stage
        self._ask = ask
        self._hint = hint
        self._device = device
        # The projection of the features is trained along, and is part of a checkpoint.
        self._learning = model if hint is None else nn.ModuleList([model, hint])
        self._parameters = [parameter for parameter in self._learning.parameters() if parameter.requires_grad]
        self._kept = [(p, p != 0) for p in self._parameters if p.ndim > 1 and _is_sparse(p)]
        kind = chosen_optimizer(model, plan.optimizer)
        self._peak = plan.learning_rate or plan.rate_share * USUAL_RATES[kind]
        self._optimizer = _optimizer(kind, self._parameters, self._peak)
        self._checkpoint = Checkpoint(context.checkpoint) if context.checkpoint else None
        self._state = State()

    def go(self, train: TrainingSet, before_step: Hook | None) -> None:
        per_epoch = len(train)
        total = max(1, round(self._plan.epochs * self._fidelity * per_epoch))
        if self._checkpoint:
            self._state = self._checkpoint.restore(self._learning, self._optimizer) or self._state
        while self._state.step < total and not self._stops():
            epoch, begin = divmod(self._state.step, per_epoch)
            for rows, batch in _epoch(train, self._seed, epoch, begin):
                if before_step:
                    before_step(self._model, self._state.step, total)
                self._step(rows, batch, total)
                done = self._state.step
                # Before the state is kept: who goes on from it must not look at this epoch again.
                if self._plan.patience and (done == total or done % per_epoch == 0):
                    self._look_at_val()
                if done == total:
                    break
                if self._checkpoint:
                    self._checkpoint.keep(self._learning, self._optimizer, self._state)
        if self._state.best_weights:
            self._model.load_state_dict(self._state.best_weights)
        if self._checkpoint:
            self._checkpoint.remove()

    def _step(self, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]], batch: Split, total: int) -> None:
        plan, loss_of = self._plan, self._task.loss
        assert loss_of is not None  # noqa: S101 - checked by train, said again for the type checker
        for group in self._optimizer.param_groups:
            group["lr"] = self._peak * one_cycle(self._state.step, total)
        inputs, targets = as_tensors(batch.inputs, self._device), as_tensors(batch.targets, self._device)
        with precision(self._device):
            outputs = call(self._model, inputs, tuple(self._task.outputs))
        # Losses lose too much in bf16.
        outputs = {name: output.float() for name, output in outputs.items()}
        loss = loss_of(outputs, targets)
        if self._ask is not None:
            answers = self._ask(rows, inputs)
            if plan.alpha > 0:
                soft = distillation_loss(outputs, answers.outputs, self._task.outputs, plan.temperature)
                loss = (1 - plan.alpha) * loss + plan.alpha * soft
            if self._hint is not None and answers.features is not None:
                loss = loss + plan.hint * self._hint(answers.features)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM))
        value = loss.item()
        if not math.isfinite(value) or not math.isfinite(norm):
            what = f"the loss is {value}" if not math.isfinite(value) else f"the gradient's norm is {norm}"
            raise StageError(
                self._stage,
                f"{what} at step {self._state.step + 1} of {total}; lower {self._stage}.learning_rate (now "
                f"{self._peak:g}), or look for the samples of train that give it",
            )
        self._optimizer.step()
        with torch.no_grad():
            for parameter, kept in self._kept:
                parameter.mul_(kept)
        self._state.step += 1
        self._progress(self._state.step, total)

    def _stops(self) -> bool:
        return bool(self._plan.patience) and self._state.worse_epochs >= self._plan.patience

    def _look_at_val(self) -> None:
        loss = val_loss(self._model, self._task, self._device)
        if loss < self._state.best_loss:
            weights = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
            self._state.best_loss, self._state.best_weights, self._state.worse_epochs = loss, weights, 0
        else:
            self._state.worse_epochs += 1


def val_loss(model: nn.Module, task: Task, device: torch.device) -> float:
    """The task's loss, averaged over the first 2,048 samples of val, in eval mode; the mode is put back."""
    assert task.loss is not None  # noqa: S101 - callers train
    training, total = model.training, 0.0
    model.eval()
    part = task.val.rows(slice(0, VAL_ROWS))
    with torch.no_grad(), precision(device):
        for start in range(0, len(part), 256):
            rows = part.rows(slice(start, start + 256))
            outputs = call(model, as_tensors(rows.inputs, device), tuple(task.outputs))
            outputs = {name: output.float() for name, output in outputs.items()}
            total += len(rows) * task.loss(outputs, as_tensors(rows.targets, device)).item()
    model.train(training)
    return total / len(part)


def chosen_optimizer(model: nn.Module, optimizer: str) -> str:
    """`optimizer`, or for `auto` SGD when most weights are in convolutions and else AdamW."""
    if optimizer != "auto":
        return optimizer
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    convolutional = sum(weight.numel() for weight in weights if weight.ndim > 3)
    return "sgd" if 2 * convolutional > sum(weight.numel() for weight in weights) else "adamw"


def one_cycle(step: int, total: int) -> float:
    """The share of the largest learning rate at a step, 0 to `total` - 1: linearly up from 1/25, then a cosine to 0."""
    peak = WARM_UP * total
    if step < peak:
        return 0.04 + 0.96 * step / peak
    return 0.5 * (1 + math.cos(math.pi * (step - peak) / (total - peak)))


def _epoch(
    train: TrainingSet, seed: int, epoch: int, begin: int
) -> Iterator[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], Split]]:
    """The batches of an epoch from `begin` on; those before are drawn all the same, augmentation goes on from them."""
    epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    for number, batch in enumerate(train.epoch(epoch_seed)):
        if number >= begin:
            yield batch


def _optimizer(kind: str, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY[kind]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=rate)


def _is_sparse(parameter: nn.Parameter) -> bool:
    zeros = int((parameter == 0).sum())
    return SPARSE_SHARE * parameter.numel() < zeros < parameter.numel()


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _forked_random(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Afterwards torch's random state is as if nothing had been drawn or seeded."""
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else [])
