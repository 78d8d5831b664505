"""What every technique must do. A new one gets a subclass in `test_techniques.py` with its settings, and passes."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch

from autoshrink.agreement import sqnr_db
from autoshrink.errors import StageError
from autoshrink.export import export_onnx
from autoshrink.module_files import Step, load_module, save_module
from autoshrink.onnx_graph import quiet_session
from autoshrink.onnx_packing import pack_weights
from autoshrink.target import Precision, Target
from autoshrink.task import Split, Task
from autoshrink.techniques import get_technique
from autoshrink.techniques.base import Context, GraphTechnique, ModuleTechnique, Technique
from autoshrink.tensors import run_example
from autoshrink.types import Choice, Scalar
from tests.processors import for_kernels_here
from tests.small_models import BUILDERS, VOCABULARY, TinyCnn, tiny_task

OPERATORS = ("Conv", "Gemm", "MatMul", "Add")
TARGET = for_kernels_here(
    Target(
        name="test",
        backend="onnxruntime",
        precisions={
            "fp32": Precision(),
            "fp16": Precision(kernels="storage"),
            "bf16": Precision(kernels="storage"),
            "int8_static": Precision(operators=OPERATORS),
            "int8_dynamic": Precision(operators=("Gemm", "MatMul")),
            "int8_weights": Precision(operators=("Gemm", "MatMul")),
            "int4_weights": Precision(operators=("Gemm", "MatMul")),
        },
    )
)
GRAPH_MODELS = ("cnn", "grouped", "transformer", "two_outputs")

task_of = lru_cache(tiny_task)


@lru_cache
def exported(name: str) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(task_of(name).model(), task_of(name), 2, path)
        return path.read_bytes()


LARGE = 1024
OVERHEAD = 16_000
"""Bytes of nodes, names and tables."""


def wide_task() -> Task:
    """An untrained CNN whose weights are 680 kB, on the tiny images."""

    def build(width: int) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return TinyCnn(width).eval()

    task = task_of("cnn")
    return replace(task, model=lambda: build(96), student=lambda width, _depth: build(round(96 * width)))


def packed_size(model: torch.nn.Module, task: Task) -> int:
    """Bytes of the file that a model becomes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, task, 1, path)
        proto = onnx.load(str(path))
    pack_weights(proto)
    return len(proto.SerializeToString())


@lru_cache
def wide_size() -> int:
    """Bytes of the file that the model of `wide_task` becomes as it is."""
    return packed_size(wide_task().model(), wide_task())


def context_of(task: Task, seed: int = 0) -> Context:
    return Context(task, task.model, seed)


_applied: dict[tuple[type, str], tuple[torch.nn.Module, Any]] = {}


class Contract:
    """What techniques of both kinds must do."""

    name: ClassVar[str]
    """Key of the table of techniques."""
    settings: ClassVar[Mapping[str, Scalar]]
    """Settings that change a model."""
    off: ClassVar[Mapping[str, Scalar]]
    """Settings that change nothing."""

    @property
    def technique(self) -> Technique:
        return get_technique(self.name)

    def test_bears_its_name_in_the_table(self) -> None:
        assert self.technique.name == self.name
        assert self.technique.version >= 1

    def test_settings_at_off_are_off_and_others_are_not(self) -> None:
        assert self.technique.is_off(self.off)
        assert not self.technique.is_off(self.settings)
        # A space asks after each parameter, with those that it has drawn so far.
        assert not self.technique.is_off({})

    def test_defaults_are_allowed(self) -> None:
        for parameter in self.technique.parameters.values():
            if isinstance(parameter.allowed, Choice):
                assert parameter.default in parameter.allowed.values
            else:
                assert isinstance(parameter.default, int | float)
                assert parameter.allowed.low <= parameter.default <= parameter.allowed.high
            assert parameter.about

    def test_conditions_name_earlier_parameters(self) -> None:
        earlier: set[str] = set()
        for name, parameter in self.technique.parameters.items():
            assert parameter.when is None or parameter.when[0] in earlier
            earlier.add(name)

    def test_resolve_gives_json_that_holds_every_setting(self) -> None:
        resolved = self.technique.resolve(self.settings, TARGET)
        assert json.loads(json.dumps(resolved)) == resolved
        assert {**resolved, **self.settings} == resolved

    def test_resolve_fills_in_defaults(self) -> None:
        resolved = self.technique.resolve({}, TARGET)
        assert {name for name, parameter in self.technique.parameters.items() if not parameter.when} <= set(resolved)

    def test_equal_settings_resolve_equally_whatever_their_number_type(self) -> None:
        as_float = {name: float(v) if type(v) is int else v for name, v in self.settings.items()}
        as_int = {name: int(v) if type(v) is float and v.is_integer() else v for name, v in self.settings.items()}
        resolved = [self.technique.resolve(settings, TARGET) for settings in (as_float, as_int)]
        assert resolved[0] == resolved[1]

    def test_fingerprint_is_of_content(self) -> None:
        assert self.technique.fingerprint(tiny_task("cnn")) == self.technique.fingerprint(tiny_task("cnn"))

    def test_fingerprint_sees_other_training_data(self) -> None:
        if not self.technique.trains:
            pytest.skip("does not train")
        task = tiny_task("cnn")
        assert task.train is not None
        split = task.train.split
        other = Split(split.inputs, {"label": split.targets["label"] + 1})
        changed = replace(task, train=replace(task.train, split=other))
        assert self.technique.fingerprint(task) != self.technique.fingerprint(changed)


class TechniqueContract(Contract):
    """Inherited by one class for each technique that works on the torch module."""

    refuses: ClassVar[frozenset[str]] = frozenset()
    """Models of `BUILDERS` that it cannot treat: it must say so with a StageError that names a layer."""
    smaller: ClassVar[bool] = True
    """The file becomes smaller; one that does not claim it must leave it as large."""

    def bits(self, structure: Any) -> float:
        """Of an element of a large weight in the file; 32 where only their number falls."""
        return 32

    def apply(self, model: torch.nn.Module, task: Task, seed: int = 0) -> tuple[torch.nn.Module, Any]:
        technique = self.technique
        assert isinstance(technique, ModuleTechnique)
        return technique.apply(model, technique.resolve(self.settings, TARGET), context_of(task, seed))

    def applied(self, task: Task) -> tuple[torch.nn.Module, Any]:
        """What `apply` gives for the task's model, made once for all tests that only look at it."""
        key = type(self), task.name
        if key not in _applied:
            torch.manual_seed(1)
            _applied[key] = self.apply(task.model(), task)
        return _applied[key]

    @pytest.fixture(params=list(BUILDERS))
    def task(self, request: pytest.FixtureRequest) -> Task:
        if request.param in self.refuses:
            pytest.skip("refused, see test_refusals_name_a_layer")
        return task_of(request.param)

    def test_outputs_keep_their_shape_and_dtype(self, task: Task) -> None:
        changed, _ = self.applied(task)
        expected = run_example(task.model(), task)
        for name, output in run_example(changed, task).items():
            assert output.shape == expected[name].shape
            assert output.dtype == expected[name].dtype
            assert torch.isfinite(output).all()

    def test_changes_the_model(self, task: Task) -> None:
        changed, _ = self.applied(task)
        before, after = run_example(task.model(), task), run_example(changed, task)
        assert any(not torch.equal(before[name], after[name]) for name in before)

    @pytest.mark.parametrize("training", [False, True])
    def test_the_given_model_is_not_touched(self, task: Task, training: bool) -> None:
        model = task.model().train(training)
        before = copy.deepcopy(model.state_dict())
        flags = [parameter.requires_grad for parameter in model.parameters()]
        changed, _ = self.apply(model, task)
        assert changed is not model
        assert not changed.training
        assert all(layer.training is training for layer in model.modules())
        assert flags == [parameter.requires_grad for parameter in model.parameters()]
        assert all(parameter.grad is None for parameter in model.parameters())
        assert list(model.state_dict()) == list(before)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in changed.parameters()}

    def test_one_seed_gives_one_result(self, task: Task) -> None:
        first, structure = self.applied(task)
        torch.manual_seed(2)
        second, again = self.apply(task.model(), task)
        assert structure == again
        assert list(first.state_dict()) == list(second.state_dict())
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())

    def test_draws_nothing_from_the_global_random_state(self, task: Task) -> None:
        model = task.model()
        before = torch.get_rng_state()
        self.apply(model, task)
        assert torch.equal(before, torch.get_rng_state())

    def test_comes_back_from_the_cache_bit_by_bit(self, task: Task, tmp_path: Path) -> None:
        changed, structure = self.applied(task)
        assert json.loads(json.dumps(structure)) == structure
        save_module(tmp_path, changed, [Step(self.name, structure)])
        fresh = task.model()
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter.zero_()
        loaded, steps = load_module(tmp_path, fresh, task)
        assert steps == [Step(self.name, structure)]
        assert not loaded.training
        assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in changed.named_parameters()]
        expected = run_example(changed, task)
        for name, output in run_example(loaded, task).items():
            assert torch.equal(output, expected[name])

    def test_weights_that_were_shared_stay_shared(self) -> None:
        if "tied" in self.refuses:
            pytest.skip("refused, see test_refusals_name_a_layer")
        changed, _ = self.applied(task_of("tied"))
        # Embedding and head hold one tensor with a row a token, whatever it is called now.
        assert len([p for p in changed.parameters() if p.ndim == 2 and len(p) == VOCABULARY]) == 1

    def test_leaves_no_gradient_and_no_hook(self, task: Task) -> None:
        changed, _ = self.applied(task)
        assert all(parameter.grad is None for parameter in changed.parameters())
        assert all(parameter.requires_grad for parameter in changed.parameters())
        assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in changed.modules())

    @pytest.mark.parametrize("name_of_model", ["cnn", "transformer"])
    def test_result_computes_the_same_in_onnx_runtime(self, name_of_model: str, tmp_path: Path) -> None:
        if name_of_model in self.refuses:
            pytest.skip("refused, see test_refusals_name_a_layer")
        task = task_of(name_of_model)
        # Raises when the outputs differ.
        export_onnx(self.applied(task)[0], task, 2, tmp_path / "model.onnx")

    def test_file_is_as_large_as_promised(self) -> None:
        task = wide_task()
        changed, structure = self.apply(task.model(), task)
        sizes = [wide_size(), packed_size(changed, task)]
        large = sum(p.numel() for p in changed.parameters() if p.numel() >= LARGE)
        small = sum(p.numel() for p in changed.parameters() if p.numel() < LARGE)
        promised = large * self.bits(structure) / 8 + small * 4
        assert 0.93 * promised <= sizes[1] <= promised + OVERHEAD
        if self.smaller:
            assert sizes[1] < 0.95 * sizes[0]
        else:
            assert sizes[1] == pytest.approx(sizes[0], rel=0.01)

    def test_refusals_name_a_layer(self) -> None:
        for name in self.refuses:
            task = task_of(name)
            with pytest.raises(StageError) as caught:
                self.apply(task.model(), task)
            assert caught.value.stage == self.name
            assert any(layer in caught.value.reason for layer, _ in task.model().named_modules() if layer)


class GraphTechniqueContract(Contract):
    """Inherited by one class for each technique that works on the exported graph."""

    models: ClassVar[tuple[str, ...]] = GRAPH_MODELS
    agreement_db: ClassVar[float]
    """The least agreement of the outputs with those of the float graph, on samples of val."""
    smaller: ClassVar[bool] = True
    """The file must become smaller."""

    def float_graph(self, name: str, folder: Path) -> Path:
        """The float ONNX file of a tiny model, two rows a call, in a folder of its own."""
        (folder / "source").mkdir()
        path = folder / "source" / "model.onnx"
        path.write_bytes(exported(name))
        return path

    def transform(self, source: Path, out: Path, task: Task) -> None:
        technique = self.technique
        assert isinstance(technique, GraphTechnique)
        technique.transform(source, out, technique.resolve(self.settings, TARGET), context_of(task))

    @pytest.fixture(params=GRAPH_MODELS)
    def name_of_model(self, request: pytest.FixtureRequest) -> str:
        if request.param not in self.models:
            pytest.skip("not among the models of this technique")
        return str(request.param)

    def test_result_runs_and_agrees(self, name_of_model: str, tmp_path: Path) -> None:
        task, source, out = task_of(name_of_model), self.float_graph(name_of_model, tmp_path), tmp_path / "out.onnx"
        self.transform(source, out, task)
        before, after = quiet_session(source), quiet_session(out)
        for described in ("get_inputs", "get_outputs"):
            shapes = [
                [(value.name, value.shape, value.type) for value in getattr(s, described)()] for s in (before, after)
            ]
            assert shapes[0] == shapes[1]
        outputs = []
        for session in (before, after):
            calls = [
                session.run(None, {key: array[start : start + 2] for key, array in task.val.inputs.items()})
                for start in range(0, 64, 2)
            ]
            outputs.append([np.concatenate(pieces) for pieces in zip(*calls, strict=True)])
        for expected, found in zip(*outputs, strict=True):
            assert sqnr_db(expected, found) >= self.agreement_db
        assert any(not np.array_equal(expected, found) for expected, found in zip(*outputs, strict=True))

    def test_source_is_not_touched(self, name_of_model: str, tmp_path: Path) -> None:
        source = self.float_graph(name_of_model, tmp_path)
        before = hashlib.sha256(source.read_bytes()).hexdigest()
        self.transform(source, tmp_path / "out.onnx", task_of(name_of_model))
        assert hashlib.sha256(source.read_bytes()).hexdigest() == before
        # One file: a cache entry, an artifact and a package are copied file by file.
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "source"]
        assert [path.name for path in source.parent.iterdir()] == ["model.onnx"]

    def test_equal_work_gives_equal_bytes(self, name_of_model: str, tmp_path: Path) -> None:
        source = self.float_graph(name_of_model, tmp_path)
        for out in ("first.onnx", "second.onnx"):
            self.transform(source, tmp_path / out, task_of(name_of_model))
        assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()

    def test_file_becomes_smaller(self, tmp_path: Path) -> None:
        if not self.smaller:
            pytest.skip("does not claim it")
        source = self.float_graph("grouped", tmp_path)
        self.transform(source, tmp_path / "out.onnx", task_of("grouped"))
        assert (tmp_path / "out.onnx").stat().st_size < source.stat().st_size
