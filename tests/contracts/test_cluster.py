"""Weight sharing keeps the contract of techniques."""

from __future__ import annotations

from typing import Any, ClassVar

from autoshrink.types import Settings
from tests.contracts.technique_contract import TechniqueContract


class TestClusterTrained(TechniqueContract):
    name = "cluster"
    settings: ClassVar[Settings] = {"centroids": 8}
    off: ClassVar[Settings] = {"centroids": 0}

    def bits(self, structure: Any) -> float:
        return 3


class TestClusterUntrained(TechniqueContract):
    name = "cluster"
    settings: ClassVar[Settings] = {"centroids": 4, "epochs": 0, "keep": "none"}
    off: ClassVar[Settings] = {"centroids": 0, "epochs": 0}

    def bits(self, structure: Any) -> float:
        return 2
