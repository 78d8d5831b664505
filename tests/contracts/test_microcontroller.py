"""Microcontrollers pass the contract; beside it, what only they promise."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.backends.base import Array, Arrays, Backend, Session, Source
from autoshrink.backends.microcontroller import Microcontroller, MicrocontrollerSession
from autoshrink.backends.tflm_model import operators, weight_kernels
from autoshrink.backends.tflm_ports import PORTS
from autoshrink.config import load_target
from autoshrink.errors import StageError
from autoshrink.program import read_program, write_program
from autoshrink.techniques.base import Context
from autoshrink.techniques.qat import Qat
from autoshrink.types import Recipe, StageSpec
from tests import onnx_files
from tests.contracts.backend_contract import OnnxFile, RunningContract, Workshop, call_once
from tests.model_tasks import task_of
from tests.onnx_files import BATCH
from tests.small_models import tiny_task


class TestMicrocontroller(RunningContract):
    state = "untimed"
    modules = frozenset({"tflite_micro", "flatbuffers"})
    vendors = frozenset({"tflite_micro", "ethosu", "ai_edge_litert", "ai_edge_quantizer", "litert_torch", "jax"})
    options: ClassVar[dict[str, Any]] = {"npu": "ethos-u55-128"}
    has_times = False

    @pytest.fixture
    def backend(self) -> Backend:
        return Microcontroller()

    def source(self, backend: Backend, name: str, folder: Path, precision: str = "fp32") -> Source:
        if name != "two_by_two":
            return super().source(backend, name, folder, precision)
        # TFLite Micro has no kernels for the 64-bit indices and sums of the other one.
        folder.mkdir(parents=True)
        task = tiny_task("two_outputs")
        write_program(task.model(), task, BATCH, folder / "model.pt2")
        return Source(folder / "model.pt2", batch=BATCH, options=self.options)

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array]:
        assert isinstance(session, MicrocontrollerSession)
        call()
        return list(session.outputs().values())

    @pytest.mark.parametrize("precision", ["fp32", "int8_static"])
    def test_a_profile_has_the_layers_of_the_audit(  # type: ignore[override]
        self, backend: Backend, workshop: Workshop, precision: str
    ) -> None:
        """Without an NPU: nothing that runs here is a time of the device."""
        made = self.made(backend, workshop, precision=precision)
        session = backend.load(made.folder, made.compiled.files, precision, 1)
        profile = session.profile({}, 1)
        layers = [(kernel.name, kernel.precision) for kernel in profile.kernels if kernel.has_weights]
        assert layers == [(layer.name, layer.precision) for layer in session.audit().layers]
        assert len(profile.kernels) == session.audit().kernels
        assert not profile.is_timed
        assert profile.call_ms is None
        assert "says nothing of the device" in profile.notes[0]

    def test_with_an_npu_a_profile_is_what_vela_estimates(self, backend: Backend, workshop: Workshop) -> None:
        made = self.made(backend, workshop, precision="int8_static")
        options = {"npu": "ethos-u55-128"}
        profile = backend.load(made.folder, made.compiled.files, "int8_static", 1, options).profile({}, 1)
        total = made.compiled.figures["npu_ms"].value
        assert profile.kernels_ms == pytest.approx(total, rel=0.05), "its parts are the whole"
        assert profile.estimate
        assert profile.call_ms is None
        assert [kernel.name for kernel in profile.kernels if kernel.has_weights] == ["conv1", "conv2", "fc"]
        assert all(kernel.ms is not None and kernel.ms > 0 for kernel in profile.kernels if kernel.has_weights)

    def test_several_inputs_and_outputs_keep_name_order_and_dtype(
        self, backend: Backend, workshop: Workshop, onnx_file: OnnxFile
    ) -> None:
        found = self.session(backend, workshop, "two_by_two").run(pair(0))
        expected = torch_outputs(self.made(backend, workshop, "two_by_two").source.model, pair(0))
        assert list(found) == ["logits", "value"]
        for name, array in expected.items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], array, atol=self.float_tolerance)

    def test_timed_computes_what_run_does(self, backend: Backend, workshop: Workshop) -> None:
        session = self.session(backend, workshop, "two_by_two")
        call, other_call = session.timed(pair(0)), session.timed(pair(1))
        expected = session.run(pair(0))
        for _ in range(3):
            call_once(other_call)
            for found, name in zip(self.outputs_of_timed(call, session), expected, strict=True):
                np.testing.assert_array_equal(found, expected[name])

    def test_figures_of_an_int8_model(self, backend: Backend, workshop: Workshop) -> None:
        made = self.made(backend, workshop, precision="int8_static")
        figures = made.compiled.figures
        assert figures["flash"].value == (made.folder / "model.tflite").stat().st_size
        assert not figures["flash"].estimate
        assert figures["arena"].estimate
        # At least what the widest layer reads and writes.
        assert figures["arena"].value > 2 * BATCH * onnx_files.WIDTH * 12 * 12
        assert figures["npu_cycles"].estimate
        assert 0 < figures["npu_coverage"].value <= 100

    def test_a_float_model_has_no_figures_of_the_npu_and_says_why(self, backend: Backend, workshop: Workshop) -> None:
        compiled = self.made(backend, workshop).compiled
        assert set(compiled.figures) == {"arena", "flash"}
        assert compiled.audit is not None
        assert any("no figures" in note and "Float32" in note for note in compiled.audit.notes)

    def test_an_int8_model_takes_and_gives_int8(self, backend: Backend, workshop: Workshop) -> None:
        made = self.made(backend, workshop, precision="int8_static")
        ports = json.loads((made.folder / PORTS).read_text())
        assert [(port["name"], port["stored"], port["dtype"]) for port in ports["inputs"] + ports["outputs"]] == [
            ("image", "int8", "float32"),
            ("logits", "int8", "float32"),
        ]
        content = (made.folder / "model.tflite").read_bytes()
        assert {kernel.input_type for kernel in weight_kernels(content)} == {"INT8"}
        assert not {"QUANTIZE", "DEQUANTIZE"} & set(operators(content))

    def test_the_kernels_agree_with_those_of_litert(self, backend: Backend, workshop: Workshop) -> None:
        from ai_edge_litert.interpreter import Interpreter

        made = self.made(backend, workshop, precision="int8_static")
        ports = json.loads((made.folder / PORTS).read_text())
        (enter,), (leave,) = ports["inputs"], ports["outputs"]
        image = onnx_files.image(5)
        litert = Interpreter(str(made.folder / "model.tflite"), num_threads=1)
        litert.allocate_tensors()
        integers = np.clip(np.rint(image / np.float32(enter["scale"])) + enter["zero_point"], -128, 127)
        litert.set_tensor(litert.get_input_details()[0]["index"], integers.astype(np.int8))
        litert.invoke()
        expected = litert.get_tensor(litert.get_output_details()[0]["index"]).astype(np.int32)
        found = self.session(backend, workshop, precision="int8_static").run({"image": image})["logits"]
        # The optimized kernels of LiteRT round otherwise in the last place.
        assert np.abs(np.rint(found / leave["scale"]) + leave["zero_point"] - expected).max() <= 1

    def test_the_session_audits_as_compiling_did(self, backend: Backend, workshop: Workshop) -> None:
        made = self.made(backend, workshop, precision="int8_static")
        assert made.compiled.audit is not None
        audit = self.session(backend, workshop, precision="int8_static").audit()
        assert audit == replace(made.compiled.audit, notes=())

    def test_compiling_again_gives_equal_files(self, backend: Backend, workshop: Workshop, tmp_path: Path) -> None:
        made = self.made(backend, workshop, precision="int8_static")
        again = backend.compile(made.source, tmp_path)
        assert again == made.compiled
        for name in again.files:
            digests = [hashlib.sha256((folder / name).read_bytes()).digest() for folder in (made.folder, tmp_path)]
            assert digests[0] == digests[1]

    def test_an_operator_without_kernel_is_named(self, backend: Backend, tmp_path: Path) -> None:
        task = task_of(nn.Sequential(nn.Linear(8, 8), nn.GELU()), ("y",), x=np.zeros((1, 8), np.float32))
        write_program(task.model(), task, 1, tmp_path / "model.pt2")
        with pytest.raises(StageError, match="no kernel for GELU") as caught:
            backend.compile(Source(tmp_path / "model.pt2"), tmp_path / "artifact")
        assert caught.value.stage == "compile"

    def test_weights_trained_to_four_bits_are_packed(self, backend: Backend, tmp_path: Path) -> None:
        task, target = tiny_task("grouped"), load_target("microcontroller")
        settings = {"allocation": "uniform", "weight_bits": 4, "activation_bits": 8, "epochs": 1}
        model, _ = Qat().apply(task.model(), Qat().resolve(settings, target), Context(task, task.model))
        write_program(model, task, 1, tmp_path / "model.pt2")
        (tmp_path / "calibration").mkdir()
        np.save(tmp_path / "calibration" / "image.npy", task.calibration["image"])
        recipe = Recipe((StageSpec.of("qat", settings),))
        source = Source(tmp_path / "model.pt2", "int8_static", recipe, {}, tmp_path / "calibration")
        inputs = {"image": task.val.inputs["image"][:1]}
        expected = torch_outputs(source.model, inputs)["logits"]
        found = {}
        for four_bit in ("packed", "unpacked"):
            options = {"four_bit": four_bit}
            compiled = backend.compile(replace(source, options=options), tmp_path / four_bit)
            types = {
                kernel.layer: kernel.weight_type
                for kernel in weight_kernels((tmp_path / four_bit / "model.tflite").read_bytes())
            }
            trained = "INT4" if four_bit == "packed" else "INT8"
            assert types == {
                "stem": "INT8",
                "depthwise": trained,
                "pointwise": trained,
                "grouped": trained,
                "head": "INT8",
            }
            assert compiled.audit is not None
            words = "weights packed two to a byte: " if four_bit == "packed" else "4-bit weights in int8: "
            assert words + "depthwise, pointwise, grouped" in compiled.audit.notes
            session = backend.load(tmp_path / four_bit, compiled.files, "int8_static", 1, options)
            found[four_bit] = (session.run(inputs)["logits"], compiled.figures)
        np.testing.assert_array_equal(found["packed"][0], found["unpacked"][0])
        assert found["packed"][1]["flash"].value < found["unpacked"][1]["flash"].value
        # What it costs: room for the largest layer unpacked.
        assert found["packed"][1]["arena"].value > found["unpacked"][1]["arena"].value
        error = np.sqrt(np.mean((found["packed"][0] - expected) ** 2) / np.mean(expected**2))
        assert error < 0.05


def test_the_profile_asks_for_what_the_backend_has() -> None:
    target = load_target("microcontroller")
    assert target.limits.size_bytes == 2**20
    assert target.limits.figures == {"arena": 2**18}
    assert set(target.options) <= set(Microcontroller.options)
    assert set(target.precisions) == {"fp32", "int8_static"}


def pair(row: int) -> Arrays:
    inputs = tiny_task("two_outputs").val.inputs
    return {name: inputs[name][row * BATCH : (row + 1) * BATCH] for name in inputs}


def torch_outputs(program: Path, inputs: Arrays) -> dict[str, Array]:
    read = read_program(program)
    with torch.no_grad():
        results = read.module(*(torch.from_numpy(np.array(inputs[name])) for name in read.inputs))
    return dict(zip(read.outputs, (result.numpy() for result in results), strict=True))
