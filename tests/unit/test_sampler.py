from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autoshrink.config import load_space
from autoshrink.search import study
from autoshrink.search.seeding import start_recipes
from autoshrink.search.space import complete, draw, enumerate_recipes
from autoshrink.search.study import ASKS_BEFORE_DRAWING, Sampler, Suggestion, excesses
from autoshrink.target import Limits
from autoshrink.types import Choice, Outcome, Range, Recipe, Scalar, Space, TrialRecord
from tests.unit.test_front import record

SPACE = Space(
    "s",
    {
        "prune": {"ratio": Choice((0.0, 0.25, 0.5, 0.75))},
        "quantize": {"scheme": Choice(("fp32", "fp16", "int8_static"))},
    },
)


def measured(recipe: Recipe, number: int) -> TrialRecord:
    made = record(number, 0.9 - 0.01 * number, 1.0 / (number + 1), 1000 - number)
    return TrialRecord(**{**made.__dict__, "recipe": recipe})


def test_each_recipe_is_asked_once_until_none_is_left(tmp_path: Path) -> None:
    sampler = Sampler(tmp_path / "study.db", "a", SPACE, 0, Limits())
    sampler.learn(measured(Recipe(), 0))
    seen = []
    while (suggestion := sampler.ask()) is not None:
        seen.append(suggestion.recipe.key)
        sampler.tell(suggestion, measured(suggestion.recipe, len(seen)))
    everything = {recipe.key for recipe in enumerate_recipes(SPACE, 100) or []}
    assert len(seen) == len(set(seen)) == 11
    assert set(seen) == everything - {Recipe().key}


def test_what_is_enqueued_comes_first_and_a_known_recipe_never(tmp_path: Path) -> None:
    recipes = enumerate_recipes(SPACE, 100) or []
    sampler = Sampler(tmp_path / "study.db", "a", SPACE, 0, Limits())
    sampler.learn(measured(recipes[3], 0))
    for recipe in (recipes[5], recipes[3], recipes[1]):
        sampler.enqueue(recipe)
    first, second = sampler.ask(), sampler.ask()
    assert first is not None and second is not None
    assert [first.recipe, second.recipe] == [recipes[5], recipes[1]]


def test_the_same_seed_asks_the_same(tmp_path: Path) -> None:
    def asked(name: str) -> list[str]:
        sampler = Sampler(tmp_path / "study.db", name, SPACE, 7, Limits())
        found = []
        for number in range(6):
            suggestion = sampler.ask()
            assert suggestion is not None
            sampler.tell(suggestion, measured(suggestion.recipe, number))
            found.append(suggestion.recipe.key)
        return found

    assert asked("a") == asked("b")


def test_optuna_knows_values_constraints_and_failures(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    sampler = Sampler(database, "a", SPACE, 0, Limits(size_bytes=999))
    good, bad = sampler.ask(), sampler.ask()
    assert good is not None and bad is not None
    sampler.tell(good, measured(good.recipe, 1))
    sampler.tell(bad, TrialRecord(2, "target", bad.recipe, Outcome.FAILED, "why"))
    loaded = optuna.load_study(study_name="a", storage=f"sqlite:///{database}")
    states = [trial.state for trial in loaded.trials]
    assert states.count(TrialState.FAIL) == 1
    assert [trial.values for trial in loaded.best_trials] == [[0.89, 0.5, 999.0]]
    over = Sampler(database, "b", SPACE, 0, Limits(size_bytes=100))
    suggestion = over.ask()
    assert suggestion is not None
    over.tell(suggestion, measured(suggestion.recipe, 1))
    assert optuna.load_study(study_name="b", storage=f"sqlite:///{database}").best_trials == []


def test_a_broken_database_is_set_aside_and_filled_again_from_the_records(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    database.write_bytes(b"this is no database at all" * 100)
    sampler = Sampler(database, "a", SPACE, 0, Limits())
    known = measured(Recipe(), 0)
    sampler.learn(known)
    assert (tmp_path / "study.broken").exists()
    loaded = optuna.load_study(study_name="a", storage=f"sqlite:///{database}")
    assert [trial.values for trial in loaded.trials] == [[0.9, 1.0, 1000.0]]


def test_a_resumed_sampler_does_not_ask_what_the_records_know(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    sampler = Sampler(database, "a", SPACE, 0, Limits())
    records = []
    for number in range(5):
        suggestion = sampler.ask()
        assert suggestion is not None
        records.append(measured(suggestion.recipe, number))
        sampler.tell(suggestion, records[-1])
    sampler.ask()  # running when the process died
    again = Sampler(database, "a", SPACE, 0, Limits())
    for known in records:
        again.learn(known)
    asked = []
    while (suggestion := again.ask()) is not None:
        asked.append(suggestion.recipe)
        again.tell(suggestion, measured(suggestion.recipe, 9))
    assert len(asked) == 12 - 5
    assert not {recipe.key for recipe in asked} & {known.recipe.key for known in records}


def test_excesses_are_shares_over_the_limit() -> None:
    found = excesses(record(0, 0.9, 2.0, 150), Limits(latency_ms=1.0, size_bytes=200))
    assert found == {"latency": 1.0, "size": -0.25}


def test_a_space_too_large_to_list_is_asked_without_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "ENUMERABLE", 100)
    space = load_space("full")
    sampler = Sampler(tmp_path / "study.db", "a", space, 0, Limits())
    sampler.learn(measured(Recipe(), 0))
    starts = start_recipes(space)[-2:]
    for recipe in starts:
        sampler.enqueue(recipe)
    asked = []
    for number in range(1, 6):
        suggestion = sampler.ask()
        assert suggestion is not None
        asked.append(suggestion.recipe)
        sampler.tell(suggestion, measured(suggestion.recipe, number))
    assert asked[:2] == starts
    assert len({Recipe().key, *(recipe.key for recipe in asked)}) == 6


def test_a_sampler_that_repeats_itself_draws_an_unseen_recipe_of_an_unlisted_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space("s", {"prune": {"ratio": Range(0.25, 0.5)}, "quantize": {"scheme": Choice(("fp32", "fp16"))}})
    sampler = Sampler(tmp_path / "study.db", "a", space, 0, Limits())
    known = draw(space, lambda _name, dimension: dimension.low if isinstance(dimension, Range) else "fp32")
    sampler.learn(measured(known, 0))
    ask, asks = sampler._ask, list[None]()

    def repeating() -> Suggestion | None:
        asks.append(None)
        return ask() if len(asks) > ASKS_BEFORE_DRAWING else None

    monkeypatch.setattr(sampler, "_ask", repeating)
    suggestion = sampler.ask()
    assert suggestion is not None and suggestion.recipe != known
    assert 0.25 <= float((suggestion.recipe.settings("prune") or {})["ratio"]) <= 0.5


def test_an_order_is_a_dimension_of_its_own_for_each_offer(tmp_path: Path) -> None:
    techniques = {
        "student": {"width": Choice((1.0, 0.5)), "depth": Choice((1.0,)), "convolutions": Choice(("dense",))},
        "prune": {"ratio": Choice((0.0, 0.5))},
        "factorize": {"energy": Choice((1.0, 0.9))},
        "finetune": {"epochs": Choice((0, 1))},
    }
    space = Space("s", techniques, orders=("pipeline", "factorize_first", "distill_first"))
    sampler = Sampler(tmp_path / "study.db", "a", space, 0, Limits())
    everything: dict[str, Scalar] = {
        "student.width": 0.5,
        "prune.ratio": 0.5,
        "factorize.energy": 0.9,
        "finetune.epochs": 1,
    }
    wishes: list[dict[str, Scalar]] = [
        {**everything, "order": "distill_first"},
        {**everything, "finetune.epochs": 0, "order": "factorize_first"},
        {**everything, "factorize.energy": 1.0, "order": "distill_first"},
    ]
    for wish in wishes:
        recipe = complete(space, wish)
        assert recipe is not None
        sampler.enqueue(recipe)
        suggestion = sampler.ask()
        assert suggestion is not None and suggestion.recipe == recipe
    loaded = optuna.load_study(study_name="a", storage=f"sqlite:///{tmp_path / 'study.db'}")
    orders = [(name, value) for trial in loaded.trials for name, value in trial.params.items() if "order" in name]
    assert orders == [
        ("order(pipeline|factorize_first|distill_first)", "distill_first"),
        ("order(pipeline|factorize_first)", "factorize_first"),
        ("order(pipeline|distill_first)", "distill_first"),
    ]
