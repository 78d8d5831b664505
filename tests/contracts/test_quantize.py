"""The contract of techniques, for each precision of `quantize`."""

from __future__ import annotations

from typing import ClassVar

import pytest

from autoshrink.errors import StageError
from autoshrink.target import Precision, Target
from autoshrink.techniques import get_technique
from autoshrink.types import Settings
from tests.contracts.technique_contract import GraphTechniqueContract


class TestQuantizeStatic(GraphTechniqueContract):
    name = "quantize"
    settings: ClassVar[Settings] = {"scheme": "int8_static", "samples": 32}
    off: ClassVar[Settings] = {"scheme": "fp32"}
    agreement_db = 15.0
    # Tiny graphs: what the integers save, the scales and the extra nodes cost.
    smaller = False


class TestQuantizeDynamic(GraphTechniqueContract):
    name = "quantize"
    settings: ClassVar[Settings] = {"scheme": "int8_dynamic"}
    off: ClassVar[Settings] = {"scheme": "fp32"}
    agreement_db = 20.0
    smaller = False


class TestQuantizeHalf(GraphTechniqueContract):
    name = "quantize"
    settings: ClassVar[Settings] = {"scheme": "fp16"}
    off: ClassVar[Settings] = {"scheme": "fp32"}
    agreement_db = 50.0


class TestQuantizeWeightsTo8Bits(GraphTechniqueContract):
    name = "quantize"
    settings: ClassVar[Settings] = {"scheme": "int8_weights", "block": 64, "rounding": "hqq"}
    off: ClassVar[Settings] = {"scheme": "fp32"}
    agreement_db = 30.0


class TestQuantizeWeightsTo4Bits(GraphTechniqueContract):
    name = "quantize"
    settings: ClassVar[Settings] = {"scheme": "int4_weights", "block": 32}
    off: ClassVar[Settings] = {"scheme": "fp32"}
    agreement_db = 12.0


class TestQuantizeWeightsByGptq(GraphTechniqueContract):
    name = "quantize"
    settings: ClassVar[Settings] = {"scheme": "int4_weights", "rounding": "gptq"}
    off: ClassVar[Settings] = {"scheme": "fp32"}
    agreement_db = 12.0


def test_quantize_refuses_what_the_target_does_not_list() -> None:
    target = Target("narrow", "onnxruntime", {"fp32": Precision(), "fp16": Precision()})
    with pytest.raises(StageError, match="narrow has no int8_static; it has fp32, fp16"):
        get_technique("quantize").resolve({"scheme": "int8_static"}, target)
