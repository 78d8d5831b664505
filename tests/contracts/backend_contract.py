"""What every backend must do. A new one gets a subclass in `test_backends.py` with its fixtures, and passes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from autoshrink.backends import base
from autoshrink.backends.base import Array, Backend, Session
from autoshrink.errors import AutoshrinkError, ChildError, StageError
from autoshrink.isolate.job import Job, JobResult, Loaded
from autoshrink.isolate.parent import run_job
from autoshrink.target import ChildLimits, Measuring
from tests import onnx_files
from tests.onnx_files import BATCH

OnnxFile = Callable[[str], Path]

MOMENT = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=3, time_limit_s=5)
HEAVY = {"torch", "optuna", "pydantic", "onnx", "pandas", "plotly", "yaml", "filelock", "psutil"}


class BackendContract:
    """Inherited by one class for each backend."""

    modules: ClassVar[frozenset[str]]
    """Top-level modules that come with the runtime."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError("each backend's class gives its own")

    def outputs_of_timed(self, call: Callable[[], object], session: Session) -> list[Array]:
        """What a call of `Session.timed` computes, wherever the runtime leaves it."""
        raise NotImplementedError("each backend's class says how")

    def loaded(self, backend: Backend, model: Path, folder: Path, precision: str = "fp32") -> Session:
        return backend.load(folder, backend.compile(model, folder, precision), precision, 1)

    def in_child(self, backend: Backend, work: Path, artifact: Loaded, **more: object) -> JobResult:
        job = Job(backend.name, 1, BATCH, ChildLimits(120, 4096), artifact, **more)  # type: ignore[arg-type]
        return run_job(job, work)

    def test_is_ready_here(self, backend: Backend) -> None:
        assert backend.available().state == "ready"
        assert all(backend.runtime().split(" ", 1)), backend.runtime()

    def test_says_what_to_install_when_a_package_is_missing(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_version(package: str) -> str:
            raise metadata.PackageNotFoundError(package)

        monkeypatch.setattr(base.metadata, "version", no_version)
        found = backend.available()
        assert found.state == "unavailable"
        assert backend.packages[0] in found.why
        assert found.fix.startswith("pip install 'autoshrink")

    def test_capabilities_are_words(self, backend: Backend) -> None:
        assert all(isinstance(capability, str) and capability for capability in backend.capabilities())

    def test_cnn_agrees_with_the_standard(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        inputs = {"image": onnx_files.image(1)}
        found = self.loaded(backend, onnx_file("cnn"), tmp_path / "new" / "folder").run(inputs)
        expected = onnx_files.expected(onnx_file("cnn"), inputs)
        assert list(found) == ["logits"]
        assert found["logits"].dtype == np.float32
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4)

    def test_several_inputs_and_outputs_keep_name_order_and_dtype(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        inputs = onnx_files.pair(1)
        found = self.loaded(backend, onnx_file("two_by_two"), tmp_path).run(inputs)
        expected = onnx_files.expected(onnx_file("two_by_two"), inputs)
        assert list(found) == ["scores", "total"]
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
        np.testing.assert_array_equal(found["total"], expected["total"])
        assert found["total"].dtype == np.int64

    def test_names_survive_casts_at_both_ends(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        inputs = {"image": onnx_files.image(1)}
        found = self.loaded(backend, onnx_file("cnn_half_inside"), tmp_path, "fp16").run(inputs)
        assert list(found) == ["logits"]
        np.testing.assert_allclose(
            found["logits"], onnx_files.expected(onnx_file("cnn"), inputs)["logits"], atol=0.02, rtol=0.01
        )

    def test_int8_is_close_to_float(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        inputs = {"image": onnx_files.image(1)}
        expected = onnx_files.expected(onnx_file("cnn"), inputs)["logits"]
        found = self.loaded(backend, onnx_file("cnn_int8"), tmp_path, "int8_static").run(inputs)["logits"]
        error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
        assert 0 < error < 0.1

    def test_results_are_not_overwritten_by_the_next_call(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        session = self.loaded(backend, onnx_file("cnn"), tmp_path)
        first = session.run({"image": onnx_files.image(1)})["logits"]
        kept = first.copy()
        session.run({"image": onnx_files.image(2)})
        np.testing.assert_array_equal(first, kept)

    def test_takes_what_is_not_contiguous_or_read_only(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        session = self.loaded(backend, onnx_file("cnn"), tmp_path)
        plain = onnx_files.image(1)
        expected = session.run({"image": plain})["logits"]
        strided = np.moveaxis(np.ascontiguousarray(np.moveaxis(plain, 1, -1)), -1, 1)
        frozen = plain.copy()
        frozen.flags.writeable = False
        for array in (strided, frozen):
            np.testing.assert_array_equal(session.run({"image": array})["logits"], expected)
            session.timed({"image": array})()

    def test_a_free_batch_takes_any_rows(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        session = self.loaded(backend, onnx_file("free_batch"), tmp_path)
        for rows in (1, 3):
            inputs = onnx_files.pair(rows, rows)
            expected = onnx_files.expected(onnx_file("free_batch"), inputs)
            np.testing.assert_allclose(session.run(inputs)["scores"], expected["scores"], atol=1e-4)
        assert len(session.audit().layers) == 1

    @pytest.mark.parametrize(
        ("inputs", "both"),
        [
            ({"picture": onnx_files.image(1)}, ("picture", "image")),
            ({}, ("[]", "image")),
            ({"image": onnx_files.image(1), "mask": onnx_files.image(1)}, ("mask", "image")),
            ({"image": onnx_files.image(1, rows=3)}, ("[3, 3, 12, 12]", "[2, 3, 12, 12]")),
            ({"image": onnx_files.image(1)[0]}, ("[3, 12, 12]", "[2, 3, 12, 12]")),
            ({"image": onnx_files.image(1).astype(np.float64)}, ("float64", "float32")),
        ],
    )
    def test_wrong_inputs_are_refused_naming_both(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path, inputs: dict[str, Array], both: tuple[str, str]
    ) -> None:
        session = self.loaded(backend, onnx_file("cnn"), tmp_path)
        for call in (session.run, session.timed):
            with pytest.raises(ValueError) as caught:
                call(inputs)
            for words in both:
                assert words in str(caught.value)

    def test_timed_computes_what_run_does(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        session = self.loaded(backend, onnx_file("two_by_two"), tmp_path)
        # The caller keeps none of the arrays: other ones take their place in memory.
        call, other_call = session.timed(onnx_files.pair(1)), session.timed(onnx_files.pair(2))
        _ = [onnx_files.pair(seed) for seed in range(3, 20)]
        expected = session.run(onnx_files.pair(1))
        for _ in range(3):
            other_call()
            for found, name in zip(self.outputs_of_timed(call, session), expected, strict=True):
                np.testing.assert_array_equal(found, expected[name])

    def test_audit_of_a_float_model(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        audit = self.loaded(backend, onnx_file("cnn"), tmp_path).audit()
        assert [layer.precision for layer in audit.layers] == ["fp32", "fp32", "fp32"]
        assert audit.int8_layers == 0
        assert audit.kernels > len(audit.layers)

    def test_audit_of_an_int8_model(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        audit = self.loaded(backend, onnx_file("cnn_int8"), tmp_path, "int8_static").audit()
        assert [layer.name for layer in audit.layers] == ["conv1", "conv2", "fc"]
        assert audit.int8_layers == 3
        # Quantize the image, dequantize the logits, and what the runtime moves to its own layouts.
        assert 2 <= audit.conversions < audit.kernels

    def test_a_layer_that_fell_back_to_float_is_counted(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        audit = self.loaded(backend, onnx_file("product_16_bit"), tmp_path, "int8_static").audit()
        assert [layer.precision for layer in audit.layers] == ["fp32"]

    def test_a_product_of_activations_is_no_layer(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        audit = self.loaded(backend, onnx_file("attention"), tmp_path).audit()
        assert sorted(layer.name for layer in audit.layers) == ["key", "query"]

    def test_audit_changes_nothing_and_leaves_no_file(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        session = self.loaded(backend, onnx_file("cnn"), tmp_path / "artifact")
        before = sorted(tmp_path.rglob("*"))
        inputs = {"image": onnx_files.image(1)}
        expected = session.run(inputs)["logits"]
        session.audit()
        np.testing.assert_array_equal(session.run(inputs)["logits"], expected)
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_unknown_operator_is_named(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        with pytest.raises(StageError, match="Nonsense") as caught:
            backend.compile(onnx_file("unknown_operator"), tmp_path, "fp32")
        assert caught.value.stage == "compile"
        assert "\n" not in caught.value.reason

    @pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "gone"])
    def test_a_damaged_artifact_is_refused(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path, damage: str
    ) -> None:
        files = backend.compile(onnx_file("cnn"), tmp_path / "sound", "fp32")
        for broken in files:
            folder = tmp_path / broken
            folder.mkdir()
            for name in files:
                content = (tmp_path / "sound" / name).read_bytes()
                if name == broken:
                    content = {"truncated": content[: len(content) // 2], "garbage": b"no model " * 9}.get(damage, b"")
                (folder / name).write_bytes(content)
            if damage == "gone":
                (folder / broken).unlink()
            with pytest.raises(AutoshrinkError, match=files[0]) as caught:
                backend.load(folder, files, "fp32", 1)
            assert str(caught.value).startswith("load: ")

    def test_reloads_in_a_fresh_process_with_equal_outputs(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        rows = 2 * BATCH + 1
        inputs = {"image": onnx_files.image(1, rows)}
        _save(tmp_path / "example", {"image": inputs["image"][:BATCH]})
        _save(tmp_path / "val", inputs)
        folder = tmp_path / "artifact"
        made = self.in_child(
            backend,
            tmp_path / "first",
            Loaded(folder, (), "fp32"),
            model=onnx_file("cnn"),
            audit=True,
            measure=MOMENT,
            example=tmp_path / "example",
            evaluate={"val": tmp_path / "val"},
        )
        for file in made.files:
            content = (folder / file.name).read_bytes()
            assert file.size == len(content)
            assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert sorted(file.name for file in made.files) == sorted(path.name for path in folder.iterdir())
        assert made.runtime == backend.runtime()
        assert made.audit and len(made.audit.layers) == 3
        assert made.latency and made.latency.rounds >= 3
        assert made.samples and made.samples.exists()
        again = self.in_child(
            backend,
            tmp_path / "second",
            Loaded(folder, tuple(file.name for file in made.files), "fp32"),
            evaluate={"val": tmp_path / "val"},
        )
        assert again.files == made.files
        first, second = (np.load(result.outputs["val"] / "logits.npy") for result in (made, again))
        np.testing.assert_array_equal(first, second)
        for start in (0, BATCH, rows - BATCH):
            batch = {"image": inputs["image"][start : start + BATCH]}
            np.testing.assert_allclose(
                first[start : start + BATCH], onnx_files.expected(onnx_file("cnn"), batch)["logits"], atol=1e-4
            )
        third_party = {name for name in made.modules if not name.startswith("_")} - sys.stdlib_module_names
        assert third_party == {"autoshrink", "numpy", *self.modules}
        assert not HEAVY & set(made.modules)

    def test_a_damaged_artifact_is_refused_by_the_child(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        files = backend.compile(onnx_file("cnn"), tmp_path / "artifact", "fp32")
        (tmp_path / "artifact" / files[-1]).write_bytes(b"")
        with pytest.raises(ChildError, match=files[0]) as caught:
            self.in_child(backend, tmp_path / "work", Loaded(tmp_path / "artifact", files, "fp32"))
        assert caught.value.stage == "load"
        assert "StageError" in Path(caught.value.log).read_text()

    def test_the_child_reports_capabilities(self, backend: Backend, tmp_path: Path) -> None:
        result = self.in_child(backend, tmp_path / "work", Loaded(tmp_path, (), "fp32"), probe=True)
        assert result.capabilities == backend.capabilities()


def _save(folder: Path, arrays: dict[str, Array]) -> None:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
