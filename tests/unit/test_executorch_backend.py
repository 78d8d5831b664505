"""What ExecuTorch refuses, and that it says why."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends.base import Source
from autoshrink.backends.executorch import ExecuTorch
from autoshrink.config import load_target
from autoshrink.errors import StageError
from autoshrink.program import read_program, write_program
from autoshrink.types import Recipe
from tests.model_tasks import task_of
from tests.small_models import tiny_task


def written(model: nn.Module, path: Path, *shape: int) -> Path:
    example = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    write_program(model.eval(), task_of(model, x=example), 1, path)
    return path


def test_rounding_with_zero_points_is_refused() -> None:
    target = load_target("executorch-mobile")
    for rounding, refused in (("gptq", True), ("hqq", True), ("nearest", False)):
        recipe = Recipe.from_json([{"technique": "quantize", "scheme": "int4_weights", "rounding": rounding}])
        assert ("has none: use nearest" in ExecuTorch().refuses(recipe, target)) == refused
    assert not ExecuTorch().refuses(Recipe(), target)


@pytest.mark.parametrize(
    ("model", "shape", "precision", "reason"),
    [
        (nn.Conv3d(2, 3, 1), (2, 4, 4, 4), "fp32", "layer '.*' is a convolution over 3 dimensions"),
        (nn.Conv2d(3, 3, 1), (3, 4, 4), "int4_weights", "no layer of this model can be quantized to int4_weights"),
        (nn.Conv2d(3, 3, 1), (3, 4, 4), "bf16", "ExecuTorch is not given bf16"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    tmp_path: Path, model: nn.Module, shape: tuple[int, ...], precision: str, reason: str
) -> None:
    source = Source(written(model, tmp_path / "model.pt2", *shape), precision)
    with pytest.raises(StageError, match=reason) as caught:
        ExecuTorch().compile(source, tmp_path / "artifact")
    assert caught.value.stage == "compile"
    assert "\n" not in caught.value.reason
    assert not (tmp_path / "artifact").exists()


def test_a_runtime_that_cannot_be_imported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(written(nn.Linear(4, 3), tmp_path / "model.pt2", 4))
    made = ExecuTorch().compile(source, tmp_path)
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings", None)
    with pytest.raises(StageError, match=r"load: ExecuTorch cannot be imported: .*; it must be >=1\.5"):
        ExecuTorch().load(tmp_path, made.files, "fp32", 1)


def test_a_layer_without_an_integer_kernel_becomes_float_again(tmp_path: Path) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 1)
            self.up = nn.ConvTranspose2d(8, 8, 2, 2, groups=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # The second is quantized by channel along a dimension that groups share.
            return self.up(self.conv(x).relu()).relu()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    path = written(Grouped(), tmp_path / "model.pt2", 4, 6, 6)
    samples = np.random.default_rng(1).normal(size=(8, 4, 6, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", samples)
    compiled = ExecuTorch().compile(Source(path, "int8_static", calibration=tmp_path), tmp_path / "artifact")
    assert compiled.audit is not None
    assert [(layer.name, layer.precision) for layer in compiled.audit.layers] == [("conv", "int8"), ("up", "fp32")]
    assert any("stay float" in note and "up" in note for note in compiled.audit.notes)
    session = ExecuTorch().load(tmp_path / "artifact", compiled.files, "int8_static", 1)
    with torch.no_grad():
        expected = read_program(path).module(torch.from_numpy(samples[:1]))[0].numpy()
    assert sqnr_db(expected, session.run({"x": samples[:1]})["y"]) > 30


def test_attention_agrees_with_torch_and_keeps_its_names(tmp_path: Path) -> None:
    task = tiny_task("fused_qkv")
    write_program(task.model(), task, 1, tmp_path / "model.pt2")
    compiled = ExecuTorch().compile(Source(tmp_path / "model.pt2"), tmp_path / "artifact")
    assert compiled.audit is not None
    names = [layer.name for layer in compiled.audit.layers]
    assert names == ["attention.qkv", "attention.out", "expand", "contract", "head"]
    assert compiled.audit.notes == ("not fully accelerated: outside XNNPACK run embedding, mean, 3 native_layer_norm",)
    session = ExecuTorch().load(tmp_path / "artifact", compiled.files, "fp32", 1)
    tokens = task.val.inputs["tokens"][:1]
    with torch.no_grad():
        expected = task.model()(torch.from_numpy(tokens)).numpy()
    assert sqnr_db(expected, session.run({"tokens": tokens})["logits"]) > 100
