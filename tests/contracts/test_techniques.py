"""The contract of techniques, for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from autoshrink.errors import StageError
from autoshrink.techniques import TECHNIQUES, get_technique
from autoshrink.types import Precision, Settings, Target
from tests.contracts.technique_contract import Contract, GraphTechniqueContract, TechniqueContract


class TestPruneByMagnitude(TechniqueContract):
    name = "prune"
    settings: ClassVar[Settings] = {"ratio": 0.5}
    off: ClassVar[Settings] = {"ratio": 0}


class TestPruneByTaylor(TechniqueContract):
    name = "prune"
    settings: ClassVar[Settings] = {"ratio": 0.5, "importance": "taylor"}
    off: ClassVar[Settings] = {"ratio": 0.0, "importance": "taylor"}


class TestFineTune(TechniqueContract):
    name = "finetune"
    settings: ClassVar[Settings] = {"epochs": 1}
    off: ClassVar[Settings] = {"epochs": 0}


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


def subclasses(contract: type[Contract]) -> Iterator[type[Contract]]:
    for child in contract.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_of_the_table_has_its_contract(name: str) -> None:
    covered = {child.name for child in subclasses(Contract) if hasattr(child, "settings")}
    assert name in covered, f"give {name} a subclass of a contract in this file"


def test_quantize_refuses_what_the_target_does_not_list() -> None:
    target = Target("narrow", "onnxruntime", {"fp32": Precision(), "fp16": Precision()})
    with pytest.raises(StageError, match="narrow has no int8_static; it has fp32, fp16"):
        get_technique("quantize").resolve({"scheme": "int8_static"}, target)
