"""What recipes differ in: whether they use a technique, and what each is set to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoshrink.dashboard.figures import stage_place
from autoshrink.types import Scalar, TrialRecord

PRECISION = "precision"
_NAMES = {"finetune": "fine-tune", "qat": "QAT"}


@dataclass(frozen=True)
class Factor:
    """Something that recipes differ in.

    Attributes:
        name: as it is shown, such as `prune ratio`, `prune or not` or `precision`.
        values: of each record; None where the recipe has no such setting.
    """

    name: str
    values: tuple[Scalar | None, ...]

    @property
    def distinct(self) -> list[Scalar]:
        """The values that there are, numbers by size before texts."""
        return sorted({value for value in self.values if value is not None}, key=sort_key)


def sort_key(value: Scalar) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    return (True, 0.0, value) if isinstance(value, str) else (False, float(value), "")


def settings(records: Sequence[TrialRecord]) -> list[Factor]:
    """The settings that at least two of `records` have differently, in the order of the pipeline, precision last.

    Precision takes the place of the scheme of `quantize`, which only some recipes have.
    """
    found: dict[tuple[str, str], list[Scalar | None]] = {}
    for place, record in enumerate(records):
        for stage in record.recipe.stages:
            for parameter, value in stage.settings:
                if (stage.technique, parameter) != ("quantize", "scheme"):
                    column = found.setdefault((stage.technique, parameter), [None] * len(records))
                    column[place] = value
    keys = sorted(found, key=lambda key: (stage_place(key[0]), key[1]))
    factors = [Factor(f"{technique_name(key[0])} {key[1].replace('_', ' ')}", tuple(found[key])) for key in keys]
    factors.append(Factor(PRECISION, tuple(record.recipe.precision.replace("_", " ") for record in records)))
    return [factor for factor in factors if len(factor.distinct) > 1]


def uses(records: Sequence[TrialRecord]) -> list[Factor]:
    """The techniques that some of `records` use and others do not; `quantize` is told by its precision."""
    names = dict.fromkeys(stage.technique for record in records for stage in record.recipe.stages)
    factors = [
        Factor(
            f"{technique_name(name)} or not",
            tuple("yes" if record.recipe.settings(name) is not None else "no" for record in records),
        )
        for name in sorted(names, key=stage_place)
        if name != "quantize"
    ]
    return [factor for factor in factors if len(factor.distinct) > 1]


def technique_name(technique: str) -> str:
    """As it is shown: `fine-tune` for `finetune`."""
    return _NAMES.get(technique, technique)
