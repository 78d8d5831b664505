"""Optuna behind one small door: asks for recipes, is told records. The only import of optuna in the project."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from autoshrink.errors import AutoshrinkError
from autoshrink.search.space import draw, enumerate_recipes, parameters_of
from autoshrink.target import Limits
from autoshrink.types import Dimension, Range, Recipe, Scalar, Space, TrialRecord

DIRECTIONS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize", "minimize")
"""Of the metric, the latency ratio, and the bytes."""

ASKS_BEFORE_DRAWING = 4
"""How often the sampler may propose what is known before an unseen recipe is drawn at random."""

DRAWS = 100
"""Recipes that are drawn at random from a space too large to list, before it counts as used up."""

ENUMERABLE = 20_000
"""Spaces up to this many recipes are listed, so that a search knows when nothing is left."""


@dataclass(frozen=True)
class Suggestion:
    """A recipe to be tried, and Optuna's trial that must be told about it."""

    recipe: Recipe
    trial: optuna.Trial


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _stored(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Says a failure of the database as what it is: mostly a full disk."""

    @functools.wraps(method)
    def said(*arguments: _P.args, **named: _P.kwargs) -> _T:
        try:
            return method(*arguments, **named)
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            raise AutoshrinkError(
                f"study.db cannot be written ({cause}); look for room on its disk. Every finished trial is "
                "kept: `autoshrink resume STUDY` goes on"
            ) from error

    return said


class Sampler:
    """The sampler of one target.

    The records are the truth and the database is the sampler's memory of them: it is filled anew from the records at
    each start, so that it cannot disagree with them, whatever moment the last process died at.
    """

    @_stored
    def __init__(self, database: Path, name: str, space: Space, seed: int, limits: Limits, batch: int = 1) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._limits = limits
        self._batch = batch
        self._random = random.Random(seed)  # noqa: S311 - draws recipes, no secrets
        recipes = enumerate_recipes(space, ENUMERABLE)
        self._all = None if recipes is None else {recipe.key: recipe for recipe in recipes}
        self._known: set[str] = set()
        self._waiting: set[str] = set()
        self._study = _new_study(database, name, optuna.samplers.TPESampler(seed=seed, n_startup_trials=8))

    @_stored
    def learn(self, record: TrialRecord) -> None:
        """A record that was not asked for here: the baseline, or an earlier run's. Before anything is enqueued."""
        self._known.add(record.recipe.key)
        parameters = parameters_of(self._space, record.recipe)
        if parameters is not None:
            self._study.enqueue_trial(parameters)
            trial = self._study.ask()
            self.tell(Suggestion(draw(self._space, _Suggest(trial)), trial), record)

    @_stored
    def enqueue(self, recipe: Recipe) -> None:
        """Proposes a recipe to be asked for next; one that is known, or that the space does not hold, is left out."""
        parameters = parameters_of(self._space, recipe)
        if parameters is not None and recipe.key not in self._known | self._waiting:
            self._waiting.add(recipe.key)
            self._study.enqueue_trial(parameters)

    @_stored
    def ask(self) -> Suggestion | None:
        """A recipe that was not tried yet, or None when the space holds no other."""
        if self._all is not None and self._known.issuperset(self._all):
            return None
        for _ in range(ASKS_BEFORE_DRAWING):
            suggestion = self._ask()
            if suggestion:
                return suggestion
        unseen = self._unseen()
        if unseen is None:
            return None
        self.enqueue(unseen)
        return self._ask()

    def _unseen(self) -> Recipe | None:
        if self._all is not None:
            return self._random.choice([recipe for key, recipe in self._all.items() if key not in self._known])
        drawn = (
            draw(self._space, lambda _name, dimension: _random_value(dimension, self._random)) for _ in range(DRAWS)
        )
        return next((recipe for recipe in drawn if recipe.key not in self._known), None)

    def _ask(self) -> Suggestion | None:
        trial = self._study.ask()
        recipe = draw(self._space, _Suggest(trial))
        if recipe.key in self._known:
            # Told as failed, which the sampler leaves out of its model: counting one recipe twice would bend it.
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        self._known.add(recipe.key)
        return Suggestion(recipe, trial)

    @_stored
    def tell(self, suggestion: Suggestion, record: TrialRecord) -> None:
        """The outcome of a suggestion. What was not measured counts as failed; limits count as constraints."""
        trial = suggestion.trial
        trial.set_user_attr("record", record.number)
        if record.val is None or record.artifact is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, excess in excesses(record, self._limits, self._batch).items():
            trial.set_constraint(name, excess)
        # Where nothing is timed, all trials are equally fast to the sampler, and it goes by the others.
        ratio = record.latency.ratio if record.latency else 1.0
        self._study.tell(trial, [record.val.value, ratio, float(record.artifact.size_bytes)])


def _new_study(database: Path, name: str, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    storage = f"sqlite:///{database}"
    try:
        if name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
    except Exception:
        # Not a database any more (the disk was full, the file was cut). It holds nothing that the records do not.
        database.replace(database.with_suffix(".broken"))
    return optuna.create_study(storage=storage, study_name=name, directions=list(DIRECTIONS), sampler=sampler)


class _Suggest:
    """Optuna's suggestions as the space asks for them."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def __call__(self, name: str, dimension: Dimension) -> Scalar:
        value: Scalar = self._trial._suggest(name, distribution(dimension))
        return value


def _random_value(dimension: Dimension, source: random.Random) -> Scalar:
    if not isinstance(dimension, Range):
        return source.choice(dimension.values)
    if dimension.step is None:
        return source.uniform(dimension.low, dimension.high)
    return (
        dimension.low
        + source.randint(0, int((dimension.high - dimension.low) / dimension.step + 1e-9)) * dimension.step
    )


def distribution(dimension: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension."""
    if isinstance(dimension, Range):
        return FloatDistribution(dimension.low, dimension.high, step=dimension.step)
    return CategoricalDistribution(dimension.values)


def excesses(record: TrialRecord, limits: Limits, batch: int = 1) -> dict[str, float]:
    """Limit name -> by which share a record is over it (0 or less: it keeps it); of what was found out only.

    `batch` is the target's: rows of the call whose latency is known.
    """
    over: dict[str, float] = {}
    if limits.latency_ms is not None and record.latency is not None:
        over["latency"] = record.latency.ms / limits.latency_ms - 1
    if limits.size_bytes is not None and record.artifact is not None:
        over["size"] = record.artifact.size_bytes / limits.size_bytes - 1
    if limits.throughput is not None and record.latency is not None:
        over["throughput"] = limits.throughput / (batch / record.latency.ms * 1000) - 1
    for name, most in limits.figures.items():
        if name in record.figures:
            over[name] = record.figures[name].value / most - 1
    if limits.drop is not None and record.drop is not None:
        over["drop"] = record.drop - limits.drop
    return over
