"""torch -> ONNX: names, bytes, parity, and what stays untouched."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from autoshrink import export
from autoshrink.errors import ConfigError, StageError
from autoshrink.export import export_onnx
from autoshrink.onnx_graph import quiet_session, run
from autoshrink.tasks.resnet import ResNet
from tests.model_tasks import task_of
from tests.small_models import BUILDERS, tiny_task


def resnet(seed: int = 0) -> ResNet:
    """A ResNet(8) whose batch normalisation has statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNet(8)
        for _ in range(3):
            model(torch.randn(4, 1, 28, 28))
    return model


ROOT = Path(__file__).parents[2]
IMAGE = np.random.default_rng(3).normal(size=(1, 1, 28, 28)).astype(np.float32)


def dims(value: onnx.ValueInfoProto) -> list[int]:
    return [size.dim_value for size in value.type.tensor_type.shape.dim]


def test_a_residual_network_is_folded_named_and_agrees(tmp_path):
    model = resnet()
    result = export_onnx(model, task_of(model, ("logits",), image=IMAGE), 1, tmp_path / "m.onnx")
    assert result["agreement_db"]["logits"] > 100
    assert result["max_abs"]["logits"] < 1e-5
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert sorted(set(kinds)) == ["Add", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "Relu"]
    assert kinds.count("Conv") == 9
    names = [node.name for node in graph.node]
    assert names[:2] == ["stem.0/Conv", "stem.2/Relu"]
    assert names[-1] == "head/Gemm"
    assert len(set(names)) == len(names)
    assert "blocks.1.shortcut.0/Conv" in names
    assert {"stem.0.weight", "head.weight", "head.bias"} <= {initializer.name for initializer in graph.initializer}
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == result["opset"] == export.OPSET


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_is_fixed(tmp_path, batch):
    model = resnet()
    export_onnx(model, task_of(model, ("logits",), image=IMAGE), batch, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [dims(value) for value in graph.input] == [[batch, 1, 28, 28]]
    assert [dims(value) for value in graph.output] == [[batch, 10]]


@pytest.mark.parametrize("name", BUILDERS)
def test_every_kind_of_model_agrees(tmp_path, name):
    task = tiny_task(name)
    result = export_onnx(task.model(), task, 2, tmp_path / "m.onnx")
    assert set(result["agreement_db"]) == set(task.outputs)
    assert min(result["agreement_db"].values()) > 100


def test_equal_models_give_equal_bytes_and_others_do_not(tmp_path):
    for index, seed in enumerate((0, 0, 1)):
        model = resnet(seed)
        export_onnx(model, task_of(model, ("logits",), image=IMAGE), 1, tmp_path / f"{index}.onnx")
    first, again, other = ((tmp_path / f"{index}.onnx").read_bytes() for index in range(3))
    assert first == again
    assert first != other


def test_the_file_does_not_tell_where_it_was_made(tmp_path):
    task = tiny_task("transformer")
    export_onnx(task.model(), task, 1, tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    telling = (str(ROOT), str(tmp_path), "site-packages", ".py", "small_models", "torch")
    assert [word for word in telling if word.encode() in content] == []


def test_the_model_is_as_it_was(tmp_path):
    model = resnet()
    model.train()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, task_of(model, ("logits",), image=IMAGE), 1, tmp_path / "m.onnx")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


class ManyPorts(nn.Module):
    """Inputs of two dtypes, one unused; a mapping of outputs in another order than the task's, with one too many."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.scale = nn.Parameter(torch.tensor([2.0]))

    def forward(self, scale: torch.Tensor, ids: torch.Tensor, unused: torch.Tensor) -> dict[str, torch.Tensor]:
        mixed = self.embed(ids).sum(1) + scale * self.scale
        return {"extra": mixed - 1, "second": mixed.argmax(1), "first": mixed, "third": mixed}


def test_inputs_and_outputs_go_by_the_tasks_names(tmp_path):
    model = ManyPorts()
    # The input `scale` bears the name of a parameter.
    task = task_of(
        model,
        ("first", "second", "third"),
        scale=np.ones((1, 4), np.float32),
        ids=np.zeros((1, 3), np.int64),
        unused=np.zeros((1, 2), np.float32),
    )
    export_onnx(model, task, 2, tmp_path / "m.onnx")
    session = quiet_session(tmp_path / "m.onnx")
    assert [value.name for value in session.get_inputs()] == ["scale", "ids", "unused"]
    inputs = {name: np.ascontiguousarray(array[:2]) for name, array in task.calibration.items()}
    found = run(session, inputs)
    expected = model(*(torch.from_numpy(array) for array in inputs.values()))
    assert list(found) == ["first", "second", "third"]
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name].detach().numpy(), rtol=1e-6)


class PassThrough(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x * 2


def test_an_input_may_be_an_output(tmp_path):
    model = PassThrough()
    result = export_onnx(
        model, task_of(model, ("same", "twice"), x=np.ones((1, 3), np.float32)), 1, tmp_path / "m.onnx"
    )
    assert result["agreement_db"] == {"same": 200.0, "twice": 200.0}


class RemembersInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x * 2
        return self.last


def test_a_tensor_kept_as_an_attribute_does_no_harm(tmp_path):
    model = RemembersInput()
    result = export_onnx(model, task_of(model, x=np.ones((1, 3), np.float32)), 1, tmp_path / "m.onnx")
    assert result["agreement_db"] == {"y": 200.0}
    assert type(model.last) is torch.Tensor


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen: torch.Tensor = torch.cond(x.sum() > 0, lambda y: self.fc(y), lambda y: y - 1, (x,))
        return chosen


def test_a_branch_by_torch_cond_is_exported(tmp_path):
    model = Branches()
    result = export_onnx(model, task_of(model, x=np.ones((1, 3), np.float32)), 1, tmp_path / "m.onnx")
    assert result["agreement_db"]["y"] > 100


ALONE = """
import sys
from pathlib import Path
from autoshrink.export import export_onnx
from autoshrink.techniques.base import Context
from autoshrink.techniques.quantize import Quantize
from tests.small_models import tiny_task

folder, task = Path(sys.argv[1]), tiny_task("two_outputs")
export_onnx(task.model(), task, 1, folder / "m.onnx")
grid = {"operators": ["Conv", "Gemm", "Relu"], "activations": "uint8", "per_channel": True}
static = {"scheme": "int8_static", "calibration": "minmax", "samples": 8, "keep_float": "none", "grid": grid}
dynamic = {"scheme": "int8_dynamic", "grid": {**grid, "operators": ["MatMul", "Gemm"]}}
for settings in ({"scheme": "fp16"}, dynamic, static):
    out = folder / f"{settings['scheme']}.onnx"
    Quantize().transform(folder / "m.onnx", out, settings, Context(task, task.model))
"""


def test_processes_of_their_own_print_nothing_and_write_the_same_bytes(tmp_path):
    # Only a fresh process shows what libraries print by handlers that they made before pytest took the streams.
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", ALONE, str(tmp_path / seed)]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in ("m", "fp16", "int8_dynamic", "int8_static"):
        first, second = ((tmp_path / seed / f"{name}.onnx").read_bytes() for seed in ("1", "2"))
        assert first == second


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def test_a_model_that_disagrees_is_refused(tmp_path):
    model = Random()
    with pytest.raises(StageError, match=r"output 'y' .* agrees with torch to -?\d+\.\d dB .* must be 60 dB or more"):
        export_onnx(model, task_of(model, x=np.ones((1, 3), np.float32)), 1, tmp_path / "m.onnx")


def test_a_model_over_the_limit_of_a_file_is_refused(tmp_path, monkeypatch):
    model = resnet()
    monkeypatch.setattr(export, "PROTOBUF_LIMIT", 1000)
    with pytest.raises(StageError, match="at most 2 GB"):
        export_onnx(model, task_of(model, ("logits",), image=IMAGE), 1, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_other_outputs_than_the_tasks_are_a_config_error(tmp_path):
    model = resnet()
    task = replace(task_of(model, ("logits",), image=IMAGE), outputs={"a": "logits", "b": "logits"})
    with pytest.raises(ConfigError, match="outputs: the model returns 1 outputs"):
        export_onnx(model, task, 1, tmp_path / "m.onnx")
