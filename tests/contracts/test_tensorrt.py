"""TensorRT-RTX compiles here, on any machine; TensorRT itself passes where there is a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshrink.backends.base import Array, Backend, Session, Source
from autoshrink.backends.tensorrt import TensorRt
from autoshrink.backends.tensorrt_driver import find_gpus
from autoshrink.backends.tensorrt_rtx import CAPABILITIES, TensorRtRtx
from autoshrink.backends.tensorrt_session import EngineCalls
from autoshrink.config import load_target
from autoshrink.errors import ChildError, StageError
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import compile_and_run
from autoshrink.target import Precision, Target
from autoshrink.types import LOW_BIT_WEIGHTS, Recipe, StageSpec
from tests import onnx_files, tensorrt_files
from tests.contracts.backend_contract import LIMITS, BackendContract, Made, RunningContract, Workshop
from tests.onnx_files import BATCH

OnnxFile = Callable[[str], Path]
NAMES = ("conv1", "conv2", "fc")
WHY_NOT = TensorRt().available().why


def symmetric(source: Source, name: str) -> Source:
    """The contract's source, with int8 on the grid that TensorRT takes."""
    if source.precision == "int8_static" and name == "cnn":
        tensorrt_files.cnn_int8(source.model)
    return source


class TestTensorRtRtx(BackendContract):
    state = "ready" if any(gpu.capability in CAPABILITIES for gpu in find_gpus().gpus) else "compile-only"
    options = {"compute_capability": "SM89"}  # noqa: RUF012 - as the contract has it
    vendors = frozenset({"tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt_rtx_libs"})

    @pytest.fixture
    def backend(self) -> Backend:
        return TensorRtRtx()

    def source(self, backend: Backend, name: str, folder: Path, precision: str = "fp32") -> Source:
        return symmetric(super().source(backend, name, folder, precision), name)

    def in_child(self, backend: Backend, source: Source, folder: Path) -> Made:
        """Compiled in a process of its own: a build that failed in this one would change it."""
        artifact = Loaded(folder / "artifact", (), source.precision)
        job = Job(backend.name, 1, BATCH, LIMITS, artifact, source, False, source.options)
        result = compile_and_run(job, folder / "work", apart=True)
        from autoshrink.backends.base import Compiled

        compiled = Compiled(tuple(file.name for file in result.files), result.audit, result.figures)
        return Made(folder / "artifact", compiled, source)

    def test_int8_is_smaller(self, backend: Backend, workshop: Workshop) -> None:
        # The weights are; a small engine is mostly kernels, and those for int8 are larger.
        float_, int8 = (
            self.made(backend, workshop, precision=precision).compiled.figures["weights"]
            for precision in ("fp32", "int8_static")
        )
        assert float_.value == 4 * (32 * 27 + 32 + 32 * 288 + 32 + 5 * 32 + 5)
        assert int8.value < self.int8_share * float_.value
        assert (int8.unit, int8.estimate) == ("bytes", False)

    def test_audit_of_a_float_model(self, backend: Backend, workshop: Workshop) -> None:
        audit = self.made(backend, workshop).compiled.audit
        assert audit is not None
        assert [(layer.name, layer.kind, layer.precision) for layer in audit.layers] == [
            ("conv1", "Convolution", "fp32"),
            ("conv2", "Convolution", "fp32"),
            ("fc", "MatrixMultiply", "fp32"),
        ]
        assert audit.conversions == 0
        assert "compiled for SM89" in audit.notes

    def test_audit_of_an_int8_model(self, backend: Backend, workshop: Workshop) -> None:
        audit = self.made(backend, workshop, precision="int8_static").compiled.audit
        assert audit is not None
        assert [(layer.name, layer.precision) for layer in audit.layers] == [(name, "int8") for name in NAMES]
        assert any("their speed is not known" in note for note in audit.notes)
        assert 0 < audit.conversions < audit.kernels

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    def test_halves_are_computed_in(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path, precision: str
    ) -> None:
        source = Source(onnx_file("cnn"), precision, batch=BATCH, options=self.options)
        made = self.in_child(backend, source, tmp_path)
        assert made.compiled.audit is not None
        assert [layer.precision for layer in made.compiled.audit.layers] == [precision] * 3
        assert made.compiled.audit.conversions == 2
        assert made.compiled.figures["weights"].value == 2 * 10309

    @pytest.mark.parametrize("bits", [4, 8])
    def test_low_bit_weights_stay_so_in_the_engine(self, backend: Backend, tmp_path: Path, bits: int) -> None:
        model = tmp_path / "model.onnx"
        model.write_bytes(tensorrt_files.low_bit_product(bits, True).SerializeToString())
        made = self.in_child(backend, Source(model, f"int{bits}_weights", options=self.options), tmp_path)
        assert made.compiled.audit is not None
        assert [(layer.name, layer.precision) for layer in made.compiled.audit.layers] == [("product", LOW_BIT_WEIGHTS)]
        assert any("zero points of 1 layers" in note for note in made.compiled.audit.notes)
        codes, scales, bias = 64 * 32 * bits // 8, 2 * 32 * 4, 32 * 4
        # Scales and what the zero points became, one for each block and output; and the shapes of the sums.
        assert made.compiled.figures["weights"].value == codes + 2 * scales + bias + (3 + 1) * 8

    @pytest.mark.parametrize("name", ["two_by_two", "free_batch", "attention"])
    def test_compiles_what_else_there_is(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path, name: str
    ) -> None:
        made = self.in_child(backend, Source(onnx_file(name), batch=BATCH, options=self.options), tmp_path)
        assert made.compiled.audit is not None
        found = [layer.name for layer in made.compiled.audit.layers]
        assert found == (["query", "key"] if name == "attention" else ["project"])

    def test_equal_models_give_equal_engines_and_other_gpus_other_ones(
        self, backend: Backend, workshop: Workshop, tmp_path: Path
    ) -> None:
        first = self.made(backend, workshop)
        again = self.in_child(backend, first.source, tmp_path / "again")
        other = self.in_child(
            backend, replace(first.source, options={"compute_capability": "SM120"}), tmp_path / "other"
        )
        hashes = [
            hashlib.sha256((made.folder / "model.engine").read_bytes()).digest() for made in (first, again, other)
        ]
        assert hashes[0] == hashes[1] != hashes[2]
        assert other.compiled.audit is not None and "compiled for SM120" in other.compiled.audit.notes

    def test_faults_are_named_all_at_once_in_the_child(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        source = Source(onnx_file("cnn_int8"), "int8_static", batch=BATCH, options=self.options)
        with pytest.raises(ChildError, match="TensorRT cannot take the graph") as caught:
            self.in_child(backend, source, tmp_path)
        assert caught.value.stage == "compile"
        assert "its zero point is" in caught.value.reason and "[zero-point]" in caught.value.reason
        assert "\n" not in caught.value.reason

    def test_an_unknown_operator_is_named(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        with pytest.raises(StageError, match="Nonsense") as caught:
            backend.compile(Source(onnx_file("unknown_operator")), tmp_path)
        assert caught.value.stage == "compile"

    def test_nothing_is_loaded_without_a_gpu_of_that_kind(self, backend: Backend, tmp_path: Path) -> None:
        if self.state == "ready":
            pytest.skip("there is a GPU that it may run on")
        with pytest.raises(StageError, match=r"model\.engine is for SM86; there is no NVIDIA driver") as caught:
            backend.load(tmp_path, ("model.engine",), "fp32", 1, {"compute_capability": "SM86"})
        assert caught.value.stage == "load"


@pytest.mark.gpu
@pytest.mark.skipif(bool(WHY_NOT), reason=f"TensorRT cannot run here: {WHY_NOT}")
class TestTensorRt(RunningContract):
    modules = frozenset({"tensorrt", "tensorrt_bindings", "tensorrt_libs"})
    vendors = modules
    # Products of float32 are in TF32, of 10 bits, as TensorRT's default is.
    float_tolerance = 1e-2
    int8_share = 4.0
    """A small engine is mostly kernels, and those for int8 may be larger."""

    @pytest.fixture
    def backend(self) -> Backend:
        return TensorRt()

    def source(self, backend: Backend, name: str, folder: Path, precision: str = "fp32") -> Source:
        return symmetric(super().source(backend, name, folder, precision), name)

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array]:
        assert isinstance(call, EngineCalls)
        call.turn(0.0, 1)
        return list(call.outputs().values())

    def test_times_are_of_the_gpu(self, backend: Backend, workshop: Workshop) -> None:
        calls = self.session(backend, workshop).timed({"image": onnx_files.image(1)})
        assert isinstance(calls, EngineCalls)
        times = calls.turn(0.01, 5)
        assert len(times) >= 5
        assert (times[:, 0] > 0).all() and not times[:, 1].any()

    def test_a_second_build_finds_the_times_of_the_first(self, backend: Backend, workshop: Workshop) -> None:
        from autoshrink.cache import cache_root

        self.made(backend, workshop)
        assert [path.suffix for path in (cache_root() / "tensorrt").iterdir()] == [".cache"]


@pytest.mark.parametrize("backend", [TensorRt(), TensorRtRtx()], ids=lambda backend: backend.name)
def test_refusals_come_before_any_work(backend: Backend) -> None:
    affine = Precision(operators=("Conv",), activations="uint8")
    target = Target("mine", backend.name, {"fp32": Precision(), "int8_static": affine, "int8_dynamic": affine})
    static, dynamic = (
        Recipe((StageSpec.of("quantize", {"scheme": scheme}),)) for scheme in ("int8_static", "int8_dynamic")
    )
    assert "activations: int8" in backend.refuses(static, target)
    assert "use int8_static" in backend.refuses(dynamic, target)
    assert backend.refuses(Recipe(), target) == ""
    symmetric_grid = replace(target, precisions={**target.precisions, "int8_static": Precision(activations="int8")})
    assert backend.refuses(static, symmetric_grid) == ""


def test_turing_has_no_float32_products() -> None:
    target = Target("turing", "tensorrt_rtx", {"fp32": Precision()}, options={"compute_capability": "SM75"})
    assert TensorRtRtx().refuses(Recipe(), target) == "TensorRT-RTX compiles no float32 matrix product for SM75"


@pytest.mark.parametrize("name", ["tensorrt-rtx-sm86", "tensorrt-rtx-sm89", "tensorrt-rtx-sm120"])
def test_profiles_name_the_gpu_that_they_are_for(name: str) -> None:
    target = load_target(name)
    assert target.options["compute_capability"] == name.rpartition("-")[2].upper()
    for precision in target.precisions:
        assert TensorRtRtx().refuses(Recipe((StageSpec.of("quantize", {"scheme": precision}),)), target) == ""


def test_the_cloud_profile_is_for_throughput() -> None:
    target = load_target("cloud-gpu")
    assert (target.objective, target.batch, [*target.precisions]) == ("throughput", 32, ["fp32", "fp16"])
    assert np.isclose(target.measuring.interval, 0.02)
