"""Knowledge distillation: the trained model's outputs as targets, and the loss that compares with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.fingerprints import module_fingerprint
from autoshrink.task import Split, Task, TrainingSet, call, fingerprint
from autoshrink.techniques.hints import Tap
from autoshrink.techniques.training_device import precision
from autoshrink.tensors import as_tensors
from autoshrink.types import content_key

BATCH = 256

Tensors = Mapping[str, torch.Tensor]


class Answers(NamedTuple):
    """What a teacher says to a batch: its outputs by name, [N, ...], and, where asked for, its features, [N, ...]."""

    outputs: Tensors
    features: torch.Tensor | None


Teacher = Callable[[npt.NDArray[np.int64], Tensors], Answers]
"""Answers to the rows of a batch, or to its (augmented) inputs."""


def distillation_loss(
    student: Tensors, teacher: Tensors, kinds: Mapping[str, Literal["logits", "values"]], temperature: float
) -> torch.Tensor:
    """How far a student's outputs are from its teacher's: a scalar, summed over the outputs.

    Args:
        student: output name -> float tensor [N, ...]; of `logits` the last dimension holds the class scores.
        teacher: the same, of the same shapes.
        kinds: `logits` is compared by T^2 KL(softmax(teacher / T) || softmax(student / T)), averaged over all but the
            last dimension (Hinton et al. 2015, section 2: T^2 keeps the gradient's size independent of T); `values` by
            mean squared error.
        temperature: T.
    """
    parts = []
    for name, kind in kinds.items():
        ours, theirs = student[name].float(), teacher[name].float()
        if kind == "values":
            parts.append(functional.mse_loss(ours, theirs))
            continue
        ours, theirs = ((logits / temperature).log_softmax(-1).flatten(0, -2) for logits in (ours, theirs))
        divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        parts.append(temperature**2 * divergence)
    return torch.stack(parts).sum()


def teacher_of(
    task: Task,
    train: TrainingSet,
    teacher: Callable[[], nn.Module],
    device: torch.device,
    cache: StageCache | None,
    head: str | None = None,
) -> Teacher:
    """Looks the answers up where the samples never change; runs the teacher on each batch where they are augmented.

    With `head`, the name of a layer, its input is the features that are asked for.
    """
    names = tuple(task.outputs)
    if train.augment is None:
        stored = _stored_answers(train.split, names, teacher(), device, cache, head)

        def look_up(rows: npt.NDArray[np.int64], _inputs: Tensors) -> Answers:
            found = as_tensors({str(number): array[rows] for number, array in enumerate(stored)}, device)
            return _answers(list(found.values()), names)

        return look_up
    asked = _Asked(teacher(), names, device, head)

    def ask(_rows: npt.NDArray[np.int64], inputs: Tensors) -> Answers:
        with precision(device):
            return _answers(asked.run(inputs), names)

    return ask


def _answers(tensors: list[torch.Tensor], names: tuple[str, ...]) -> Answers:
    features = tensors[len(names)] if len(tensors) > len(names) else None
    return Answers(dict(zip(names, tensors[: len(names)], strict=True)), features)


class _Asked:
    """A copy of the teacher on the device."""

    def __init__(self, teacher: nn.Module, names: tuple[str, ...], device: torch.device, head: str | None) -> None:
        self._model = copy.deepcopy(teacher).to(device).eval()
        self._names = names
        self._head = head
        self._tap = Tap(self._model.get_submodule(head)) if head else None

    @torch.no_grad()
    def run(self, inputs: Tensors) -> list[torch.Tensor]:
        """Outputs in the order of their names, then the features if there are any; float32."""
        outputs = call(self._model, inputs, self._names)
        answers = [outputs[name].float() for name in self._names]
        if self._tap is None:
            return answers
        features = self._tap.take()
        if features is None:
            reason = f"{self._head} of the trained model ran on the example and does not run on train; set hint to 0"
            raise StageError("teacher", reason)
        return [*answers, features.float()]


def _stored_answers(
    split: Split,
    names: tuple[str, ...],
    teacher: nn.Module,
    device: torch.device,
    cache: StageCache | None,
    head: str | None,
) -> list[npt.NDArray[np.float32]]:
    """The teacher's answers to all samples, float32 [N, ...] each, from the cache when they are there."""

    def compute(folder: Path | None) -> list[npt.NDArray[np.float32]]:
        asked = _Asked(teacher, names, device, head)
        arrays: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(split), BATCH):
            batch = split.rows(slice(start, start + BATCH))
            answers = [answer.cpu().numpy() for answer in asked.run(as_tensors(batch.inputs, device))]
            if not arrays:
                shapes = [(len(split), *answer.shape[1:]) for answer in answers]
                arrays = [_allocate(shape, folder, number) for number, shape in enumerate(shapes)]
            for array, answer in zip(arrays, answers, strict=True):
                array[start : start + len(batch)] = answer
        return arrays

    if cache is None:
        return compute(None)

    def write(folder: Path) -> None:
        for array in compute(folder):
            if isinstance(array, np.memmap):
                array.flush()

    parts = ["teacher", module_fingerprint(teacher), fingerprint(split.inputs), list(names), torch.__version__]
    folder, _ = cache.get_or_make(content_key([*parts, head] if head else parts), "teacher", write)
    count = len(names) + (head is not None)
    return [np.load(folder / f"{number}.npy", mmap_mode="r") for number in range(count)]


def _allocate(shape: tuple[int, ...], folder: Path | None, number: int) -> npt.NDArray[np.float32]:
    if folder is None:
        return np.empty(shape, np.float32)
    # Mapped, as it is when it is read: the outputs of a dense prediction may be larger than memory.
    array: npt.NDArray[np.float32] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        folder / f"{number}.npy", "w+", np.dtype(np.float32), shape
    )
    return array
