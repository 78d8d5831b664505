"""The Task contract: what a user brings. Arrays in and out by name, so that an artifact is judged without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from autoshrink.errors import ConfigError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Split:
    """Samples: every array has the samples in its first dimension, and all have equally many.

    Attributes:
        inputs: input name -> array [N, ...], in the order of the model's `forward`.
        targets: target name -> array [N, ...], whatever the metric and the loss need.
    """

    inputs: Arrays
    targets: Arrays

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, chosen: npt.NDArray[np.int64] | slice) -> Split:
        """The samples at `chosen`."""
        return Split(
            {name: array[chosen] for name, array in self.inputs.items()},
            {name: array[chosen] for name, array in self.targets.items()},
        )

    def fingerprint(self) -> str:
        """SHA-256 of names, shapes, dtypes and content."""
        return fingerprint({**self.inputs, **{f"target {name}": array for name, array in self.targets.items()}})


@dataclass(frozen=True)
class TrainingSet:
    """What fine-tuning trains on.

    Attributes:
        split: the samples (arrays; `numpy.memmap` works for sets larger than memory).
        batch_size: samples a step.
        augment: optional `(batch, random) -> batch` with arrays of the same shapes and dtypes.
    """

    split: Split
    batch_size: int = 128
    augment: Callable[[Split, np.random.Generator], Split] | None = None

    def __len__(self) -> int:
        """Whole batches in an epoch; the incomplete last one is dropped."""
        return max(1, len(self.split) // self.batch_size)

    def epoch(self, seed: int) -> Iterator[tuple[npt.NDArray[np.int64], Split]]:
        """One epoch in the order that `seed` fixes: the rows of each batch, and the (augmented) batch itself."""
        random = np.random.default_rng(seed)
        order = random.permutation(len(self.split))
        for step in range(len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            batch = self.split.rows(chosen)
            yield chosen, self.augment(batch, random) if self.augment else batch


Metric = Callable[[Arrays, Arrays], "float | npt.NDArray[np.floating]"]
Loss = Callable[[Mapping[str, "torch.Tensor"], Mapping[str, "torch.Tensor"]], "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained model, its data, and what counts as good.

    Attributes:
        name: letters, digits, `-` and `_`.
        model: gives the trained model, a fresh one at each call. Its `forward` takes the inputs by position, in the
            order of `example_inputs`, and returns a tensor, a tuple, or a mapping by output name.
        example_inputs: input name -> array of one sample, [1, ...], in the dtype the deployed model will get.
        outputs: output name -> `logits` (a class score in the last dimension: the teacher's soft targets are compared
            by Kullback-Leibler divergence) or `values` (compared by mean squared error).
        calibration: input name -> array [N, ...]: the calibration set of static quantization, some hundred samples.
        val: steers the search.
        test: never seen by the search; scores the final front.
        metric: `(outputs, targets) -> score`, higher is better, numpy only. An array [N] holds one score a sample
            and its mean is the metric; a float is a metric of the whole set and gets its interval by bootstrap.
        metric_name: as tables head it.
        train: needed by techniques that train; without it they are left out of the space.
        loss: `(outputs, targets) -> scalar tensor`, torch, needed as `train` is.
        keep: qualified names of layers whose output width must stay (besides those that feed an output directly).
        preprocessing: how raw input becomes `example_inputs`, in words; goes into the package.
        student: optional `(width, depth) -> model` of the same family, untrained.
        classes: names of the classes, in the order of the logits; empty where they have none. For those who look at
            results; a task with them has a single output of `logits`.
        fingerprint_extra: anything else that the model's function depends on, for the cache.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    example_inputs: Arrays
    outputs: Mapping[str, Literal["logits", "values"]]
    calibration: Arrays
    val: Split
    test: Split
    metric: Metric
    metric_name: str = "accuracy"
    train: TrainingSet | None = None
    loss: Loss | None = None
    keep: tuple[str, ...] = ()
    preprocessing: str = ""
    student: Callable[[float, float], torch.nn.Module] | None = None
    classes: tuple[str, ...] = ()
    fingerprint_extra: str = ""
    source: str = field(default="", compare=False)
    """Where the task came from (a built-in name or a file); filled in by `load_task`."""

    @property
    def trains(self) -> bool:
        """Whether techniques that train can be used."""
        return self.train is not None and self.loss is not None


def fingerprint(arrays: Arrays) -> str:
    """SHA-256 over name, dtype, shape and content of arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()


def check_task(task: Task) -> None:
    """Everything about a task that can be checked without running its model.

    Raises:
        ConfigError: with every problem found, as `task NAME: attribute: ...`.
    """
    problems: list[str] = []
    where = task.source or f"task {task.name}"

    def say(attribute: str, text: str) -> None:
        problems.append(f"{where}:{attribute}: {text}")

    if not task.name or not all(c.isalnum() or c in "-_" for c in task.name):
        say("name", f"{task.name!r} may hold letters, digits, '-' and '_' only")
    if not task.outputs:
        say("outputs", "is empty; name each output of the model, such as {'logits': 'logits'}")
    for name, kind in task.outputs.items():
        if kind not in ("logits", "values"):
            say("outputs", f"{name!r} is {kind!r}; allowed are 'logits' and 'values'")
    for name, array in task.example_inputs.items():
        if not isinstance(array, np.ndarray):
            say("example_inputs", f"{name!r} is a {type(array).__name__}; it must be a numpy array [1, ...]")
        elif array.ndim < 1 or array.shape[0] != 1:
            say("example_inputs", f"{name!r} has shape {array.shape}; it must be one sample, [1, ...]")
    if not task.example_inputs:
        say("example_inputs", "is empty; give one sample by input name")
    if not problems:
        for part, inputs in (("calibration", task.calibration), ("val", task.val.inputs), ("test", task.test.inputs)):
            _check_inputs(task, part, inputs, say)
        if task.train is not None:
            _check_inputs(task, "train", task.train.split.inputs, say)
            if task.train.batch_size > len(task.train.split):
                say("train", f"batch_size {task.train.batch_size} is over its {len(task.train.split)} samples")
        for part, split in (("val", task.val), ("test", task.test)):
            counts = {name: len(array) for name, array in {**split.inputs, **split.targets}.items()}
            if len(set(counts.values())) > 1:
                say(part, f"has different numbers of samples: {counts}")
    if task.classes:
        _check_classes(task, say)
    if (task.train is None) != (task.loss is None):
        say("loss", "train and loss go together: techniques that train need both, others need neither")
    if problems:
        raise ConfigError(problems)


def _check_classes(task: Task, say: Callable[[str, str], None]) -> None:
    count = len(task.classes)
    if list(task.outputs.values()) != ["logits"]:
        say("classes", "names classes; the task needs a single output, of 'logits', or no such names")
    twice = sorted({name for name in task.classes if task.classes.count(name) > 1})
    if twice or not all(name.strip() for name in task.classes):
        say("classes", f"{', '.join(map(repr, twice)) or 'an empty name'}: each class needs a name of its own")
    for part, split in (("val", task.val), ("test", task.test)):
        labels = list(split.targets.values())
        if len(labels) == 1 and labels[0].ndim == 1 and labels[0].dtype.kind in "iu" and labels[0].size:
            highest = int(labels[0].max())
            if highest >= count:
                say("classes", f"{count} names; {part} has a class {highest}, so that it must be {highest + 1} or more")


def _check_inputs(task: Task, part: str, inputs: Arrays, say: Callable[[str, str], None]) -> None:
    if list(inputs) != list(task.example_inputs):
        say(part, f"has the inputs {list(inputs)}; example_inputs has {list(task.example_inputs)}, in this order")
        return
    for name, array in inputs.items():
        example = task.example_inputs[name]
        if array.shape[1:] != example.shape[1:]:
            say(
                part,
                f"{name!r} has shape {array.shape}; example_inputs says [N, {', '.join(map(str, example.shape[1:]))}]",
            )
        if array.dtype != example.dtype:
            say(part, f"{name!r} is {array.dtype}; example_inputs says {example.dtype}")
        if len(array) == 0:
            say(part, f"{name!r} has no samples")
        elif np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            say(part, f"{name!r} holds NaN or infinity")


def call(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Runs a task's model: inputs by position, outputs by name.

    Raises:
        ConfigError: the model returns another number of outputs than the task names.
    """
    result = model(*inputs.values())
    if isinstance(result, Mapping):
        missing = [name for name in names if name not in result]
        if missing:
            raise ConfigError([f"outputs: the model returns {list(result)}; the task names {missing} as well"])
        return {name: result[name] for name in names}
    values = tuple(result) if isinstance(result, tuple | list) else (result,)
    if len(values) != len(names):
        raise ConfigError([f"outputs: the model returns {len(values)} outputs; the task names {list(names)}"])
    return dict(zip(names, values, strict=True))
