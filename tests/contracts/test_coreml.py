"""Core ML passes the contract as far as anything but a Mac can tell; a calculation by torch stands in for one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autoshrink.agreement import sqnr_db
from autoshrink.backends import coreml
from autoshrink.backends.base import Array, Arrays, Backend
from autoshrink.backends.coreml import CoreMl, CoreMlSession
from autoshrink.backends.coreml_package import PACKAGE
from autoshrink.errors import StageError
from tests import onnx_files
from tests.contracts.backend_contract import BackendContract, Workshop
from tests.mil_reference import run_package


class TestCoreMl(BackendContract):
    state = "compile-only"
    vendors = frozenset({"coremltools"})

    @pytest.fixture
    def backend(self) -> Backend:
        return CoreMl()

    def test_says_how_to_measure(self, backend: Backend) -> None:
        found = backend.available()
        assert "Apple devices only" in found.why
        assert "Mac" in found.fix and "Xcode" in found.fix

    @pytest.mark.parametrize(("precision", "least"), [("fp32", 120), ("fp16", 60), ("int8_static", 30)])
    def test_the_program_calculates_what_torch_does(
        self, backend: Backend, workshop: Workshop, precision: str, least: float, onnx_file: Callable[[str], Path]
    ) -> None:
        made = self.made(backend, workshop, precision=precision)
        inputs = {"image": onnx_files.image(1)}
        found = run_package(made.folder / PACKAGE, inputs)
        assert list(found) == ["logits"]
        assert least < sqnr_db(onnx_files.expected(onnx_file("cnn"), inputs)["logits"], found["logits"])

    def test_several_inputs_and_outputs(
        self, backend: Backend, workshop: Workshop, onnx_file: Callable[[str], Path]
    ) -> None:
        inputs = onnx_files.pair(1)
        found = run_package(self.made(backend, workshop, "two_by_two").folder / PACKAGE, inputs)
        expected = onnx_files.expected(onnx_file("two_by_two"), inputs)
        assert list(found) == ["scores", "total"]
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
        np.testing.assert_array_equal(found["total"], expected["total"])

    def test_audits(self, backend: Backend, workshop: Workshop) -> None:
        audits = {
            precision: self.made(backend, workshop, precision=precision).compiled.audit
            for precision in ("fp32", "int8_static")
        }
        for precision, audit in audits.items():
            assert audit is not None
            assert [layer.name for layer in audit.layers] == ["conv1", "conv2", "fc"]
            assert {layer.precision for layer in audit.layers} == {precision.removesuffix("_static")}
            assert any(note.startswith("the device chooses") for note in audit.notes)
            # Quantize and dequantize the image, what each convolution gives, and the mean; casts at both ends.
            assert audit.conversions == (10 if precision == "int8_static" else 0)

    @pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "gone"])
    def test_a_damaged_package_is_refused(
        self, backend: Backend, workshop: Workshop, tmp_path: Path, damage: str
    ) -> None:
        made = self.made(backend, workshop)
        for broken in made.compiled.files:
            folder = tmp_path / Path(broken).name
            shutil.copytree(made.folder / PACKAGE, folder / PACKAGE)
            content = (folder / broken).read_bytes()
            damaged = {"truncated": content[: len(content) // 2], "garbage": b"no model " * 9}.get(damage, b"")
            (folder / broken).write_bytes(damaged)
            if damage == "gone":
                (folder / broken).unlink()
            with pytest.raises(StageError, match=broken) as caught:
                backend.load(folder, made.compiled.files, "fp32", 1)
            assert caught.value.stage == "load"
            assert "\n" not in caught.value.reason

    @pytest.mark.skipif(sys.platform == "darwin", reason="here it is loaded")
    def test_a_sound_package_is_refused_for_the_machine_only(self, backend: Backend, workshop: Workshop) -> None:
        made = self.made(backend, workshop)
        with pytest.raises(StageError, match="Apple devices only") as caught:
            backend.load(made.folder, made.compiled.files, "fp32", 1)
        assert caught.value.stage == "load"


class FakeMlModel:
    """What coremltools has on a Mac, as far as a session calls it: a model that doubles features and counts."""

    def __init__(self, path: str, compute_units: str) -> None:
        self.path, self.units = path, compute_units
        self.seen: Arrays = {}

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        self.seen = inputs
        return {"scores": inputs["features"][:, :4], "total": inputs["token_ids"].sum(1)}


class TestSession:
    """Control flow only, with a fake of the part that is on Macs."""

    @pytest.fixture
    def session(self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> CoreMlSession:
        made = TestCoreMl().made(CoreMl(), workshop, "two_by_two")
        fake: Any = SimpleNamespace(
            models=SimpleNamespace(MLModel=FakeMlModel), ComputeUnit=SimpleNamespace(CPU_AND_NE="units")
        )
        monkeypatch.setattr(coreml.sys, "platform", "darwin")
        monkeypatch.setattr(coreml, "vendor", lambda converts: fake)
        assert CoreMl().machine().state == "ready"
        return CoreMl().load(made.folder, made.compiled.files, "fp32", 1, {"compute_units": "cpu_and_ne"})

    def test_types_are_the_tasks_outside_and_the_programs_inside(self, session: CoreMlSession) -> None:
        inputs = onnx_files.pair(1)
        model: Any = session._model
        found = session.run(inputs)
        assert list(found) == ["scores", "total"]
        assert found["total"].dtype == np.int64
        np.testing.assert_array_equal(found["total"], inputs["token_ids"].sum(1))
        assert model.units == "units" and model.path.endswith(PACKAGE)
        assert {name: str(array.dtype) for name, array in model.seen.items()} == {
            "features": "float32",
            "token_ids": "int32",
        }

    def test_a_timed_call_is_bound_beforehand(self, session: CoreMlSession) -> None:
        inputs = onnx_files.pair(1)
        call = session.timed(inputs)
        expected = inputs["features"][:, :4].copy()
        inputs["features"][:] = 0
        found: Any = call()
        np.testing.assert_array_equal(found["scores"], expected)

    def test_wrong_inputs_are_refused_naming_both(self, session: CoreMlSession) -> None:
        pair = onnx_files.pair(1)
        for inputs, words in (
            ({"features": pair["features"]}, "token_ids"),
            ({**pair, "features": pair["features"].astype(np.float64)}, "float64; the model takes float32"),
            ({**pair, "features": pair["features"][:1]}, r"\[1, 6\]; the model takes \[2, 6\]"),
            ({**pair, "token_ids": pair["token_ids"] + 2**31}, "over 31 bits"),
        ):
            for call in (session.run, session.timed):
                with pytest.raises(ValueError, match=words):
                    call(inputs)

    def test_a_model_that_core_ml_refuses_is_an_error_of_loading(
        self, session: CoreMlSession, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fake_refusal(*_: object, **__: object) -> None:
            raise RuntimeError("Error compiling model: unsupported\nsecond line")

        fake: Any = SimpleNamespace(models=SimpleNamespace(MLModel=fake_refusal), ComputeUnit=SimpleNamespace(ALL=1))
        monkeypatch.setattr(coreml, "vendor", lambda converts: fake)
        made = TestCoreMl().made(CoreMl(), workshop, "two_by_two")
        with pytest.raises(StageError, match=r"cannot load model\.mlpackage: Error compiling model"):
            CoreMl().load(made.folder, made.compiled.files, "fp32", 1)
