from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from autoshrink.config import load_space, load_target
from autoshrink.errors import AutoshrinkError, ConfigError
from autoshrink.records import StudyFolder, StudyMeta, record_from_json, record_to_json, write_json
from autoshrink.sensitivities import Sensitivities, SharedOut
from autoshrink.types import Audit, Interval, Layer, Outcome, Recipe, TrialRecord
from tests.unit.test_front import record


def meta(name: str = "s") -> StudyMeta:
    target = load_target("onnxruntime-cpu")
    return StudyMeta(
        name, "digits", {target.name: target}, load_space("ptq"), 0, 4, None, "2026-01-01T00:00:00+00:00", "0.1.0", {}
    )


def full(number: int) -> TrialRecord:
    recipe = Recipe.from_json(
        [
            {"technique": "prune", "ratio": 0.5, "importance": "magnitude"},
            {"technique": "finetune", "epochs": 1},
            {"technique": "quantize", "scheme": "int8_static", "samples": 256},
        ]
    )
    values = record(number, 0.9, 0.5, 100).__dict__ | {
        "target": "onnxruntime-cpu",
        "recipe": recipe,
        "drop": 0.01,
        "drop_ci": Interval(0.0, 0.02),
        "audit": Audit((Layer("conv", "QLinearConv", "uint8"), Layer("head", "Gemm", "float32")), 2, 9),
        "agreement_db": 31.5,
        "seconds": {"export": 1.5},
        "reused": ("prune",),
        "weight_bits": {"conv": 4, "head": 8},
        "weights": {"conv": (8, 3, 3, 3), "head": (10, 8)},
        "predictions": "onnxruntime-cpu/trials/0003/predictions.npy",
    }
    return TrialRecord(**values)


def test_a_record_survives_json_exactly(tmp_path: Path) -> None:
    before = full(3)
    data = json.loads(json.dumps(record_to_json(before)))
    assert record_from_json(data, tmp_path) == before
    assert data["recipe"][0] == {"technique": "prune", "importance": "magnitude", "ratio": 0.5}
    assert before.audit is not None and before.audit.int8_layers == 1


def test_a_record_from_before_the_compressed_size_is_read(tmp_path: Path) -> None:
    before = full(3)
    assert before.artifact is not None
    kept = replace(before, artifact=replace(before.artifact, compressed_bytes=90))
    data = json.loads(json.dumps(record_to_json(kept)))
    assert record_from_json(data, tmp_path) == kept
    del data["artifact"]["compressed_bytes"]
    assert record_from_json(data, tmp_path) == before


def test_a_record_from_before_weights_and_predictions_is_read(tmp_path: Path) -> None:
    data = json.loads(json.dumps(record_to_json(full(3))))
    for name in ("weights", "predictions", "scores"):
        del data[name]
    assert record_from_json(data, tmp_path) == replace(full(3), weights={}, predictions=None)


def shared_out() -> SharedOut:
    losses = {"conv": ((8.0, 0.0), (4.0, 0.01)), "head": ((8.0, 1e-5), (4.0, 0.02))}
    return SharedOut(Sensitivities("qat", "bits", "rounded", "nats", losses), {"conv": 4.0, "head": 8.0})


class TestSensitivities:
    def test_are_kept_once_for_all_trials_that_share_them(self, tmp_path: Path) -> None:
        study = StudyFolder.create(tmp_path / "s", meta())
        first = study.write_shared_out(shared_out())
        second = study.write_shared_out(replace(shared_out(), chosen={"conv": 8.0, "head": 4.0}))
        assert first.sensitivities == second.sensitivities
        assert [file.name for file in (tmp_path / "s" / "sensitivities").iterdir()] == [Path(first.sensitivities).name]
        assert (first.expected, second.expected) == (0.01 + 1e-5, 0.02)
        assert study.sensitivities(first) == shared_out().sensitivities

    def test_survive_the_record(self, tmp_path: Path) -> None:
        study = StudyFolder.create(tmp_path / "s", meta())
        before = replace(full(3), allocations=(study.write_shared_out(shared_out()),))
        study.write(before)
        assert study.records("onnxruntime-cpu") == [before]

    def test_a_record_from_before_them_is_read(self, tmp_path: Path) -> None:
        data = json.loads(json.dumps(record_to_json(full(3))))
        del data["allocations"]
        assert record_from_json(data, tmp_path) == full(3)

    @pytest.mark.parametrize("content", ["{", '{"schema": 1, "technique": "qat"}', '{"schema": 1, "losses": {"a": 3}}'])
    def test_a_broken_file_is_named(self, tmp_path: Path, content: str) -> None:
        study = StudyFolder.create(tmp_path / "s", meta())
        allocation = study.write_shared_out(shared_out())
        (tmp_path / "s" / allocation.sensitivities).write_text(content)
        with pytest.raises(ConfigError, match="sensitivities"):
            study.sensitivities(allocation)

    def test_lie_within_the_study(self, tmp_path: Path) -> None:
        study = StudyFolder.create(tmp_path / "s", meta())
        allocation = replace(study.write_shared_out(shared_out()), sensitivities="../elsewhere.json")
        with pytest.raises(ConfigError, match="lies outside of"):
            study.sensitivities(allocation)


@pytest.mark.parametrize("path", ["../other/x.npy", "/etc/passwd", "t/../../x"])
def test_no_record_names_a_file_outside_of_its_study(tmp_path: Path, path: str) -> None:
    folder = StudyFolder.create(tmp_path / "s", meta())
    assert folder.file("t/x.npy") == (tmp_path / "s" / "t" / "x.npy").resolve()
    with pytest.raises(ConfigError, match="lies outside of"):
        folder.file(path)


def test_a_study_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    folder = StudyFolder.create(tmp_path / "s", meta())
    folder.write(full(1))
    folder.write(TrialRecord(0, "onnxruntime-cpu", Recipe(), Outcome.FAILED, "why"))
    again = StudyFolder.open(tmp_path / "s")
    assert again.meta == meta()
    assert [(r.number, r.outcome) for r in again.records("onnxruntime-cpu")] == [(0, "failed"), (1, "complete")]
    again.update(trials=9)
    assert StudyFolder.open(tmp_path / "s").meta.trials == 9


def test_a_name_that_exists_says_resume(tmp_path: Path) -> None:
    StudyFolder.create(tmp_path / "s", meta())
    with pytest.raises(ConfigError, match="autoshrink resume s"):
        StudyFolder.create(tmp_path / "s", meta())


def test_an_unknown_schema_is_refused(tmp_path: Path) -> None:
    folder = StudyFolder.create(tmp_path / "s", meta())
    path = tmp_path / "s" / "study.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(ConfigError, match=r"study\.json:schema: 99; this autoshrink reads 1"):
        _ = StudyFolder.open(folder.path).meta


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"schema": 1, "number": "x"}', '{"schema": 1, "recipe": 3}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    folder = StudyFolder.create(tmp_path / "s", meta())
    folder.trial_file("onnxruntime-cpu", 2).write_text(text)
    with pytest.raises(ConfigError, match=r"0002\.json"):
        folder.records("onnxruntime-cpu")


def test_missing_study_lists_the_others(tmp_path: Path) -> None:
    StudyFolder.create(tmp_path / "one", meta("one"))
    with pytest.raises(ConfigError, match="there are one"):
        StudyFolder.open(tmp_path / "two")
    with pytest.raises(ConfigError, match="it has onnxruntime-cpu"):
        StudyFolder.open(tmp_path / "one").records("toaster")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot be written .*--results"):
        StudyFolder.create(tmp_path / "file" / "s", meta())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def _hold(path: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with StudyFolder(path).locked():
        ready.set()
        done.wait(30)


def test_two_searches_on_one_study_are_refused(tmp_path: Path) -> None:
    folder = StudyFolder.create(tmp_path / "s", meta())
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(folder.path, ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(AutoshrinkError, match="another search is running"), folder.locked():
            pass
    finally:
        done.set()
        other.join()
    with folder.locked():
        pass
