"""The contract of techniques, for students."""

from __future__ import annotations

from typing import ClassVar

from autoshrink.types import Settings
from tests.contracts.technique_contract import TechniqueContract

OFF = {"width": 1, "depth": 1, "convolutions": "dense"}
WITHOUT_A_DENSE_CONVOLUTION = frozenset({"grouped", "transformer", "fused_qkv", "tied", "two_outputs"})


class TestStudentOfTheFamily(TechniqueContract):
    name = "student"
    settings: ClassVar[Settings] = {"width": 0.5, "epochs": 1}
    off: ClassVar[Settings] = OFF


class TestStudentWithHints(TechniqueContract):
    name = "student"
    settings: ClassVar[Settings] = {"width": 0.5, "epochs": 0.5, "alpha": 0.5, "hint": 1.0}
    off: ClassVar[Settings] = OFF


class TestSeparableStudent(TechniqueContract):
    name = "student"
    settings: ClassVar[Settings] = {"convolutions": "separable", "epochs": 1}
    off: ClassVar[Settings] = OFF
    refuses = WITHOUT_A_DENSE_CONVOLUTION


class TestInvertedStudent(TechniqueContract):
    name = "student"
    settings: ClassVar[Settings] = {"convolutions": "inverted", "epochs": 1}
    off: ClassVar[Settings] = OFF
    refuses = WITHOUT_A_DENSE_CONVOLUTION
