"""How far outputs are from those expected."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autoshrink.techniques.deviation import deviation, measured_rows, outputs_on, unit_of
from autoshrink.tensors import run_example
from tests.small_models import tiny_task


class TestDeviation:
    def test_of_class_scores_is_the_divergence(self) -> None:
        expected = {"y": torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()}
        found = {"y": torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log() + 3}
        divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
        assert deviation(expected, found, {"y": "logits"}) == pytest.approx(divergence / 2)
        assert deviation(expected, expected, {"y": "logits"}) == 0

    def test_of_values_is_the_error_relative_to_their_size(self) -> None:
        expected, found = {"y": torch.tensor([[3.0], [4.0]])}, {"y": torch.tensor([[3.0], [3.0]])}
        assert deviation(expected, found, {"y": "values"}) == pytest.approx(1 / 25)
        assert deviation({"y": 1000 * expected["y"]}, {"y": 1000 * found["y"]}, {"y": "values"}) == pytest.approx(
            1 / 25
        )

    def test_of_several_outputs_is_the_sum(self) -> None:
        expected = {"a": torch.ones(2, 1), "b": torch.ones(2, 1)}
        found = {"a": torch.zeros(2, 1), "b": torch.full((2, 1), 0.5)}
        assert deviation(expected, found, {"a": "values", "b": "values"}) == pytest.approx(1.25)

    def test_says_what_it_counts_in(self) -> None:
        assert unit_of({"a": "logits", "b": "logits"}) == "nats of KL divergence"
        assert unit_of({"a": "values"}) == "mean squared error over the mean square"
        assert " + " in unit_of({"a": "values", "b": "logits"})


class TestOutputs:
    def test_of_many_rows_are_those_of_each(self) -> None:
        task = tiny_task("two_outputs")
        model = task.model()
        found = outputs_on(model, task, {name: array[:100] for name, array in task.val.inputs.items()})
        assert {name: tuple(output.shape) for name, output in found.items()} == {"logits": (100, 4), "value": (100, 1)}
        example = outputs_on(model, task, task.example_inputs)
        for name, output in run_example(model, task).items():
            torch.testing.assert_close(example[name], output)
            assert not example[name].requires_grad

    def test_rows_are_of_the_calibration_set(self) -> None:
        task = tiny_task("cnn")
        assert len(measured_rows(task.model(), task)["image"]) == 64

    @pytest.mark.parametrize(("width", "expected"), [(1000, 256), (8192, 128), (20000, 64)])
    def test_large_models_get_fewer(self, width: int, expected: int) -> None:
        task = tiny_task("cnn")
        samples = task.train.split.inputs if task.train else {}
        larger = replace(task, calibration={name: array.repeat(2, 0) for name, array in samples.items()})
        with torch.device("meta"):
            model = torch.nn.Linear(1024, width, bias=False)
        assert len(measured_rows(model, larger)["image"]) == expected
