"""The contract, for low-rank factorization."""

from __future__ import annotations

from typing import ClassVar

from autoshrink.types import Settings
from tests.contracts.technique_contract import TechniqueContract


class TestFactorizeByEnergy(TechniqueContract):
    name = "factorize"
    settings: ClassVar[Settings] = {"energy": 0.5}
    off: ClassVar[Settings] = {"energy": 1}


class TestFactorizeSpatially(TechniqueContract):
    name = "factorize"
    settings: ClassVar[Settings] = {"energy": 0.5, "convolutions": "spatial"}
    off: ClassVar[Settings] = {"energy": 1.0, "convolutions": "spatial"}


class TestFactorizeByBudget(TechniqueContract):
    name = "factorize"
    settings: ClassVar[Settings] = {"rule": "budget", "budget": 0.9}
    off: ClassVar[Settings] = {"rule": "budget", "budget": 1}
