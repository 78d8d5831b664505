from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import autoshrink.export
import autoshrink.pipeline
from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.module_files import Step, load_module, save_module
from autoshrink.pipeline import Built, Pipeline
from autoshrink.target import Precision, Target
from autoshrink.task import Task
from autoshrink.techniques import TECHNIQUES
from autoshrink.techniques.base import Context, GraphTechnique, Parameter
from autoshrink.techniques.prune import Prune
from autoshrink.techniques.qat import Qat
from autoshrink.tensors import run_example
from autoshrink.types import Choice, Recipe, Scalar, Settings
from tests.small_models import BUILDERS, tiny_task

TARGET = Target("one", "onnxruntime", {"fp32": Precision()})
PRUNE: dict[str, Scalar] = {"technique": "prune", "ratio": 0.5}
FINETUNE: dict[str, Scalar] = {"technique": "finetune", "epochs": 0.5}
GRAPH: dict[str, Scalar] = {"technique": "fake_graph", "shout": "yes"}


def recipe(*stages: Mapping[str, Scalar]) -> Recipe:
    return Recipe.from_json(stages)


def fake_export(model: nn.Module, task: Task, batch: int, out: Path) -> dict[str, Any]:
    """Writes what the model computes instead of an ONNX file, which takes a second."""
    outputs = run_example(model, task)
    out.write_text(json.dumps({"batch": batch, **{name: value.tolist() for name, value in outputs.items()}}))
    return {"agreement_db": dict.fromkeys(outputs, float("inf"))}


class FakeGraph(GraphTechnique):
    name: ClassVar[str] = "fake_graph"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {"shout": Parameter(Choice(("yes", "no", "break")), "yes", "how")}
    trains: ClassVar[bool] = False

    def is_off(self, settings: Settings) -> bool:
        return settings.get("shout") == "no"

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:
        return {"shout": "yes", **settings}

    def fingerprint(self, task: Task) -> str:
        return ""

    def transform(self, source: Path, out: Path, settings: Mapping[str, Any], context: Context) -> None:
        context.progress(1, 2)
        if settings["shout"] == "break":
            out.write_text("half")
            raise StageError(self.name, "node 7 is out of order")
        out.write_text(source.read_text().upper())


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoshrink.export, "export_onnx", fake_export)
    monkeypatch.setitem(TECHNIQUES, "fake_graph", (__name__, "FakeGraph"))


@pytest.fixture
def task() -> Task:
    return tiny_task("cnn")


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path)


def quiet(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def run(task: Task, cache: StageCache) -> Callable[..., Built]:
    """Runs stages in a pipeline of its own, as another process would."""

    def run(*stages: Mapping[str, Scalar], target: Target = TARGET, seed: int = 0, task: Task = task) -> Built:
        return Pipeline(task, cache, seed).run(recipe(*stages), target, quiet)

    return run


def entry(cache: StageCache, kind: str) -> Path:
    (found,) = [entry.folder for entry in cache.entries() if entry.kind == kind]
    return found


class TestReuse:
    def test_first_run_makes_everything(self, run: Callable[..., Built]) -> None:
        built = run(PRUNE, FINETUNE, GRAPH)
        assert built.reused == ()
        assert set(built.seconds) == {"prune", "finetune", "export", "fake_graph", "cache"}
        assert all(value >= 0 for value in built.seconds.values())

    def test_second_run_makes_nothing(self, run: Callable[..., Built]) -> None:
        first, second = run(PRUNE, FINETUNE, GRAPH), run(PRUNE, FINETUNE, GRAPH)
        assert second.reused == ("prune", "finetune", "export", "fake_graph")
        assert set(second.seconds) == {"cache"}
        assert (second.key, second.model, second.float_model) == (first.key, first.model, first.float_model)

    def test_equal_beginnings_are_made_once(self, run: Callable[..., Built]) -> None:
        run(PRUNE, FINETUNE)
        assert run(PRUNE, FINETUNE, GRAPH).reused == ("prune", "finetune", "export")
        assert run(PRUNE, {**FINETUNE, "epochs": 0.25}).reused == ("prune",)
        assert run(PRUNE).reused == ("prune",)
        assert run({**PRUNE, "ratio": 0.25}, FINETUNE).reused == ()

    def test_baseline_is_the_export_alone(self, run: Callable[..., Built], task: Task) -> None:
        built = run()
        assert set(built.seconds) == {"export", "cache"}
        assert built.model == built.float_model
        logits = run_example(task.model(), task)["logits"].tolist()
        assert json.loads(built.model.read_text())["logits"] == logits

    def test_shapes_of_weights_are_those_after_the_stages(
        self, run: Callable[..., Built], task: Task, cache: StageCache
    ) -> None:
        trained = {"stem": (24, 1, 3, 3), "conv1": (24, 24, 3, 3), "conv2": (24, 24, 3, 3), "head": (4, 24)}
        assert run().weights == trained
        pruned = run(PRUNE, GRAPH).weights
        model = Pipeline(task, cache, 0).module(recipe(PRUNE), TARGET)
        assert pruned == {layer: tuple(model.get_parameter(f"{layer}.weight").shape) for layer in trained}
        assert pruned["stem"][0] == pruned["conv1"][1] == pruned["conv2"][0] == pruned["head"][1] < 24
        assert run(PRUNE, GRAPH).weights == pruned

    def test_shapes_of_an_export_from_before_they_were_kept(
        self, run: Callable[..., Built], cache: StageCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(autoshrink.pipeline, "WEIGHTS", "something older")
        run(PRUNE)
        monkeypatch.undo()
        monkeypatch.setattr(autoshrink.export, "export_onnx", None)
        again = run(PRUNE)
        assert again.reused == ("prune", "export") and again.weights["stem"][0] < 24

    def test_graph_stages_follow_the_export(self, run: Callable[..., Built]) -> None:
        built = run(PRUNE, GRAPH)
        assert built.model.read_text() == built.float_model.read_text().upper()
        assert run(PRUNE).model == built.float_model

    def test_stages_that_are_off_leave_no_trace(self, run: Callable[..., Built]) -> None:
        built = run({**PRUNE, "ratio": 0.0}, {**GRAPH, "shout": "no"})
        assert built.key == run().key
        assert "prune" not in built.reused

    def test_number_types_do_not_matter(self, run: Callable[..., Built]) -> None:
        assert run(PRUNE, {**FINETUNE, "epochs": 1}).key == run(PRUNE, {**FINETUNE, "epochs": 1.0}).key

    def test_targets_share_what_they_resolve_alike(self, run: Callable[..., Built]) -> None:
        run(PRUNE, FINETUNE)
        other = replace(TARGET, name="two", backend="openvino", threads=4)
        assert run(PRUNE, FINETUNE, target=other).reused == ("prune", "finetune", "export")
        # Another batch is another file of the same model.
        assert run(PRUNE, FINETUNE, target=replace(TARGET, batch=8)).reused == ("prune", "finetune")
        assert run(PRUNE, FINETUNE, target=replace(TARGET, channel_multiple=4)).reused == ()

    def test_another_seed_is_another_training(self, run: Callable[..., Built]) -> None:
        assert run(PRUNE, FINETUNE).key != run(PRUNE, FINETUNE, seed=1).key

    def test_another_version_of_a_technique_is_another_result(
        self, run: Callable[..., Built], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(PRUNE)
        monkeypatch.setattr(Prune, "version", Prune.version + 1)
        assert run(PRUNE).reused == ()

    def test_another_model_shares_nothing(self, run: Callable[..., Built], task: Task) -> None:
        def moved() -> nn.Module:
            model = task.model()
            with torch.no_grad():
                model.get_parameter("head.bias").add_(1.0)
            return model

        run(PRUNE)
        assert run(PRUNE, task=replace(task, model=moved)).reused == ()
        assert run(PRUNE, task=replace(task, fingerprint_extra="v2")).reused == ()

    def test_other_training_data_train_again(self, run: Callable[..., Built], task: Task) -> None:
        assert task.train is not None
        run(PRUNE, FINETUNE)
        other = replace(task, train=replace(task.train, batch_size=16))
        assert run(PRUNE, FINETUNE, task=other).reused == ()

    def test_a_stage_is_made_from_the_one_before(
        self, run: Callable[..., Built], task: Task, cache: StageCache
    ) -> None:
        run(PRUNE, FINETUNE)
        expected = Prune().apply(task.model(), Prune().resolve({"ratio": 0.5}, TARGET), Context(task, task.model))[0]
        found = Pipeline(task, cache, 0).module(recipe(PRUNE), TARGET)
        assert torch.equal(run_example(found, task)["logits"], run_example(expected, task)["logits"])


class TestLookup:
    def test_only_the_last_cached_stage_is_loaded(
        self, run: Callable[..., Built], task: Task, cache: StageCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(PRUNE, FINETUNE)
        loaded: list[list[str]] = []

        def spy(folder: Path, *rest: Any) -> tuple[nn.Module, list[Step]]:
            model, steps = load_module(folder, *rest)
            loaded.append([step.technique for step in steps])
            return model, steps

        monkeypatch.setattr(autoshrink.pipeline, "load_module", spy)
        run(PRUNE, FINETUNE)
        assert loaded == []
        Pipeline(task, cache, 0).module(recipe(PRUNE, FINETUNE), TARGET)
        assert loaded == [["prune", "finetune"]]

    def test_a_later_stage_does_not_need_the_earlier_ones(
        self, run: Callable[..., Built], task: Task, cache: StageCache
    ) -> None:
        run(PRUNE, FINETUNE)
        key = entry(cache, "prune").name
        for file in entry(cache, "prune").iterdir():
            file.unlink()
        assert Pipeline(task, cache, 0).module(recipe(PRUNE, FINETUNE), TARGET)
        assert cache.get(key) is None

    @pytest.mark.parametrize("file", ["model.safetensors", "structure.json"])
    def test_corrupt_entries_are_made_again(self, run: Callable[..., Built], cache: StageCache, file: str) -> None:
        first = run(PRUNE, FINETUNE)
        text = first.model.read_text()
        damaged = entry(cache, "finetune") / file
        damaged.write_bytes(damaged.read_bytes()[:-3] + b"abc")
        first.float_model.unlink()
        again = run(PRUNE, FINETUNE)
        assert again.reused == ("prune",)
        assert again.model.read_text() == text

    def test_corrupt_graph_is_transformed_again(self, run: Callable[..., Built]) -> None:
        built = run(PRUNE, GRAPH)
        built.model.write_text("junk")
        again = run(PRUNE, GRAPH)
        assert again.reused == ("prune", "export")
        assert again.model.read_text() == again.float_model.read_text().upper()

    def test_what_another_process_made_meanwhile_is_taken(self, task: Task, cache: StageCache) -> None:
        class FakeLateCache(StageCache):
            """Another process finishes between the look and the wish."""

            def get_or_make(self, key: str, kind: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
                if kind == "prune" and cache.get(key) is None:
                    cache.get_or_make(key, kind, make_elsewhere)
                return super().get_or_make(key, kind, make)

        def make_elsewhere(folder: Path) -> None:
            model, structure = Prune().apply(
                task.model(), Prune().resolve({"ratio": 0.5}, TARGET), Context(task, task.model)
            )
            save_module(folder, model, [Step("prune", structure)])

        late = FakeLateCache(cache.root.parent)
        built = Pipeline(task, late, 0).run(recipe(PRUNE), TARGET, quiet)
        assert built.reused == ("prune",)
        assert run_example(Pipeline(task, late, 0).module(recipe(PRUNE), TARGET), task)["logits"].shape == (1, 4)

    def test_nothing_is_pickled(self, run: Callable[..., Built], cache: StageCache) -> None:
        run(PRUNE, FINETUNE, GRAPH)
        assert {entry.kind for entry in cache.entries()} == {"prune", "teacher", "finetune", "export", "fake_graph"}
        suffixes = {path.suffix for path in cache.root.rglob("*") if path.is_file()}
        assert suffixes == {".safetensors", ".json", ".npy", ".onnx", ".lock"}


class TestSharedOut:
    """What stages measured of the layers and gave to each is the same whether it was made or found."""

    PER_LAYER: ClassVar[dict[str, Scalar]] = {**PRUNE, "scope": "per_layer"}
    MIXED: ClassVar[dict[str, Scalar]] = {"technique": "qat", "allocation": "mixed", "epochs": 0.25}
    INTEGERS = replace(TARGET, precisions={"fp32": Precision(), "int8_static": Precision()})

    @pytest.fixture(autouse=True)
    def nothing_to_pack(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the fake export writes is no ONNX file."""
        monkeypatch.setattr(Qat, "few_values", False)

    def test_of_each_stage_in_order(self, run: Callable[..., Built]) -> None:
        pruned, quantized = run(self.PER_LAYER, self.MIXED, target=self.INTEGERS).shared_out
        assert (pruned.sensitivities.technique, quantized.sensitivities.technique) == ("prune", "qat")
        assert set(quantized.chosen) == set(quantized.sensitivities.losses) == {"stem", "conv1", "conv2", "head"}
        assert set(quantized.chosen.values()) <= {8, 6, 5, 4, 3, 2}
        assert set(pruned.chosen) == set(pruned.sensitivities.losses) < {"stem", "conv1", "conv2"}
        for found in (pruned, quantized):
            losses = {layer: dict(pairs) for layer, pairs in found.sensitivities.losses.items()}
            assert found.expected == pytest.approx(sum(losses[layer][gone] for layer, gone in found.chosen.items()))
            assert found.expected > 0
            assert found.sensitivities.unit == "nats of KL divergence"
            assert "64 rows" in found.sensitivities.method
        assert all(pairs[0] == (0, 0) for pairs in pruned.sensitivities.losses.values())

    @pytest.mark.parametrize("gone", [(), ("export",), ("export", "qat"), ("export", "prune")])
    def test_is_that_of_the_first_time(
        self, run: Callable[..., Built], cache: StageCache, gone: tuple[str, ...]
    ) -> None:
        first = run(self.PER_LAYER, self.MIXED, target=self.INTEGERS)
        for kind in gone:
            (entry(cache, kind) / "entry.json").unlink()
        again = run(self.PER_LAYER, self.MIXED, target=self.INTEGERS)
        assert set(gone) - {"prune"} == {*again.seconds} - {"cache"}
        assert again.shared_out == first.shared_out

    def test_of_what_measures_no_layer_there_is_none(self, run: Callable[..., Built]) -> None:
        assert run(PRUNE, FINETUNE).shared_out == ()

    def test_a_result_from_before_it_was_kept_is_not_taken(
        self, run: Callable[..., Built], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as before:
            before.setattr(Prune, "shares_out", lambda *_: False)
            run(PRUNE)
            run(self.PER_LAYER)
        assert run(PRUNE).reused == ("prune", "export")
        assert run(self.PER_LAYER).reused == ()


class TestModules:
    def test_trained_model_stays_as_it_is(self, task: Task, cache: StageCache) -> None:
        model = task.model()
        before = copy.deepcopy(model.state_dict())
        pipeline = Pipeline(replace(task, model=lambda: model), cache, 0)
        for stages in ([FINETUNE], [PRUNE, FINETUNE], [FINETUNE]):
            pipeline.run(recipe(*stages), TARGET, quiet)
            pipeline.module(recipe(*stages), TARGET)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("name", BUILDERS)
    def test_module_is_the_same_from_the_cache(self, name: str, tmp_path: Path) -> None:
        task, cache = tiny_task(name), StageCache(tmp_path)
        made = Pipeline(task, cache, 0).module(recipe(PRUNE, FINETUNE), TARGET)
        found = Pipeline(task, cache, 0).module(recipe(PRUNE, FINETUNE), TARGET)
        assert not found.training
        expected = run_example(made, task)
        for output, value in run_example(found, task).items():
            assert torch.equal(value, expected[output])

    @pytest.mark.parametrize("stages", [[], [PRUNE], [PRUNE, GRAPH]])
    def test_float_outputs(self, stages: list[dict[str, Scalar]], cache: StageCache) -> None:
        task = tiny_task("two_outputs")
        pipeline = Pipeline(task, cache, 0)
        inputs = {name: array[:70] for name, array in task.val.inputs.items()}
        outputs = pipeline.float_outputs(recipe(*stages), TARGET, inputs)
        assert {name: (array.shape, array.dtype) for name, array in outputs.items()} == {
            "logits": ((70, 4), np.float32),
            "value": ((70, 1), np.float32),
        }
        model = pipeline.module(recipe(*stages), TARGET)
        last = {name: torch.from_numpy(array[69:]) for name, array in inputs.items()}
        with torch.no_grad():
            expected = model(*last.values())
        np.testing.assert_allclose(outputs["logits"][69:], expected["logits"].numpy(), rtol=1e-5, atol=1e-6)

    def test_float_outputs_make_nothing_twice(
        self, task: Task, cache: StageCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pipeline = Pipeline(task, cache, 0)
        pipeline.run(recipe(PRUNE, FINETUNE), TARGET, quiet)

        def fail(*_: Any) -> None:
            raise AssertionError("made again")

        monkeypatch.setattr(Prune, "apply", fail)
        monkeypatch.setattr("autoshrink.techniques.finetune.FineTune.apply", fail)
        for other in (pipeline, Pipeline(task, cache, 0)):
            other.float_outputs(recipe(PRUNE, FINETUNE), TARGET, task.val.inputs)


class TestFiles:
    def test_state_that_shares_memory_or_has_gaps(self, tmp_path: Path) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                base = torch.arange(12.0).view(3, 4)
                self.register_buffer("whole", base)
                self.register_buffer("turned", base.t())
                self.register_buffer("part", base[:, 1])
                self.register_buffer("again", base)
                self.register_buffer("scalar", torch.tensor(3))
                self.register_buffer("empty", torch.zeros(0))

        save_module(tmp_path, Odd(), [])
        model = Odd()
        expected = {name: value.clone() for name, value in model.state_dict().items()}
        for value in (model.get_buffer("whole"), model.get_buffer("scalar")):
            value.zero_()
        loaded, steps = load_module(tmp_path, model, tiny_task("cnn"))
        assert steps == []
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())

    def test_state_that_is_no_tensor_is_refused(self, tmp_path: Path) -> None:
        class Extra(nn.Module):
            def get_extra_state(self) -> Any:
                return {"version": 1}

            def set_extra_state(self, state: Any) -> None:
                pass

        with pytest.raises(StageError, match="state holds _extra_state, a dict; only tensors can be kept"):
            save_module(tmp_path, Extra(), [])


class TestFailures:
    def test_a_failed_stage_leaves_nothing_of_itself(self, run: Callable[..., Built], cache: StageCache) -> None:
        with pytest.raises(StageError, match="fake_graph: node 7 is out of order"):
            run(PRUNE, {**GRAPH, "shout": "break"})
        assert {entry.kind for entry in cache.entries()} == {"prune", "export"}

    def test_module_stage_after_a_graph_stage(self, run: Callable[..., Built]) -> None:
        with pytest.raises(StageError, match="prune: stands after fake_graph, which works on the exported graph"):
            run(GRAPH, PRUNE)

    @pytest.mark.parametrize(
        ("error", "way_out"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "free some (`autoshrink cache --trim` helps)"),
            (PermissionError(errno.EACCES, "Permission denied"), "make that folder writable"),
        ],
    )
    @pytest.mark.parametrize("kind", ["prune", "export", "fake_graph"])
    def test_a_cache_that_cannot_be_written(
        self, task: Task, tmp_path: Path, error: OSError, way_out: str, kind: str
    ) -> None:
        class FakeFullCache(StageCache):
            def get_or_make(self, key: str, kind_of_entry: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
                if kind_of_entry == kind:
                    raise error
                return super().get_or_make(key, kind_of_entry, make)

        with pytest.raises(StageError) as caught:
            Pipeline(task, FakeFullCache(tmp_path), 0).run(recipe(PRUNE, GRAPH), TARGET, quiet)
        assert caught.value.stage == "cache"
        assert f"the result of {kind} cannot be written under {tmp_path}" in caught.value.reason
        assert f"{str(error.strerror).lower()}; {way_out}, or set AUTOSHRINK_CACHE" in caught.value.reason

    def test_a_cache_folder_that_is_a_file(self, task: Task, tmp_path: Path) -> None:
        (tmp_path / "stages").write_text("in the way")
        with pytest.raises(StageError, match="cannot be written under"):
            Pipeline(task, StageCache(tmp_path), 0).run(recipe(), TARGET, quiet)

    def test_a_file_of_the_user_that_is_missing_is_not_blamed_on_the_cache(self, task: Task, cache: StageCache) -> None:
        def augment(batch: Any, random: Any) -> Any:
            return Path("/nowhere/else.txt").read_text()

        assert task.train is not None
        broken = replace(task, train=replace(task.train, augment=augment))
        with pytest.raises(FileNotFoundError, match=r"/nowhere/else\.txt"):
            Pipeline(broken, cache, 0).run(recipe(FINETUNE), TARGET, quiet)


class TestProgress:
    def test_stages_report_when_they_begin_and_how_far_they_are(self, task: Task, cache: StageCache) -> None:
        told: list[tuple[str, int, int]] = []
        Pipeline(task, cache, 0).run(recipe(PRUNE, FINETUNE, GRAPH), TARGET, lambda *what: told.append(what))
        begun = [stage for stage, _, total in told if not total]
        assert begun == ["prune", "finetune", "export", "fake_graph"]
        assert [what for what in told if what[0] == "finetune"] == [
            ("finetune", step, 4 if step else 0) for step in range(5)
        ]
        assert told[-1] == ("fake_graph", 1, 2)

    def test_what_is_reused_reports_nothing(self, task: Task, cache: StageCache, run: Callable[..., Built]) -> None:
        run(PRUNE, FINETUNE)
        told: list[tuple[str, int, int]] = []
        Pipeline(task, cache, 0).run(recipe(PRUNE, FINETUNE), TARGET, lambda *what: told.append(what))
        assert told == []
