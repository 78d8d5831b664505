"""Targets that cannot do everything here: untimed, compile-only, compiled apart. The backends are fakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.end_to_end.conftest import TARGET, Workplace


def search(place: Workplace, backend: str, *more: object, extra: str = "", trials: int = 4) -> list[dict[str, Any]]:
    target = TARGET.replace("backend: onnxruntime", f"backend: tests.state_backends:{backend}").replace("quick", "fake")
    (place.path / "fake.yaml").write_text(target + extra)
    (place.path / "small.yaml").write_text(
        "name: small\ntechniques:\n  quantize: {scheme: [fp32, fp16, int8_static], samples: 64}\n"
    )
    place.ok(
        *("search", "digits", "--target", "fake.yaml", "--space", "small.yaml", "--study", "s"),
        *("--trials", trials, *more),
    )
    return place.records("s", "fake")


def size(record: dict[str, Any]) -> int:
    return sum(file["size"] for file in record["artifact"]["files"])


def test_an_untimed_target_has_accuracy_and_no_latency(place: Workplace) -> None:
    baseline, *records = search(place, "FakeUntimed")
    for record in (baseline, *records):
        assert record["outcome"] == "complete"
        assert record["val"]["value"] > 0.8
        assert record["latency"] is None
        assert record["reason"] == "latency not measured: this is a fake of a device"
        assert record["figures"]["arena"]["estimate"]
    front = place.ok("front", "s")
    assert front
    assert "not measured" in place.run("front", "s").stdout


def test_a_limit_on_a_figure_is_kept(place: Workplace) -> None:
    baseline, *records = search(place, "FakeUntimed", extra="\nlimits: {figures: {arena: 60000}}\n")
    assert baseline["outcome"] == "infeasible"
    assert "; estimated arena of " in baseline["reason"]
    outcomes = {size(record) <= 60000: record["outcome"] for record in (baseline, *records)}
    assert outcomes == {False: "infeasible", True: "complete"}


def test_a_compile_only_target_is_compiled_and_not_measured(place: Workplace) -> None:
    for record in search(place, "FakeAway"):
        assert record["outcome"] == "compiled"
        assert record["reason"] == "compiled, not measured: there is no fake device"
        assert size(record) > 0
        assert record["val"] is record["latency"] is record["drop"] is record["test"] is None
    shown = place.run("front", "s")
    assert shown.returncode == 0 and "not measured" in shown.stdout


def test_compiling_apart_leaves_the_timed_process_alone(place: Workplace) -> None:
    baseline, *records = search(place, "FakeApart")
    outcomes = {record["recipe"][0]["scheme"]: record for record in records}
    assert outcomes["fp16"]["outcome"] == "rejected"
    assert outcomes["fp16"]["reason"] == "fp16 is not for this fake"
    for record in (baseline, outcomes["int8_static"]):
        assert record["outcome"] == "complete"
        assert record["latency"] is not None
        assert record["audit"]["notes"] == ["found while compiling"]


def largest_weight(place: Workplace, record: dict[str, Any]) -> int:
    """Of the 8-bit constants of a trial's file, zero points aside."""
    file = place.path / "results" / "s" / record["artifact"]["folder"] / "model.onnx"
    weights = [each for each in onnx.load(file).graph.initializer if each.data_type == onnx.TensorProto.INT8]
    return max(int(np.abs(numpy_helper.to_array(each).astype(int)).max()) for each in weights)


@pytest.mark.parametrize(("backend", "largest"), [("FakeSaturating", 64), ("FakeExact", 127)])
def test_where_sums_would_overflow_weights_have_7_bits_and_it_is_said(
    place: Workplace, backend: str, largest: int
) -> None:
    records = search(place, backend, trials=3)
    (static,) = [record for record in records if record["recipe"] and record["recipe"][0]["scheme"] == "int8_static"]
    assert largest_weight(place, static) == largest
    again = place.run(*("search", "digits", "--target", "fake.yaml", "--space", "small.yaml", "--study", "two"))
    said = " ".join(again.stderr.split())
    assert again.returncode == 0
    line = "fake: left out weights of 8 bits: on a processor without VNNI this runtime adds pairs of 8-bit products"
    assert (line in said and "weights of int8_static keep 7 bits" in said) == (largest == 64)


def test_a_recipe_that_trained_is_tried_on_the_other_target_too(place: Workplace) -> None:
    for name in ("one", "two"):
        (place.path / f"{name}.yaml").write_text(TARGET.replace("quick", name))
    (place.path / "train.yaml").write_text(
        "name: train\ntechniques:\n  prune: {ratio: {low: 0.1, high: 0.9}}\n  finetune: {epochs: 0.25}\n"
    )
    targets = ("--target", "one.yaml", "--target", "two.yaml")
    place.ok("search", "digits", *targets, "--space", "train.yaml", "--study", "s", "--trials", 7, "--seed", 3)
    recipes = [[str(record["recipe"]) for record in place.records("s", name)] for name in ("one", "two")]
    assert sorted(recipes[0]) == sorted(recipes[1])
    trained = [record for name in ("one", "two") for record in place.records("s", name) if record["recipe"]]
    made = [str(record["recipe"]) for record in trained if "finetune" in record["seconds"]]
    assert len(made) == len(set(made)) == len(trained) / 2
