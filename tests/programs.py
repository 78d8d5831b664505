"""The models of `onnx_files` as traced torch programs, with the same weights: for backends that compile programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoshrink.program import write_program
from tests import onnx_files
from tests.model_tasks import task_of
from tests.onnx_files import BATCH, CLASSES, FEATURES, WIDTH


class Cnn(nn.Module):
    """`onnx_files.cnn`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.fc = nn.Linear(WIDTH, CLASSES)
        self.load_state_dict({name: torch.from_numpy(array) for name, array in onnx_files.cnn_weights().items()})

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv2(self.conv1(image).relu()).relu().mean((2, 3)))  # type: ignore[no-any-return]


class TwoByTwo(nn.Module):
    """`onnx_files.two_by_two`."""

    def __init__(self) -> None:
        super().__init__()
        weights = onnx_files.two_by_two_weights()
        self.table = nn.Parameter(torch.from_numpy(weights["table"]))
        self.project = nn.Linear(FEATURES, 4)
        with torch.no_grad():
            self.project.weight.copy_(torch.from_numpy(weights["weight"]).T)
            self.project.bias.copy_(torch.from_numpy(weights["bias"]))

    def forward(self, features: torch.Tensor, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.project(self.table[token_ids].mean(1) + features), token_ids.sum(1)


def write(name: str, out: Path) -> None:
    """The program of `cnn` or `two_by_two`."""
    if name == "cnn":
        task = task_of(Cnn(), ("logits",), image=onnx_files.image(1, 1))
    else:
        pair = onnx_files.pair(1, 1)
        ordered = {"features": pair["features"], "token_ids": pair["token_ids"].astype(np.int64)}
        task = task_of(TwoByTwo(), ("scores", "total"), **ordered)
    write_program(task.model(), task, BATCH, out)
