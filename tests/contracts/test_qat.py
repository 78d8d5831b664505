"""The contract of quantization-aware training."""

from __future__ import annotations

from typing import Any, ClassVar

from autoshrink.types import Settings
from tests.contracts.technique_contract import TechniqueContract


class TestQat8Bit(TechniqueContract):
    name = "qat"
    settings: ClassVar[Settings] = {"allocation": "uniform", "weight_bits": 8, "epochs": 0.5}
    off: ClassVar[Settings] = {"allocation": "off"}

    def bits(self, structure: Any) -> float:
        # Both have equally many elements.
        bits: float = (structure["bits"]["conv1.weight"] + structure["bits"]["conv2.weight"]) / 2
        return bits


class TestQat3BitSymmetric(TechniqueContract):
    name = "qat"
    settings: ClassVar[Settings] = {"weight_bits": 3, "activation_bits": 6, "step": "observed", "epochs": 0.5}
    off: ClassVar[Settings] = {"allocation": "off"}

    def bits(self, structure: Any) -> float:
        # Both have equally many elements.
        bits: float = (structure["bits"]["conv1.weight"] + structure["bits"]["conv2.weight"]) / 2
        return bits


class TestQatMixed(TechniqueContract):
    name = "qat"
    settings: ClassVar[Settings] = {"allocation": "mixed", "average_bits": 4.5, "epochs": 0.5}
    off: ClassVar[Settings] = {"allocation": "off"}

    def bits(self, structure: Any) -> float:
        # Both have equally many elements.
        bits: float = (structure["bits"]["conv1.weight"] + structure["bits"]["conv2.weight"]) / 2
        return bits
