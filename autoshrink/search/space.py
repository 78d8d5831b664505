"""A search space as a tree of choices: sampled, listed, mapped to and from recipes, reduced to what a target runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoshrink.errors import ConfigError
from autoshrink.techniques import TECHNIQUES, get_technique
from autoshrink.techniques.base import ModuleTechnique, Technique
from autoshrink.types import Choice, Dimension, Recipe, Scalar, Space, StageSpec, Target

if TYPE_CHECKING:
    from autoshrink.task import Task

Choose = Callable[[str, Dimension], Scalar]
"""Gives the value of `technique.parameter` within a dimension."""

COVERED_SHARE = 0.1
"""Dynamic int8 that covers less than this share of the parameters changes nothing that could be measured."""


def draw(space: Space, choose: Choose) -> Recipe:
    """The recipe that `choose` leads to. It is asked only for what matters: no dimension is dead.

    A parameter whose condition does not hold, the parameters of a technique that an earlier one switched off, a
    technique that mends when nothing was changed, and a dimension with one value are never asked.
    """
    stages: list[StageSpec] = []
    changed = False
    for name in TECHNIQUES:
        if name not in space.techniques:
            continue
        technique = get_technique(name)
        if technique.only_after_change and not changed:
            continue
        settings = _settings(name, technique, space.techniques[name], choose)
        if settings is not None:
            stages.append(StageSpec.of(name, settings))
            changed = changed or isinstance(technique, ModuleTechnique)
    return Recipe(tuple(stages))


def _settings(
    name: str, technique: Technique, dimensions: Mapping[str, Dimension], choose: Choose
) -> dict[str, Scalar] | None:
    settings: dict[str, Scalar] = {}
    for parameter, described in technique.parameters.items():
        if described.when and settings.get(described.when[0]) not in described.when[1]:
            continue
        dimension = dimensions.get(parameter, Choice((described.default,)))
        if isinstance(dimension, Choice) and len(dimension.values) == 1:
            settings[parameter] = dimension.values[0]
        else:
            settings[parameter] = choose(f"{name}.{parameter}", dimension)
        if technique.is_off(settings):
            return None
    return settings


def enumerate_recipes(space: Space, most: int) -> list[Recipe] | None:
    """Every recipe of the space, or None when it is continuous or holds more than `most`."""
    recipes: dict[str, Recipe] = {}
    pending: list[tuple[Scalar, ...]] = [()]
    while pending:
        taken = pending.pop()
        follow = _Follow(taken)
        recipe = draw(space, follow)
        if follow.continuous or len(recipes) > most:
            return None
        recipes[recipe.key] = recipe
        # The siblings of each choice made here for the first time; its own first value has just been followed.
        for depth in range(len(taken), len(follow.asked)):
            prefix = taken + tuple(values[0] for values in follow.asked[len(taken) : depth])
            pending.extend((*prefix, value) for value in follow.asked[depth][1:])
    return list(recipes.values())


class _Follow:
    """Takes given values first and the first one of each dimension afterwards; remembers what it was asked."""

    def __init__(self, taken: tuple[Scalar, ...]) -> None:
        self._taken = taken
        self.asked: list[tuple[Scalar, ...]] = []
        self.continuous = False

    def __call__(self, _name: str, dimension: Dimension) -> Scalar:
        values = _values(dimension)
        self.continuous = self.continuous or values is None
        self.asked.append(values or (0.0,))
        depth = len(self.asked) - 1
        return self._taken[depth] if depth < len(self._taken) else self.asked[depth][0]


def _values(dimension: Dimension) -> tuple[Scalar, ...] | None:
    if isinstance(dimension, Choice):
        return dimension.values
    if dimension.step is None:
        return None
    count = int((dimension.high - dimension.low) / dimension.step + 1e-9) + 1
    return tuple(dimension.low + i * dimension.step for i in range(count))


def parameters_of(space: Space, recipe: Recipe) -> dict[str, Scalar] | None:
    """What `draw` must be given to arrive at `recipe`, or None when the space does not hold it."""
    chosen: dict[str, Scalar] = {}

    def look_up(name: str, dimension: Dimension) -> Scalar:
        technique, _, parameter = name.partition(".")
        settings = recipe.settings(technique)
        wanted: Scalar | None
        if settings is None:
            described = get_technique(technique)
            offers = dimension.values if isinstance(dimension, Choice) else ()
            wanted = next((value for value in offers if described.is_off({parameter: value})), None)
        else:
            wanted = settings.get(parameter)
        if wanted is None or not _holds(dimension, wanted):
            raise LookupError
        chosen[name] = wanted
        return wanted

    try:
        return chosen if draw(space, look_up) == recipe else None
    except LookupError:
        return None


def complete(space: Space, wishes: Mapping[str, Scalar]) -> Recipe | None:
    """The recipe with every wish fulfilled and the first value elsewhere, or None when the space cannot fulfil one."""
    open_wishes = dict(wishes)

    def choose(name: str, dimension: Dimension) -> Scalar:
        wish = open_wishes.pop(name, None)
        if wish is not None and _holds(dimension, wish):
            return wish
        if wish is not None:
            raise LookupError
        return dimension.values[0] if isinstance(dimension, Choice) else dimension.low

    try:
        recipe = draw(space, choose)
    except LookupError:
        return None
    # A wish that was never asked for is fulfilled when the dimension has that one value.
    for name, wish in open_wishes.items():
        technique, _, parameter = name.partition(".")
        if (recipe.settings(technique) or {}).get(parameter) != wish:
            return None
    return recipe


def _holds(dimension: Dimension, value: Scalar) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.values
    return not isinstance(value, str) and dimension.low <= value <= dimension.high


@dataclass(frozen=True)
class Removal:
    """Something the search leaves out, and why."""

    what: str
    why: str


def reduce_space(
    space: Space, target: Target, capabilities: frozenset[str], task: Task
) -> tuple[Space, tuple[Removal, ...]]:
    """The space without what the target cannot run or the task cannot do, and what was taken out.

    Raises:
        ConfigError: nothing is left to search.
    """
    removed: list[Removal] = []
    techniques: dict[str, Mapping[str, Dimension]] = {}
    for name, dimensions in space.techniques.items():
        if get_technique(name).trains and not task.trains:
            removed.append(Removal(name, f"task {task.name} brings no training set and loss, which {name} needs"))
        else:
            techniques[name] = dimensions
    schemes = techniques.get("quantize", {}).get("scheme")
    if isinstance(schemes, Choice):
        kept = []
        for scheme in schemes.values:
            why = _objection(str(scheme), target, capabilities, task)
            if why:
                removed.append(Removal(f"quantize.scheme {scheme}", why))
            else:
                kept.append(scheme)
        if kept:
            techniques["quantize"] = {**techniques["quantize"], "scheme": Choice(tuple(kept))}
        else:
            del techniques["quantize"]
    reduced = replace(space, techniques=techniques)
    recipes = enumerate_recipes(reduced, 1)
    if recipes is not None and all(not recipe.stages for recipe in recipes):
        reasons = "; ".join(f"{removal.what}: {removal.why}" for removal in removed)
        reasons = reasons or "it holds the baseline only"
        raise ConfigError([f"space {space.name}: nothing is left to search on {target.name} ({reasons})"])
    return reduced, tuple(removed)


def _objection(scheme: str, target: Target, capabilities: frozenset[str], task: Task) -> str:
    precision = {str(name): value for name, value in target.precisions.items()}.get(scheme)
    if precision is None:
        reasons = {str(name): why for name, why in target.unsupported.items()}
        return reasons.get(scheme, f"target {target.name} lists no such precision")
    if precision.requires and precision.requires not in capabilities:
        return f"needs {precision.requires}, which the runtime does not report on this machine"
    if scheme == "int8_dynamic":
        covered, total = _matrix_parameters(task)
        if covered < COVERED_SHARE * total:
            return (
                f"quantizes {' and '.join(precision.operators)} only, which hold {covered:,} of the model's "
                f"{total:,} parameters (under {COVERED_SHARE:.0%})"
            )
    return ""


def _matrix_parameters(task: Task) -> tuple[int, int]:
    """Parameters in linear and attention layers, and in the whole model."""
    from torch import nn

    model = task.model()
    covered = {
        id(parameter): parameter.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.MultiheadAttention)
        for parameter in module.parameters()
    }
    return sum(covered.values()), sum(parameter.numel() for parameter in model.parameters())
