"""The built-in tasks: their data, their models, the accuracy that their training logs name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.errors import ConfigError
from autoshrink.task import Split, Task, TrainingSet, call
from autoshrink.tasks import TASKS, digits, fashion, fashion_data
from autoshrink.tasks.classification import calibration_rows, cross_entropy, right_answers
from autoshrink.tasks.digits import ASSETS as DIGITS_ASSETS
from autoshrink.tasks.encoder import PatchEncoder
from autoshrink.tasks.loading import load_task
from autoshrink.tasks.make_fashion_mini import ASSETS as FASHION_ASSETS
from autoshrink.tasks.resnet import ResNet
from autoshrink.tasks.train_fashion import normalise

FULL = ("fashion-mnist", "fashion-patches")
EMBEDDED = [name for name in TASKS if name not in FULL]


@pytest.fixture(scope="module", params=EMBEDDED)
def task(request: pytest.FixtureRequest) -> Task:
    if request.param == "digits":
        pytest.importorskip("sklearn", reason="the digits data set is part of scikit-learn")
    return load_task(request.param)


def logits(task: Task, split: Split) -> np.ndarray:
    model = task.model()
    with torch.no_grad():
        parts = [
            call(model, {"image": torch.tensor(split.inputs["image"][start : start + 250])}, ("logits",))["logits"]
            for start in range(0, len(split), 250)
        ]
    return torch.cat(parts).numpy()


@pytest.mark.parametrize("name", TASKS)
def test_the_table_names_functions_that_exist(name: str) -> None:
    module, function = TASKS[name]
    assert callable(getattr(import_module(module), function))


class TestEveryTask:
    def test_it_knows_its_name_and_its_source(self, task: Task) -> None:
        assert task.source == task.name
        assert task.name in TASKS

    def test_its_classes_have_names(self, task: Task) -> None:
        assert len(task.classes) == 10 == len(set(task.classes))
        assert task.classes[7] == {"digits": "7", "fashion-mini": "sneaker"}[task.name]

    def test_train_val_and_test_share_no_image(self, task: Task) -> None:
        assert task.train is not None
        parts = [
            {image.tobytes() for image in split.inputs["image"]} for split in (task.train.split, task.val, task.test)
        ]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]

    def test_the_calibration_set_is_part_of_train_and_has_every_class_in_it(self, task: Task) -> None:
        assert task.train is not None
        train = task.train.split
        labels = {
            image.tobytes(): int(label)
            for image, label in zip(train.inputs["image"], train.targets["label"], strict=True)
        }
        found = [labels[image.tobytes()] for image in task.calibration["image"]]
        assert len(found) >= 256
        assert set(found) == set(range(10))

    def test_val_and_test_are_balanced(self, task: Task) -> None:
        for split in (task.val, task.test):
            assert len(set(np.bincount(split.targets["label"]).tolist())) == 1

    def test_inputs_are_float32_from_minus_one_to_one(self, task: Task) -> None:
        images = task.val.inputs["image"]
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (-1.0, 1.0)

    def test_two_loads_are_one_task_to_the_cache(self, task: Task) -> None:
        again = load_task(task.name)
        assert again.val.fingerprint() == task.val.fingerprint()
        first, second = task.model().state_dict(), again.model().state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_the_model_is_a_fresh_one_at_each_call(self, task: Task) -> None:
        touched = task.model()
        with torch.no_grad():
            for parameter in touched.parameters():
                parameter.zero_()
        assert any(parameter.abs().max() > 0 for parameter in task.model().parameters())


class TestFashionMini:
    def test_sizes_and_shapes(self) -> None:
        task = fashion.fashion_mini()
        assert task.train is not None
        assert [len(split) for split in (task.train.split, task.val, task.test)] == [10_000, 2_000, 5_000]
        assert task.example_inputs["image"].shape == (1, 1, 28, 28)
        assert task.calibration["image"].shape == (512, 1, 28, 28)
        assert task.train.batch_size == 128

    def test_the_scaling_is_that_of_the_training(self) -> None:
        images = fashion.read_shipped().images[:64]
        assert fashion.to_input(images).tobytes() == (images[:, np.newaxis] / np.float32(127.5) - 1).tobytes()
        assert normalise(images).numpy().tobytes() == fashion.to_input(images).tobytes()

    def test_a_change_to_a_tasks_arrays_does_not_reach_the_next_one(self) -> None:
        first = fashion.fashion_mini()
        first.val.inputs["image"].fill(0)
        first.val.targets["label"].fill(0)
        assert fashion.fashion_mini().val.fingerprint() != first.val.fingerprint()

    @pytest.mark.slow
    def test_the_model_has_the_accuracy_that_the_log_names(self) -> None:
        """Slow: 5,000 images through the whole baseline. Two images may tip over with another machine's rounding."""
        task = fashion.fashion_mini()
        accuracy = right_answers({"logits": logits(task, task.test)}, task.test.targets).mean()
        assert accuracy == pytest.approx(logged(FASHION_ASSETS), abs=2 / len(task.test))


class TestDigits:
    def test_sizes_and_shapes(self) -> None:
        pytest.importorskip("sklearn", reason="the digits data set is part of scikit-learn")
        task = load_task("digits")
        assert task.train is not None
        assert [len(split) for split in (task.train.split, task.val, task.test)] == [997, 300, 500]
        assert task.example_inputs["image"].shape == (1, 1, 8, 8)

    def test_the_model_has_the_accuracy_that_the_log_names(self) -> None:
        pytest.importorskip("sklearn", reason="the digits data set is part of scikit-learn")
        task = load_task("digits")
        accuracy = right_answers({"logits": logits(task, task.test)}, task.test.targets).mean()
        assert accuracy == pytest.approx(logged(DIGITS_ASSETS), abs=1 / len(task.test))
        assert accuracy >= 0.97

    def test_the_script_trains_a_model_and_logs_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("sklearn", reason="the digits data set is part of scikit-learn")
        from autoshrink.tasks.train_digits import train

        threads = torch.get_num_threads()
        try:
            log: list[str] = []
            model = train(epochs=5, seed=0, log=log)
        finally:
            torch.set_num_threads(threads)
        assert not model.training
        assert capsys.readouterr().out == "\n".join(log) + "\n"
        accuracy = float(log[-1].rpartition(" ")[2])
        assert accuracy > 0.6, "chance is 0.1"

    def test_the_images_are_those_of_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("sklearn", reason="the digits data set is part of scikit-learn")
        of_the_file = digits.read_splits()
        # Where its file lies elsewhere, scikit-learn itself is asked.
        monkeypatch.setattr(digits, "find_spec", lambda _name: None)
        for found, expected in zip(of_the_file, digits.read_splits(), strict=True):
            np.testing.assert_array_equal(found.inputs["image"], expected.inputs["image"])
            np.testing.assert_array_equal(found.targets["label"], expected.targets["label"])

    def test_without_scikit_learn_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("sklearn", "sklearn.datasets"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=re.escape("pip install 'autoshrink[digits]'")):
            load_task("digits")


class TestFashionMnist:
    def test_it_says_which_files_are_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(fashion_data.FOLDER_VARIABLE, str(tmp_path))
        with pytest.raises(ConfigError) as caught:
            load_task("fashion-mnist")
        assert len(caught.value.problems) == 4

    def test_the_full_set(self) -> None:
        if fashion_data.local_folder() is None:
            pytest.skip(f"the full set is not here: name its folder in {fashion_data.FOLDER_VARIABLE}")
        full, mini = load_task("fashion-mnist"), fashion.fashion_mini()
        assert full.train is not None
        assert [len(split) for split in (full.train.split, full.val, full.test)] == [58_000, 2_000, 10_000]
        assert full.val.fingerprint() == mini.val.fingerprint()
        mini_test = {image.tobytes() for image in mini.test.inputs["image"]}
        assert mini_test <= {image.tobytes() for image in full.test.inputs["image"]}


class TestFashionPatches:
    def test_it_has_the_images_of_the_full_set_and_the_encoder(self) -> None:
        if fashion_data.local_folder() is None:
            pytest.skip(f"the full set is not here: name its folder in {fashion_data.FOLDER_VARIABLE}")
        task = load_task("fashion-patches")
        assert task.train is not None
        assert [len(split) for split in (task.train.split, task.val, task.test)] == [58_000, 2_000, 10_000]
        assert task.val.fingerprint() == fashion.fashion_mini().val.fingerprint()
        assert isinstance(task.model(), PatchEncoder)
        assert task.student is fashion.encoder_student

    def test_it_says_which_files_are_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(fashion_data.FOLDER_VARIABLE, str(tmp_path))
        with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte\.gz"):
            load_task("fashion-patches")

    @pytest.mark.slow
    def test_the_model_has_the_accuracy_that_the_log_names(self) -> None:
        """Slow: 5,000 images through the encoder. Two images may tip over with another machine's rounding."""
        task = replace(fashion.fashion_mini(), model=fashion.trained_encoder)
        accuracy = right_answers({"logits": logits(task, task.test)}, task.test.targets).mean()
        assert accuracy == pytest.approx(logged(FASHION_ASSETS, "encoder-train.log"), abs=2 / len(task.test))


class TestFamilies:
    @pytest.mark.parametrize(
        ("width", "depth", "channels", "blocks"),
        [(1, 1, 64, 3), (0.5, 1, 32, 3), (0.3, 0.67, 16, 2), (0.1, 0.25, 8, 1), (0.01, 0.01, 8, 1)],
    )
    def test_residual_networks(self, width: float, depth: float, channels: int, blocks: int) -> None:
        student = fashion.residual_student(width, depth)
        assert isinstance(student, ResNet)
        assert student.stem[0].out_channels == channels  # type: ignore[union-attr]
        assert len(student.blocks) == blocks
        assert student.head.in_features == channels * 2 ** (blocks - 1)
        assert student(torch.zeros(2, 1, 28, 28)).shape == (2, 10)

    @pytest.mark.parametrize(
        ("width", "depth", "channels", "layers"),
        [(1, 1, 128, 4), (0.5, 0.5, 64, 2), (0.7, 0.8, 96, 3), (0.1, 0.1, 32, 1)],
    )
    def test_encoders(self, width: float, depth: float, channels: int, layers: int) -> None:
        student = fashion.encoder_student(width, depth)
        assert isinstance(student, PatchEncoder)
        assert (student.embed.out_features, len(student.layers)) == (channels, layers)
        assert all(layer.attention.heads == channels // 32 for layer in student.layers)  # type: ignore[union-attr]
        assert student(torch.zeros(2, 1, 28, 28)).shape == (2, 10)

    @pytest.mark.parametrize(
        ("family", "trained"),
        [(fashion.residual_student, fashion.trained_model), (fashion.encoder_student, fashion.trained_encoder)],
    )
    def test_whole_shares_are_the_baseline(
        self, family: Callable[[float, float], nn.Module], trained: Callable[[], nn.Module]
    ) -> None:
        shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (family(1, 1), trained())]
        assert shapes[0] == shapes[1]


class TestClassification:
    OUTPUTS = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]], np.float32)
    LABELS = np.array([0, 1, 1])

    def test_right_answers(self) -> None:
        scores = right_answers({"logits": self.OUTPUTS}, {"label": self.LABELS})
        assert scores.tolist() == [1.0, 1.0, 0.0]
        assert scores.dtype == np.float64

    def test_cross_entropy_of_equal_scores_is_the_logarithm_of_the_number_of_classes(self) -> None:
        loss = cross_entropy({"logits": torch.zeros(3, 4)}, {"label": torch.tensor([0, 1, 3])})
        assert loss.item() == pytest.approx(np.log(4))

    def test_the_calibration_rows_lie_evenly(self) -> None:
        chosen = calibration_rows(Split({"i": np.arange(101)}, {}), 5)
        assert chosen["i"].tolist() == [0, 25, 50, 75, 100]


def test_an_epoch_of_fashion_mini_has_78_batches() -> None:
    training = fashion.fashion_mini().train
    assert isinstance(training, TrainingSet)
    assert len(training) == 78


def logged(assets: Path, log: str = "train.log") -> float:
    """The last number of the training log: the accuracy on the task's test split."""
    return float((assets / log).read_text().split()[-1])
