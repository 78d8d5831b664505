"""The smallest set of recipes that serves every target of a study, and what each further recipe buys.

A recipe is one model to train, validate and maintain; each target gets it in its own compiled form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autoshrink.dashboard.view import TargetView
from autoshrink.errors import NothingFits
from autoshrink.package.candidates import Candidate
from autoshrink.package.choose import DEFAULT_DROP, LATENCY_NOISE
from autoshrink.search.limits import given
from autoshrink.target import Limits
from autoshrink.types import Recipe, TrialRecord


@dataclass(frozen=True)
class Service:
    """How a recipe serves a target.

    Attributes:
        record: its trial there.
        scored: the trial that its accuracy is of: `record`, or another target's where this one only compiles.
        penalty: its latency ratio over that of the target's best trial within the limits, 1 for that one itself; the
            same of sizes on a target that is not timed.
    """

    record: TrialRecord
    scored: TrialRecord
    penalty: float

    @property
    def is_timed(self) -> bool:
        """Whether `penalty` is of latencies, not of sizes."""
        return self.record.latency is not None

    @property
    def is_as_good(self) -> bool:
        """Whether nobody can tell its latency, or cares to tell its size, from the best one's."""
        return self.penalty <= 1 + LATENCY_NOISE


@dataclass(frozen=True)
class RecipeSet:
    """A set of recipes, and which of them serves which target.

    Attributes:
        recipes: the one that serves the most targets first.
        services: target -> by its recipe with the least penalty there.
    """

    recipes: tuple[Recipe, ...]
    services: Mapping[str, Service]

    @property
    def worst(self) -> str:
        """The target that is farthest from its own best."""
        return max(self.services, key=lambda target: self.services[target].penalty)

    def gains_over(self, smaller: RecipeSet) -> dict[str, tuple[float, float]]:
        """Target -> penalty in the smaller set and in this one, of those for which the difference can be told."""
        pairs = {name: (smaller.services[name].penalty, found.penalty) for name, found in self.services.items()}
        return {name: (before, now) for name, (before, now) in pairs.items() if before > now * (1 + LATENCY_NOISE)}


@dataclass(frozen=True)
class Across:
    """What serves the targets of a study.

    Attributes:
        sets: of each number of recipes the best set, from the smallest that serves all targets but `unserved` to the
            first after which one more brings no target nearer to its own best.
        drops: target -> what may be lost there, in the metric's unit.
        unserved: target -> why no recipe serves it.
        unchecked: target -> its limits on what was not measured there.
        tried: recipes that were measured or compiled on any target.
        everywhere: of those, how many on every target.
    """

    sets: tuple[RecipeSet, ...]
    drops: Mapping[str, float]
    unserved: Mapping[str, str]
    unchecked: Mapping[str, Sequence[str]]
    tried: int
    everywhere: int


def across(views: Mapping[str, TargetView], max_drop: float | None = None) -> Across:
    """The best set of recipes of each number, for the targets of `views`.

    A recipe serves a target when its trial there keeps the target's limits by its 95 % bounds and loses at most
    `max_drop`, else the target's own limit, else one point. What a target did not measure is not held against it; on
    one that only compiles, the accuracy is that of the recipe on another target, the worst where there are several.

    Of two sets with as many recipes the better is the one whose worst penalty is less, then the next worst, and so on;
    penalties within 4 % of 1 count as 1. Then the one with the smaller files. The best set is found exactly, by
    dynamic programming over sets of targets: the best recipe for each set of targets, then the best split of all
    targets into so many parts. It takes 3^targets steps for each number of recipes: a second for a dozen targets.
    """
    drops, unserved, unchecked = {}, {}, {}
    services: dict[str, dict[Recipe, Service]] = {}
    for name, view in views.items():
        own = view.target.limits
        drops[name] = max_drop if max_drop is not None else DEFAULT_DROP if own.drop is None else own.drop
        limits, unknown = view.applicable(replace(own, drop=drops[name]))
        if unknown:
            unchecked[name] = unknown
        found = _services(view, limits)
        if found:
            services[name] = found
        else:
            unserved[name] = _why_unserved(view, limits)
    built = [{record.recipe for record in view.records if record.artifact is not None} for view in views.values()]
    return Across(
        sets=tuple(_best_sets(services)),
        drops=drops,
        unserved=unserved,
        unchecked=unchecked,
        tried=len(set().union(*built)),
        everywhere=len(set.intersection(*built)) if built else 0,
    )


def _services(view: TargetView, limits: Limits) -> dict[Recipe, Service]:
    fitting = [c for c in view.candidates if c.keeps(given(limits))]
    best = min(map(_cost, fitting), default=1.0)
    return {c.record.recipe: Service(c.record, c.scored, _cost(c) / best) for c in fitting}


def _cost(candidate: Candidate) -> float:
    latency = candidate.record.latency
    return latency.ratio if latency and candidate.ratio is not None else candidate.size_bytes


def _why_unserved(view: TargetView, limits: Limits) -> str:
    try:
        view.choose(limits)
    except NothingFits as error:
        return str(error)
    return "no trial keeps the limits"


_Value = tuple[int, float]
"""Penalties and sizes of a set of targets, each in a form that adds up over disjoint sets of targets."""
_Split = tuple[_Value, tuple[int, ...]]
"""The value of a split of a set of targets, and its parts as bits."""


def _best_sets(services: Mapping[str, Mapping[Recipe, Service]]) -> Iterator[RecipeSet]:
    targets = list(services)
    whole = (1 << len(targets)) - 1
    best = _best_recipes(services)
    # Set of targets, as bits -> value of its best split into so many parts, and the parts. A part always holds the
    # first target that is left, so that no split is met twice.
    splits: dict[int, _Split] = {part: (value, (part,)) for part, (value, _) in best.items() if part & 1}
    last = None
    for _ in targets:
        if whole in splits:
            (penalty, _), parts = splits[whole]
            if last is not None and penalty >= last:
                return
            last = penalty
            yield _recipe_set({best[part][1] for part in parts}, services)
        splits = _one_more(splits, best, whole)


def _best_recipes(services: Mapping[str, Mapping[Recipe, Service]]) -> dict[int, tuple[_Value, Recipe]]:
    """Set of targets, as bits -> the one recipe that serves them best, with its value; where one serves them all."""
    targets = list(services)
    levels = sorted({_counted(found.penalty) for of_target in services.values() for found in of_target.values()})
    # A number with a digit for each level, the worst level first, that says how many targets are on it: numbers add up
    # as targets do, and the smaller is the better. No digit can overflow.
    weight = {level: (len(targets) + 1) ** place for place, level in enumerate(levels)}
    recipes = {recipe: None for of_target in services.values() for recipe in of_target}
    best: dict[int, tuple[_Value, Recipe]] = {}
    for recipe in recipes:
        values: dict[int, _Value] = {0: (0, 0.0)}
        for place, target in enumerate(targets):
            found = services[target].get(recipe)
            if found is None:
                continue
            smallest = min(_size(other) for other in services[target].values())
            own = (weight[_counted(found.penalty)], _size(found) / smallest)
            values |= {part | 1 << place: _add(value, own) for part, value in values.items()}
        for part, value in values.items():
            if part and (part not in best or value < best[part][0]):
                best[part] = (value, recipe)
    return best


def _one_more(splits: Mapping[int, _Split], best: Mapping[int, tuple[_Value, Recipe]], whole: int) -> dict[int, _Split]:
    """The best splits into one more part: one recipe for some of the targets, `splits` for the rest."""
    more = dict(splits)
    for rest, (value, parts) in splits.items():
        free = whole ^ rest
        part = free
        while part:
            if part & free & -free and part in best:
                together = _add(value, best[part][0])
                if rest | part not in more or together < more[rest | part][0]:
                    more[rest | part] = (together, (*parts, part))
            part = (part - 1) & free
    return more


def _recipe_set(recipes: set[Recipe], services: Mapping[str, Mapping[Recipe, Service]]) -> RecipeSet:
    serving = {
        target: min(
            (of_target[recipe] for recipe in recipes if recipe in of_target),
            key=lambda found: (_counted(found.penalty), _size(found), found.record.number),
        )
        for target, of_target in services.items()
    }
    served = [found.record.recipe for found in serving.values()]
    return RecipeSet(
        tuple(sorted(set(served), key=lambda recipe: (-served.count(recipe), served.index(recipe)))), serving
    )


def _counted(penalty: float) -> float:
    return 1.0 if penalty <= 1 + LATENCY_NOISE else penalty


def _size(found: Service) -> float:
    return float(found.record.artifact.size_bytes) if found.record.artifact else 0.0


def _add(one: _Value, other: _Value) -> _Value:
    return one[0] + other[0], one[1] + other[1]
