"""The page of a trial: what there is of every kind of trial, and that logs are read safely."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoshrink.dashboard.library import Library
from autoshrink.dashboard.palette import LIGHT
from autoshrink.dashboard.trial_block import MOST_ROWS, Drawing, Rows, table_of
from autoshrink.dashboard.trial_latency import Calls, latency_block, read_calls
from autoshrink.dashboard.trial_making import LOG_BYTES, log_tail
from autoshrink.dashboard.trial_page import trial_page
from autoshrink.dashboard.trial_summary import figure_rows, gains, recipe_json
from autoshrink.dashboard.view import TargetView
from autoshrink.measure.timing import Samples
from autoshrink.records import StudyFolder
from autoshrink.types import Outcome, Recipe, TrialRecord
from tests.fake_field import make_fake_field
from tests.fake_study import fake_latency, fake_trial, fake_view, make_fake_study

INT8 = [{"technique": "quantize", "scheme": "int8_static"}]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    make_fake_study(folder / "fake-study")
    make_fake_field(folder / "fake-field")
    return folder


def page_text(study: StudyFolder, view: TargetView, record: TrialRecord) -> str:
    page = trial_page(study, view, record, LIGHT)
    return " ".join(str(part) for block in page.blocks for part in (block.title, *block.parts))


def test_every_trial_of_any_outcome_has_a_page(results: Path) -> None:
    library, outcomes = Library(results), set()
    for name in library.names():
        snapshot = library.snapshot(name)
        for view in snapshot.views.values():
            for record in {record.outcome: record for record in view.records}.values():
                page = trial_page(snapshot.folder, view, record, LIGHT)
                outcomes.add(record.outcome)
                assert len({block.name for block in page.blocks}) == len(page.blocks)
                assert bool(page.pick) == (record.artifact is not None)
    assert outcomes == set(Outcome) - {Outcome.STOPPED}


def test_a_measured_trial_shows_everything(results: Path) -> None:
    snapshot = Library(results).snapshot("fake-study")
    view = snapshot.views["onnxruntime-cpu"]
    record = next(each for each in view.members if each.recipe.stages)
    page = trial_page(snapshot.folder, view, record, LIGHT)
    names = set(page.rows())
    assert names >= {"figures", "layers", "latency-calls", "latency-rounds", "classes", "confusion", "lost", "stages"}
    assert f"--trial {record.number} --out" in page.pick


def test_what_a_trial_lacks_is_said_with_its_reason(results: Path) -> None:
    library = Library(results)
    study = library.snapshot("fake-study")
    view = study.views["onnxruntime-cpu"]
    failed = next(record for record in view.records if record.outcome is Outcome.FAILED)
    assert "ended before anything was compiled" in page_text(study.folder, view, failed)
    field = library.snapshot("fake-field")
    board = field.views["microcontroller"]
    untimed = next(record for record in board.records if record.is_scored)
    assert "speed says nothing" in page_text(field.folder, board, untimed)
    tablet = field.views["tablet"]
    text = page_text(field.folder, tablet, tablet.records[1])
    assert "not measured" in text
    assert "did not run" in text


def test_figures_stand_beside_those_of_the_baseline() -> None:
    baseline = fake_trial(0)
    record = fake_trial(1, INT8, accuracy=0.89, ratio=0.25, size=1_230_000)
    rows = {row.name: row for row in figure_rows(record, fake_view([baseline, record]))}
    assert (rows["accuracy, val"].text, rows["accuracy, val"].before_text) == ("89.00 %", "90.00 %")
    assert (rows["accuracy, val"].change, rows["accuracy, val"].change_text) == ("-1.00 points", "[-1.40, -0.60]")
    assert (rows["latency"].text, rows["latency"].change) == ("0.310 ms", "4.00x as fast")
    assert rows["latency"].change_text == "[3.95, 4.05]"
    assert (rows["size"].text, rows["size"].change) == ("1.23 MB", "4.00x smaller")
    assert rows["throughput"].value == pytest.approx(1000 / 0.31)


def test_the_baselines_latency_is_that_of_the_same_minutes() -> None:
    # The machine ran at half its pace when the trial was measured: the baseline took 2.48 ms then, not 1.24.
    baseline, record = fake_trial(0), fake_trial(1, INT8, latency=fake_latency(0.5, reference_ms=2.48))
    row = next(row for row in figure_rows(record, fake_view([baseline, record])) if row.name == "latency")
    assert (row.text, row.before_text, row.change) == ("1.24 ms", "2.48 ms", "2.00x as fast")
    assert row.before_note == "in turns with it"


def test_what_nobody_can_tell_from_the_baseline_is_not_called_faster() -> None:
    baseline = fake_trial(0)
    near, fast = (fake_trial(1, INT8, latency=fake_latency(ratio)) for ratio in (0.99, 0.5))
    assert "<b>same speed</b>" in str(gains(near, fake_view([baseline, near])))
    assert "<b>2.00x faster</b>" in str(gains(fast, fake_view([baseline, fast])))
    assert gains(baseline, fake_view([baseline])) is None


def test_the_recipe_as_json_reads_back() -> None:
    import json

    record = fake_trial(1, [{"technique": "prune", "ratio": 0.5}, *INT8])
    assert Recipe.from_json(json.loads(recipe_json(record))) == record.recipe
    assert json.loads(recipe_json(fake_trial(0))) == []


def samples(rows: list[tuple[float, float, float]]) -> Samples:
    return Samples(np.array([(turn, which, wall / 1000, wall / 1000) for turn, which, wall in rows], np.float64))


def test_calls_and_rounds_are_those_of_the_samples() -> None:
    # Of each round's five calls the lower quartile is the second; in round 3 both artifacts are twice as slow.
    rows = []
    for turn, slow in enumerate((1.0, 1.01, 1.02, 2.0)):
        for which, ms in ((0, 1.0), (1, 2.0)):
            rows += [(float(turn), float(which), slow * ms * factor) for factor in (1.2, 1.0, 1.1, 1.3, 9.0)]
    calls = Calls.of(samples(rows))
    assert calls.quartiles[:, 0] == pytest.approx([1.1, 1.111, 1.122, 2.2])
    assert calls.quartiles[:, 1] == pytest.approx([2.2, 2.222, 2.244, 4.4])
    assert calls.kept.tolist() == [True, True, True, False]
    block = latency_block(fake_trial(1, INT8), calls, LIGHT)
    every, rounds = block.drawings()
    assert every.table.rows[1][:2] == ("trial 1", 20)
    assert every.raw is not None
    assert len(every.raw.rows) == 40
    assert [row[-1] for row in rounds.table.rows] == ["kept"] * 3 + ["left out"]
    assert list(rounds.figure.data[0].marker.symbol) == ["circle"] * 3 + ["circle-open"]


def test_samples_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "s", targets=1, trials=1)
    (record,) = study.records("onnxruntime-cpu")
    assert isinstance(read_calls(study, record), Calls)
    study.file(str(record.samples)).write_bytes(b"no npy")
    assert "samples.npy cannot be read" in str(read_calls(study, record))
    assert "lies outside" in str(read_calls(study, replace(record, samples="/etc/passwd")))
    assert "names no file" in str(read_calls(study, replace(record, samples=None)))


def test_a_log_is_read_from_its_end_and_cleaned(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "s", targets=1, trials=1)
    record = replace(study.records("onnxruntime-cpu")[0], log="child.log")
    log = study.path / "child.log"
    log.write_bytes(b"\x1b[31mred\x1b[0m\r\n\xff<script>\x07\n")
    assert log_tail(study, record) == ("red\n�<script>", "")
    log.write_text("".join(f"line {number}\n" for number in range(20_000)))
    text, said = log_tail(study, record)
    assert len(text) <= LOG_BYTES
    assert text.startswith("line ")
    assert text.endswith("line 19999")
    assert said.startswith("The last 64 kB of ")
    log.write_text("")
    assert log_tail(study, record) == ("", "The log is empty: nothing was said.")
    log.unlink()
    assert "not there" in log_tail(study, record)[1]


def test_no_log_outside_of_the_study_is_read(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "s", targets=1, trials=1)
    record = study.records("onnxruntime-cpu")[0]
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (study.path / "link.log").symlink_to(secret)
    (study.path / "folder.log").mkdir()
    os.mkfifo(study.path / "pipe.log")
    for name in ("../secret.txt", str(secret), "link.log", "folder.log", "pipe.log", "a\x00b"):
        text, said = log_tail(study, replace(record, log=name))
        assert text == ""
        assert said


def test_texts_of_a_record_are_escaped(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "s", targets=1, trials=1)
    record = replace(study.records("onnxruntime-cpu")[0], log="child.log", device="<script>d</script>")
    (study.path / "child.log").write_text("<script>log</script>")
    text = page_text(study, TargetView.among({"onnxruntime-cpu": [record]}, study, "onnxruntime-cpu"), record)
    assert "<script>" not in text
    assert "&lt;script&gt;log" in text


def test_a_long_table_is_cut_and_says_so() -> None:
    rows = Rows(("n",), tuple((number,) for number in range(MOST_ROWS + 1)))
    text = table_of(rows, "numbers")
    assert text.count("<tr>") == MOST_ROWS + 1
    assert f"The first {MOST_ROWS} of {MOST_ROWS + 1} rows" in text


def test_a_drawing_has_its_numbers(results: Path) -> None:
    snapshot = Library(results).snapshot("fake-study")
    view = snapshot.views["openvino-cpu"]
    page = trial_page(snapshot.folder, view, view.members[-1], LIGHT)
    drawings = [part for block in page.blocks for part in block.drawings()]
    assert drawings
    for drawing in drawings:
        assert isinstance(drawing, Drawing)
        assert drawing.table.rows
        assert all(len(row) == len(drawing.table.heads) for row in drawing.table.rows)
        assert drawing.label
