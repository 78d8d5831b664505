"""The generated study that the dashboard is timed with."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoshrink.bench.dashboard import FIGURES, _different_limits, markdown
from autoshrink.bench.many_trials import RUNTIMES, SOURCE, generate
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.types import Outcome


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    results = tmp_path_factory.mktemp("results")
    generate(results / "generated-400", 400)
    return Library(results).snapshot("generated-400")


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [
        sorted(generate(tmp_path / str(place) / "s", 40, seed).path.rglob("*.json"))
        for place, seed in enumerate((3, 3, 4))
    ]
    first, second, other = ([file.read_bytes() for file in found] for found in files)
    assert first == second and first != other


def test_it_is_plausible_and_says_that_it_is_generated(snapshot: Snapshot) -> None:
    assert not snapshot.broken and list(snapshot.views) == list(RUNTIMES)
    assert SOURCE in str(snapshot.meta.machine["processor"]) and snapshot.meta.task == "generated"
    outcomes = {record.outcome for view in snapshot.views.values() for record in view.records}
    assert outcomes >= {Outcome.COMPLETE, Outcome.INFEASIBLE, Outcome.FAILED, Outcome.REJECTED}
    for view in snapshot.views.values():
        assert len(view.records) == 200 == len({record.recipe for record in view.records})
        assert len(view.members) > 5 and view.members[0] is not view.baseline


def test_too_few_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trials is 1; it must be 2 or more"):
        generate(tmp_path / "s", 1)


def test_each_limit_leads_to_another_pick(snapshot: Snapshot) -> None:
    limits = _different_limits(next(iter(snapshot.views.values())), 6)
    assert len(limits) == 6 and all(limit.endswith("ms") for limit in limits)


def test_the_page_has_a_row_for_each_figure() -> None:
    machine = {"processor": "Fake", "usable_cores": 2, "load_1_min": None}
    seconds = {name: [0.1, 0.15, 1.2] for name in FIGURES}
    text = markdown(
        {"command": "c", "trials": 10_000, "seed": 0, "machine": machine, "browser": "b", "seconds": seconds}
    )
    rows = [line for line in text.splitlines() if "150 ms | 100 ms | 1.20 s" in line]
    assert len(rows) == len(FIGURES)
