"""The contract, for sparsity."""

from __future__ import annotations

from typing import ClassVar

from autoshrink.types import Settings
from tests.contracts.technique_contract import TechniqueContract


class TestSparsifyByMagnitude(TechniqueContract):
    name = "sparsify"
    smaller = False
    settings: ClassVar[Settings] = {"ratio": 0.5, "epochs": 0}
    off: ClassVar[Settings] = {"ratio": 0}


class TestSparsifyByWanda(TechniqueContract):
    name = "sparsify"
    smaller = False
    settings: ClassVar[Settings] = {"pattern": "2:4", "importance": "wanda", "epochs": 0}
    off: ClassVar[Settings] = {"pattern": "unstructured", "ratio": 0.0, "importance": "wanda"}


class TestSparsifyByMovementInTraining(TechniqueContract):
    name = "sparsify"
    smaller = False
    settings: ClassVar[Settings] = {"ratio": 0.5, "importance": "movement", "schedule": "gradual", "epochs": 0.5}
    off: ClassVar[Settings] = {"ratio": 0.0, "importance": "movement", "schedule": "gradual"}
