"""Traced programs: what is read is what was written, quantizers come off and over exactly, nothing is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.errors import ConfigError, StageError
from autoshrink.fake_quantize import quantize_dequantize
from autoshrink.program import Grid, float_program, read_program, standard_program, weight_layers, write_program
from tests import onnx_files, programs
from tests.model_tasks import task_of
from tests.onnx_files import BATCH

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)


class Quantized(nn.Module):
    """A linear layer of 2 outputs: input in steps of 1/8 from -2, weights in steps of 1/4 and 1/2 with 3 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.linspace(-1.3, 1.3, 16).reshape(2, 8))
        self.register_buffer("step", torch.tensor(0.125))
        self.register_buffer("zero", torch.tensor(16, dtype=torch.uint8))
        self.register_buffer("steps", torch.tensor([0.25, 0.5]))
        self.register_buffer("zeros", torch.zeros(2, dtype=torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = quantize_dequantize(x, self.step, self.zero, -1, 0, 255)
        return x @ quantize_dequantize(self.fc.weight, self.steps, self.zeros, 0, -4, 3).T


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("program") / "model.pt2"
    report = write_program(Quantized(), task_of(Quantized(), ("y",), x=X), BATCH, out)
    assert report == {"weight_bits": {"fc": 3}}
    return out


def expected() -> torch.Tensor:
    return Quantized()(torch.from_numpy(np.repeat(X, BATCH, 0)))


def test_what_is_read_is_what_was_written(tmp_path: Path, onnx_file: object) -> None:
    for name, inputs in (("cnn", {"image": onnx_files.image(3)}), ("two_by_two", onnx_files.pair(3))):
        programs.write(name, tmp_path / f"{name}.pt2")
        program = read_program(tmp_path / f"{name}.pt2")
        model = programs.Cnn() if name == "cnn" else programs.TwoByTwo()
        rows = [torch.from_numpy(inputs[port]) for port in program.inputs]
        given = model(*rows)
        for found, known in zip(program.module(*rows), given if isinstance(given, tuple) else (given,), strict=True):
            torch.testing.assert_close(found, known, rtol=0, atol=0)
        assert program.outputs == (("logits",) if name == "cnn" else ("scores", "total"))
        assert [len(example) for example in program.example] == [BATCH] * len(program.inputs)


def test_layers_have_their_names(tmp_path: Path) -> None:
    programs.write("cnn", tmp_path / "cnn.pt2")
    assert [name for name, _ in weight_layers(read_program(tmp_path / "cnn.pt2").module)] == ["conv1", "conv2", "fc"]


def test_quantizers_come_off_and_weights_stay_rounded(path: Path) -> None:
    program, known = float_program(read_program(path))
    assert known.weights == {"fc.weight": Grid((0.25, 0.5), (0, 0), 0, -4, 3)}
    (grid,) = known.activations.values()
    assert (grid.bits, grid.range) == (8, (-2.0, 29.875))
    assert not [node for node in program.module.graph.nodes if "quantize" in str(node.target)]
    weight = dict(program.module.named_parameters())["model.fc.weight"].detach()
    steps = weight / torch.tensor([[0.25], [0.5]])
    torch.testing.assert_close(steps, steps.round().clamp(-4, 3), rtol=0, atol=0)
    # These inputs are off the input's grid by half a step of 1/8 at most.
    rows = torch.from_numpy(np.repeat(X, BATCH, 0))
    assert (program.module(rows)[0] - expected()).abs().max() < 8 * 2 * 0.0625


def test_quantizers_as_others_know_them_compute_the_same(path: Path) -> None:
    program = standard_program(read_program(path))
    targets = [str(node.target) for node in program.module.graph.nodes if node.op == "call_function"]
    assert sum("quantized_decomposed.quantize_per_tensor" in target for target in targets) == 1
    assert sum("quantized_decomposed.dequantize_per_channel" in target for target in targets) == 1
    found = program.module(torch.from_numpy(np.repeat(X, BATCH, 0)))[0]
    torch.testing.assert_close(found, expected(), rtol=0, atol=0)


def test_a_program_without_quantizers_stays_as_it_is(tmp_path: Path) -> None:
    programs.write("cnn", tmp_path / "cnn.pt2")
    program, known = float_program(read_program(tmp_path / "cnn.pt2"))
    assert (known.weights, known.activations) == ({}, {})
    assert program.module(program.example[0])[0].shape == (BATCH, 5)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04cut"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(StageError, match=r"model\.pt2 cannot be read as a traced program: ."):
        read_program(tmp_path / "model.pt2")


def test_a_file_that_would_be_unpickled_is_refused(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'"use_pickle": false', b'"use_pickle": true'))
    with pytest.raises(StageError, match="refers to pickled tensors, which are not read"):
        read_program(out)


def test_a_model_that_fails_or_has_other_outputs_is_said(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the model fails on example_inputs"):
        write_program(nn.Linear(3, 2), task_of(nn.Linear(3, 2), ("y",), x=X), 1, tmp_path / "a.pt2")
    with pytest.raises(ConfigError, match="outputs"):
        write_program(nn.Linear(8, 2), task_of(nn.Linear(8, 2), ("y", "z"), x=X), 1, tmp_path / "b.pt2")
