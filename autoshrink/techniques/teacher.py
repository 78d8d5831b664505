"""Knowledge distillation: the trained model's outputs as targets, and the loss that compares with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from autoshrink.cache import StageCache
from autoshrink.fingerprints import module_fingerprint
from autoshrink.task import Arrays, Split, Task, TrainingSet, call, fingerprint
from autoshrink.techniques.training_device import precision
from autoshrink.tensors import as_tensors
from autoshrink.types import content_key

BATCH = 256

Tensors = Mapping[str, torch.Tensor]
Teacher = Callable[[npt.NDArray[np.int64], Tensors], Tensors]
"""Gives the teacher's outputs for the rows of a batch, or for its (augmented) inputs, by name, [N, ...]."""


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
) -> Teacher:
    """Looks the outputs up where the samples never change; runs the teacher on each batch where they are augmented."""
    names = tuple(task.outputs)
    if train.augment is None:
        stored = _stored_outputs(train.split, names, teacher(), device, cache)
        return lambda rows, inputs: as_tensors({name: stored[name][rows] for name in names}, device)  # noqa: ARG005
    model = copy.deepcopy(teacher()).to(device).eval()

    def ask(_rows: npt.NDArray[np.int64], inputs: Tensors) -> Tensors:
        with torch.no_grad(), precision(device):
            return call(model, inputs, names)

    return ask


def _stored_outputs(
    split: Split, names: tuple[str, ...], teacher: nn.Module, device: torch.device, cache: StageCache | None
) -> Arrays:
    """The teacher's outputs for all samples, float32 [N, ...] by name, from the cache when they are there."""

    def compute() -> dict[str, npt.NDArray[np.float32]]:
        model = copy.deepcopy(teacher).to(device).eval()
        pieces: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
        with torch.no_grad():
            for start in range(0, len(split), BATCH):
                batch = split.rows(slice(start, start + BATCH))
                for name, output in call(model, as_tensors(batch.inputs, device), names).items():
                    pieces[name].append(output.float().cpu().numpy())
        return {name: np.concatenate(arrays) for name, arrays in pieces.items()}

    if cache is None:
        return compute()

    def write(folder: Path) -> None:
        for number, array in enumerate(compute().values()):
            np.save(folder / f"{number}.npy", array, allow_pickle=False)

    key = content_key(
        ["teacher", module_fingerprint(teacher), fingerprint(split.inputs), list(names), torch.__version__]
    )
    folder, _ = cache.get_or_make(key, "teacher", write)
    # Mapped, not read: the outputs of a dense prediction may be larger than memory.
    return {name: np.load(folder / f"{number}.npy", mmap_mode="r") for number, name in enumerate(names)}
