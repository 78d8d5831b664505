"""Confusions, changes by class and flips against answers that were counted by hand."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoshrink.dashboard.palette import LIGHT
from autoshrink.dashboard.trial_accuracy import MOST_CLASSES, accuracy_block
from autoshrink.dashboard.trial_block import Listing
from autoshrink.dashboard.trial_classes import Answers, class_changes, confusion, paired, read_answers
from autoshrink.dashboard.trial_flips import SHOWN, flips, png_uri
from autoshrink.records import StudyFolder
from autoshrink.types import TrialRecord
from autoshrink.val_set import ValSet, write_array
from tests.fake_study import fake_trial, make_fake_study

INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
# Of 0 four samples, of 1 three, of 2 two.
TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
BEFORE = np.array([0, 0, 0, 1, 1, 1, 0, 2, 0])
GIVEN = np.array([0, 0, 2, 0, 1, 2, 2, 2, 1])


def answers(pictures: int = 9, **changes: object) -> Answers:
    shown = np.arange(pictures * 16, dtype=np.uint8).reshape(pictures, 4, 4, 1)
    val = ValSet(9, ("cat", "dog", "<b>fox</b>"), "image", TRUTH, shown)
    return replace(Answers(val, TRUTH, GIVEN, BEFORE), **changes)  # type: ignore[arg-type]


def test_the_confusion_matrix_is_counted_by_hand() -> None:
    assert confusion(TRUTH, GIVEN, 3).tolist() == [[3, 0, 1], [0, 1, 2], [0, 1, 1]]
    assert confusion(TRUTH, TRUTH, 4).tolist() == [[4, 0, 0, 0], [0, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]


def test_flips_are_those_of_which_one_of_the_two_is_right() -> None:
    found = answers()
    assert found.lost().tolist() == [2, 5]
    assert found.gained().tolist() == [3]
    # Sample 6 and 8 are wrong before and after: other errors, no flips.
    assert answers(before=None).lost().tolist() == answers(before=None).gained().tolist() == []


def test_changes_by_class_are_paired_and_the_greatest_loss_comes_first() -> None:
    changes = class_changes(answers())
    assert [(each.number, each.count, each.before, each.right) for each in changes] == [
        (1, 3, 2, 1),
        (0, 4, 3, 3),
        (2, 2, 1, 1),
    ]
    assert [each.change for each in changes] == pytest.approx([-1 / 3, 0.0, 0.0])
    # Agresti and Min 2005 of one sample lost and none gained, half a sample added to each cell: -1 / 5 -+ ...
    half = 1.959963984540054 * (2 - 1 / 5) ** 0.5 / 5
    assert changes[0].interval is not None
    assert (changes[0].interval.low, changes[0].interval.high) == pytest.approx((-0.2 - half, -0.2 + half))
    assert not any(each.is_certain for each in changes)


def test_a_class_of_one_sample_has_a_change_and_no_interval() -> None:
    assert paired(np.array([True]), np.array([False])) == (-1.0, None)
    assert paired(np.array([], bool), np.array([], bool)) == (0.0, None)


def test_a_change_is_certain_where_its_interval_leaves_out_0() -> None:
    before, after = np.ones(200, bool), np.array([False] * 20 + [True] * 180)
    difference, interval = paired(before, after)
    assert difference == pytest.approx(-0.1)
    assert interval is not None
    assert interval.high < 0


def test_flipped_samples_are_shown_with_what_they_are_and_were_taken_for() -> None:
    parts = list(flips(answers(pictures=4)))
    lost = next(part for part in parts if isinstance(part, Listing) and part.name == "lost")
    assert 'alt="Sample 2: cat, taken for &lt;b&gt;fox&lt;/b&gt; now, for cat by the baseline"' in lost.markup
    # Of sample 5 there is no picture.
    assert "no picture: sample 5" in lost.markup
    assert "<b>fox</b>" not in lost.markup
    assert lost.table.rows == ((2, "cat", "cat", "<b>fox</b>"), (5, "dog", "dog", "<b>fox</b>"))


def test_of_many_flips_the_first_are_of_all_classes() -> None:
    truth = np.repeat(np.arange(3), 40)
    many = Answers(ValSet(120, ("a", "b", "c")), truth, (truth + 1) % 3, truth)
    lost = next(part for part in flips(many) if isinstance(part, Listing))
    assert lost.markup.count("<li") == SHOWN
    assert [lost.markup.count(f"<b>{name}</b>") for name in "abc"] == [SHOWN // 3] * 3
    assert len(lost.table.rows) == 120


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_a_png_that_reads_back(channels: int) -> None:
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    kind, _, content = png_uri(picture).partition(";base64,")
    assert kind == "data:image/png"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert np.array_equal(read.reshape(picture.shape), picture)


def test_many_classes_are_shown_as_the_pairs_confused_most() -> None:
    truth = np.arange(300) % (MOST_CLASSES + 10)
    given = np.where(np.arange(300) < 40, (truth + 1) % (MOST_CLASSES + 10), truth)
    block = accuracy_block(fake_trial(1, INT8), Answers(ValSet(300), truth, given, truth), LIGHT)
    drawn = {drawing.name: drawing.figure for drawing in block.drawings()}
    assert [trace.type for trace in drawn["confusion"].data] == ["scatter", "scatter"]
    assert max(drawn["confusion"].data[1].x) == 2
    assert len(drawn["classes"].data[0].x) == MOST_CLASSES


def test_names_of_classes_are_escaped_in_figures() -> None:
    for drawing in accuracy_block(fake_trial(1, INT8), answers(), LIGHT).drawings():
        text = drawing.figure.to_json().replace("\\u003c", "<")
        assert "<b>fox" not in text
        assert "&lt;b&gt;fox" in text


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return make_fake_study(tmp_path / "fake-study", targets=1, trials=3)


def records(study: StudyFolder) -> tuple[TrialRecord, TrialRecord]:
    baseline, *others = study.records("onnxruntime-cpu")
    return baseline, next(record for record in others if record.predictions)


def test_answers_are_read_beside_those_of_the_baseline(study: StudyFolder) -> None:
    baseline, record = records(study)
    found = read_answers(study, record, baseline)
    assert isinstance(found, Answers)
    assert found.right.mean() == pytest.approx(record.val.value if record.val else 0, abs=1e-3)
    assert found.before is not None
    own = read_answers(study, baseline, baseline)
    assert isinstance(own, Answers)
    assert own.before is None


def test_what_is_missing_of_answers_is_said(study: StudyFolder) -> None:
    baseline, record = records(study)
    folder = study.path / "val"
    cases = {
        "the sensor was too hot": replace(record, val=None, reason="the sensor was too hot"),
        "no predictions were kept": replace(record, predictions=None),
        "lies outside": replace(record, predictions="../../elsewhere.npy"),
        "no such file": replace(record, predictions="onnxruntime-cpu/trials/none.npy"),
    }
    for words, changed in cases.items():
        found = read_answers(study, changed, baseline)
        assert isinstance(found, str)
        assert words in found
    write_array(study.file(str(record.predictions)), np.zeros(7, np.uint8))
    assert "7 predictions" in str(read_answers(study, record, baseline))
    (folder / "targets.npy").unlink()
    assert "no classification" in str(read_answers(study, record, baseline))
    (folder / "val.json").unlink()
    assert "before samples and predictions were kept" in str(read_answers(study, record, baseline))


def test_without_the_baselines_predictions_nothing_is_compared(study: StudyFolder) -> None:
    baseline, record = records(study)
    found = read_answers(study, record, replace(baseline, predictions=None))
    block = accuracy_block(record, found, LIGHT)
    assert [drawing.name for drawing in block.drawings()] == ["confusion"]
    assert any("predictions are not known" in str(part) for part in block.parts)
