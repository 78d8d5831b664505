"""What every backend must do. A new one gets a test file with a subclass of one of these, and passes.

`BackendContract` is for all of them; `RunningContract` for those whose artifacts run on a machine like this one.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from autoshrink.backends import base
from autoshrink.backends.base import Array, Backend, Compiled, Session, Source
from autoshrink.errors import AutoshrinkError, ChildError, StageError
from autoshrink.isolate.job import Job, JobResult, Loaded
from autoshrink.isolate.parent import compile_and_run, run_job
from autoshrink.isolate.process import ChildProcess
from autoshrink.measure.timing import RemoteCalls, Timed
from autoshrink.target import ChildLimits, Measuring
from autoshrink.types import Audit, Recipe, StageSpec
from tests import onnx_files, programs
from tests.onnx_files import BATCH

OnnxFile = Callable[[str], Path]

MOMENT = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=3, time_limit_s=5)
LIMITS = ChildLimits(240, 8192)
HEAVY = {"torch", "optuna", "pydantic", "onnx", "pandas", "plotly", "yaml", "filelock", "psutil"}
STATIC = {"scheme": "int8_static", "calibration": "minmax", "samples": 32, "keep_float": "none"}


@dataclass(frozen=True)
class Made:
    """An artifact that was compiled once for all tests of its backend; not to be changed."""

    folder: Path
    compiled: Compiled
    source: Source


Workshop = dict[tuple[str, str], Made]


class BackendContract:
    """For every backend."""

    state: ClassVar[str] = "ready"
    """Of `available` on a machine like this one."""
    options: ClassVar[dict[str, Any]] = {}
    """Of the target."""
    vendors: ClassVar[frozenset[str]] = frozenset()
    """Top-level modules of the vendor, which looking at the backend must not import."""
    int8_share: ClassVar[float] = 0.6
    """Most that the small `cnn` in int8_static has of its bytes in fp32."""
    int8_layers: ClassVar[tuple[str, ...]] = ("conv1", "conv2", "fc")
    """Layers of `cnn` whose arithmetic is 8 bit in int8_static."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError("each backend's class gives its own")

    def source(self, backend: Backend, name: str, folder: Path, precision: str = "fp32") -> Source:
        """What the model `cnn` or `two_by_two` of `onnx_files` is compiled from, in `precision`."""
        folder.mkdir(parents=True, exist_ok=True)
        static = precision == "int8_static"
        stages = (StageSpec.of("quantize", {"scheme": precision}),) if precision != "fp32" else ()
        source = Source(folder / "model.pt2", precision, Recipe(stages), batch=BATCH, options=self.options)
        if backend.form == "program":
            programs.write(name, source.model)
            if not stages:
                return source
            arrays = {"image": onnx_files.image(9, 32)} if name == "cnn" else onnx_files.pair(9, 32)
            _save(folder / "calibration", arrays)
            settings = STATIC if static else {"scheme": precision}
            return replace(source, settings=settings, calibration=folder / "calibration")
        onnx_files.BUILDERS[f"{name}_int8" if static else name](folder / "model.onnx")
        return replace(source, model=folder / "model.onnx")

    def made(self, backend: Backend, workshop: Workshop, name: str = "cnn", precision: str = "fp32") -> Made:
        """The artifact of a model, compiled at its first use.

        The one in 8 bit in a child, as a search does it; the others here, since each child imports the vendor anew.
        """
        if (name, precision) not in workshop:
            place = workshop["", ""].folder / f"{name}-{precision}"
            source = self.source(backend, name, place / "source", precision)
            if precision == "int8_static":
                artifact = Loaded(place / "artifact", (), precision)
                job = Job(backend.name, 1, BATCH, LIMITS, artifact, source, False, self.options)
                result = compile_and_run(job, place / "work", apart=backend.apart)
                compiled = Compiled(tuple(file.name for file in result.files), result.audit, result.figures)
            else:
                compiled = backend.compile(source, place / "artifact")
            workshop[name, precision] = Made(place / "artifact", compiled, source)
        return workshop[name, precision]

    def test_state_here(self, backend: Backend) -> None:
        found = backend.available()
        assert found.state == self.state
        assert (found.state == "ready") == (found.why == "")
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

    def test_looking_at_it_imports_no_vendor(self, backend: Backend) -> None:
        looked = (
            f"import sys; from autoshrink.backends import get_backend; b = get_backend({backend.name!r}); "
            "before = set(sys.modules); b.available(); print(*{n.partition('.')[0] for n in sys.modules})"
        )
        names = subprocess.run(
            [sys.executable, "-c", looked], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not (HEAVY | self.vendors) & set(names)

    def test_options_have_allowed_defaults(self, backend: Backend) -> None:
        for name, option in backend.options.items():
            assert option.about, name
            values = getattr(option.allowed, "values", None)
            assert values is None or option.default in values, name

    def test_compiles_what_ships(self, backend: Backend, workshop: Workshop, tmp_path: Path) -> None:
        made = self.made(backend, workshop)
        on_disk = {str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file()}
        assert set(made.compiled.files) == on_disk
        assert all((made.folder / name).stat().st_size for name in made.compiled.files)
        for figure in made.compiled.figures.values():
            assert figure.unit and figure.source

    def test_int8_is_smaller(self, backend: Backend, workshop: Workshop) -> None:
        sizes = [
            sum((made.folder / name).stat().st_size for name in made.compiled.files)
            for made in (self.made(backend, workshop), self.made(backend, workshop, precision="int8_static"))
        ]
        assert sizes[1] < self.int8_share * sizes[0]

    def test_a_damaged_model_is_refused(self, backend: Backend, tmp_path: Path) -> None:
        source = self.source(backend, "cnn", tmp_path / "source")
        source.model.write_bytes(b"no model " * 9)
        with pytest.raises(StageError) as caught:
            backend.compile(source, tmp_path / "artifact")
        assert caught.value.stage == "compile"
        assert "\n" not in caught.value.reason

    @pytest.mark.parametrize("stage", ["compile", "load"])
    def test_a_child_that_is_killed_is_said(
        self, backend: Backend, workshop: Workshop, tmp_path: Path, stage: str
    ) -> None:
        if stage == "load" and self.state == "compile-only":
            pytest.skip("nothing is loaded where nothing can run")
        source = self.source(backend, "cnn", tmp_path / "source")
        job = Job(backend.name, 1, BATCH, LIMITS, Loaded(tmp_path / "artifact", (), "fp32"), source, True, self.options)
        if backend.apart and stage == "compile":
            job = replace(job, run=False)
        elif backend.apart:
            made = self.made(backend, workshop)
            job = replace(job, source=None, artifact=Loaded(made.folder, made.compiled.files, "fp32"))
        work = tmp_path / "work"
        work.mkdir()
        with ChildProcess(work, 1) as child, pytest.raises(ChildError, match="killed") as caught:
            run_job(job, work, lambda now: child.process.kill() if now == stage else None, child=child)
        assert caught.value.stage == stage


class RunningContract(BackendContract):
    """For backends whose artifacts run here."""

    modules: ClassVar[frozenset[str]]
    """Top-level modules that come with the runtime, or may where they are installed."""
    float_tolerance: ClassVar[float] = 1e-4
    has_times: ClassVar[bool] = True
    has_kernel_times: ClassVar[bool] = True
    """Whether a profile has a time for each kernel."""

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array] | None:
        """What a call of `Session.timed` computes, wherever the runtime leaves it; None where that cannot be told."""
        raise NotImplementedError("each backend's class says how")

    def session(self, backend: Backend, workshop: Workshop, name: str = "cnn", precision: str = "fp32") -> Session:
        made = self.made(backend, workshop, name, precision)
        return backend.load(made.folder, made.compiled.files, precision, 1, self.options)

    def in_child(self, backend: Backend, work: Path, artifact: Loaded, **more: object) -> JobResult:
        job = Job(backend.name, 1, BATCH, LIMITS, artifact, options=self.options, **more)  # type: ignore[arg-type]
        return run_job(job, work)

    def test_capabilities_are_words(self, backend: Backend) -> None:
        assert all(isinstance(capability, str) and capability for capability in backend.capabilities())

    def test_cnn_agrees_with_the_standard(self, backend: Backend, workshop: Workshop, onnx_file: OnnxFile) -> None:
        inputs = {"image": onnx_files.image(1)}
        found = self.session(backend, workshop).run(inputs)
        expected = onnx_files.expected(onnx_file("cnn"), inputs)
        assert list(found) == ["logits"]
        assert found["logits"].dtype == np.float32
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=self.float_tolerance)

    def test_several_inputs_and_outputs_keep_name_order_and_dtype(
        self, backend: Backend, workshop: Workshop, onnx_file: OnnxFile
    ) -> None:
        inputs = onnx_files.pair(1)
        found = self.session(backend, workshop, "two_by_two").run(inputs)
        expected = onnx_files.expected(onnx_file("two_by_two"), inputs)
        assert list(found) == ["scores", "total"]
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=self.float_tolerance)
        np.testing.assert_array_equal(found["total"], expected["total"])
        assert found["total"].dtype == np.int64

    def test_int8_is_close_to_float(self, backend: Backend, workshop: Workshop, onnx_file: OnnxFile) -> None:
        inputs = {"image": onnx_files.image(1)}
        expected = onnx_files.expected(onnx_file("cnn"), inputs)["logits"]
        found = self.session(backend, workshop, precision="int8_static").run(inputs)["logits"]
        error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
        assert 0 < error < 0.1

    def test_results_are_not_overwritten_by_the_next_call(self, backend: Backend, workshop: Workshop) -> None:
        session = self.session(backend, workshop)
        first = session.run({"image": onnx_files.image(1)})["logits"]
        kept = first.copy()
        session.run({"image": onnx_files.image(2)})
        np.testing.assert_array_equal(first, kept)

    def test_takes_what_is_not_contiguous_or_read_only(self, backend: Backend, workshop: Workshop) -> None:
        session = self.session(backend, workshop)
        plain = onnx_files.image(1)
        expected = session.run({"image": plain})["logits"]
        strided = np.moveaxis(np.ascontiguousarray(np.moveaxis(plain, 1, -1)), -1, 1)
        frozen = plain.copy()
        frozen.flags.writeable = False
        for array in (strided, frozen):
            np.testing.assert_array_equal(session.run({"image": array})["logits"], expected)
            call_once(session.timed({"image": array}))

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
        self, backend: Backend, workshop: Workshop, inputs: dict[str, Array], both: tuple[str, str]
    ) -> None:
        session = self.session(backend, workshop)
        for call in (session.run, session.timed):
            with pytest.raises(ValueError) as caught:
                call(inputs)
            for words in both:
                assert words in str(caught.value)

    def test_timed_computes_what_run_does(self, backend: Backend, workshop: Workshop) -> None:
        session = self.session(backend, workshop, "two_by_two")
        # The caller keeps none of the arrays: other ones take their place in memory.
        call, other_call = session.timed(onnx_files.pair(1)), session.timed(onnx_files.pair(2))
        _ = [onnx_files.pair(seed) for seed in range(3, 20)]
        expected = session.run(onnx_files.pair(1))
        for _ in range(3):
            call_once(other_call)
            outputs = self.outputs_of_timed(call, session)
            if outputs is not None:
                for found, name in zip(outputs, expected, strict=True):
                    np.testing.assert_array_equal(found, expected[name])

    def audit(self, backend: Backend, workshop: Workshop, precision: str) -> Audit:
        """Of compiling where that tells more, else of the session."""
        made = self.made(backend, workshop, precision=precision)
        return made.compiled.audit or self.session(backend, workshop, precision=precision).audit()

    def test_audit_of_a_float_model(self, backend: Backend, workshop: Workshop) -> None:
        audit = self.audit(backend, workshop, "fp32")
        assert [layer.precision for layer in audit.layers] == ["fp32", "fp32", "fp32"]
        assert audit.int8_layers == 0

    def test_audit_of_an_int8_model(self, backend: Backend, workshop: Workshop) -> None:
        audit = self.audit(backend, workshop, "int8_static")
        assert [layer.name for layer in audit.layers] == ["conv1", "conv2", "fc"]
        assert tuple(layer.name for layer in audit.layers if layer.is_int8) == self.int8_layers

    @pytest.mark.parametrize("precision", ["fp32", "int8_static"])
    def test_a_profile_has_the_layers_of_the_audit(
        self, backend: Backend, workshop: Workshop, tmp_path: Path, precision: str
    ) -> None:
        """Through a child and its JSON, as `explain` asks for it."""
        made = self.made(backend, workshop, precision=precision)
        _save(tmp_path / "example", {"image": onnx_files.image(1)})
        artifact = Loaded(made.folder, made.compiled.files, precision)
        profile = self.in_child(backend, tmp_path / "work", artifact, profile=3, example=tmp_path / "example").profile
        assert profile is not None
        layers = [kernel for kernel in profile.kernels if kernel.has_weights]
        audit = self.audit(backend, workshop, precision)
        assert [kernel.precision for kernel in layers] == [layer.precision for layer in audit.layers]
        assert profile.is_timed == self.has_kernel_times
        if self.has_kernel_times:
            assert all(kernel.ms is not None and kernel.ms >= 0 for kernel in profile.kernels)
            assert profile.kernels_ms > 0
            assert profile.calls == 3
        else:
            assert profile.notes, "it says why there are none"
        assert (profile.call_ms is not None) == self.has_times
        assert profile.source

    @pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "gone"])
    def test_a_damaged_artifact_is_refused(
        self, backend: Backend, workshop: Workshop, tmp_path: Path, damage: str
    ) -> None:
        made = self.made(backend, workshop)
        for broken in made.compiled.files:
            folder = tmp_path / broken
            folder.mkdir(parents=True)
            for name in made.compiled.files:
                content = (made.folder / name).read_bytes()
                if name == broken:
                    content = {"truncated": content[: len(content) // 2], "garbage": b"no model " * 9}.get(damage, b"")
                (folder / name).write_bytes(content)
            if damage == "gone":
                (folder / broken).unlink()
            with pytest.raises(AutoshrinkError, match=re.escape(made.compiled.files[0])) as caught:
                backend.load(folder, made.compiled.files, "fp32", 1, self.options)
            assert str(caught.value).startswith("load: ")

    def test_reloads_in_a_fresh_process_with_equal_outputs(
        self, backend: Backend, workshop: Workshop, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        rows = 2 * BATCH + 1
        inputs = {"image": onnx_files.image(1, rows)}
        _save(tmp_path / "example", {"image": inputs["image"][:BATCH]})
        _save(tmp_path / "val", inputs)
        made = self.made(backend, workshop)
        artifact = Loaded(made.folder, made.compiled.files, "fp32")
        timing = {"measure": MOMENT, "example": tmp_path / "example"} if self.has_times else {}
        first = self.in_child(
            backend, tmp_path / "first", artifact, audit=True, evaluate={"val": tmp_path / "val"}, **timing
        )
        for file in first.files:
            content = (made.folder / file.name).read_bytes()
            assert file.size == len(content)
            assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert first.runtime == backend.runtime()
        assert first.audit is not None
        if self.has_times:
            assert first.latency and first.latency.rounds >= 3
            assert first.samples and first.samples.exists()
        second = self.in_child(backend, tmp_path / "second", artifact, evaluate={"val": tmp_path / "val"})
        assert second.files == first.files
        results = [np.load(result.outputs["val"] / "logits.npy") for result in (first, second)]
        np.testing.assert_array_equal(*results)
        for start in (0, BATCH, rows - BATCH):
            batch = {"image": inputs["image"][start : start + BATCH]}
            expected = onnx_files.expected(onnx_file("cnn"), batch)["logits"]
            np.testing.assert_allclose(results[0][start : start + BATCH], expected, atol=self.float_tolerance)
        third_party = {name for name in first.modules if not name.startswith("_")} - sys.stdlib_module_names
        assert {"autoshrink", "numpy"} <= third_party <= {"autoshrink", "numpy", *self.modules}
        assert not HEAVY & set(first.modules)

    def test_a_damaged_artifact_is_refused_by_the_child(
        self, backend: Backend, workshop: Workshop, tmp_path: Path
    ) -> None:
        made = self.made(backend, workshop)
        for name in made.compiled.files:
            (tmp_path / "artifact" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "artifact" / name).write_bytes((made.folder / name).read_bytes())
        (tmp_path / "artifact" / made.compiled.files[-1]).write_bytes(b"")
        with pytest.raises(ChildError, match=re.escape(made.compiled.files[0])) as caught:
            self.in_child(backend, tmp_path / "work", Loaded(tmp_path / "artifact", made.compiled.files, "fp32"))
        assert caught.value.stage == "load"
        assert "StageError" in Path(caught.value.log).read_text()

    def test_the_child_reports_capabilities(self, backend: Backend, tmp_path: Path) -> None:
        result = self.in_child(backend, tmp_path / "work", Loaded(tmp_path, (), "fp32"), probe=True)
        assert result.capabilities == backend.capabilities()


class OnnxContract(RunningContract):
    """For runtimes of this machine's processor that read ONNX files, hand-built ones among them."""

    def loaded(self, backend: Backend, model: Path, folder: Path, precision: str = "fp32") -> Session:
        return backend.load(folder, backend.compile(Source(model, precision), folder).files, precision, 1)

    def test_names_survive_casts_at_both_ends(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        inputs = {"image": onnx_files.image(1)}
        found = self.loaded(backend, onnx_file("cnn_half_inside"), tmp_path, "fp16").run(inputs)
        assert list(found) == ["logits"]
        np.testing.assert_allclose(
            found["logits"], onnx_files.expected(onnx_file("cnn"), inputs)["logits"], atol=0.02, rtol=0.01
        )

    def test_a_free_batch_takes_any_rows(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        session = self.loaded(backend, onnx_file("free_batch"), tmp_path)
        for rows in (1, 3):
            inputs = onnx_files.pair(rows, rows)
            expected = onnx_files.expected(onnx_file("free_batch"), inputs)
            np.testing.assert_allclose(session.run(inputs)["scores"], expected["scores"], atol=1e-4)
        assert len(session.audit().layers) == 1

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
            backend.compile(Source(onnx_file("unknown_operator")), tmp_path)
        assert caught.value.stage == "compile"
        assert "\n" not in caught.value.reason

    def test_conversions_of_an_int8_model(self, backend: Backend, workshop: Workshop) -> None:
        audit = self.audit(backend, workshop, "int8_static")
        # Quantize the image, dequantize the logits, and what the runtime moves to its own layouts.
        assert 2 <= audit.conversions < audit.kernels
        assert self.audit(backend, workshop, "fp32").kernels > 3


def call_once(timed: Timed) -> None:
    if isinstance(timed, RemoteCalls):
        assert timed.turn(0.0, 1).shape[1] == 2
    else:
        timed()


def _save(folder: Path, arrays: dict[str, Array]) -> None:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
