"""The benchmark of the techniques, its whole core on a tiny task and one real runtime; the goals and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoshrink.bench import techniques
from autoshrink.bench.technique_page import markdown
from autoshrink.bench.technique_results import Made, Result, failed, goals_json, measured
from autoshrink.bench.technique_rows import BASELINE, GOALS, MODELS, ROWS, TechniqueRow, scaled
from autoshrink.bench.techniques import Report, main, open_folder, run_model
from autoshrink.cache import StageCache
from autoshrink.config import load_target
from autoshrink.errors import ConfigError
from autoshrink.search.words import describe
from autoshrink.target import Measuring, Target
from autoshrink.techniques import get_technique
from autoshrink.types import Interval, Recipe
from tests.fake_study import fake_score, fake_trial
from tests.small_models import tiny_task

INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
QUICK = Measuring(interval=0.5, rounds_min=3, rounds_max=3, turn_ms=1.0, warm_up_calls=2, time_limit_s=5.0)
FIELDS = {
    "technique", "model", "target", "recipe", "words", "accuracy", "accuracy_ci", "baseline_accuracy", "drop",
    "drop_ci", "latency_ratio", "latency_ratio_ci", "speedup", "size_bytes", "size_ratio", "size_ratio_compressed",
    "minutes", "agreement_db", "int8_layers", "layers",
}  # fmt: skip


def target() -> Target:
    return replace(load_target("onnxruntime-cpu"), measuring=QUICK)


def row(name: str) -> TechniqueRow:
    return next(row for row in ROWS if row.name == name)


def test_every_row_is_measured_and_a_broken_one_stops_none(tmp_path: Path) -> None:
    """Some 10 s: four real trials, each in a process of its own."""
    said: list[str] = []
    broken = TechniqueRow("binary", Recipe.from_json([{"technique": "prune", "ratio": 0.5, "importance": "odd"}]))
    pruned = Recipe.from_json([{"technique": "prune", "ratio": 0.5}, {"technique": "finetune", "epochs": 0.5}])
    rows = [row("int8_static"), replace(row("prune"), recipe=pruned), broken]
    out = tmp_path / "out" / "techniques.json"

    def run() -> dict[str, Any]:
        said.clear()
        folder = open_folder(tmp_path / "study", "tiny", [target()], 0)
        report = Report(out, "the command", 0, said.append)
        run_model("cnn", tiny_task("cnn"), [target()], rows, folder, StageCache(tmp_path / "cache"), report)
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    document = run()
    assert [each["technique"] for each in document["rows"]] == ["baseline", "int8_static", "binary", "prune"]
    assert all(set(each) >= FIELDS for each in document["rows"])
    baseline, int8, failure, prune = document["rows"]
    assert (baseline["drop"], baseline["size_ratio"], baseline["size_ratio_compressed"]) == (0, 1, 1)
    assert baseline["recipe"] == [] and baseline["minutes"] == 0
    assert baseline["accuracy"] > 0.5
    for each in (int8, prune):
        assert each["reason"] == ""
        assert each["baseline_accuracy"] == baseline["accuracy"]
        assert each["drop"] == pytest.approx(baseline["accuracy"] - each["accuracy"])
        assert each["drop_ci"][0] <= each["drop"] <= each["drop_ci"][1]
        assert each["accuracy_ci"][0] <= each["accuracy"] <= each["accuracy_ci"][1]
        assert each["speedup"] == pytest.approx(1 / each["latency_ratio"])
        assert each["size_ratio"] == pytest.approx(baseline["size_bytes"] / each["size_bytes"])
        assert 0 < each["compressed_bytes"] < each["size_bytes"]
        assert each["size_ratio_compressed"] == pytest.approx(baseline["compressed_bytes"] / each["compressed_bytes"])
    assert prune["size_ratio"] > 1.5
    assert int8["int8_layers"] > 0 == baseline["int8_layers"]
    assert failure["accuracy"] is None and "odd" in failure["reason"]
    assert [goal["goal"] for goal in document["goals"]] == [goal.words for goal in (GOALS[0], GOALS[2], GOALS[4])]
    page = out.with_suffix(".md").read_text()
    for expected in ("| int8 static | int8 static |", "- binary on onnxruntime-cpu: ", "## Goals", "the command"):
        assert expected in page

    again = run()
    # What failed is tried again, what was measured is not.
    assert [line for line in said if "known" in line or "times smaller" in line] == [
        f"cnn {name} on onnxruntime-cpu: known" for name in ("baseline", "int8_static", "prune")
    ]
    assert again["rows"] == document["rows"]


def test_another_machine_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made("a" * 64, 1.0)
    report = Report(tmp_path / "t.json", "c", 0, lambda _text: None)
    report.keep(measured_result())
    assert Report(tmp_path / "t.json", "c", 0).knows(row("int8_static"), "cnn", target(), made)
    assert not Report(tmp_path / "t.json", "c", 0).knows(row("int8_static"), "cnn", target(), Made("b" * 64, 1.0))
    assert not Report(tmp_path / "t.json", "c", 1).knows(row("int8_static"), "cnn", target(), made)
    machine = techniques.describe_machine() | {"processor": "another one"}
    monkeypatch.setattr(techniques, "describe_machine", lambda: machine)
    assert not Report(tmp_path / "t.json", "c", 0).knows(row("int8_static"), "cnn", target(), made)


@pytest.mark.parametrize("content", ["", "[]", '{"seed": 0}', '{"seed": 0, "machine": {}, "rows": [{"odd": 1}]}'])
def test_a_file_that_cannot_be_read_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    report = Report(tmp_path / "t.json", "c", 0, lambda _text: None)
    report.keep(measured_result())
    assert len(json.loads((tmp_path / "t.json").read_text())["rows"]) == 1


def measured_result(technique: str = "int8_static", **changes: Any) -> Result:
    baseline = fake_trial(0, test=fake_score(0.9))
    record = fake_trial(
        1, INT8, accuracy=0.898, ratio=0.4, size=1_230_000, test=fake_score(0.888), test_drop=0.012,
        test_drop_ci=Interval(0.002, 0.022),
    )  # fmt: skip
    result = measured(replace(row("int8_static"), name=technique), "cnn", Made("a" * 64, 1.25), record, baseline)
    return replace(result, **changes)


def test_figures_of_a_record() -> None:
    result = measured_result()
    assert (result.accuracy, result.baseline_accuracy, result.drop) == (0.888, 0.9, 0.012)
    assert (result.latency_ratio, result.speedup, result.size_ratio) == (0.4, 2.5, 4.0)
    assert result.size_ratio_compressed == pytest.approx(4.0)
    assert (result.minutes, result.int8_layers, result.layers) == (1.25, 10, 10)
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_minutes_are_those_of_every_stage_but_the_export() -> None:
    assert Made.of("k", {"prune": 3.0, "finetune": 54.0, "export": 9.0, "quantize": 3.0, "cache": 7.0}.items()) == Made(
        "k", 1.0
    )


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"drop": 0.005, "size_ratio": 3.5, "speedup": 2.5}, []),
        ({"drop": -0.01, "size_ratio": 9.0, "speedup": 9.0}, []),
        ({"drop": 0.0051}, ["loses 0.51 points, over 0.5"]),
        ({"size_ratio": 3.4}, ["3.40 times smaller, under 3.5"]),
        ({"speedup": 2.0, "drop": 0.1}, ["loses 10.00 points, over 0.5", "2.00 times faster, under 2.5"]),
    ],
)
def test_a_goal_is_reached_when_nothing_is_missed(changes: dict[str, float], missed: list[str]) -> None:
    result = measured_result(**{"drop": 0.0, "size_ratio": 4.0, "speedup": 3.0, **changes})
    (goal,) = goals_json([result])
    assert (goal["technique"], goal["target"], goal["missed"]) == ("int8_static", "onnxruntime-cpu", missed)
    assert goal["reached"] is (not missed)


def test_of_the_rows_that_a_goal_allows_the_best_one_counts() -> None:
    far = measured_result("prune", drop=0.1, size_ratio=2.0, speedup=1.0)
    near = measured_result("prune_per_layer", drop=0.01, size_ratio=2.0, speedup=2.0)
    unmeasured = failed(row("prune"), "cnn", "onnxruntime-cpu", "it broke")
    for others in ([far, near], [unmeasured, near]):
        (goal,) = goals_json(others)
        assert goal["technique"] == "prune_per_layer"
        assert goal["missed"] == ["2.00 times smaller, under 3"]
    (goal,) = goals_json([unmeasured])
    assert (goal["reached"], goal["missed"]) == (False, ["not measured: it broke"])


def test_a_row_that_is_not_in_the_list_any_more_goes(tmp_path: Path) -> None:
    report = Report(tmp_path / "t.json", "c", 0, lambda _text: None)
    report.keep(measured_result())
    document = json.loads((tmp_path / "t.json").read_text())
    gone = {"technique": "gone"}, {"model": "encoder", "technique": "student_separable"}, {"model": "rnn"}
    document["rows"] += [document["rows"][0] | changes for changes in gone]
    (tmp_path / "t.json").write_text(json.dumps(document))
    Report(tmp_path / "t.json", "c", 0, lambda _text: None).write()
    assert json.loads((tmp_path / "t.json").read_text())["rows"] == document["rows"][:1]


def test_a_goal_of_the_cnn_is_not_one_of_the_encoder() -> None:
    assert goals_json([replace(measured_result(), model="encoder")]) == []


def test_the_page_escapes_what_would_break_its_tables() -> None:
    result = measured_result(words="a | b\n<c>", size_ratio_compressed=None, compressed_bytes=None)
    document = {
        "command": "c", "date": "2026-11-22", "seed": 0, "rows": [result.to_json()], "goals": [],
        "machine": techniques.describe_machine(),
    }  # fmt: skip
    line = next(line for line in markdown(document).splitlines() if line.startswith("| int8 static"))
    assert "a \\| b &lt;c>" in line
    assert "88.80 [" in line and "-1.20 [-2.20, -0.20]" in line and "2.50 [2.47, 2.53]" in line


def test_every_row_can_be_resolved_on_its_targets() -> None:
    """A row whose settings no technique knows would fail after hours of training."""
    for each in (BASELINE, *ROWS):
        assert set(each.models) <= set(MODELS)
        for stage in each.recipe.stages:
            technique = get_technique(stage.technique)
            assert {name for name, _ in stage.settings} <= set(technique.parameters), each.name
            assert not technique.is_off(dict(stage.settings)), each.name
            technique.resolve(dict(stage.settings), target())
        assert describe(each.recipe)
    places = [(model, each.name) for each in (BASELINE, *ROWS) for model in each.models]
    assert len(set(places)) == len(places)
    assert {(goal.model, name) for goal in GOALS for name in goal.rows} <= set(places)


def test_scaling_changes_the_epochs_alone() -> None:
    recipe = Recipe.from_json(
        [
            {"technique": "prune", "ratio": 0.5, "steps": 2, "step_epochs": 0.5},
            {"technique": "finetune", "epochs": 2, "alpha": 0.5},
            {"technique": "quantize", "scheme": "int8_static"},
        ]
    )
    assert scaled(recipe, 1) is recipe
    assert scaled(recipe, 0.1).to_json() == [
        {"technique": "prune", "ratio": 0.5, "steps": 2, "step_epochs": 0.05},
        {"technique": "finetune", "epochs": 0.2, "alpha": 0.5},
        {"technique": "quantize", "scheme": "int8_static"},
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out"),
        (["--out", "t.json", "--models", "cnn,rnn"], "--models: rnn is not known; there are cnn, encoder"),
        (["--out", "t.json", "--rows", "odd"], "--rows: odd is not known"),
        (["--out", "t.json", "--epochs-scale", "0"], "--epochs-scale is 0; it must be over 0"),
    ],
)
def test_mistakes_on_the_command_line_are_said(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def quick_main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, list[str]]]]:
    """`main` without its tasks and its work: what it was about to run."""

    def run(*arguments: str) -> list[tuple[str, list[str]]]:
        ran: list[tuple[str, list[str]]] = []
        monkeypatch.setattr(techniques, "probe", lambda _target: frozenset())
        monkeypatch.setattr(techniques, "load_task", lambda name: name)
        monkeypatch.setattr(
            techniques,
            "run_model",
            lambda model, _task, _targets, rows, *_: ran.append((model, [r.name for r in rows])),
        )
        main(list(arguments))
        return ran

    return run


def test_rows_go_to_their_models(quick_main: Callable[..., list[tuple[str, list[str]]]], tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "t.json"))
    ran = dict(quick_main(*out))
    assert list(ran) == ["cnn", "encoder"]
    assert "student_separable" in ran["cnn"] and "student_separable" not in ran["encoder"]
    assert quick_main(*out, "--models", "encoder", "--rows", "int8_static,int8_dynamic") == [
        ("encoder", ["int8_static", "int8_dynamic"])
    ]


def test_a_study_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    open_folder(tmp_path / "s", "tiny", [target()], 0)
    assert open_folder(tmp_path / "s", "tiny", [target()], 0).meta.task == "tiny"
    with pytest.raises(ConfigError, match="another task, seed or target"):
        open_folder(tmp_path / "s", "tiny", [target()], 1)


def test_a_target_that_cannot_be_used_ends_with_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(_target: Target) -> None:
        raise ConfigError(["no such runtime"])

    monkeypatch.setattr(techniques, "probe", fail)
    with pytest.raises(SystemExit, match="error: no such runtime"):
        main(["--out", str(tmp_path / "t.json")])
