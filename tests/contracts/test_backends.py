"""Every backend passes the contract; beside it, what only one of them promises."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from autoshrink.backends import BACKENDS, get_backend, openvino
from autoshrink.backends.base import Array, Backend, Session, Source
from autoshrink.backends.onnxruntime import OnnxRuntime
from autoshrink.backends.openvino import OpenVino, OpenVinoSession
from autoshrink.errors import StageError
from autoshrink.onnx_packing import pack_weights
from autoshrink.package.runners.openvino import load as load_packaged
from tests import onnx_files
from tests.contracts.backend_contract import OnnxContract, OnnxFile


class TestOnnxRuntime(OnnxContract):
    modules = frozenset({"onnxruntime"})
    vendors = frozenset({"onnxruntime"})

    @pytest.fixture
    def backend(self) -> Backend:
        return OnnxRuntime()

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array]:
        assert isinstance(call, functools.partial)
        call()
        results: list[Array] = call.args[0].copy_outputs_to_cpu()
        return results

    def test_a_linear_with_float_bias_stays_int8(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        session = self.loaded(backend, onnx_file("linear_float_bias"), tmp_path, "int8_static")
        assert [(layer.name, layer.precision) for layer in session.audit().layers] == [("linear", "int8")]

    def test_a_gemm_with_float_bias_is_seen_to_fall_back(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        # As if it were a float model: the runtime makes a Gemm of MatMul + Add, which it has only in float.
        audit = self.loaded(backend, onnx_file("linear_float_bias"), tmp_path, "fp32").audit()
        assert [(layer.name, layer.kind, layer.precision) for layer in audit.layers] == [("linear", "Gemm", "fp32")]
        assert audit.conversions == 3


class TestOpenVino(OnnxContract):
    modules = frozenset({"openvino", "packaging", "absl"})
    vendors = frozenset({"openvino"})
    # The graph, as XML, is most of so small a model.
    int8_share = 0.9

    @pytest.fixture
    def backend(self) -> Backend:
        return OpenVino()

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array]:
        results: Any = call()
        return [results[index].copy() for index in range(len(results))]

    def test_weights_are_stored_as_small_as_they_are(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        def weight_bytes(name: str, precision: str) -> int:
            files = backend.compile(Source(onnx_file(name), precision), tmp_path / precision).files
            return (tmp_path / precision / files[1]).stat().st_size

        fp32 = weight_bytes("cnn", "fp32")
        assert 0.5 <= weight_bytes("cnn", "fp16") / fp32 < 0.55
        assert 0.25 <= weight_bytes("cnn_int8", "int8_static") / fp32 < 0.35

    def test_weights_stored_in_16_bits_are_calculated_with_in_32(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        audit = self.loaded(backend, onnx_file("cnn"), tmp_path, "fp16").audit()
        assert {layer.precision for layer in audit.layers} == {"fp32"}

    def test_bf16_calculates_in_bf16(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        if "BF16" not in backend.capabilities():
            pytest.skip("this processor has no bfloat16")
        session = self.loaded(backend, onnx_file("cnn"), tmp_path, "bf16")
        assert {layer.precision for layer in session.audit().layers} == {"bf16"}
        inputs = {"image": onnx_files.image(1)}
        error = np.abs(session.run(inputs)["logits"] - onnx_files.expected(onnx_file("cnn"), inputs)["logits"]).max()
        assert 1e-5 < error < 0.1

    @pytest.mark.parametrize("precision", ["fp32", "int8_static"])
    def test_packed_weights_ship_as_onnx_and_run_as_the_plain_ones(self, precision: str, tmp_path: Path) -> None:
        plain, packed = tmp_path / "plain.onnx", tmp_path / "packed.onnx"
        model = onnx_files.few_values(precision == "int8_static")
        onnx.save(model, str(plain))
        assert pack_weights(model) > 0
        onnx.save(model, str(packed))
        backend = OpenVino()
        assert backend.compile(Source(packed, precision), tmp_path / "artifact").files == ("model.onnx",)
        assert (tmp_path / "artifact" / "model.onnx").read_bytes() == packed.read_bytes()
        sessions = [self.loaded(backend, path, tmp_path / path.stem, precision) for path in (plain, packed)]
        x = {"x": np.random.default_rng(0).normal(size=(1, 32, 8, 8)).astype(np.float32)}
        np.testing.assert_array_equal(*(session.run(x)["y"] for session in sessions))
        audits = [session.audit() for session in sessions]
        assert audits[0] == audits[1]
        assert [layer.precision for layer in audits[1].layers] == [precision.removesuffix("_static")]
        manifest = {
            "runtime": {"precision": precision, "artifact": ["model.onnx"]},
            "signature": {"outputs": [{"name": "y"}]},
            "target": {"threads": 1},
        }
        run = load_packaged(tmp_path / "artifact", manifest)
        np.testing.assert_array_equal(run(x)[0], sessions[0].run(x)["y"])

    def test_a_damaged_packed_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(b"damaged")
        with pytest.raises(StageError, match=r"OpenVINO cannot load model\.onnx: ."):
            OpenVino().load(tmp_path, ("model.onnx",), "fp32", 1)

    def test_another_arithmetic_than_asked_for_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class FakeCore:
            def compile_model(self, *asked: object) -> SimpleNamespace:
                return SimpleNamespace(get_property=lambda _name: SimpleNamespace(to_string=lambda: "f32"))

        monkeypatch.setattr(openvino, "_openvino", lambda: SimpleNamespace(Core=FakeCore))
        with pytest.raises(StageError, match="asked for bf16 arithmetic, OpenVINO would calculate in f32"):
            OpenVinoSession(tmp_path / "model.xml", "bf16", 1)


def test_every_backend_is_tested() -> None:
    texts = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    for _, name in BACKENDS.values():
        assert f"{name}()" in texts, name
    assert all(get_backend(name).name == name for name in BACKENDS)


def test_a_users_own_backend_is_named_by_module_and_class() -> None:
    assert isinstance(get_backend("autoshrink.backends.openvino:OpenVino"), OpenVino)
    with pytest.raises(KeyError):
        get_backend("toaster")
    with pytest.raises(ImportError, match="no_such_module"):
        get_backend("no_such_module:Backend")
