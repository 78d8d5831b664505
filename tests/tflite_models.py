"""Tiny tasks as traced programs, float and with quantizers, and what a `.tflite` file makes of their samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends.base import Array, Source
from autoshrink.backends.litert import LiteRtSession
from autoshrink.program import write_program
from autoshrink.task import Task, call
from autoshrink.techniques.onnx_int8 import Grid
from autoshrink.techniques.quantized_graph import FloatGraph, add_quantizers, initialise, round_biases
from autoshrink.tensors import as_tensors
from autoshrink.types import Settings

BATCH = 2
OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"]
GRID = {"operators": OPERATORS, "activations": "uint8", "per_channel": True}
STATIC = {"scheme": "int8_static", "calibration": "minmax", "samples": 64, "keep_float": "none", "grid": GRID}


def float_source(task: Task, folder: Path, precision: str = "fp32", settings: Settings | None = None) -> Source:
    """The task's model in `folder`, to be compiled in `precision`; written at the first call for that folder."""
    model = folder / "model.pt2"
    if not model.exists():
        write_program(task.model(), task, BATCH, model)
        save_calibration(task, folder / "calibration")
    return Source(model, precision, settings=settings or {}, calibration=folder / "calibration", batch=BATCH)


UNSIGNED = Grid((), "uint8")


def trained_source(
    task: Task, folder: Path, bits: int, activation_bits: int = 8, grid: Grid = UNSIGNED
) -> tuple[Source, nn.Module]:
    """The same with quantizers that were calibrated and not trained; 8 bits in the first layer. The torch model too."""
    graph = FloatGraph(task.model(), task, "qat")
    widths = {layer.weight: bits if number else 8 for number, layer in enumerate(graph.layers()[0])}
    module = add_quantizers(graph, widths, activation_bits, grid, learned=False)
    with torch.no_grad():
        initialise(module, lambda observed: call(observed, as_tensors(task.calibration), tuple(task.outputs)))
    round_biases(module)
    model = folder / f"trained-{bits}-{activation_bits}.pt2"
    write_program(module.eval(), task, BATCH, model)
    save_calibration(task, folder / "calibration")
    return Source(model, "int8_static", calibration=folder / "calibration", batch=BATCH), module.eval()


def save_calibration(task: Task, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, array in task.calibration.items():
        np.save(folder / f"{name}.npy", array)


def agreement(file: Path, task: Task, model: nn.Module, layout: str = "nchw") -> float:
    """Signal to noise of a file's outputs against a torch model's on the val samples, decibel; all outputs as one."""
    session = LiteRtSession(file, 1, layout)
    expected, found = [], []
    for start in range(0, len(next(iter(task.val.inputs.values()))), BATCH):
        rows: dict[str, Array] = {name: array[start : start + BATCH] for name, array in task.val.inputs.items()}
        with torch.no_grad():
            reference = call(model, as_tensors(rows), tuple(task.outputs))
        for name, array in session.run(rows).items():
            expected.append(reference[name].numpy().ravel())
            found.append(array.ravel())
    return sqnr_db(np.concatenate(expected), np.concatenate(found))
