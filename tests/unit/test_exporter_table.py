"""The exporter's table is built once, and an export with it is the same as one without."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from autoshrink import export, exporter_table
from autoshrink.export import OPSET, export_onnx
from autoshrink.exporter_table import kept_table
from tests.small_models import tiny_task


def test_it_has_the_operators_of_one_built_anew() -> None:
    anew = ONNXRegistry.from_torchlib(opset_version=OPSET)
    for _ in range(2):
        with kept_table():
            kept = ONNXRegistry.from_torchlib(opset_version=OPSET)
        assert kept.opset_version == anew.opset_version
        assert {name: [known.onnx_function for known in listed] for name, listed in kept.functions.items()} == {
            name: [known.onnx_function for known in listed] for name, listed in anew.functions.items()
        }


def test_what_one_export_adds_is_not_in_the_next() -> None:
    add = torch.ops.aten.add.Tensor
    with kept_table():
        first = ONNXRegistry.from_torchlib(opset_version=OPSET)
        known = len(first.get_decomps(add))
        first.register_op(add, lambda x, _y: x)
        assert len(first.get_decomps(add)) == known + 1
        assert len(ONNXRegistry.from_torchlib(opset_version=OPSET).get_decomps(add)) == known


def test_it_is_built_once_and_the_exporter_left_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(exporter_table, "_built", {})
    before = ONNXRegistry.__dict__["from_torchlib"]
    built: list[int] = []

    def counted(kind: type[ONNXRegistry], opset_version: int) -> ONNXRegistry:
        built.append(opset_version)
        return before.__get__(None, kind)(opset_version=opset_version)

    counting = classmethod(counted)
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", counting)
    for _ in range(2):
        export_onnx(tiny_task("cnn").model(), tiny_task("cnn"), 1, tmp_path / "model.onnx")
    assert built == [OPSET]
    assert ONNXRegistry.__dict__["from_torchlib"] is counting


def test_the_file_is_that_of_an_export_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task = tiny_task("transformer")
    files = [tmp_path / "kept.onnx", tmp_path / "anew.onnx"]
    export_onnx(task.model(), task, 2, files[0])
    monkeypatch.setattr(export, "kept_table", nullcontext)
    export_onnx(task.model(), task, 2, files[1])
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_exporter_that_is_made_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    other = staticmethod(lambda: None)
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", other)
    with kept_table():
        assert ONNXRegistry.__dict__["from_torchlib"] is other
