"""The report's choice by limits, in a real browser, against `choose` on thousands of random fronts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshrink.dashboard import report
from autoshrink.dashboard.report_data import candidate_rows
from autoshrink.errors import NothingFits
from autoshrink.package.choose import applicable, choose
from autoshrink.search.limits import given
from autoshrink.target import Limits
from autoshrink.types import Figure, Interval, Outcome, TrialRecord
from tests.fake_study import fake_artifact, fake_latency, fake_score, fake_trial, fake_view

FRONTS = 3000
SCRIPT = Path(report.__file__).with_name("limits.js")
ANSWER = """text => JSON.stringify(JSON.parse(text).map(([found, limits]) => {
  const answer = pickByLimits.choose(found, limits);
  if (answer.pick) return { pick: answer.pick.number, fitting: answer.fitting.map(c => c.number) };
  return {
    asked: answer.asked,
    nearest: answer.nearest.map(({ candidate, misses }) => [candidate.number, misses.join("; ")]),
    ways: answer.ways.map(way => way.text),
  };
}))"""


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page()
    opened.add_script_tag(path=SCRIPT)
    yield opened
    opened.close()


def random_records(random: np.random.Generator) -> list[TrialRecord]:
    """Up to 12 FAKE trials on a coarse grid, so that many are tied; some without latency, interval, test or figure."""
    timed, coarse = bool(random.random() < 0.8), bool(random.random() < 0.7)
    records = []
    for number in range(int(random.integers(1, 13))):
        accuracy, ratio = float(random.uniform(0.8, 0.92)), float(10 ** random.uniform(-1.5, 0.5))
        if coarse:
            accuracy, ratio = round(accuracy, 2), float(random.choice([0.1, 0.102, 0.104, 0.25, 0.5, 1.0]))
        size = int(10 ** random.uniform(2.5, 7.5))
        size = int(float(f"{size:.1g}")) if coarse else size
        recipe = [{"technique": "prune", "ratio": number / 100}] if number or random.random() < 0.1 else []
        half = float(random.choice([0.0, 0.001, 0.004, 0.02]))
        record = fake_trial(number, recipe, accuracy=accuracy, ratio=ratio, size=size)
        drop = record.drop or 0.0
        figures = {"arena": Figure(float(random.choice([0, 1000, 262_144, 5e5])), "bytes", "fake")}
        changes: dict[str, Any] = {
            "drop_ci": None if random.random() < 0.1 else Interval(drop - half, drop + half),
            "latency": fake_latency(ratio) if timed and random.random() < 0.95 else None,
            "figures": figures if random.random() < 0.6 else {},
            "test": fake_score(accuracy - float(random.normal(0.01, 0.02))) if random.random() < 0.3 else None,
            "artifact": fake_artifact(size),
            "outcome": Outcome(random.choice(["complete", "infeasible", "failed"], p=[0.8, 0.15, 0.05])),
        }
        records.append(replace(record, **changes))
    return records


def random_limits(random: np.random.Generator, records: list[TrialRecord]) -> Limits:
    """Limits near what the trials have, often exactly their values; those on what is not known are left out."""

    def one_of(values: list[float], wild: float) -> float | None:
        if random.random() < 0.5:
            return None
        return float(random.choice(values)) if values and random.random() < 0.6 else wild

    latencies = [record.latency.ms_ci.high for record in records if record.latency]
    sizes = [float(record.artifact.size_bytes) for record in records if record.artifact]
    drops = [record.drop_ci.high for record in records if record.drop_ci and record.drop_ci.high >= 0]
    size = one_of(sizes, float(10 ** random.uniform(2, 7)))
    arena = one_of([0.0, 1000.0, 262_144.0], float(random.integers(0, 300_000)))
    limits = Limits(
        latency_ms=one_of(latencies, float(f"{10 ** random.uniform(-1.5, 0.5):.3g}")),
        size_bytes=None if size is None else max(1, round(size)),
        drop=one_of([*drops, 0.0], float(random.choice([0.0, 0.005, 0.01, 0.05]))),
        throughput=one_of([1000 / value for value in latencies], float(random.integers(100, 20_000))),
        figures={} if arena is None else {"arena": arena},
    )
    return applicable(limits, records)[0]


def expected(records: list[TrialRecord], limits: Limits) -> int | list[str]:
    """The trial that `choose` gives, or the lines of its message."""
    try:
        return choose(records, limits).number
    except NothingFits as error:
        return str(error).splitlines()


def asked_in(limits: Limits) -> list[dict[str, Any]]:
    return [{"name": limit.name, "value": limit.value, "figure": limit.is_figure} for limit in given(limits)]


def test_every_choice_and_every_near_miss_is_that_of_pick(page: Any) -> None:
    random = np.random.default_rng(6)
    cases, answers = [], []
    while len(cases) < FRONTS:
        records = random_records(random)
        limits = random_limits(random, records)
        rows = candidate_rows(fake_view(records))
        if rows:
            cases.append([rows, asked_in(limits)])
            answers.append(expected(records, limits))
    # Through JSON as the page holds it, where there is no infinity.
    found = json.loads(page.evaluate(ANSWER, json.dumps(cases, allow_nan=False)))
    for (rows, limits), answer, got in zip(cases, answers, found, strict=True):
        if isinstance(answer, int):
            assert got["pick"] == answer, (rows, limits)
            continue
        head, title, *lines = answer
        words = {row["number"]: row["words"] for row in rows}
        misses = [f"  trial {number} ({words[number]}): {text}" for number, text in got["nearest"]]
        ways = got["ways"] or ["no drop has an interval: leave --max-drop out"]
        assert [title, *lines] == ["nearest:", *misses, *ways], limits
        assert f"keeps {', '.join(got['asked'])} (by" in head
    kept = sum(isinstance(answer, int) for answer in answers)
    assert 0.25 * FRONTS < kept < 0.9 * FRONTS, "the fronts should try both, a choice and near misses"
    assert len({len(got["ways"]) for got in found if "ways" in got}) >= 3


def test_numbers_are_written_as_python_writes_them(page: Any) -> None:
    random = np.random.default_rng(7)
    values = [0.0, 1.125, 1.375, 0.5, 2.5, 12.25, 1e21, 1e12, 999_999_999_999.5, 1e-4, 9.9999e-5, 1e-7, 123.5, 1.005]
    values += [float(value) for value in 10 ** random.uniform(-8, 14, 2000)]
    values += [float(value) for value in random.integers(0, 2**20, 2000) / 2.0 ** random.integers(0, 12, 2000)]
    for digits in (3, 12):
        found = page.evaluate("([values, n]) => values.map(x => pickByLimits.general(x, n))", [values, digits])
        assert found == [f"{value:.{digits}g}" for value in values]
