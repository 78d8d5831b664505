"""A model that cannot be exported: the message names layer, operator and way out, in a few lines."""

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.errors import StageError
from autoshrink.export import export_onnx
from tests.model_tasks import task_of


class BranchesOnData(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x * 2
        return x


class TakesItem(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.max())


class UsesNumpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.sin(x.numpy()))


class NoTranslation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


@torch.library.custom_op("autoshrink_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class OwnOperator(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        doubled: torch.Tensor = twice(x)
        return doubled


class WrongShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x)
        return out


class CountsCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


def network(part: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), part))


def refusal(part: nn.Module, tmp_path, capfd) -> StageError:
    model = network(part)
    model[0].eval()
    with pytest.raises(StageError) as caught:
        export_onnx(model, task_of(model, x=np.ones((1, 4), np.float32)), 2, tmp_path / "m.onnx")
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert "Traceback" not in message and "site-packages" not in message
    assert capfd.readouterr() == ("", "")
    assert [module.training for module in (model, model[0], model[1])] == [True, False, True]
    return caught.value


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (BranchesOnData(), ["layer '1.1' (BranchesOnData)", "`if x.sum() > 0:`", "aten.item", "torch.where"]),
        (TakesItem(), ["layer '1.1' (TakesItem)", "`return x * float(x.max())`", "aten.item", "no float()"]),
        (UsesNumpy(), ["layer '1.1' (UsesNumpy)", "np.sin(x.numpy())", "torch.export cannot trace", "no numpy"]),
        (NoTranslation(), ["operator prims.bessel_j0.default", "layer '1.1' (NoTranslation)", "no translation"]),
        (OwnOperator(), ["operator autoshrink_test.twice.default", "layer '1.1' (OwnOperator)", "no translation"]),
        (WrongShape(), ["layer '1.1.fc' (Linear)", "x float32 [2, 4]", "mat1 and mat2 shapes cannot be multiplied"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_it_names_the_layer_and_the_operator(part, words, tmp_path, capfd):
    error = refusal(part, tmp_path, capfd)
    assert error.stage == "export"
    assert error.__cause__ is not None
    assert [word for word in words if word not in str(error)] == []


def test_a_state_kept_between_calls_is_refused_and_put_back(tmp_path, capfd):
    part = CountsCalls()
    error = refusal(part, tmp_path, capfd)
    assert "'1.1.calls'" in str(error)
    assert part.calls == 0


def test_the_model_itself_can_be_the_culprit(tmp_path):
    model = BranchesOnData()
    with pytest.raises(StageError, match=r"the model itself \(BranchesOnData\)"):
        export_onnx(model, task_of(model, x=np.ones((1, 4), np.float32)), 1, tmp_path / "m.onnx")
