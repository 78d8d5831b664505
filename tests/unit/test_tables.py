"""Front rows, frame and terminal table, on records whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from autoshrink.dashboard.tables import front_frame, front_rows, latency_ties
from autoshrink.dashboard.terminal import front_table
from autoshrink.errors import ConfigError
from autoshrink.records import StudyFolder
from autoshrink.types import Interval, Outcome, TrialRecord
from tests.fake_field import NOTE, make_fake_field
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_score, fake_trial, make_fake_study

TARGET = "onnxruntime-cpu"
INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
FP16 = [{"technique": "quantize", "scheme": "fp16"}]
PRUNED = [{"technique": "prune", "ratio": 0.5}]
KEYS = [
    "number", "target", "recipe", "recipe_text", "outcome", "reason", "accuracy", "accuracy_ci", "test_accuracy",
    "test_accuracy_ci", "test_drop", "test_drop_ci",
    "drop", "drop_ci", "latency_ms", "latency_ci_ms", "latency_ratio", "latency_ratio_ci",
    "throughput", "size_bytes", "gzip_bytes", "size_ratio", "int8_layers", "layers", "stable", "drift", "device",
    "on_front", "elsewhere", "figures", "notes", "seconds",
]  # fmt: skip


def unmeasured(number: int, outcome: Outcome, reason: str, recipe: Sequence[dict[str, object]] = FP16) -> TrialRecord:
    return replace(
        fake_trial(number, recipe, outcome=outcome, reason=reason),
        val=None, drop=None, drop_ci=None, latency=None, artifact=None, audit=None, agreement_db=None,
    )  # fmt: skip


def study_of(path: Path, records: Sequence[TrialRecord]) -> StudyFolder:
    study = StudyFolder.create(path / "fake-study", fake_meta({TARGET: FAKE_TARGETS[TARGET]}))
    for record in records:
        study.write(record)
    return study


def known(path: Path) -> StudyFolder:
    return study_of(
        path,
        [
            fake_trial(0, test=fake_score(0.89)),
            fake_trial(1, INT8, accuracy=0.898, ratio=0.4, size=1_230_000, test=fake_score(0.888)),
            fake_trial(2, PRUNED, accuracy=0.89, ratio=0.3, size=2_460_000),
            fake_trial(3, [*PRUNED, *INT8], accuracy=0.88, ratio=0.45, size=1_300_000),
            unmeasured(4, Outcome.REJECTED, "bf16: no kernels"),
        ],
    )


def rendered(study: StudyFolder, width: int, target: str = TARGET) -> str:
    text = StringIO()
    Console(file=text, width=width).print(front_table(study, target))
    return text.getvalue()


def test_rows_have_the_promised_keys(tmp_path: Path) -> None:
    rows = front_rows(known(tmp_path), TARGET)
    assert list(rows) == ["target", "metric_name", "axes", "baseline", "front", "compiled", "trials"]
    assert [list(row) for row in rows["trials"]] == [KEYS] * 5
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_rows_hold_the_known_answers(tmp_path: Path) -> None:
    rows = front_rows(known(tmp_path), TARGET)
    assert rows["target"] == TARGET
    assert rows["metric_name"] == "accuracy"
    assert [row["number"] for row in rows["front"]] == [2, 1, 0]
    assert [row["on_front"] for row in rows["trials"]] == [True, True, True, False, False]
    row = rows["trials"][1]
    assert row["recipe"] == [{"technique": "quantize", "scheme": "int8_static"}]
    assert row["recipe_text"] == "int8 static"
    assert row["accuracy"] == 0.898
    assert row["test_accuracy"] == 0.888
    assert row["drop"] == pytest.approx(0.002)
    assert row["drop_ci"] == pytest.approx([-0.002, 0.006])
    assert row["latency_ms"] == pytest.approx(0.496)
    assert row["latency_ratio"] == 0.4
    assert row["latency_ratio_ci"] == pytest.approx([0.3952, 0.4048])
    assert row["size_bytes"] == 1_230_000
    assert row["gzip_bytes"] == 1_107_000
    assert row["size_ratio"] == 0.25
    assert (row["int8_layers"], row["layers"]) == (10, 10)
    assert row["seconds"] == pytest.approx(12.0)
    baseline = rows["baseline"]
    assert baseline is not None
    assert (baseline["number"], baseline["latency_ratio"], baseline["size_ratio"], baseline["drop"]) == (0, 1, 1, 0)


def test_what_was_not_measured_is_null_with_the_reason(tmp_path: Path) -> None:
    rows = front_rows(known(tmp_path), TARGET)["trials"]
    assert rows[2]["test_accuracy"] is None
    assert rows[2]["test_accuracy_ci"] is None
    row = rows[4]
    measured = [key for key in KEYS[6:24] if row[key] is not None]
    assert measured == []
    assert (row["outcome"], row["reason"]) == ("rejected", "bf16: no kernels")


def test_the_compressed_size_stands_under_the_size_where_it_is_known(tmp_path: Path) -> None:
    new, old = fake_trial(0), fake_trial(1, INT8, accuracy=0.898, ratio=0.4, size=1_230_000)
    assert old.artifact is not None
    old = replace(old, artifact=replace(old.artifact, compressed_bytes=None))
    study = study_of(tmp_path, [new, old])
    text = rendered(study, 100)
    assert text.count("gzip") == 1
    assert "4.43 MB gzip" in text
    assert [row["gzip_bytes"] for row in front_rows(study, TARGET)["trials"]] == [4_428_000, None]


def test_without_a_baseline_nothing_is_compared_in_size(tmp_path: Path) -> None:
    rows = front_rows(study_of(tmp_path, [fake_trial(1, INT8, size=1_230_000)]), TARGET)
    assert rows["baseline"] is None
    assert rows["trials"][0]["size_ratio"] is None


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        front_rows(known(tmp_path), "nowhere")


def test_frame_is_flat_and_typed(tmp_path: Path) -> None:
    frame = front_frame(known(tmp_path), TARGET)
    assert frame["number"].tolist() == [2, 1, 0]
    assert frame.loc[1, "latency_ratio_low"] == pytest.approx(0.3952)
    assert frame.loc[1, "latency_ms_high"] == pytest.approx(0.496 * 1.012)
    assert frame.loc[1, "accuracy_low"] < 0.898 < frame.loc[1, "accuracy_high"]
    assert json.loads(frame.loc[1, "recipe"]) == INT8
    assert frame["test_accuracy"].isna().tolist() == [True, False, False]
    assert frame.dtypes["test_accuracy"] == "float64"
    assert frame.dtypes["size_bytes"] == frame.dtypes["gzip_bytes"] == "Int64"
    assert frame.dtypes["stable"] == "boolean"


def test_frame_of_all_targets_holds_each_front(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "fake-study", trials=12)
    frame = front_frame(study)
    for target in study.meta.targets:
        expected = [row["number"] for row in front_rows(study, target)["front"]]
        assert frame[frame["target"] == target]["number"].tolist() == expected


def test_frame_of_an_empty_front_keeps_its_columns(tmp_path: Path) -> None:
    full = front_frame(known(tmp_path / "full"))
    empty = front_frame(study_of(tmp_path / "empty", []))
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_table_fits_into_100_columns_and_says_everything(tmp_path: Path) -> None:
    text = rendered(known(tmp_path), 100)
    assert max(map(len, text.splitlines())) <= 100
    for expected in ("3 of 5 trials", "88.80 %", "test", "0.496 ms", "2.50x ±0.03", "4.00x smaller", "10/10"):
        assert expected in text
    assert "±0.87 val" in text


def test_table_puts_the_baseline_first_then_by_latency(tmp_path: Path) -> None:
    text = rendered(known(tmp_path), 100)
    places = [text.index(recipe) for recipe in ("fp32 baseline  ", "prune 50 %", "int8 static")]
    assert places == sorted(places)
    assert text.count("fp32 baseline  ") == 1


@pytest.mark.parametrize("width", [60, 80])
def test_table_keeps_its_figures_whole_in_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    text = rendered(known(tmp_path), width)
    assert max(map(len, text.splitlines())) <= width
    for figure in ("88.80 %", "4.43 MB", "0.496 ms", "2.50x", "±0.03", "4.00x", "smaller", "10/10"):
        assert figure in text
    assert "…" not in text


def test_table_without_a_front_lists_every_trial_with_its_reason(tmp_path: Path) -> None:
    over = fake_trial(0, outcome=Outcome.INFEASIBLE, reason="size 4.92 MB is over the limit of 1.00 MB")
    failed = unmeasured(1, Outcome.FAILED, "compile: [bold]died[/bold]", [{"technique": "[red]odd[/red]"}])
    text = rendered(study_of(tmp_path, [over, failed]), 100)
    assert "none of 2 trials is feasible" in text
    assert "infeasible: size 4.92 MB" in text
    # Brackets are the record's own, not markup.
    assert "[red]odd[/red]" in text
    assert "failed: compile: [bold]died[/bold]" in text


def test_table_of_a_study_that_has_not_begun(tmp_path: Path) -> None:
    assert "no trial has finished" in rendered(study_of(tmp_path, []), 100)


def test_unstable_latencies_are_named(tmp_path: Path) -> None:
    fine = fake_trial(1, INT8, ratio=0.4, size=1_000_000)
    assert fine.latency is not None
    shaky = replace(fine, latency=replace(fine.latency, stable=False))
    assert "wider than the target asks: trial 1" in rendered(study_of(tmp_path, [fake_trial(0), shaky]), 100)


def test_a_tie_is_an_overlap_with_the_row_above(tmp_path: Path) -> None:
    def trial(number: int, ratio: float, low: float, high: float) -> TrialRecord:
        record = fake_trial(number, INT8, ratio=ratio, accuracy=0.8 + number / 100, size=1_000_000 - number)
        assert record.latency is not None
        return replace(record, latency=replace(record.latency, ratio_ci=Interval(low, high)))

    records = [trial(1, 0.3, 0.29, 0.31), trial(2, 0.32, 0.31, 0.33), trial(3, 0.4, 0.34, 0.46)]
    assert latency_ties(records) == {2}
    text = rendered(study_of(tmp_path, [fake_trial(0), *records]), 100)
    assert text.count("≈ 0.") == 1
    assert "≈ as fast as the row above" in text


def test_a_metric_that_is_no_share_is_written_plainly(tmp_path: Path) -> None:
    base = replace(fake_trial(0), val=replace(fake_score(0.5), value=-3.25, ci=Interval(-3.5, -3.0)))
    text = rendered(study_of(tmp_path, [base]), 100)
    assert "-3.25" in text
    assert "±0.25 val" in text
    assert "%" not in text.split("± is half")[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return make_fake_field(tmp_path_factory.mktemp("field") / "fake-study")


class TestTheField:
    """Targets of which less than everything is known."""

    def test_rows_of_what_was_not_timed(self, study: StudyFolder) -> None:
        rows = front_rows(study, "microcontroller")
        assert rows["axes"] == ["metric", "size"]
        assert [row["number"] for row in rows["front"]] == [4, 3, 1]
        row = rows["trials"][3]
        assert (row["accuracy"], row["latency_ms"], row["throughput"], row["elsewhere"]) == (0.893, None, None, None)
        assert row["figures"]["cycles"] == {
            "value": 13_200_000.0, "unit": "cycles", "source": "fake estimator", "estimate": True
        }  # fmt: skip
        assert json.loads(json.dumps(rows, allow_nan=False)) == rows

    def test_rows_of_what_was_only_compiled(self, study: StudyFolder) -> None:
        rows = front_rows(study, "tablet")
        assert (rows["axes"], rows["front"]) == (["size"], [])
        # Pruning alone is on no front of a target that measured it.
        assert [row["number"] for row in rows["compiled"]] == [4, 3, 1, 2]
        row = rows["trials"][3]
        assert (row["accuracy"], row["drop"], row["latency_ms"], row["on_front"]) == (None, None, None, False)
        assert (row["elsewhere"]["target"], row["elsewhere"]["accuracy"]) == ("phone", 0.872)
        assert rows["trials"][4]["notes"] == [NOTE]
        assert len(front_frame(study, "tablet")) == 0

    def test_throughput_is_rows_of_all_calls_in_a_second(self, study: StudyFolder) -> None:
        row = front_rows(study, "cloud")["trials"][2]
        assert row["throughput"] == pytest.approx(64 / (0.28 * 12.0) * 1000)
        text = rendered(study, 100, "cloud")
        for expected in ("throughput", "19,048 rows/s", "3.57x ±0.04", "3.36 ms", "calls of 64 rows"):
            assert expected in text

    @pytest.mark.parametrize("width", [80, 100])
    def test_the_terminal_says_what_was_not_measured_and_why(self, study: StudyFolder, width: int) -> None:
        text = rendered(study, width, "microcontroller")
        assert max(map(len, text.splitlines())) <= width
        assert "latency not measured" in text.splitlines()[0]
        assert "(estimate)" in text
        assert "the board is emulated" in text
        text = rendered(study, width, "tablet")
        assert max(map(len, text.splitlines())) <= width
        for expected in (
            "4 of 6 trials: compiled, not measured",
            "there is no tablet here",
            f"trial 4: {NOTE}",
            "87.20 %",
        ):
            assert expected in " ".join(text.split())
