"""Every technique through the command line, on a real runtime; and that equal beginnings of recipes are made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SPACE, Workplace

STAGES = {
    "student": "student: {width: 0.5, epochs: 0.5}",
    "prune": "prune: {ratio: 0.5, scope: per_layer}",
    "factorize": "factorize: {energy: 0.5}",
    "sparsify": "sparsify: {ratio: 0.5, epochs: 0.5}",
    "cluster": "cluster: {centroids: 8, epochs: 0.5}",
    "binarize": "binarize: {values: ternary, epochs: 0.5}",
    "qat": "qat: {allocation: mixed, average_bits: 4.0, epochs: 0.5}",
}


def write_space(place: Workplace, name: str, lines: list[str]) -> Path:
    path = place.path / f"{name}.yaml"
    path.write_text(f"name: {name}\ntechniques:\n" + "".join(f"  {line}\n" for line in lines))
    return path


@pytest.mark.parametrize("technique", STAGES)
def test_each_technique_gives_an_artifact_that_agrees(place: Workplace, technique: str) -> None:
    precision = [] if technique == "qat" else ["quantize: {scheme: int8_static, samples: 64}"]
    space = write_space(place, "one", [STAGES[technique], *precision])
    place.ok(
        *("search", "digits", "--target", "quick.yaml", "--space", space, "--study", "s"),
        *("--trials", 2, "--seed", 0),
    )
    baseline, record = place.records("s", "quick")
    assert record["outcome"] == "complete", record["reason"]
    assert record["recipe"][0]["technique"] == technique
    assert record["audit"]["layers"]
    assert record["artifact"]["compressed_bytes"] < baseline["artifact"]["compressed_bytes"]
    assert bool(record["weight_bits"]) == (technique == "qat")
    assert [each["technique"] for each in record["allocations"]] == [technique] * (technique in ("prune", "qat"))


def test_sensitivities_are_those_of_the_first_study_when_the_cache_has_them(place: Workplace) -> None:
    space = write_space(place, "one", [STAGES["qat"].replace("4.0", "[3.0, 5.0]")])
    for study in ("first", "second"):
        place.ok("search", "digits", "--target", "quick.yaml", "--space", space, "--study", study, "--trials", 3)
    first, second = (place.records(study, "quick") for study in ("first", "second"))
    assert not any("qat" in record["seconds"] for record in second)
    assert first[0]["allocations"] == []
    assert [record["allocations"] for record in second] == [record["allocations"] for record in first]
    (narrow,), (wide,) = sorted((each["allocations"] for each in first[1:]), key=lambda own: own[0]["expected"])[::-1]
    # More bits, and less that is expected to be lost; of the same measurement.
    assert sum(narrow["chosen"].values()) < sum(wide["chosen"].values())
    assert 0 <= wide["expected"] < narrow["expected"]
    assert narrow["sensitivities"] == wide["sensitivities"]
    contents = [(place.path / "results" / study / narrow["sensitivities"]).read_text() for study in ("first", "second")]
    assert contents[0] == contents[1]
    losses = json.loads(contents[0])["losses"]
    assert set(losses) == set(narrow["chosen"]) == set(first[1]["weight_bits"])
    assert narrow["expected"] == pytest.approx(sum(dict(losses[name])[bits] for name, bits in narrow["chosen"].items()))


def test_all_that_go_together_in_one_recipe(place: Workplace) -> None:
    target = place.path / "quick.yaml"
    target.write_text(f"{target.read_text()}\nchannel_multiple: 1\n")
    stages = ["prune: {ratio: 0.25}", "factorize: {energy: 0.3}", "finetune: {epochs: 0.5}"]
    space = write_space(place, "all", [STAGES["student"], *stages, STAGES["sparsify"], STAGES["qat"]])
    place.ok("search", "digits", "--target", "quick.yaml", "--space", space, "--study", "s", "--trials", 2)
    record = place.records("s", "quick")[1]
    assert record["outcome"] == "complete", record["reason"]
    names = [stage["technique"] for stage in record["recipe"]]
    assert names == ["student", "prune", "factorize", "finetune", "sparsify", "qat"]


def test_one_more_precision_costs_only_its_own_stage(place: Workplace) -> None:
    def run(space: str, study: str, trials: int) -> list[dict[str, object]]:
        target = ("--target", "quick.yaml", "--space", space, "--seed", 5)
        place.ok("search", "digits", *target, "--study", study, "--trials", trials)
        return place.records(study, "quick")

    # Learned in this order by no other test, so that the first study trains.
    (place.path / "few.yaml").write_text(SPACE.replace("epochs: 1", "epochs: 0.75").replace("fp16, ", ""))
    (place.path / "more.yaml").write_text(SPACE.replace("epochs: 1", "epochs: 0.75"))
    first, second = run("few.yaml", "first", 4), run("more.yaml", "second", 6)
    assert any("finetune" in record["seconds"] for record in first)  # type: ignore[operator]
    known = {str(record["recipe"]) for record in first}
    for record in second:
        made = set(record["seconds"]) & {"prune", "finetune", "export", "quantize"}  # type: ignore[call-overload]
        assert made <= (set() if str(record["recipe"]) in known else {"quantize"}), record
    assert {str(record["recipe"]) for record in second} - known
