"""In what the recipes of trials differ, setting by setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoshrink.types import Recipe, Scalar

ABSENT = "-"
"""In the place of a setting of a stage that a recipe does not have."""
DEFAULT = "default"
"""In the place of a setting that a recipe's stage does not name."""


@dataclass(frozen=True)
class SettingRow:
    """A setting over all recipes.

    Attributes:
        stage: the technique.
        setting: its name; empty for the row that says which recipes have the stage.
        values: of each recipe, as they are written.
    """

    stage: str
    setting: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether not all recipes have the same."""
        return len(set(self.values)) > 1


def setting_rows(recipes: Sequence[Recipe]) -> list[SettingRow]:
    """Every stage and setting of any of the recipes, in the order of the stages; equal ones too."""
    rows = []
    for stage in _stages(recipes):
        found = [recipe.settings(stage) for recipe in recipes]
        rows.append(SettingRow(stage, "", tuple("no" if each is None else "yes" for each in found)))
        for setting in dict.fromkeys(name for each in found if each for name in each):
            values = (ABSENT if each is None else _text(each.get(setting)) for each in found)
            rows.append(SettingRow(stage, setting, tuple(values)))
    orders = [[stage.technique for stage in recipe.stages] for recipe in recipes]
    shared = set(orders[0]).intersection(*orders) if orders else set()
    kept = [" → ".join(stage for stage in order if stage in shared) for order in orders]
    if len(set(kept)) > 1:
        rows.append(SettingRow("order", "", tuple(" → ".join(order) for order in orders)))
    return rows


def _stages(recipes: Sequence[Recipe]) -> list[str]:
    """Techniques of all recipes; where one has a stage that another lacks, it stands behind those that it follows."""
    found: list[str] = []
    for recipe in recipes:
        place = 0
        for stage in recipe.stages:
            if stage.technique in found:
                place = found.index(stage.technique) + 1
            else:
                found.insert(place, stage.technique)
                place += 1
    return found


def _text(value: Scalar | None) -> str:
    if value is None:
        return DEFAULT
    return f"{value:g}" if isinstance(value, float) else str(value)
