"""Recipes whose accuracy differs between the targets of a study by more than chance allows, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoshrink.dashboard.view import TargetView
from autoshrink.types import LOW_BIT_WEIGHTS, Recipe, TrialRecord

LAYERS_SHOWN = 3


@dataclass(frozen=True)
class Disagreement:
    """A recipe that two targets do not agree about.

    Attributes:
        high: its trial on the target where it is the most accurate.
        low: its trial on another.
        reasons: what the audits of both say, or that they say nothing; then how the outputs agree.
    """

    recipe: Recipe
    high: TrialRecord
    low: TrialRecord
    reasons: tuple[str, ...]

    @property
    def difference(self) -> float:
        """In the metric's unit."""
        return accuracy(self.high) - accuracy(self.low)


def disagreements(views: Mapping[str, TargetView]) -> tuple[int, list[Disagreement]]:
    """How many recipes were measured on several targets, and those on which the targets disagree, the most so first.

    The accuracies are of the same val samples. How far they may be apart by chance is taken from the intervals of both
    drops (Zou and Donner 2008, equation 8), which compare each trial with its target's baseline sample by sample; from
    the intervals of the accuracies for the baseline itself. Both are treated as independent, which makes this see
    rather too few differences.
    """
    by_recipe: dict[Recipe, list[TrialRecord]] = {}
    for view in views.values():
        for record in view.records:
            if record.is_scored:
                by_recipe.setdefault(record.recipe, []).append(record)
    shared = {recipe: records for recipe, records in by_recipe.items() if len({r.target for r in records}) > 1}
    found = []
    for recipe, records in shared.items():
        high = max(records, key=accuracy)
        found += [
            Disagreement(recipe, high, low, _reasons(high, low, views))
            for low in records
            if low.target != high.target and _differ(high, low)
        ]
    return len(shared), sorted(found, key=lambda each: -each.difference)


def accuracy(record: TrialRecord) -> float:
    """The metric on val of a trial that was scored."""
    if record.val is None:
        raise ValueError(f"trial {record.number} of {record.target} was not measured")
    return record.val.value


def _differ(high: TrialRecord, low: TrialRecord) -> bool:
    return accuracy(high) - accuracy(low) > math.hypot(_reach(high)[0], _reach(low)[1])


def _reach(record: TrialRecord) -> tuple[float, float]:
    """How far the accuracy may lie below and above what was found."""
    if record.recipe.stages and record.drop is not None and record.drop_ci is not None:
        return record.drop_ci.high - record.drop, record.drop - record.drop_ci.low
    if record.val is None:
        return math.inf, math.inf
    return record.val.value - record.val.ci.low, record.val.ci.high - record.val.value


def _reasons(high: TrialRecord, low: TrialRecord, views: Mapping[str, TargetView]) -> tuple[str, ...]:
    audited = list(_audited(high, low, views)) or ["the audits show no difference between the two"]
    if high.agreement_db is not None and low.agreement_db is not None:
        audited.append(
            f"outputs agree with the float model to {high.agreement_db:.0f} dB on {high.target} and "
            f"{low.agreement_db:.0f} dB on {low.target}"
        )
    return tuple(audited)


def _audited(high: TrialRecord, low: TrialRecord, views: Mapping[str, TargetView]) -> Iterator[str]:
    floats = {record.target: _float_layers(record) for record in (high, low)}
    precision = high.recipe.precision
    for record in (high, low):
        kinds = {str(name): kind for name, kind in views[record.target].target.precisions.items()}
        kind = kinds.get(precision)
        if kind and kind.kernels == "storage" and precision != "fp32":
            yield f"{record.target} only stores {precision}, and computes in fp32"
        # Layers that both leave in float make no difference.
        if floats[record.target] and floats[high.target] != floats[low.target] and record.audit:
            names = floats[record.target]
            shown = ", ".join(names[:LAYERS_SHOWN]) + (", ..." if len(names) > LAYERS_SHOWN else "")
            yield f"{record.target} runs {len(names)} of {len(record.audit.layers)} layers in float: {shown}"
        for note in record.audit.notes if record.audit else ():
            yield f"{record.target}: {note}"


def _float_layers(record: TrialRecord) -> list[str]:
    """Names of the layers that stayed in float although the recipe asks for integers."""
    if record.audit is None or not record.recipe.precision.startswith(("int8", "int4")):
        return []
    return [layer.name for layer in record.audit.layers if not layer.is_int8 and layer.precision != LOW_BIT_WEIGHTS]
