"""What `load_task` finds by running a task's model, metric, loss and augmentation on a few samples."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from autoshrink.tasks.loading import load_task
from tests import task_files
from tests.task_files import END, GOOD, changed, line_of, with_forward

Write = Callable[..., str]
Problem = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(task_files.write, tmp_path)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    return partial(task_files.problem, tmp_path)


class TestTheModel:
    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("lambda: None", "gives a NoneType; it must give a torch.nn.Module"),
            ("lambda: model().train()", "is in training mode; it must be in eval mode: return net.eval()"),
            ("lambda net=model(): net", "gives one object twice; it must give a fresh one"),
            ("lambda: Net().eval()", "two calls give models whose output 'y' differs by"),
            ("lambda: model(3)", "TypeError: model() takes 0 positional arguments but 1 was given (mine.py:"),
        ],
    )
    def test_what_model_gives(self, problem: Problem, value: str, said: str) -> None:
        assert problem(changed(model=value)).startswith(f"mine.py:model: {said}")

    def test_an_exception_in_forward_names_the_layer_and_the_line(self, problem: Problem) -> None:
        text = with_forward("return self.second(x)")
        said = problem(text)
        assert said.startswith("mine.py:model: forward fails in layer 'second' on x float32 [1, 3]: RuntimeError: ")
        assert said.endswith(f"(mine.py:{line_of(text, 'return self.second')})")

    def test_an_exception_between_layers_names_the_line(self, problem: Problem) -> None:
        text = with_forward("return self.first(x).no_such_thing()")
        said = problem(text)
        assert said.startswith("mine.py:model: forward fails on x float32 [1, 3]: AttributeError: ")
        assert said.endswith(f"(mine.py:{line_of(text, 'no_such_thing')})")

    def test_a_model_that_takes_one_sample_only(self, problem: Problem) -> None:
        said = problem(with_forward("return self.second(self.first(x.view(1, 3)))"))
        assert "mine.py:model: forward fails on x float32 [16, 3]" in said

    def test_another_number_of_outputs(self, problem: Problem) -> None:
        said = problem(with_forward("return x, x"))
        assert said == "mine.py:outputs: the model returns 2 outputs; the task names ['y']"

    def test_other_output_names(self, problem: Problem) -> None:
        said = problem(with_forward("return {'z': x}"))
        assert said == "mine.py:outputs: the model returns ['z']; the task names ['y'] as well"

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("{'y': None}", "'y' is a NoneType; it must be a tensor"),
            ("x.sum()", "'y' has shape [] for 1 samples; it must be [N, ...]"),
            ("x.expand(2, 3)", "'y' has shape [2, 3] for 1 samples; it must be [N, ...]"),
            ("x.sum(1)", "'y' is torch.float32 [1]; logits are float [N, ..., classes], all else is 'values'"),
            ("x.long()", "'y' is torch.int64 [1, 3]; logits are float"),
            ("x / 0", "'y' holds NaN or infinity"),
            ("self.second(self.first(x) / 0)", "'y' holds NaN or infinity, first in layer 'second'"),
        ],
    )
    def test_what_forward_returns(self, problem: Problem, value: str, said: str) -> None:
        assert problem(with_forward(f"return {value}")).startswith(f"mine.py:outputs: {said}")

    def test_a_model_that_changes_its_input(self, problem: Problem) -> None:
        said = problem(with_forward("return self.second(self.first(x.mul_(2)))"))
        assert said == "mine.py:model: forward changes its input x; it must leave it as it is: .clone()"

    def test_a_layer_to_keep_that_is_not_there(self, problem: Problem) -> None:
        said = problem(changed(keep="('second', 'third')"))
        assert said == "mine.py:keep: third: no layer of the model, which has first, second"

    def test_other_classes_than_logits(self, problem: Problem) -> None:
        said = problem(changed(classes="('a', 'b', 'c')"))
        assert said == "mine.py:classes: 3 names; output 'y' of the model has 2 classes"

    def test_no_hook_stays_on_the_model(self, write: Write) -> None:
        text = GOOD.replace("    return Net().eval()\n", "    made.append(Net().eval())\n    return made[-1]\n")
        load_task(write("made = []\n" + text + END))
        module = next(
            m for name, m in sys.modules.items() if name.startswith("autoshrink_task_") and hasattr(m, "made")
        )
        assert module.made
        for net in module.made:
            assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())


class TestMetricAndLoss:
    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("outputs['z']", "KeyError: 'z' (mine.py:"),
            ("None", "gives a NoneType; it must be a finite float, or a float array of shape (16,)"),
            ("torch.zeros(16)", "gives a Tensor; it must be"),
            ("np.zeros(3)", "gives shape (3,) for 16 samples; it must be"),
            ("outputs['y'].argmax(1) == targets['label']", "gives an array of bool; it must be"),
            ("float('nan')", "gives NaN or infinity on 16 samples spread over val; it must be"),
            ("np.full(16, np.inf)", "gives NaN or infinity on 16 samples"),
        ],
    )
    def test_what_metric_gives(self, problem: Problem, value: str, said: str) -> None:
        assert problem(changed(metric=f"lambda outputs, targets: {value}")).startswith(f"mine.py:metric: {said}")

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("targets['z']", "KeyError: 'z' (mine.py:"),
            ("0.5", "gives a float; it must give a scalar tensor: .mean()"),
            ("outputs['y'].sum(1)", "gives shape (16,); it must give a scalar tensor: .mean()"),
            ("outputs['y'].sum() / 0", "gives"),
            ("outputs['y'].sum().detach()", "has no gradient"),
        ],
    )
    def test_what_loss_gives(self, problem: Problem, value: str, said: str) -> None:
        assert problem(changed(loss=f"lambda outputs, targets: {value}")).startswith(f"mine.py:loss: {said}")

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("batch.inputs", "gives a dict; it must give a Split"),
            (
                "Split({'x': batch.inputs['x'].astype(float)}, batch.targets)",
                "makes of the inputs {'x': 'float32 (16, 3)'}",
            ),
            (
                "Split(batch.inputs, {})",
                "makes of the targets {'label': 'int64 (16,)'} these: {}; they must stay alike",
            ),
            ("random.rand(3)", "AttributeError: "),
        ],
    )
    def test_what_augment_gives(self, problem: Problem, value: str, said: str) -> None:
        train = f"TrainingSet(samples(20), 4, lambda batch, random: {value})"
        assert problem(changed(train=train)).startswith(f"mine.py:train.augment: {said}")

    def test_their_problems_come_together(self, problem: Problem) -> None:
        said = problem(changed(keep="('third',)", metric="lambda o, t: None", loss="lambda o, t: None"))
        assert re.findall(r"^mine\.py:(\w+):", said, re.MULTILINE) == ["keep", "metric", "loss"]

    def test_the_metric_sees_samples_from_the_whole_of_val(self, write: Write) -> None:
        val = "Split(samples(40).inputs, {'label': np.arange(40) // 20})"
        metric = "lambda o, t: float(t['label'].mean()) if len(set(t['label'])) == 2 else float('nan')"
        load_task(write(changed(val=val, metric=metric)))
