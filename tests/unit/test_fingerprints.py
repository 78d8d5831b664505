from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.fingerprints import function_fingerprint, model_fingerprint, module_fingerprint, training_fingerprint
from autoshrink.task import Split
from tests.small_models import tiny_task

SOURCE = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
    def forward(self, x):
        return self.layer(x)
"""


def load(path: Path, source: str, module: str = "users_model") -> Callable[[], nn.Module]:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    made: Callable[[], nn.Module] = loaded.Net
    return made


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


class TestModule:
    def test_equal_models_are_equal(self) -> None:
        assert module_fingerprint(tiny_task("cnn").model()) == module_fingerprint(tiny_task("cnn").model())

    def test_looking_changes_nothing(self) -> None:
        model = tiny_task("cnn").model()
        assert module_fingerprint(model) == module_fingerprint(model)

    def test_one_bit_of_a_weight_counts(self) -> None:
        model = tiny_task("cnn").model()
        before = module_fingerprint(model)
        with torch.no_grad():
            weight = model.get_parameter("head.bias")
            weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
        assert module_fingerprint(model) != before

    def test_buffers_count(self) -> None:
        model = tiny_task("cnn").model()
        before = module_fingerprint(model)
        model.get_buffer("norm.running_mean")[0] += 1
        assert module_fingerprint(model) != before

    def test_shape_and_dtype_count(self) -> None:
        flat, square, half = nn.Module(), nn.Module(), nn.Module()
        flat.register_buffer("x", torch.zeros(4))
        square.register_buffer("x", torch.zeros(2, 2))
        half.register_buffer("x", torch.zeros(8, dtype=torch.float16))
        assert len({module_fingerprint(model) for model in (flat, square, half)}) == 3

    def test_kinds_of_layers_count(self) -> None:
        assert module_fingerprint(nn.Sequential(nn.ReLU())) != module_fingerprint(nn.Sequential(nn.GELU()))

    def test_an_edited_forward_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "model.py"
        before = module_fingerprint(seeded(load(path, SOURCE)))
        assert module_fingerprint(seeded(load(path, SOURCE))) == before
        edited = SOURCE.replace("self.layer(x)", "-self.layer(x)")
        assert module_fingerprint(seeded(load(path, edited))) != before

    def test_neither_place_nor_module_name_counts(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        here = module_fingerprint(seeded(load(tmp_path / "model.py", SOURCE)))
        there = module_fingerprint(seeded(load(tmp_path / "other" / "net.py", SOURCE, "another_name")))
        assert here == there

    def test_unusual_members_of_a_class(self) -> None:
        class Odd(nn.Module):
            table = torch.zeros(3)
            values = np.zeros(3)
            alias = staticmethod(len)

            @property
            def size(self) -> int:
                return 1

        assert module_fingerprint(Odd())

    def test_extra_of_the_task_counts(self) -> None:
        task = tiny_task("cnn")
        assert model_fingerprint(task) != model_fingerprint(replace(task, fingerprint_extra="v2"))


class TestTraining:
    def test_task_without_training_set(self) -> None:
        assert training_fingerprint(replace(tiny_task("cnn"), train=None, loss=None)) == ""

    def test_every_part_counts(self) -> None:
        task = tiny_task("cnn")
        assert task.train is not None
        image, label = task.train.split.inputs["image"], task.train.split.targets["label"]
        variants = [
            task,
            replace(task, train=replace(task.train, batch_size=16)),
            replace(task, train=replace(task.train, split=Split({"image": image + 1}, {"label": label}))),
            replace(task, train=replace(task.train, split=Split({"image": image}, {"label": label[::-1]}))),
            replace(task, train=replace(task.train, augment=lambda batch, _random: batch)),
            replace(task, loss=lambda outputs, _targets: outputs["logits"].mean()),
            replace(task, fingerprint_extra="v2"),
        ]
        assert len({training_fingerprint(variant) for variant in variants}) == len(variants)

    def test_is_the_same_in_another_process(self) -> None:
        code = (
            "from tests.small_models import tiny_task; from tests.unit.test_fingerprints import with_set;"
            "from autoshrink.fingerprints import function_fingerprint, training_fingerprint;"
            "print(training_fingerprint(tiny_task('conv_only')), function_fingerprint(with_set))"
        )
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": root}
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        here = [training_fingerprint(tiny_task("conv_only")), function_fingerprint(with_set)]
        assert said.stdout.split() == here


def plain(x: float) -> float:
    return x + 1


def with_set(x: float) -> bool:
    return x in {"a", "b", "c"}


class Callable1:
    def __call__(self, x: float) -> float:
        return x + 1


class Callable2:
    def __call__(self, x: float) -> float:
        return x + 2


class TestFunction:
    def test_code_counts(self) -> None:
        functions: list[Callable[..., Any]] = [
            plain,
            with_set,
            lambda x: x + 2,
            lambda x: x + 3,
            lambda x, y=1: x + 3,
            lambda x, y=2: x + 3,
            lambda x: [y + 1 for y in x],
            lambda x: [y + 2 for y in x],
            functools.partial(plain, 1.0),
            functools.partial(plain, 2.0),
            Callable1(),
            Callable2(),
            nn.functional.cross_entropy,
            nn.functional.mse_loss,
            max,
        ]
        assert len({function_fingerprint(function) for function in functions}) == len(functions)

    def test_equal_code_is_equal(self) -> None:
        def make() -> Callable[[float], float]:
            return lambda x: x * 2

        assert function_fingerprint(make()) == function_fingerprint(make())
        assert function_fingerprint(Callable1()) == function_fingerprint(Callable1())

    def test_addresses_do_not_count(self) -> None:
        def make(default: object) -> Callable[..., object]:
            return lambda x=default: x

        assert function_fingerprint(make(object())) == function_fingerprint(make(object()))

    @pytest.mark.parametrize("wrap", [functools.lru_cache, staticmethod])
    def test_wrappers_show_what_they_wrap(self, wrap: Callable[..., Any]) -> None:
        assert function_fingerprint(wrap(plain)) == function_fingerprint(plain)
