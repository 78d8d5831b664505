"""The Task contract: splits, epochs, fingerprints, `check_task`, `call`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoshrink.errors import ConfigError
from autoshrink.task import Arrays, Split, Task, TrainingSet, call, check_task, fingerprint


def samples(count: int, seed: int = 0) -> Split:
    random = np.random.RandomState(seed)
    return Split(
        {"x": random.rand(count, 3).astype(np.float32), "id": np.arange(count)},
        {"y": random.randint(0, 2, count)},
    )


def zero_metric(outputs: Arrays, targets: Arrays) -> float:
    return 0.0


def zero_loss(outputs: Any, targets: Any) -> torch.Tensor:
    return torch.zeros(())


GOOD = Task(
    name="a-task_1",
    model=torch.nn.Identity,
    example_inputs=samples(1).inputs,
    outputs={"logits": "logits"},
    calibration=samples(4).inputs,
    val=samples(5),
    test=samples(6),
    metric=zero_metric,
)


class TestSplit:
    def test_length_is_the_number_of_samples(self) -> None:
        assert len(samples(7)) == 7

    def test_rows_takes_inputs_and_targets_together(self) -> None:
        part = samples(7).rows(np.array([5, 2]))
        assert part.inputs["id"].tolist() == [5, 2]
        assert part.inputs["x"].shape == (2, 3)
        assert part.targets["y"].tolist() == samples(7).targets["y"][[5, 2]].tolist()

    def test_rows_of_a_slice(self) -> None:
        assert samples(7).rows(slice(1, 4)).inputs["id"].tolist() == [1, 2, 3]

    def test_the_fingerprint_depends_on_inputs_and_on_targets(self) -> None:
        one = samples(3)
        other_target = Split(one.inputs, {"y": 1 - one.targets["y"]})
        assert one.fingerprint() == samples(3).fingerprint()
        assert len({one.fingerprint(), samples(3, seed=1).fingerprint(), other_target.fingerprint()}) == 3

    def test_an_input_is_not_taken_for_a_target_of_the_same_name(self) -> None:
        array = np.arange(3)
        assert Split({"a": array}, {}).fingerprint() != Split({}, {"a": array}).fingerprint()


class TestFingerprint:
    def test_known_answer(self) -> None:
        # SHA-256 of "a |u1 (2,)\n" and the bytes 1 and 2.
        expected = "4e31a09d630c"
        assert fingerprint({"a": np.array([1, 2], np.uint8)})[:12] == expected

    @pytest.mark.parametrize(
        "other",
        [
            {"b": np.zeros(4, np.float32)},
            {"a": np.zeros((2, 2), np.float32)},
            {"a": np.zeros(4, np.int32)},
            {"a": np.array([0, 0, 0, 1], np.float32)},
        ],
        ids=["name", "shape", "dtype", "content"],
    )
    def test_it_depends_on(self, other: Arrays) -> None:
        assert fingerprint({"a": np.zeros(4, np.float32)}) != fingerprint(other)

    def test_it_does_not_depend_on_the_order_of_names_nor_on_the_memory_layout(self) -> None:
        a, b = np.arange(6).reshape(2, 3), np.ones(2)
        assert fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": np.asfortranarray(a)})

    def test_an_empty_array_has_one(self) -> None:
        assert fingerprint({"a": np.zeros((0, 3))}) != fingerprint({"a": np.zeros((0, 4))})


class TestTrainingSet:
    def test_an_epoch_has_whole_batches_and_says_their_rows(self) -> None:
        batches = list(TrainingSet(samples(10), batch_size=4).epoch(seed=3))
        assert [len(batch) for _, batch in batches] == [4, 4]
        for rows, batch in batches:
            assert batch.inputs["id"].tolist() == rows.tolist()

    @given(count=st.integers(1, 40), batch_size=st.integers(1, 10), seed=st.integers(0, 5))
    def test_no_sample_comes_twice_in_an_epoch(self, count: int, batch_size: int, seed: int) -> None:
        training = TrainingSet(samples(count), batch_size)
        epoch = list(training.epoch(seed))
        rows = np.concatenate([rows for rows, _ in epoch])
        assert len(epoch) == len(training)
        assert len(set(rows.tolist())) == len(rows)
        assert len(rows) == (count // batch_size * batch_size or count)

    def test_the_seed_fixes_the_order_and_the_augmentation(self) -> None:
        def noisy(batch: Split, random: np.random.Generator) -> Split:
            noise = random.normal(size=(len(batch), 3)).astype(np.float32)
            return Split({**batch.inputs, "x": batch.inputs["x"] + noise}, batch.targets)

        training = TrainingSet(samples(8), 4, noisy)

        def epoch(seed: int) -> list[str]:
            return [batch.fingerprint() for _, batch in training.epoch(seed)]

        assert epoch(1) == epoch(1)
        assert epoch(1) != epoch(2)

    def test_every_seed_has_its_own_order(self) -> None:
        plain = TrainingSet(samples(8), 4)
        first, second = ([rows.tolist() for rows, _ in plain.epoch(seed)] for seed in (1, 2))
        assert first != second
        assert first != [[0, 1, 2, 3], [4, 5, 6, 7]]

    def test_the_augmentation_changes_the_batch_and_not_the_set(self) -> None:
        def doubled(batch: Split, random: np.random.Generator) -> Split:
            return Split({**batch.inputs, "x": np.multiply(batch.inputs["x"], 2)}, batch.targets)

        split = samples(8)
        before = split.fingerprint()
        for rows, batch in TrainingSet(split, 4, doubled).epoch(0):
            assert (batch.inputs["x"] == np.multiply(split.inputs["x"][rows], 2)).all()
        assert split.fingerprint() == before


def test_techniques_that_train_need_both_the_data_and_the_loss() -> None:
    assert not GOOD.trains
    assert replace(GOOD, train=TrainingSet(samples(8), 4), loss=zero_loss).trains


class TestCheckTask:
    def test_a_good_task_passes(self) -> None:
        check_task(GOOD)
        check_task(replace(GOOD, classes=("no", "yes")))
        check_task(replace(GOOD, train=TrainingSet(samples(8), 8), loss=zero_loss))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"name": "a task"}, "name: 'a task' may hold letters"),
            ({"name": ""}, "name: '' may hold letters"),
            ({"outputs": {}}, "outputs: is empty"),
            ({"outputs": {"y": "scores"}}, "outputs: 'y' is 'scores'; allowed are 'logits' and 'values'"),
            ({"example_inputs": {}}, "example_inputs: is empty"),
            ({"example_inputs": samples(2).inputs}, "example_inputs: 'x' has shape (2, 3); it must be one sample"),
            ({"example_inputs": {"x": [0.0]}}, "example_inputs: 'x' is a list"),
            ({"calibration": {"x": samples(2).inputs["x"]}}, "calibration: has the inputs ['x']"),
            ({"val": Split(dict(reversed(samples(2).inputs.items())), {})}, "val: has the inputs ['id', 'x']"),
            ({"test": samples(0)}, "test: 'x' has no samples"),
            ({"train": TrainingSet(samples(8), 9), "loss": zero_loss}, "train: batch_size 9 is over its 8 samples"),
            ({"train": TrainingSet(samples(8), 4)}, "loss: train and loss go together"),
            ({"classes": ("no",)}, "classes: 1 names; val has a class 1, so that it must be 2 or more"),
            ({"classes": ("no", "no")}, "classes: 'no': each class needs a name of its own"),
            ({"classes": ("no", " ")}, "classes: an empty name: each class needs a name of its own"),
            ({"classes": ("a", "b"), "outputs": {"y": "values"}}, "classes: names classes; the task needs a single"),
            ({"loss": zero_loss}, "loss: train and loss go together"),
            ({"val": Split(samples(5).inputs, {"y": np.zeros(4)})}, "val: has different numbers of samples"),
            ({"source": "mine.py", "name": "?"}, "mine.py:name: "),
        ],
    )
    def test_it_names_the_attribute_and_the_rule(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            check_task(replace(GOOD, **changes))
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda x: x[:, :2], "'x' has shape (4, 2); example_inputs says [N, 3]"),
            (lambda x: x.astype(np.float64), "'x' is float64; example_inputs says float32"),
            (lambda x: np.where(x == x[0, 0], np.float32("nan"), x), "'x' holds NaN or infinity"),
        ],
    )
    @pytest.mark.parametrize("part", ["calibration", "val", "test", "train"])
    def test_the_inputs_of_every_part_are_those_of_the_example(
        self, part: str, change: Callable[[Any], Any], said: str
    ) -> None:
        split = samples(4)
        split = Split({**split.inputs, "x": change(split.inputs["x"])}, split.targets)
        changes: dict[str, Any] = {part: split}
        if part == "calibration":
            changes = {part: split.inputs}
        elif part == "train":
            changes = {part: TrainingSet(split, 2), "loss": zero_loss}
        with pytest.raises(ConfigError) as caught:
            check_task(replace(GOOD, **changes))
        assert f"{part}: {said}" in str(caught.value)

    def test_every_problem_comes_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            check_task(replace(GOOD, name="a b", loss=zero_loss, test=samples(0)))
        assert len([p for p in caught.value.problems if ":name:" in p or ":loss:" in p]) == 2


class FakeModel(torch.nn.Module):
    """Returns what it is told to."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.answer(*inputs)


class TestCall:
    INPUTS: ClassVar = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}

    def test_inputs_go_by_position_and_a_tensor_is_one_output(self) -> None:
        assert call(FakeModel(lambda a, b: a - b), self.INPUTS, ("y",))["y"].item() == -1.0

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_several_outputs_get_their_names_in_order(self, kind: Callable[[Any], Any]) -> None:
        outputs = call(FakeModel(lambda a, b: kind([a, b])), self.INPUTS, ("y", "z"))
        assert {name: value.item() for name, value in outputs.items()} == {"y": 1.0, "z": 2.0}

    def test_a_mapping_gives_the_named_ones_in_the_order_of_the_task(self) -> None:
        outputs = call(FakeModel(lambda a, b: {"extra": a, "z": b, "y": a}), self.INPUTS, ("y", "z"))
        assert list(outputs) == ["y", "z"]
        assert outputs["z"].item() == 2.0

    def test_another_number_of_outputs_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="returns 2 outputs; the task names"):
            call(FakeModel(lambda a, b: (a, b)), self.INPUTS, ("y",))

    def test_a_mapping_without_a_named_output_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match=r"returns \['y'\]; the task names \['z'\] as well"):
            call(FakeModel(lambda a, b: {"y": a}), self.INPUTS, ("y", "z"))
