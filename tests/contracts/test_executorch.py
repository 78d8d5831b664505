"""ExecuTorch passes the contract; beside it, what only ExecuTorch promises."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshrink.backends.base import Array, Backend, Session
from autoshrink.backends.executorch import ExecuTorch
from autoshrink.errors import StageError
from autoshrink.isolate.job import Loaded
from autoshrink.types import LOW_BIT_WEIGHTS
from tests import onnx_files
from tests.contracts import backend_contract
from tests.contracts.backend_contract import MOMENT, RunningContract, Workshop
from tests.onnx_files import BATCH

WITH_TORCH = frozenset({"torch", "torchgen", "typing_extensions", "tqdm", "opt_einsum", "pydot"})
"""Third-party modules that `import torch` brings, some of them where they are installed."""


class TestExecuTorch(RunningContract):
    # The runtime's bindings take torch's tensors and nothing else, so torch is part of the runtime.
    modules = frozenset({"executorch"}) | WITH_TORCH
    vendors = frozenset({"executorch", "torchao"})

    @pytest.fixture
    def backend(self) -> Backend:
        return ExecuTorch()

    @pytest.fixture(autouse=True)
    def torch_is_of_the_runtime(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        if "fresh_process" in request.node.name:
            monkeypatch.setattr(backend_contract, "HEAVY", backend_contract.HEAVY - {"torch"})

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array]:
        call()
        return [value.numpy() for value in call.__self__.get_outputs()]

    def test_only_the_runtime_is_in_the_timed_process(
        self, backend: Backend, workshop: Workshop, tmp_path: Path
    ) -> None:
        made = self.made(backend, workshop, precision="int8_static")
        example = tmp_path / "example"
        example.mkdir()
        np.save(example / "image.npy", onnx_files.image(1, BATCH))
        artifact = Loaded(made.folder, made.compiled.files, "int8_static")
        result = self.in_child(backend, tmp_path / "work", artifact, measure=MOMENT, example=example)
        third_party = {name for name in result.modules if not name.startswith("_")} - sys.stdlib_module_names
        assert {"executorch", "torch"} <= third_party <= {"autoshrink", "numpy", "executorch", *WITH_TORCH}

    def test_every_node_of_the_cnn_is_in_one_delegate(self, backend: Backend, workshop: Workshop) -> None:
        audit = self.audit(backend, workshop, "int8_static")
        assert audit.notes == ()
        assert [layer.kind for layer in audit.layers] == ["Convolution", "Convolution", "Fully Connected"]
        # Image to integers and to channels last, back for the pooled row, and logits to float.
        assert audit.conversions == 4
        session = self.session(backend, workshop, precision="int8_static")
        assert session.audit() == audit

    def test_what_is_outside_xnnpack_is_noted(self, backend: Backend, workshop: Workshop) -> None:
        audit = self.made(backend, workshop, "two_by_two").compiled.audit
        assert audit is not None
        assert audit.notes[-1].startswith("not fully accelerated: outside XNNPACK run ")
        assert [(layer.name, layer.precision) for layer in audit.layers] == [("project", "fp32")]

    @pytest.mark.parametrize(
        ("precision", "precisions", "tolerance"),
        [
            ("int8_dynamic", ["int8", "int8", "int8"], 0.02),
            ("int4_weights", ["fp32", "fp32", LOW_BIT_WEIGHTS], 0.1),
            ("fp16", ["fp16", "fp16", "fp16"], 0.002),
        ],
    )
    def test_other_precisions_are_what_the_kernels_compute_in(
        self, backend: Backend, workshop: Workshop, precision: str, precisions: list[str], tolerance: float
    ) -> None:
        audit = self.audit(backend, workshop, precision)
        assert [layer.precision for layer in audit.layers] == precisions
        inputs = {"image": onnx_files.image(1)}
        expected = self.session(backend, workshop).run(inputs)["logits"]
        found = self.session(backend, workshop, precision=precision).run(inputs)["logits"]
        assert found.dtype == np.float32
        assert 0 < np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < tolerance

    def test_equal_sources_give_equal_files(self, backend: Backend, workshop: Workshop, tmp_path: Path) -> None:
        made = self.made(backend, workshop, precision="int8_static")
        backend.compile(made.source, tmp_path)
        for name in made.compiled.files:
            assert (tmp_path / name).read_bytes() == (made.folder / name).read_bytes()

    def test_another_program_beside_the_ports_is_refused(
        self, backend: Backend, workshop: Workshop, tmp_path: Path
    ) -> None:
        made = self.made(backend, workshop)
        content = bytearray((made.folder / "model.pte").read_bytes())
        content[-1] ^= 1
        (tmp_path / "model.pte").write_bytes(content)
        (tmp_path / "ports.json").write_bytes((made.folder / "ports.json").read_bytes())
        with pytest.raises(StageError, match=r"model\.pte is damaged, or not the program of ports\.json"):
            backend.load(tmp_path, made.compiled.files, "fp32", 1)

    def test_a_program_that_native_code_refuses_is_named(
        self, backend: Backend, workshop: Workshop, tmp_path: Path
    ) -> None:
        made = self.made(backend, workshop)
        content = b"no program" * 20
        described = json.loads((made.folder / "ports.json").read_text())
        described["program"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (tmp_path / "model.pte").write_bytes(content)
        (tmp_path / "ports.json").write_text(json.dumps(described))
        with pytest.raises(StageError, match=r"load: ExecuTorch cannot load model\.pte: ."):
            backend.load(tmp_path, made.compiled.files, "fp32", 1)
