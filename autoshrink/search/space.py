"""A search space as a tree of choices: sampled, listed, mapped to and from recipes, reduced to what a target runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from autoshrink.errors import ConfigError
from autoshrink.target import Target
from autoshrink.techniques import TECHNIQUES, get_technique
from autoshrink.techniques.base import ModuleTechnique, Technique
from autoshrink.techniques.keys import value_key
from autoshrink.techniques.order import arrange
from autoshrink.types import Choice, Dimension, Range, Recipe, Scalar, Space, StageSpec

if TYPE_CHECKING:
    from autoshrink.task import Task

Choose = Callable[[str, Dimension], Scalar]
"""Gives the value of `technique.parameter`, or of `order(NAME|NAME)`, within a dimension."""

COVERED_SHARE = 0.1
"""A precision of matrix products that covers less than this share of the parameters changes nothing to be measured."""

WAYS_OFF = 2000
"""Combinations of a technique's settings that are looked through for one that leaves it out."""

FAMILY_PARAMETERS = ("width", "depth")
"""Of a student: they need the task's family of models."""

PRECISION_NEEDED = {"qat": "int8_static"}
"""Techniques whose result runs in one precision only."""

_T = TypeVar("_T")


def draw(space: Space, choose: Choose) -> Recipe:
    """The recipe that `choose` leads to. It is asked only for what matters: no dimension is dead.

    A parameter whose condition does not hold, the parameters of a technique that an earlier one switched off or made
    pointless, a technique that mends when nothing was changed, an order in which this recipe's stages do not move, and
    a dimension with one value are never asked.
    """
    stages: dict[str, StageSpec] = {}
    changed = False
    for name in TECHNIQUES:
        if name not in space.techniques:
            continue
        technique = get_technique(name)
        if (technique.only_after_change and not changed) or technique.excluded_by & stages.keys():
            continue
        settings = _settings(name, technique, space.techniques[name], choose)
        if settings is not None:
            stages[name] = StageSpec.of(name, settings)
            changed = changed or isinstance(technique, ModuleTechnique)
    return Recipe(_ordered(space.orders, tuple(stages.values()), choose))


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
            settings[parameter] = _on_grid(dimension, choose(f"{name}.{parameter}", dimension))
        if technique.is_off(settings):
            return None
    return settings


def _ordered(orders: Sequence[str], stages: tuple[StageSpec, ...], choose: Choose) -> tuple[StageSpec, ...]:
    offers: dict[tuple[StageSpec, ...], str] = {}
    for order in orders:
        offers.setdefault(arrange(stages, order), order)
    if len(offers) == 1:
        return next(iter(offers))
    names = tuple(offers.values())
    # Named by its offers: a sampler wants the same choices under a name each time.
    return arrange(stages, str(choose(f"order({'|'.join(names)})", Choice(names))))


def _is_order(name: str) -> bool:
    return name.startswith("order(")


def enumerate_recipes(space: Space, most: int) -> list[Recipe] | None:
    """Every recipe of the space, or None when it is continuous or holds more than `most`."""
    recipes: dict[Recipe, None] = {}
    for recipe, follow in _ways(lambda choose: draw(space, choose)):
        if follow.continuous or len(recipes) > most:
            return None
        recipes[recipe] = None
    return list(recipes)


def _ways(walk: Callable[[Choose], _T], early_first: bool = False) -> Iterator[tuple[_T, _Follow]]:
    """What `walk` gives for every series of choices; those that differ in their last choice first, or in an early one.

    Of a continuous dimension its two ends are taken.
    """
    pending: deque[tuple[Scalar, ...]] = deque([()])
    while pending:
        taken = pending.popleft() if early_first else pending.pop()
        follow = _Follow(taken)
        yield walk(follow), follow
        # The siblings of each choice made here for the first time; its own first value has just been followed.
        for depth in range(len(taken), len(follow.asked)):
            prefix = taken + tuple(values[0] for values in follow.asked[len(taken) : depth])
            pending.extend((*prefix, value) for value in follow.asked[depth][1:])


class _Follow:
    """Takes given values first and the first one of each dimension afterwards; remembers what it was asked."""

    def __init__(self, taken: tuple[Scalar, ...]) -> None:
        self._taken = taken
        self.asked: list[tuple[Scalar, ...]] = []
        self.given: dict[str, Scalar] = {}
        self.continuous = False

    def __call__(self, name: str, dimension: Dimension) -> Scalar:
        values = _values(dimension)
        if values is None and isinstance(dimension, Range):
            self.continuous = True
            values = (dimension.low, dimension.high)
        depth = len(self.asked)
        self.asked.append(values or ())
        self.given[name] = self._taken[depth] if depth < len(self._taken) else self.asked[depth][0]
        return self.given[name]


def _values(dimension: Dimension) -> tuple[Scalar, ...] | None:
    if isinstance(dimension, Choice):
        return dimension.values
    if dimension.step is None:
        return None
    count = int((dimension.high - dimension.low) / dimension.step + 1e-9) + 1
    return tuple(_on_grid(dimension, dimension.low + i * dimension.step) for i in range(count))


def _on_grid(dimension: Dimension, value: Scalar) -> Scalar:
    """The value without the rounding errors of its steps, so that equal recipes are one recipe."""
    if isinstance(dimension, Choice) or dimension.step is None or isinstance(value, str):
        return value
    return round(dimension.low + round((value - dimension.low) / dimension.step) * dimension.step, 10)


def _way_off(space: Space, name: str) -> dict[str, Scalar]:
    """The choices that leave a technique out of the recipe; empty when none does."""
    technique, dimensions = get_technique(name), space.techniques[name]
    ways = _ways(lambda choose: _settings(name, technique, dimensions, choose), early_first=True)
    return next((follow.given for settings, follow in islice(ways, WAYS_OFF) if settings is None), {})


def parameters_of(space: Space, recipe: Recipe) -> dict[str, Scalar] | None:
    """What `draw` must be given to arrive at `recipe`, or None when the space does not hold it."""
    chosen: dict[str, Scalar] = {}

    def look_up(name: str, dimension: Dimension) -> Scalar:
        wanted: Scalar | None
        technique, _, parameter = name.partition(".")
        if _is_order(name):
            offers = dimension.values if isinstance(dimension, Choice) else ()
            wanted = next((o for o in offers if arrange(recipe.stages, str(o)) == recipe.stages), None)
        else:
            settings = recipe.settings(technique)
            wanted = _way_off(space, technique).get(name) if settings is None else settings.get(parameter)
        if wanted is None or not _holds(dimension, wanted):
            raise LookupError
        chosen[name] = wanted
        return wanted

    try:
        return chosen if draw(space, look_up) == recipe else None
    except LookupError:
        return None


def complete(space: Space, wishes: Mapping[str, Scalar]) -> Recipe | None:
    """The recipe with every wish fulfilled, or None when the space cannot fulfil one.

    A wish is for `technique.parameter`, or for `order`. A technique without a wish is left out where that is possible;
    elsewhere the first value is taken.
    """
    open_wishes = dict(wishes)
    wished = {name.partition(".")[0] for name in wishes}

    def choose(name: str, dimension: Dimension) -> Scalar:
        wish = open_wishes.pop("order" if _is_order(name) else name, None)
        if wish is not None:
            if not _holds(dimension, wish):
                raise LookupError
            return wish
        technique = name.partition(".")[0]
        first = dimension.values[0] if isinstance(dimension, Choice) else dimension.low
        return first if technique in wished or _is_order(name) else _way_off(space, technique).get(name, first)

    try:
        recipe = draw(space, choose)
    except LookupError:
        return None
    # A wish that was never asked for is fulfilled when there was nothing to choose.
    for name, wish in open_wishes.items():
        technique, _, parameter = name.partition(".")
        if name == "order":
            if wish not in space.orders or arrange(recipe.stages, str(wish)) != recipe.stages:
                return None
        elif (recipe.settings(technique) or {}).get(parameter) != wish:
            return None
    return recipe


def _holds(dimension: Dimension, value: Scalar) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.values
    if isinstance(value, str) or not dimension.low <= value <= dimension.high:
        return False
    return abs(float(_on_grid(dimension, value)) - value) < 1e-8


@dataclass(frozen=True)
class Removal:
    """Something the search leaves out, and why."""

    what: str
    why: str


def reduce_space(
    space: Space, target: Target, capabilities: frozenset[str], task: Task, force: Iterable[str] = ()
) -> tuple[Space, tuple[Removal, ...]]:
    """The space without what the target cannot run or the task cannot do, and what was taken out.

    Args:
        space: as the user gave it.
        target: its precisions and what it avoids.
        capabilities: what the target's runtime reports on this machine.
        task: without a training set and a loss nothing that trains stays.
        force: keys of what stays although the target avoids it. That of a technique keeps all its values; that of a
            value keeps its technique with this value, without others that are avoided by a key of their own.

    Raises:
        ConfigError: nothing is left to search.
    """
    removed: list[Removal] = []
    techniques: dict[str, Mapping[str, Dimension]] = {}
    objections = _Objections(target, capabilities, task, frozenset(force))
    for name, dimensions in space.techniques.items():
        why = objections.to_technique(name)
        if why:
            removed.append(Removal(name, why))
            continue
        kept, out = _narrow(name, dimensions, objections)
        removed.extend(out)
        if kept is not None:
            techniques[name] = kept
    reduced = replace(space, techniques=techniques)
    recipes = enumerate_recipes(reduced, 1)
    if recipes is not None and all(not recipe.stages for recipe in recipes):
        reasons = "; ".join(f"{removal.what}: {removal.why}" for removal in removed)
        reasons = reasons or "it holds the baseline only"
        raise ConfigError([f"space {space.name}: nothing is left to search on {target.name} ({reasons})"])
    return reduced, tuple(removed)


def _narrow(
    name: str, dimensions: Mapping[str, Dimension], objections: _Objections
) -> tuple[dict[str, Dimension] | None, list[Removal]]:
    """The dimensions without the values that are objected to, None when a parameter has none left; and those values.

    From the last parameter to the first, since one that has no value left takes those with it under which it exists.
    """
    kept = dict(dimensions)
    barred: dict[tuple[str, Scalar], str] = {}
    removed: list[Removal] = []
    for parameter, described in reversed(list(get_technique(name).parameters.items())):
        dimension = kept.get(parameter, Choice((described.default,)))
        held = objections.to_other_than(name, parameter, dimension)
        if held is not None:
            kept[parameter] = Choice((held[0],))
            removed.insert(0, Removal(f"{name}.{parameter} other than {held[0]:g}", held[1]))
            continue
        values = _values(dimension)
        if values is None:
            continue
        reasons = {
            value: barred.get((parameter, value)) or objections.to_value(name, parameter, value) for value in values
        }
        left = tuple(value for value in values if not reasons[value])
        if left == values:
            continue
        out = [Removal(f"{name}.{parameter} {value}", why) for value, why in reasons.items() if why]
        removed = out + removed
        if left:
            kept[parameter] = Choice(left)
        elif described.when:
            earlier, needed = described.when
            barred.update(dict.fromkeys(((earlier, value) for value in needed), out[0].why))
        else:
            return None, removed
    return kept, removed


@dataclass(frozen=True)
class _Objections:
    """Why something cannot stay in the space; an empty text when it can."""

    target: Target
    capabilities: frozenset[str]
    task: Task
    force: frozenset[str]

    def to_technique(self, name: str) -> str:
        """The reason against the whole technique."""
        if get_technique(name).trains and not self.task.trains:
            return self._untrained(name)
        needed = PRECISION_NEEDED.get(name)
        lacking = _objection(needed, self.target, self.capabilities, self.task) if needed else ""
        if lacking:
            return f"needs {needed}: {lacking}"
        forced = name in self.force or any(key.startswith(f"{name}.") for key in self.force)
        return "" if forced else self._avoided(name)

    def to_value(self, name: str, parameter: str, value: Scalar) -> str:
        """The reason against one value of a parameter."""
        technique = get_technique(name)
        if value in technique.parameters[parameter].trains and not self.task.trains:
            return self._untrained(str(value))
        if (name, parameter) == ("quantize", "scheme"):
            why = _objection(str(value), self.target, self.capabilities, self.task)
            if why:
                return why
        key = value_key(name, parameter, value)
        if name in self.force or key in self.force or technique.is_off({parameter: value}):
            return ""
        return self._avoided(key)

    def to_other_than(self, name: str, parameter: str, dimension: Dimension) -> tuple[float, str] | None:
        """The only number that the task can do of a dimension that holds others, and the reason; None when it can."""
        still, why = get_technique(name).parameters[parameter].trains_above, ""
        if still is not None and not self.task.trains:
            why = self._untrained("it")
        elif name == "student" and parameter in FAMILY_PARAMETERS and self.task.student is None:
            still, why = 1.0, f"task {self.task.name} brings no student family"
        if still is None or not why:
            return None
        ends = dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high)
        return None if all(value == still for value in ends) else (still, why)

    def _untrained(self, what: str) -> str:
        return f"task {self.task.name} brings no training set and loss, which {what} needs"

    def _avoided(self, key: str) -> str:
        return f"{self.target.avoid[key]} (--force {key} keeps it)" if key in self.target.avoid else ""


def _objection(scheme: str, target: Target, capabilities: frozenset[str], task: Task) -> str:
    precision = {str(name): value for name, value in target.precisions.items()}.get(scheme)
    if precision is None:
        reasons = {str(name): why for name, why in target.unsupported.items()}
        return reasons.get(scheme, f"target {target.name} lists no such precision")
    if precision.requires and precision.requires not in capabilities:
        return f"needs {precision.requires}, which the runtime does not report on this machine"
    if scheme in ("int8_dynamic", "int8_weights", "int4_weights"):
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
