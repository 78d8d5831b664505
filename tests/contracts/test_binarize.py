"""Binary and ternary weights keep the contract of techniques."""

from __future__ import annotations

from typing import Any, ClassVar

from autoshrink.types import Settings
from tests.contracts.technique_contract import TechniqueContract


class TestBinary(TechniqueContract):
    name = "binarize"
    settings: ClassVar[Settings] = {"epochs": 1}
    off: ClassVar[Settings] = {"values": "off"}

    def bits(self, structure: Any) -> float:
        return 1


class TestTernary(TechniqueContract):
    name = "binarize"
    settings: ClassVar[Settings] = {"values": "ternary", "keep": "last", "epochs": 0.5}
    off: ClassVar[Settings] = {"values": "off", "epochs": 1}

    def bits(self, structure: Any) -> float:
        return 2
