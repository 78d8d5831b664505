"""Imported once, by the process that `warm.py` forks from: what searches import, most of it when it is first used."""

from __future__ import annotations

from pathlib import Path

import alembic
import onnxscript.optimizer
import torch.export._trace
from torch.onnx._internal.exporter._registration import ONNXRegistry

import autoshrink.cli
import autoshrink.explain.apply_trial
import autoshrink.package.verify
import autoshrink.package.write
import autoshrink.progress
import autoshrink.search.run
import autoshrink.tasks.digits
from autoshrink.export import OPSET
from autoshrink.exporter_table import kept_table
from autoshrink.techniques import TECHNIQUES, get_technique

MODULES = (
    alembic,
    onnxscript.optimizer,
    torch.export._trace,
    autoshrink.cli,
    autoshrink.explain.apply_trial,
    autoshrink.package.verify,
    autoshrink.package.write,
    autoshrink.progress,
    autoshrink.search.run,
    autoshrink.tasks.digits,
)

for name in TECHNIQUES:
    get_technique(name)
with kept_table():
    ONNXRegistry.from_torchlib(opset_version=OPSET)

# Forking copies one thread only: with another one, a lock that it holds would stay so. ONNX Runtime has one.
threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 1
if threads != 1:
    raise RuntimeError(f"{threads} threads after the imports")
