"""The contract of techniques, for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import pytest

from autoshrink.techniques import TECHNIQUES
from autoshrink.types import Settings
from tests.contracts.technique_contract import Contract, TechniqueContract


class TestFineTune(TechniqueContract):
    name = "finetune"
    settings: ClassVar[Settings] = {"epochs": 1}
    off: ClassVar[Settings] = {"epochs": 0}
    smaller = False


def subclasses(contract: type[Contract]) -> Iterator[type[Contract]]:
    for child in contract.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_of_the_table_has_its_contract(name: str) -> None:
    # Also when this file is run alone.
    for path in Path(__file__).parent.glob("test_*.py"):
        import_module(f"{__package__}.{path.stem}")
    covered = {child.name for child in subclasses(Contract) if hasattr(child, "settings")}
    assert name in covered, f"give {name} a subclass of a contract in this folder"
