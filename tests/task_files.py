"""Texts of task files, good ones and ones with a single slip, and what `load_task` says of them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from autoshrink.errors import ConfigError
from autoshrink.tasks.loading import load_task

GOOD = """\
import numpy as np
import torch
from autoshrink.task import Split, Task, TrainingSet

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.second = torch.nn.Linear(4, 2)
    def forward(self, x):
        return self.second(self.first(x))

def model():
    torch.manual_seed(0)
    return Net().eval()

def metric(outputs, targets):
    return (outputs["y"].argmax(1) == targets["label"]).astype(float)

def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs["y"], targets["label"])

def samples(count):
    x = np.linspace(-1, 1, 3 * count, dtype=np.float32).reshape(count, 3)
    return Split({"x": x}, {"label": np.arange(count) % 2})

arguments = dict(
    name="mine",
    model=model,
    example_inputs=samples(1).inputs,
    outputs={"y": "logits"},
    calibration=samples(8).inputs,
    val=samples(40),
    test=samples(9),
    metric=metric,
    train=TrainingSet(samples(20), batch_size=4),
    loss=loss,
)
"""
END = "task = Task(**arguments)\n"


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    """Writes a file into `folder` and gives its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def problem(folder: Path, text: str, name: str = "mine.py") -> str:
    """What `load_task` says of a file with this text, without the folder."""
    path = write(folder, text, name)
    with pytest.raises(ConfigError) as caught:
        load_task(path)
    assert "Traceback" not in str(caught.value)
    return str(caught.value).replace(f"{Path(path).parent}/", "")


def changed(**arguments: str) -> str:
    """The good file with some arguments of Task replaced, each by an expression."""
    return GOOD + "".join(f"arguments[{name!r}] = {value}\n" for name, value in arguments.items()) + END


def with_forward(body: str) -> str:
    """The good file with another body of `forward`."""
    old = "        return self.second(self.first(x))\n"
    assert old in GOOD
    return GOOD.replace(old, textwrap.indent(textwrap.dedent(body), " " * 8)) + END


def line_of(text: str, piece: str) -> int:
    """The number of the first line with `piece` in it."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if piece in line)
