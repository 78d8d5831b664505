"""The contract of techniques, for structured pruning."""

from __future__ import annotations

from typing import ClassVar

from autoshrink.types import Settings
from tests.contracts.technique_contract import TechniqueContract


class TestPruneByMagnitude(TechniqueContract):
    name = "prune"
    settings: ClassVar[Settings] = {"ratio": 0.5}
    off: ClassVar[Settings] = {"ratio": 0}


class TestPruneByTaylor(TechniqueContract):
    name = "prune"
    settings: ClassVar[Settings] = {"ratio": 0.5, "importance": "taylor"}
    off: ClassVar[Settings] = {"ratio": 0.0, "importance": "taylor"}


class TestPrunePerLayer(TechniqueContract):
    name = "prune"
    settings: ClassVar[Settings] = {"ratio": 0.5, "scope": "per_layer"}
    off: ClassVar[Settings] = {"ratio": 0, "scope": "per_layer"}


class TestPruneHeads(TechniqueContract):
    name = "prune"
    settings: ClassVar[Settings] = {"ratio": 0.5, "heads": "remove"}
    off: ClassVar[Settings] = {"ratio": 0, "heads": "remove"}


class TestPruneInSteps(TechniqueContract):
    name = "prune"
    settings: ClassVar[Settings] = {"ratio": 0.5, "importance": "taylor", "steps": 2, "step_epochs": 0.25}
    off: ClassVar[Settings] = {"ratio": 0, "steps": 2}
