"""The orders in which the stages of a recipe may stand: the table's, and the alternatives that a space may offer."""

from __future__ import annotations

from collections.abc import Iterable

from autoshrink.techniques import TECHNIQUES
from autoshrink.types import StageSpec

ORDERS = {
    "pipeline": "the order of the table",
    "factorize_first": "factorization before structured pruning, which then removes channels of the factors",
    "distill_first": "the student is distilled before it is pruned or factorized instead of afterwards",
}
"""Name -> what it does."""


def arrange(stages: Iterable[StageSpec], order: str) -> tuple[StageSpec, ...]:
    """The stages in an order, whatever order they come in. One that has nothing to move is that of the table."""
    place = list(TECHNIQUES)
    by_name = {stage.technique: stage for stage in sorted(stages, key=lambda stage: place.index(stage.technique))}
    names = list(by_name)
    if order == "factorize_first" and {"prune", "factorize"} <= by_name.keys():
        _move(names, "factorize", names.index("prune"))
    elif order == "distill_first" and {"student", "finetune"} <= by_name.keys():
        _move(names, "finetune", names.index("student") + 1)
    return tuple(by_name[name] for name in names)


def _move(names: list[str], name: str, index: int) -> None:
    names.remove(name)
    names.insert(index, name)
