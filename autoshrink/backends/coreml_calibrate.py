"""Ranges of activations and Gram matrices of layer inputs, from a traced torch program and its calibration set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from autoshrink.errors import StageError
from autoshrink.onnx_graph import fixed_batches
from autoshrink.program import Grid, Program
from autoshrink.techniques.calibrate import UNBOUNDED, histogram, spread, tail_range
from autoshrink.tensors import as_tensors

STAGE = "compile"
GPTQ_ROWS = 256
"""Rows of the calibration set, from the first, that Gram matrices are made from."""
EPSILON = 1e-8
"""Least span of an activation: a constant zero has a grid too."""

Matrix = npt.NDArray[np.float32]
aten = torch.ops.aten


def calibration_of(folder: Path | None, program: Program, rows: int) -> dict[str, npt.NDArray[Any]]:
    """The first `rows` rows of the calibration set in `folder`, by input.

    Raises:
        StageError: there is none, or it has not the inputs of the program.
    """
    if folder is None:
        raise StageError(STAGE, "there is no calibration set, and ranges of activations need one")
    found: dict[str, npt.NDArray[Any]] = {}
    for name, example in zip(program.inputs, program.example, strict=True):
        path = folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)[:rows]
        except (OSError, ValueError) as error:
            raise StageError(STAGE, f"{path.name} of the calibration set cannot be read: {error}") from error
        if array.shape[1:] != tuple(example.shape[1:]) or not len(array):
            wanted = ", ".join(["N", *map(str, example.shape[1:])])
            raise StageError(STAGE, f"calibration input {name!r} has shape {list(array.shape)}; it must be [{wanted}]")
        found[name] = array
    return found


class Watch(nn.Module):
    """Lets a value pass and keeps its extremes; in a second pass a histogram between them.

    Args:
        name: of the value, for errors.
        signed: whether its grid is symmetric, -128 to 127, rather than 0 to 255 with a zero point.
    """

    def __init__(self, name: str, signed: bool) -> None:
        super().__init__()
        self.name, self.signed = name, signed
        self.low = self.high = 0.0
        self.counts: npt.NDArray[np.int64] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> itself."""
        values = x.detach().float().numpy()
        if self.counts is not None:
            self.counts += histogram(spread(values), self.low, self.high)
        elif values.size:
            low, high = float(values.min()), float(values.max())
            # A NaN is no less and no more than anything.
            if not (low > -UNBOUNDED and high < UNBOUNDED):
                raise StageError(
                    STAGE,
                    f"activation {self.name} is {low:g} to {high:g} on the calibration set; 8 bits cannot span it",
                )
            # 0 is always in the range: padding is 0.
            self.low, self.high = min(low, self.low), max(high, self.high)
        return x

    def grid(self) -> Grid:
        """The integers of the range that was seen."""
        low, high = self.low, self.high
        if self.counts is not None:
            low, high = tail_range(self.counts, low, high)
            low, high = min(low, 0.0), max(high, 0.0)
        if self.signed:
            return Grid((max(-low, high, EPSILON) / 127,), (0,), -1, -128, 127)
        step = max(high - low, EPSILON) / 255
        return Grid((step,), (min(max(round(-low / step), 0), 255),), -1, 0, 255)


@torch.no_grad()
def watch(program: Program, samples: Mapping[str, npt.NDArray[Any]], method: str) -> None:
    """Runs the program, which holds `Watch` modules, on `samples`: once for `minmax`, twice for `percentile`.

    Raises:
        StageError: a watched activation is not finite.
    """
    watches = [module for module in program.module.modules() if isinstance(module, Watch)]
    for counting in range(1 + (method == "percentile")):
        for part in watches if counting else ():
            part.counts = histogram(np.zeros(0, np.float32), part.low, part.high)
        for rows in fixed_batches(samples, len(program.example[0])):
            program.module(*as_tensors(rows).values())


class _Inputs(fx.Interpreter):
    """Runs a graph and adds up X^T X of what its layers read."""

    def __init__(self, module: fx.GraphModule, layers: Mapping[str, str]) -> None:
        super().__init__(module)
        self.layers = layers
        self.grams: dict[str, Matrix] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.layers:
            node: Any = n
            rows = _rows(node, self.env[node.args[0]], self.env[node.args[1]])
            if rows is not None:
                name = self.layers[n.name]
                gram = (rows.T @ rows).numpy()
                self.grams[name] = self.grams[name] + gram if name in self.grams else gram
        return super().run_node(n)


@torch.no_grad()
def collect_grams(
    program: Program, layers: Mapping[str, str], samples: Mapping[str, npt.NDArray[Any]]
) -> dict[str, Matrix]:
    """X^T X [K, K] of the inputs X [rows, K] of each layer, K being the weight's elements by output channel.

    Args:
        program: is not changed.
        layers: name of a layer's node -> the name that its matrix is to have.
        samples: input name -> array [N, ...].

    Returns:
        Name -> float32 [K, K]; none for convolutions that are grouped, or of another rank than two.
    """
    inputs = _Inputs(program.module, layers)
    for rows in fixed_batches(samples, len(program.example[0])):
        inputs.run(*as_tensors(rows).values())
    return inputs.grams


def _rows(node: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    if node.target == aten.linear.default:
        return x.reshape(-1, x.shape[-1])
    given = dict(enumerate(node.args))
    groups = given.get(6, 1)
    if node.target != aten.conv2d.default or groups != 1 or isinstance(given.get(4, 0), str):
        return None
    patches = nn.functional.unfold(
        x, tuple(weight.shape[2:]), padding=given.get(4, 0), stride=given.get(3, 1), dilation=given.get(5, 1)
    )
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])
