"""Named arrays as named tensors, and the run of a task's model on its example."""

from __future__ import annotations

import numpy as np
import torch

from autoshrink.task import Arrays, Task, call


def as_tensors(arrays: Arrays, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Name -> tensor of the same shape and dtype on `device`; shares memory where it can be written to."""
    tensors = {}
    for name, array in arrays.items():
        # torch warns of arrays that cannot be written to, such as a read-only memmap's, and refuses negative strides.
        usable = array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
        tensors[name] = torch.from_numpy(usable).to(device)
    return tensors


def run_example(model: torch.nn.Module, task: Task) -> dict[str, torch.Tensor]:
    """The outputs, by name, for `task.example_inputs`, with whatever gradient mode and training mode is set."""
    return call(model, as_tensors(task.example_inputs), tuple(task.outputs))
