"""What a study keeps of its samples: classes, predictions, scores and pictures with known answers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoshrink.errors import ConfigError
from autoshrink.task import Split, Task
from autoshrink.val_set import (
    FOLDER,
    INPUTS_FILE,
    MOST_BYTES,
    TARGETS_FILE,
    VAL_FILE,
    image_input,
    pictures,
    predicted_classes,
    read_per_sample,
    read_val_set,
    sample_scores,
    smallest,
    true_classes,
    write_array,
    write_val_set,
)
from tests.unit.test_task import GOOD

IMAGES = np.linspace(-1, 1, 5 * 8 * 6, dtype=np.float32).reshape(5, 1, 8, 6)


def classifier(labels: int = 3) -> Task:
    val = Split({"image": IMAGES, "id": np.arange(5)}, {"y": np.array([0, 1, 2, 1, 0]) % labels})
    return replace(GOOD, val=val, classes=("cat", "dog", "eel")[:labels])


def test_a_classification_has_one_output_of_logits_and_one_integer_target() -> None:
    task = classifier()
    found = true_classes(task)
    assert found is not None and found.tolist() == [0, 1, 2, 1, 0]
    two = replace(task.val, targets={**task.val.targets, "z": np.arange(5)})
    for other in (
        replace(task, outputs={"y": "values"}),
        replace(task, outputs={"a": "logits", "b": "logits"}),
        replace(task, val=two),
        replace(task, val=replace(task.val, targets={"y": np.zeros(5)})),
        replace(task, val=replace(task.val, targets={"y": np.zeros((5, 2), int)})),
    ):
        assert true_classes(other) is None
        assert predicted_classes(other, {"logits": np.eye(5)}) is None


@pytest.mark.parametrize(("classes", "dtype"), [(3, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_predictions_are_the_largest_logit_in_the_smallest_dtype(classes: int, dtype: str) -> None:
    logits = np.zeros((5, classes), np.float32)
    logits[[0, 1, 2, 3, 4], [2, 0, classes - 1, 1, 1]] = 1
    found = predicted_classes(classifier(), {"logits": logits})
    assert found is not None and found.dtype == dtype and found.tolist() == [2, 0, classes - 1, 1, 1]


def test_logits_of_each_position_are_no_classes_of_a_sample() -> None:
    assert predicted_classes(classifier(), {"logits": np.zeros((5, 4, 3))}) is None


def test_scores_are_those_of_a_metric_that_has_one_for_each_sample() -> None:
    outputs, split = {"y": np.arange(6.0).reshape(3, 2)}, Split({"x": np.zeros(3)}, {"y": np.ones(3)})
    each = replace(GOOD, metric=lambda found, wanted: found["y"][:, 0] - wanted["y"])
    scores = sample_scores(each, outputs, split)
    assert scores is not None and scores.dtype == np.float32 and scores.tolist() == [-1, 1, 3]
    whole = replace(GOOD, metric=lambda found, wanted: float(found["y"].mean()))
    assert sample_scores(whole, outputs, split) is None


def test_smallest_dtypes() -> None:
    cases = {(0, 255): "uint8", (0, 256): "uint16", (-1, 3): "int8", (-1, 200): "int16", (): "uint8"}
    assert {values: str(smallest(np.array(values, np.int64)).dtype) for values in cases} == cases


def test_what_looks_like_an_image() -> None:
    shapes = {(2, 3, 8, 8): True, (2, 8, 8, 1): True, (2, 4, 8, 8): False, (2, 3, 8): False, (2, 1, 1, 900): False}
    assert {shape: image_input({"x": np.zeros(shape, np.float32)}) == "x" for shape in shapes} == shapes
    assert image_input({"x": np.zeros((2, 3, 8, 8), np.int64)}) is None
    assert image_input({"x": np.zeros((2, 4)), "y": np.zeros((2, 3, 8, 8), np.uint8)}) == "y"


def test_pictures_span_0_to_255_over_all_samples() -> None:
    found = pictures(IMAGES)
    assert found.dtype == np.uint8 and found.shape == (5, 8, 6, 1)
    assert found[0, 0, 0] == 0 and found[-1, -1, -1] == 255
    assert np.array_equal(found[..., 0], np.rint((IMAGES[:, 0] + 1) * 127.5))
    assert not pictures(np.full((2, 1, 4, 4), 7.0, np.float32)).any()


def test_channels_go_last_and_stay_in_order() -> None:
    images = np.zeros((1, 3, 4, 5), np.uint8)
    images[0, 1] = 255
    assert pictures(images)[0, 0, 0].tolist() == [0, 255, 0]
    assert np.array_equal(pictures(images.transpose(0, 2, 3, 1)), pictures(images))


def test_large_pictures_keep_every_nth_pixel() -> None:
    images = np.arange(130 * 100, dtype=np.float32).reshape(1, 1, 130, 100)
    found = pictures(images)
    assert found.shape == (1, 44, 34, 1)
    expected = images[0, 0, ::3, ::3] * (255 / (129 * 100 + 99))
    assert np.abs(found[0, ..., 0] - expected).max() < 1


def test_of_many_samples_the_first_ones_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_BYTES == 16 * 2**20
    monkeypatch.setattr("autoshrink.val_set.MOST_BYTES", 3 * 8 * 6 + 1)
    assert pictures(IMAGES).shape == (3, 8, 6, 1)


def test_a_val_set_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_val_set(tmp_path) is None
    write_val_set(tmp_path, classifier())
    found = read_val_set(tmp_path)
    assert found is not None
    assert (found.count, found.classes, found.input) == (5, ("cat", "dog", "eel"), "image")
    assert found.targets is not None and found.targets.tolist() == [0, 1, 2, 1, 0] and found.targets.dtype == np.uint8
    assert found.pictures is not None and np.array_equal(found.pictures, pictures(IMAGES))
    assert [found.class_name(number) for number in (1, 3, -1)] == ["dog", "3", "-1"]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == [INPUTS_FILE, TARGETS_FILE, VAL_FILE]


def test_it_is_written_again_only_when_the_samples_have_changed(tmp_path: Path) -> None:
    write_val_set(tmp_path, classifier())
    file = tmp_path / FOLDER / TARGETS_FILE
    os.utime(file, (1, 1))
    write_val_set(tmp_path, classifier())
    assert file.stat().st_mtime == 1
    write_val_set(tmp_path, classifier(2))
    found = read_val_set(tmp_path)
    assert found is not None and found.targets is not None and found.targets.tolist() == [0, 1, 0, 1, 0]
    write_val_set(tmp_path, replace(classifier(), outputs={"y": "values"}, classes=(), val=GOOD.val))
    found = read_val_set(tmp_path)
    assert found is not None and found.targets is None and found.pictures is None and found.input == ""


def damaged(folder: Path) -> list[tuple[str, bytes]]:
    whole = (folder / TARGETS_FILE).read_bytes()
    return [
        (TARGETS_FILE, b""),
        (TARGETS_FILE, whole[:-2]),
        (TARGETS_FILE, b"PK\x03\x04" + whole),
        (VAL_FILE, b"{"),
        (VAL_FILE, b'{"schema": 1}'),
        (VAL_FILE, b'{"schema": 1, "count": 4, "classes": [], "input": ""}'),
        (VAL_FILE, b'{"schema": 1, "count": "many", "classes": [], "input": ""}'),
    ]


@pytest.mark.parametrize("case", range(7))
def test_a_damaged_file_is_named(tmp_path: Path, case: int) -> None:
    write_val_set(tmp_path, classifier())
    name, content = damaged(tmp_path / FOLDER)[case]
    (tmp_path / FOLDER / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"val"):
        read_val_set(tmp_path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "predictions.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_per_sample(tmp_path / "predictions.npy", "u")


def test_per_sample_files_have_their_kind(tmp_path: Path) -> None:
    file = tmp_path / "predictions.npy"
    with pytest.raises(ConfigError, match="there is no such file"):
        read_per_sample(file, "u")
    write_array(file, np.array([1, 2, 1], np.uint8))
    assert read_per_sample(file, "u").tolist() == [1, 2, 1]
    with pytest.raises(ConfigError, match=r"is uint8 \[3\]"):
        read_per_sample(file, "f")
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npy"]
