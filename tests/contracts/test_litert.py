"""LiteRT passes the contract; beside it, what only LiteRT promises."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshrink.backends.base import Array, Backend, Session
from autoshrink.backends.litert import LiteRt
from autoshrink.isolate.job import Loaded
from tests import onnx_files
from tests.contracts.backend_contract import MOMENT, RunningContract, Workshop
from tests.onnx_files import BATCH


class TestLiteRt(RunningContract):
    has_kernel_times = False
    # The second reads the file for the audit of a session.
    modules = frozenset({"ai_edge_litert", "flatbuffers"})
    vendors = frozenset({"ai_edge_litert", "ai_edge_quantizer", "litert_torch", "litert_converter", "jax"})

    @pytest.fixture
    def backend(self) -> Backend:
        return LiteRt()

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array]:
        call()
        interpreter = call.__self__
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

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
        assert third_party == {"autoshrink", "numpy", "ai_edge_litert"}

    def test_compiling_says_what_xnnpack_takes(self, backend: Backend, workshop: Workshop) -> None:
        for precision in ("fp32", "int8_static"):
            audit = self.audit(backend, workshop, precision)
            assert audit.notes[-1] == "fully accelerated by XNNPACK"
            # The session finds the same in the file alone.
            assert self.session(backend, workshop, precision=precision).audit().layers == audit.layers
        made = self.made(backend, workshop, "two_by_two")
        assert made.compiled.audit is not None
        assert made.compiled.audit.notes[-1].startswith("not fully accelerated by XNNPACK: ")
        assert "GATHER" in made.compiled.audit.notes[-1] or "EMBEDDING_LOOKUP" in made.compiled.audit.notes[-1]

    def test_equal_sources_give_equal_files(self, backend: Backend, tmp_path: Path) -> None:
        contents = []
        for number in ("first", "second"):
            source = self.source(backend, "cnn", tmp_path / number, "int8_static")
            files = backend.compile(source, tmp_path / number / "artifact").files
            contents.append((tmp_path / number / "artifact" / files[0]).read_bytes())
        assert contents[0] == contents[1]
