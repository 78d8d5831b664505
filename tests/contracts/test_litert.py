"""LiteRT passes the contract; beside it, what only LiteRT promises."""

from __future__ import annotations

from typing import Any

import pytest

from autoshrink.backends.base import Array, Backend, Session
from autoshrink.backends.litert import LiteRt
from tests.contracts.backend_contract import RunningContract


class TestLiteRt(RunningContract):
    modules = frozenset({"ai_edge_litert", "flatbuffers"})
    vendors = frozenset({"ai_edge_litert", "ai_edge_quantizer", "litert_torch", "litert_converter", "jax"})

    @pytest.fixture
    def backend(self) -> Backend:
        return LiteRt()

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array]:
        call()
        interpreter = call.__self__
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


class TestLiteRtChannelsLast(TestLiteRt):
    options = {"layout": "nhwc"}
