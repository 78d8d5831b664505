"""`explain` as a user runs it: on a trial of a study, with changes tried, and on a file of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoshrink.bench.explain_files import convolutions, linears
from tests.end_to_end.conftest import MEASURING, Workplace

TARGET = f"""
name: signed
backend: onnxruntime
channel_multiple: 1
precisions:
  fp32: {{}}
  int8_static: {{operators: [Conv, Gemm, MatMul, Add, Relu], activations: int8}}
{MEASURING}
"""
SPACE = """
name: one
techniques:
  quantize: {scheme: [int8_static], samples: 64, keep_float: [first_last]}
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Workplace:
    """A study whose target has signed activations, which is the cause to be found (some 20 s)."""
    place = Workplace(tmp_path_factory.mktemp("explained"), shared_cache)
    (place.path / "signed.yaml").write_text(TARGET)
    (place.path / "one.yaml").write_text(SPACE)
    done = place.run(
        "search", "digits", "--target", "signed.yaml", "--space", "one.yaml", "--trials", 2, "--study", "s"
    )
    assert done.returncode == 0, done.stderr
    return place


def test_a_trial_is_explained_its_changes_tried_and_the_report_shows_it(searched: Workplace) -> None:
    found = searched.ok("explain", "s", 1, "--apply", "--calls", 5)
    rules = {finding["rule"]: finding for finding in found["findings"]}
    assert "signed_activations" in rules
    assert rules["mixed_blocks"]["try"] == "recipe: quantize.keep_float=none"
    tried = {tuple(change["key"] for change in each["changes"]): each for each in found["tried"]}
    grid = tried[("precisions.int8_static.activations",)]
    assert grid["ratio"] is not None, grid["why"]
    assert grid["int8_after"][0] > grid["int8_before"][0]
    assert grid["where"] == "trial 1 of signed-activations-uint8 in s-explain"
    assert tried[("quantize.keep_float",)]["where"] == "trial 2 of signed"

    # The recipe change is a trial like any other; the target change is one of a study like any other.
    assert [record["number"] for record in searched.records("s", "signed")] == [0, 1, 2]
    beside = searched.records("s-explain", "signed-activations-uint8")
    assert [record["outcome"] for record in beside[:2]] == ["complete", "complete"]
    assert searched.ok("front", "s-explain")["targets"]["signed-activations-uint8"]["front"]
    # Its own profile is what it was.
    assert searched.ok("front", "s")["study"] == "s"
    meta = json.loads((searched.path / "results" / "s" / "study.json").read_text())
    assert meta["targets"]["signed"]["precisions"]["int8_static"]["activations"] == "int8"

    # Nothing is tried twice.
    again = searched.ok("explain", "s", 1, "--apply", "--calls", 5)
    assert len(again["tried"]) == len(found["tried"])
    assert len(searched.records("s", "signed")) == 3

    searched.ok("explain", "s", 0, "--calls", 5)
    assert searched.ok("explain", "s", 1, "--calls", 5)["tried"] == []
    page = Path(searched.path / searched.ok("report", "s")["report"]).read_text()
    assert "Where the time goes" in page
    assert "activations are signed (int8)" in page
    assert "trial 1 of signed-activations-uint8 in s-explain" in page, "what was tried before stays"


def test_a_file_of_ones_own(searched: Workplace) -> None:
    linears(searched.path / "mine.onnx", "MatMul")
    before = (searched.path / "mine.onnx").read_bytes()
    done = searched.run("explain", "mine.onnx", "--target", "signed.yaml", "--apply", "--out", "changed", "--calls", 5)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "[matmul_add_fusion]" in said
    assert "--apply: target: options.fuse_matmul_add: off" in said
    assert "0 of 1 layers in 8 bit → 1 of 1" in said
    assert (searched.path / "mine.onnx").read_bytes() == before


def test_changed_files_are_where_they_were_asked_for(searched: Workplace) -> None:
    convolutions(searched.path / "wide.onnx", None, 36)
    found = searched.ok("explain", "wide.onnx", "--target", "signed.yaml", "--apply", "--out", "wider", "--calls", 5)
    (tried,) = [each for each in found["tried"] if each["changes"][0]["key"] == "pad_channels"]
    assert (searched.path / tried["where"]).is_file()
    assert tried["agreement_db"] > 90


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain", "s"), "TRIAL: needed for study s"),
        (("explain", "s", 9), "TRIAL: signed has no trial 9; it has 0, 1"),
        (("explain", "s", 1, "--out", "x"), "--out: is for a file of your own"),
        (("explain", "nothing.onnx"), "--target: needed for nothing.onnx"),
        (("explain", "nothing.onnx", "--target", "signed.yaml"), "nothing.onnx: there is no such file"),
        (("explain", "s", 1, "--target", "other"), "'other' is not in study s; it has signed"),
        (("explain", "one.onnx", 3, "--target", "signed.yaml"), "a file has no trials"),
    ],
)
def test_mistakes_are_said(searched: Workplace, arguments: tuple[object, ...], message: str) -> None:
    assert message in searched.refused(2, *arguments)
