"""Imported once, by the process that `warm.py` forks from: what searches import, most of it when it is first used."""

from __future__ import annotations

from pathlib import Path

import alembic.command
import alembic.config
import alembic.migration
import onnxscript.optimizer
import optuna.storages._rdb.models
import plotly.graph_objects as go
import sqlalchemy.dialects.sqlite
import sqlalchemy.orm
import torch.export._trace
from torch.onnx._internal.exporter._registration import ONNXRegistry

import autoshrink.api
import autoshrink.cli
import autoshrink.config
import autoshrink.dashboard.report
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
    optuna.storages._rdb.models,
    sqlalchemy.dialects.sqlite,
    torch.export._trace,
    autoshrink.api,
    autoshrink.cli,
    autoshrink.config,
    autoshrink.dashboard.report,
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
# What a report draws with, and the tables of a study's database, are made when they are first used.
go.Figure([go.Scatter(x=[0], y=[0], error_x={}, error_y={}, line={}, marker={"line": {}}), go.Bar(marker={})])
sqlalchemy.orm.configure_mappers()

# Forking copies one thread only: with another one, a lock that it holds would stay so. ONNX Runtime has one.
threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 1
if threads != 1:
    raise RuntimeError(f"{threads} threads after the imports")
