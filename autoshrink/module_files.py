"""A torch model as plain files: its state as safetensors, its structure as the steps that led to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import nn

from autoshrink.errors import StageError
from autoshrink.task import Task
from autoshrink.techniques import get_technique
from autoshrink.techniques.base import ModuleTechnique

STATE_FILE = "model.safetensors"
STRUCTURE_FILE = "structure.json"


class Step(NamedTuple):
    """A technique, and the JSON value from which it repeats what it did to a model's structure.

    `shared_out` are the values of each `SharedOut` that it told of, which go with the model and change nothing of it.
    """

    technique: str
    structure: Any
    shared_out: tuple[Mapping[str, Any], ...] = ()


def save_module(folder: Path, model: nn.Module, steps: list[Step]) -> None:
    """Writes a model, buffers included, and the steps from the trained model to it.

    Raises:
        StageError: the model's state holds something other than tensors.
        OSError: the folder cannot be written.
    """
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            reason = f"the model's state holds {name}, a {type(value).__name__}; only tensors can be kept"
            raise StageError("cache", f"{reason}: register it as a buffer, or make it in __init__")
        # Clones: safetensors refuses tensors that share memory, and such that lie in it with gaps.
        state[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    # By way of bytes: safetensors' own writing hides the reason of a failure.
    (folder / STATE_FILE).write_bytes(save(state))
    (folder / STRUCTURE_FILE).write_text(json.dumps([list(step) for step in steps]))


def load_module(folder: Path, trained: nn.Module, task: Task) -> tuple[nn.Module, list[Step]]:
    """The model that `save_module` wrote, in eval mode, and its steps.

    Args:
        folder: where it lies.
        trained: a fresh trained model, which is changed.
        task: of the model.
    """
    written = json.loads((folder / STRUCTURE_FILE).read_text())
    # What an older version wrote has no third value.
    steps = [Step(name, structure, tuple(*told)) for name, structure, *told in written]
    model = trained
    for step in steps:
        technique = get_technique(step.technique)
        if not isinstance(technique, ModuleTechnique):
            raise TypeError(f"{step.technique} does not work on a module")
        model = technique.rebuild(model, step.structure, task)
    model.load_state_dict(load_file(folder / STATE_FILE))
    return model.eval(), steps
