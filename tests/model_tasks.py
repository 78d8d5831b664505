"""A task around any model, for what needs names and samples and no learning."""

from __future__ import annotations

import numpy as np
from torch import nn

from autoshrink.task import Array, Split, Task


def task_of(model: nn.Module, outputs: tuple[str, ...] = ("y",), **inputs: Array) -> Task:
    """A task around `model` whose samples are random rows like `inputs` ([1, ...] each)."""
    random = np.random.default_rng(0)
    rows = {
        name: (
            random.normal(size=(8, *a.shape[1:])) if a.dtype.kind == "f" else random.integers(0, 5, (8, *a.shape[1:]))
        )
        for name, a in inputs.items()
    }
    split = Split({name: array.astype(inputs[name].dtype) for name, array in rows.items()}, {})
    return Task(
        name="small",
        model=lambda: model,
        example_inputs=inputs,
        outputs=dict.fromkeys(outputs, "values"),
        calibration=split.inputs,
        val=split,
        test=split,
        metric=lambda _outputs, _targets: 0.0,
    )
