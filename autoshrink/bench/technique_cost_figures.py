"""How the costs of the techniques are measured; each function takes any task."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn

from autoshrink.cache import StageCache
from autoshrink.isolate.work import peak_memory_bytes
from autoshrink.pipeline import Pipeline
from autoshrink.target import Target
from autoshrink.task import Task, TrainingSet, call
from autoshrink.techniques import get_technique
from autoshrink.techniques.base import Context, ModuleTechnique
from autoshrink.techniques.bit_allocation import rounding_losses
from autoshrink.techniques.quantized_graph import FloatGraph
from autoshrink.techniques.training import chosen_optimizer
from autoshrink.techniques.training_device import precision, training_device
from autoshrink.tensors import as_tensors
from autoshrink.types import Recipe, Settings

STATES = {"sgd": 1, "adamw": 2}
"""Tensors of the weights' size that an optimizer keeps: the momentum; the two moments."""


@dataclass(frozen=True)
class Figure:
    """A measured value, how it came about, and the figures behind it (JSON values)."""

    value: float
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def few_batches(task: Task, batches: int) -> Task:
    """The task with a training set of so many batches."""
    train = _train(task)
    rows = train.split.rows(slice(0, batches * train.batch_size))
    return replace(task, train=TrainingSet(rows, train.batch_size, train.augment))


def step_ratio(
    task: Task, target: Target, technique: str, settings: Settings, cache: StageCache, seed: int, rounds: int
) -> Figure:
    """A training step of a technique over one of fine-tuning, on the same model and batches.

    In each round both train for one epoch, one after the other; the ratio is that of the median steps of a round, the
    figure the median over the rounds. The first step of an epoch is not counted.

    Args:
        task: its training set is one epoch: at least three batches.
        target: resolves the settings.
        technique: a module technique that trains.
        settings: of it, without `epochs`.
        cache: keeps the teacher's outputs, which are thus computed once.
        seed: of the training.
        rounds: how often.
    """
    model = task.model().eval()
    plain, other = [], []
    for _ in range(rounds):
        plain.append(_median_step(model, task, target, "finetune", {}, cache, seed))
        other.append(_median_step(model, task, target, technique, settings, cache, seed))
    ratios = [ours / theirs for ours, theirs in zip(other, plain, strict=True)]
    return Figure(
        statistics.median(ratios),
        f"{1000 * statistics.median(other):.0f} ms over {1000 * statistics.median(plain):.0f} ms, "
        f"{_train(task).batch_size} rows a step",
        {"step_s": other, "finetune_step_s": plain, "batch": _train(task).batch_size},
    )


def _median_step(
    model: nn.Module, task: Task, target: Target, technique: str, settings: Settings, cache: StageCache, seed: int
) -> float:
    steps = len(_train(task))
    times: list[float] = []

    def tick(_done: int, total: int) -> None:
        # Others report their progress here as well, such as what is calibrated before the training.
        if total == steps:
            times.append(time.perf_counter())

    context = Context(task, lambda: model, seed, tick, cache)
    _apply(model, target, technique, {**settings, "epochs": 1.0}, context)
    return float(np.median(np.diff(times[-steps:])))


def seconds_of(task: Task, target: Target, technique: str, settings: Settings, seed: int, repeats: int) -> Figure:
    """Seconds of a technique on the task's model, the median of some runs."""
    model = task.model().eval()
    context = Context(task, lambda: model, seed)
    seconds = [_timed(lambda: _apply(model, target, technique, settings, context)) for _ in range(repeats)]
    count = _parameters(model)
    return Figure(
        statistics.median(seconds),
        f"{count / 1e6:.1f} million parameters, median of {repeats}",
        {"seconds": seconds, "parameters": count, "settings": dict(settings)},
    )


def rounding_sensitivities(task: Task) -> Figure:
    """Seconds of measuring what each weight of the task's model loses at each width of mixed precision."""
    model = task.model().eval()
    began = time.perf_counter()
    losses = rounding_losses(model, FloatGraph(model, task, "qat"), task, True, None)
    seconds = time.perf_counter() - began
    widths = sum(len(row) for row in losses.values())
    return Figure(
        seconds,
        f"{_parameters(model) / 1e6:.1f} million parameters, {len(losses)} layers, {widths} measurements",
        {"parameters": _parameters(model), "layers": len(losses), "measurements": widths},
    )


def cache_hit(
    task: Task, target: Target, recipe: Recipe, cache: StageCache, seed: int, repeats: int
) -> dict[str, Figure]:
    """Seconds of finding an `entry` of the cache, and of running a `recipe` whose stages are all there.

    The recipe is run in one pipeline, as a study does it; what the first run in a new one takes, which reads model and
    data for their fingerprints, is in the details.
    """
    Pipeline(task, cache, seed).run(recipe, target, _silent)
    pipeline = Pipeline(task, cache, seed)
    first = _timed(lambda: pipeline.run(recipe, target, _silent))
    hits = [_timed(lambda: pipeline.run(recipe, target, _silent)) for _ in range(repeats)]
    folder = pipeline.run(recipe, target, _silent).float_model.parent
    size = sum(path.stat().st_size for path in folder.iterdir())
    finds = [_timed(lambda: cache.get(folder.name)) for _ in range(repeats)]
    return {
        "entry": Figure(
            statistics.median(finds),
            f"{size / 1e6:.1f} MB, whose SHA-256 is checked; median of {repeats}",
            {"seconds": finds, "bytes": size},
        ),
        "recipe": Figure(
            statistics.median(hits),
            f"median of {repeats}; {first:.2f} s the first time in a process, with the fingerprints of model and data",
            {"seconds": hits, "first_s": first},
        ),
    }


def training_memory(task: Task, target: Target, technique: str, settings: Settings, seed: int) -> dict[str, Any]:
    """What training takes of memory in this process, which should have done nothing else before.

    Returns:
        `peak_bytes`: the most that was resident, over what was before training began, plus the model; `model_bytes`,
        `optimizer_bytes` and `batch_bytes` (inputs and targets); `activation_bytes` that plain training of the model
        keeps of one batch for its backward pass; `optimizer`, `batch` (rows) and `parameters`.
    """
    train = _train(task)
    model = task.model().eval()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    buffers = sum(tensor.numel() * tensor.element_size() for tensor in model.buffers())
    batch = train.split.rows(slice(0, train.batch_size))
    optimizer = chosen_optimizer(model, "auto")
    gc.collect()
    before = _resident_bytes()
    _apply(model, target, technique, {**settings, "epochs": 1.0}, Context(task, lambda: model, seed))
    # The system counts what is resident now more often than the peak.
    peak = max(peak_memory_bytes(), _resident_bytes()) - before + weights + buffers
    return {
        "peak_bytes": peak,
        "model_bytes": weights + buffers,
        "optimizer": optimizer,
        "optimizer_bytes": STATES[optimizer] * weights,
        "batch_bytes": sum(array.nbytes for part in (batch.inputs, batch.targets) for array in part.values()),
        "activation_bytes": activation_bytes(model, task),
        "batch": train.batch_size,
        "parameters": _parameters(model),
    }


def activation_bytes(model: nn.Module, task: Task) -> int:
    """Bytes that a forward pass in training keeps of one batch for the backward pass, in the arithmetic of training."""
    train = _train(task)
    assert task.loss is not None  # noqa: S101 - comes with the training set
    device = training_device()
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = train.split.rows(slice(0, train.batch_size))
    training = model.training
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with precision(device):
            outputs = call(model, as_tensors(batch.inputs), tuple(task.outputs))
        loss = task.loss({n: o.float() for n, o in outputs.items()}, as_tensors(batch.targets))
    del loss, outputs
    # Running statistics have moved.
    model.load_state_dict(state)
    model.train(training)
    return sum(kept.values())


def _apply(model: nn.Module, target: Target, technique: str, settings: Settings, context: Context) -> None:
    found = get_technique(technique)
    if not isinstance(found, ModuleTechnique):
        raise TypeError(f"{technique} does not work on a module")
    found.apply(model, found.resolve(settings, target), context)


def _train(task: Task) -> TrainingSet:
    if task.train is None:
        raise ValueError(f"task {task.name} has no training set")
    return task.train


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Listens to a pipeline."""


def _resident_bytes() -> int:
    psutil = import_module("psutil")
    return int(psutil.Process().memory_info().rss)
