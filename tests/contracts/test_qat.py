"""The contract of quantization-aware training."""

from __future__ import annotations

from typing import Any, ClassVar

from autoshrink.types import Settings
from tests.contracts.technique_contract import TechniqueContract


def stored_bits(structure: Any) -> float:
    """Of an element of the two large layers, which have equally many; 7 bits lie in whole bytes."""
    widths = [structure["bits"][f"{layer}.weight"] for layer in ("conv1", "conv2")]
    return sum(8 if bits == 7 else bits for bits in widths) / 2


class TestQat8Bit(TechniqueContract):
    name = "qat"
    settings: ClassVar[Settings] = {"allocation": "uniform", "weight_bits": 8, "epochs": 0.5}
    off: ClassVar[Settings] = {"allocation": "off"}

    def bits(self, structure: Any) -> float:
        return stored_bits(structure)


class TestQat3BitSymmetric(TechniqueContract):
    name = "qat"
    settings: ClassVar[Settings] = {"weight_bits": 3, "activation_bits": 6, "step": "observed", "epochs": 0.5}
    off: ClassVar[Settings] = {"allocation": "off"}

    def bits(self, structure: Any) -> float:
        return stored_bits(structure)


class TestQatMixed(TechniqueContract):
    name = "qat"
    settings: ClassVar[Settings] = {"allocation": "mixed", "average_bits": 4.5, "epochs": 0.5}
    off: ClassVar[Settings] = {"allocation": "off"}

    def bits(self, structure: Any) -> float:
        return stored_bits(structure)
