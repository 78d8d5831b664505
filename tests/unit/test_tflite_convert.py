"""Conversion to `.tflite`: what the float model computes, what things are called in it, and that it is made once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.backends import tflite_convert
from autoshrink.backends.base import Source
from autoshrink.backends.tflite_audit import fallbacks
from autoshrink.backends.tflite_convert import float_tflite
from autoshrink.backends.tflite_graph import Graph
from autoshrink.backends.tflite_model import write_tflite
from autoshrink.errors import StageError
from autoshrink.program import write_program
from tests.model_tasks import task_of
from tests.small_models import tiny_task
from tests.tflite_models import agreement, float_source, trained_source

TASKS = ("cnn", "grouped", "transformer", "tied", "two_outputs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


def source_of(name: str, folder: Path) -> Source:
    (folder / name).mkdir(exist_ok=True)
    return float_source(tiny_task(name), folder / name)


def layers(graph: Graph) -> list[tuple[str, str]]:
    return [(operation.kind, graph.name(weight)) for operation, weight in graph.layers()]


@pytest.mark.parametrize("name", TASKS)
def test_float_is_torch(name: str, folder: Path, tmp_path: Path) -> None:
    write_tflite(source_of(name, folder), tmp_path / "model.tflite")
    assert agreement(tmp_path / "model.tflite", tiny_task(name), tiny_task(name).model()) > 119


def test_weights_have_the_names_of_the_users_layers(folder: Path) -> None:
    cnn, transformer = (Graph(float_tflite(source_of(name, folder).model, "nchw")) for name in ("cnn", "transformer"))
    assert layers(cnn) == [
        ("DEPTHWISE_CONV_2D", "stem.weight"),
        ("CONV_2D", "conv1.weight"),
        ("CONV_2D", "conv2.weight"),
        ("FULLY_CONNECTED", "head.weight"),
    ]
    # Three projections read one value, and the names of all three are in what the converter makes of it.
    found = [name for _, name in layers(transformer)]
    assert sorted(found[:3]) == [f"attention.{name}.weight" for name in ("key", "query", "value")]
    assert found[3:] == [f"{name}.weight" for name in ("attention.out", "expand", "contract", "head")]
    names = [transformer.name(index) for index in transformer.tensors]
    assert len(set(names)) == len(names)


def test_a_projection_has_its_own_weights_name(folder: Path) -> None:
    # The converter folds the normalisation before it and the attention's scale into weights: the direction stays.
    graph = Graph(float_tflite(source_of("transformer", folder).model, "nchw"))
    model = tiny_task("transformer").model()
    state = model.state_dict()
    for layer, norm in (("attention.query", "norm1"), ("attention.key", "norm1"), ("expand", "norm2")):
        index = next(weight for _, weight in graph.layers() if graph.name(weight) == f"{layer}.weight")
        expected = state[f"{layer}.weight"].numpy() * state[f"{norm}.weight"].numpy()
        found = graph.values(index)
        cosine = (found * expected).sum() / np.sqrt((found**2).sum() * (expected**2).sum())
        assert cosine == pytest.approx(1, abs=1e-5), layer


def test_ports_have_the_tasks_names_and_dtypes(folder: Path) -> None:
    two = Graph(float_tflite(source_of("two_outputs", folder).model, "nchw"))
    inputs, outputs = two.ports()
    assert {name: two.shape(index) for name, index in inputs.items()} == {"image": (2, 1, 8, 8), "features": (2, 5)}
    assert list(outputs) == ["logits", "value"]
    tokens = Graph(float_tflite(source_of("transformer", folder).model, "nchw"))
    assert tokens.dtype(tokens.ports()[0]["tokens"]) == "INT64"


def test_channels_last_is_of_the_file_only(folder: Path, tmp_path: Path) -> None:
    source = source_of("two_outputs", folder)
    last = Source(source.model, batch=2, options={"layout": "nhwc"})
    write_tflite(last, tmp_path / "model.tflite")
    graph = Graph((tmp_path / "model.tflite").read_bytes())
    assert graph.shape(graph.ports()[0]["image"]) == (2, 8, 8, 1)
    task = tiny_task("two_outputs")
    assert agreement(tmp_path / "model.tflite", task, task.model(), "nhwc") > 119


def test_is_converted_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model.pt2"
    model.write_bytes(source_of("cnn", folder).model.read_bytes())
    made = float_tflite(model, "nchw")

    def fails(*_: object) -> bytes:
        raise AssertionError("converted again")

    with monkeypatch.context() as patch:
        patch.setattr(tflite_convert, "convert", fails)
        assert float_tflite(model, "nchw") == made
        with pytest.raises(AssertionError, match="again"):
            float_tflite(model, "nhwc")
        kept = next(tmp_path.glob("model.nchw.*.tflite"))
        os.utime(model, ns=(0, kept.stat().st_mtime_ns + 1))
        with pytest.raises(AssertionError, match="again"):
            float_tflite(model, "nchw")
    assert sorted(tmp_path.iterdir()) == [kept, model]


def test_a_folder_that_cannot_be_written_is_no_obstacle(folder: Path, tmp_path: Path) -> None:
    source = source_of("cnn", folder)
    kept = next(source.model.parent.glob("model.nchw.*.tflite"), None)
    assert kept is not None
    model = tmp_path / "model.pt2"
    model.write_bytes(source.model.read_bytes())
    # Root may write everywhere, but not put a file where a folder is.
    (tmp_path / kept.name / "in the way").mkdir(parents=True)
    assert Graph(float_tflite(model, "nchw")).ports() == Graph(kept.read_bytes()).ports()


class Spectral(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    task = task_of(Spectral(), x=np.ones((1, 4, 4), np.float32))
    write_program(task.model(), task, 1, tmp_path / "model.pt2")
    with pytest.raises(StageError, match="svd") as caught:
        float_tflite(tmp_path / "model.pt2", "nchw")
    assert caught.value.stage == "compile"
    assert "\n" not in caught.value.reason


def test_trained_quantizers_are_not_dropped_in_silence(tmp_path: Path) -> None:
    source, _ = trained_source(tiny_task("conv_only"), tmp_path, 8)
    with pytest.raises(StageError, match="holds trained quantizers"):
        float_tflite(source.model, "nchw")


def test_what_xnnpack_leaves_is_known(folder: Path, tmp_path: Path) -> None:
    for name, left in (("cnn", []), ("transformer", ["CAST", "RESHAPE", "EMBEDDING_LOOKUP"])):
        write_tflite(source_of(name, folder), tmp_path / name)
        assert fallbacks(tmp_path / name) == left


def test_four_bits_are_packed_two_in_a_byte(folder: Path) -> None:
    graph = Graph(float_tflite(source_of("tied", folder).model, "nchw"))
    size = len(graph.content())
    weight = next(weight for _, weight in graph.layers() if graph.name(weight) == "back.weight")
    values = np.random.default_rng(0).integers(-8, 8, graph.shape(weight))
    graph.set_array(weight, values, "INT4")
    again = Graph(graph.content())
    np.testing.assert_array_equal(again.array(weight), values)
    assert size - len(again.content()) == pytest.approx(3.5 * values.size, abs=64)
