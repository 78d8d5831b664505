"""The state of a training on disk, so that one that was interrupted goes on to the very result it would have had."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

EVERY_S = 60.0
"""Seconds between two checkpoints."""
STATE_FILE = "state.safetensors"

Tensors = dict[str, torch.Tensor]


@dataclass
class State:
    """How far a training is, besides its model and optimizer; `best_weights` are those of the least val loss."""

    step: int = 0
    best_loss: float = math.inf
    worse_epochs: int = 0
    best_weights: Tensors = field(default_factory=dict)


class Checkpoint:
    """A folder with one file, replaced as a whole: tensors as safetensors, numbers in its header. No pickle."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / STATE_FILE
        self._kept = time.monotonic()

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
        """Writes everything when the last time is a minute ago.

        Raises:
            OSError: it cannot be written.
        """
        if time.monotonic() - self._kept < EVERY_S:
            return
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in state.best_weights.items()}
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        numbers = {"step": state.step, "best_loss": state.best_loss, "worse_epochs": state.worse_epochs}
        clones = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_bytes(save(clones, {"state": json.dumps(numbers)}))
        partial.replace(self._file)
        self._kept = time.monotonic()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> State | None:
        """Puts model, optimizer and random numbers back, and gives the rest; None when nothing usable is there."""
        if not self._file.exists():
            return None
        try:
            tensors = load_file(self._file)
            numbers = _numbers(self._file)
        except (OSError, ValueError, KeyError, SafetensorError):
            # Cut short: training begins anew.
            return None
        weights = _under("model.", tensors)
        # Of another model; asked before, for loading copies what fits and fails afterwards.
        if _shapes(weights) != _shapes(model.state_dict()):
            return None
        model.load_state_dict(weights)
        by_parameter: dict[int, Tensors] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            by_parameter.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": by_parameter})
        torch.set_rng_state(tensors["random"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return State(
            int(numbers["step"]), float(numbers["best_loss"]), int(numbers["worse_epochs"]), _under("best.", tensors)
        )

    def remove(self) -> None:
        """The training is done."""
        shutil.rmtree(self._file.parent, ignore_errors=True)


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _numbers(file: Path) -> dict[str, float]:
    with safe_open(file, framework="pt") as opened:
        numbers: dict[str, float] = json.loads(opened.metadata()["state"])
    return numbers
