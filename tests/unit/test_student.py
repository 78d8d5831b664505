from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoshrink.errors import StageError
from autoshrink.target import Precision, Target
from autoshrink.task import Task, call
from autoshrink.tasks.encoder import PatchEncoder
from autoshrink.tasks.resnet import ResNet
from autoshrink.techniques.base import Context
from autoshrink.techniques.prune import prune
from autoshrink.techniques.student import Student, take_over
from autoshrink.techniques.student_blocks import EXPANSION, InvertedResidual, rewrite, separable
from autoshrink.tensors import as_tensors, run_example
from tests.small_models import TinyCnn, model_task, tiny_task

TARGET = Target("t", "onnxruntime", {"fp32": Precision()})
IMAGE = np.zeros((1, 2, 8, 8), np.float32)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def student_of(task: Task, seed: int = 0, **settings: Any) -> nn.Module:
    resolved = Student().resolve(settings, TARGET)
    return Student().apply(task.model(), resolved, Context(task, task.model, seed))[0]


def accuracy(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        outputs = call(model, as_tensors(task.val.inputs), tuple(task.outputs))
    return float(np.mean(task.metric({name: y.numpy() for name, y in outputs.items()}, task.val.targets)))


def numbered(layer: nn.Module, start: int = 0) -> nn.Module:
    """Every parameter is filled with its own number."""
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters(), start):
            parameter.fill_(float(number))
    return layer


DENSE: list[Callable[[], nn.Conv2d]] = [
    lambda: nn.Conv2d(6, 10, 3, 1, 1, bias=False),
    lambda: nn.Conv2d(6, 6, 3, 1, 1),
    lambda: nn.Conv2d(6, 10, 5, 2, 2),
    lambda: nn.Conv2d(6, 6, 3, 1, 0),
    lambda: nn.Conv2d(6, 10, 3, 1, 2, dilation=2, padding_mode="reflect"),
    lambda: nn.Conv2d(6, 6, (1, 3), padding="same"),
    lambda: nn.Conv2d(6, 6, 3, (1, 2), (1, 1)),
]


class TestBlocks:
    @pytest.mark.parametrize("build", DENSE)
    @pytest.mark.parametrize("block", [separable, InvertedResidual])
    def test_take_and_give_what_the_dense_convolution_does(
        self, build: Callable[[], nn.Conv2d], block: Callable[[nn.Conv2d], nn.Module]
    ) -> None:
        x = torch.zeros(2, 6, 9, 9)
        assert block(build())(x).shape == build()(x).shape

    def test_parameters_of_a_separable_convolution(self) -> None:
        dense = nn.Conv2d(6, 10, 3, bias=False)
        block = separable(dense)
        assert [count(layer) for layer in block] == [9 * 6, 2 * 6, 0, 6 * 10]
        assert count(separable(nn.Conv2d(6, 10, 3))) == count(block) + 10

    def test_parameters_of_an_inverted_residual(self) -> None:
        hidden = EXPANSION * 6
        weights = 6 * hidden + 9 * hidden + hidden * 10
        assert count(InvertedResidual(nn.Conv2d(6, 10, 3))) == weights + 2 * (hidden + hidden + 10)

    def test_a_separable_one_whose_filters_pass_the_centre_is_its_pointwise_part(self) -> None:
        block = separable(nn.Conv2d(3, 4, 3, 1, 1)).eval()
        with torch.no_grad():
            block.get_parameter("depthwise.weight").zero_()[:, :, 1, 1] = 1
        x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(block(x), block.get_submodule("pointwise")(x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("build", DENSE)
    def test_an_inverted_residual_adds_its_input_where_the_shapes_allow_it(
        self, build: Callable[[], nn.Conv2d]
    ) -> None:
        block = InvertedResidual(build()).eval()
        nn.init.zeros_(block.norm3.weight)
        x = torch.rand(2, 6, 9, 9, generator=torch.Generator().manual_seed(0))
        y = block(x)
        assert torch.equal(y, x if y.shape == x.shape else torch.zeros_like(y))


class Mixed(nn.Module):
    """Convolutions of every kind that stays, and two that do not. [N, 2, 8, 8] -> [N, 4, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.point = nn.Conv2d(4, 4, 1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.same = self.twice
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.weight_of_tied = nn.Conv2d(4, 4, 3, padding=1)
        self.weight_of_tied.weight = self.tied.weight
        self.transposed = nn.ConvTranspose2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.blocks(self.first(x)))
        x = self.same(self.twice(self.grouped(x)))
        out: torch.Tensor = self.transposed(self.weight_of_tied(self.tied(x)))
        return out


class TestRewrite:
    @pytest.mark.parametrize("kind", ["separable", "inverted"])
    def test_what_is_shared_grouped_pointwise_or_transposed_stays(self, kind: str) -> None:
        model = Mixed()
        before = dict(model.named_modules(remove_duplicate=False))
        rewrite(model, kind)
        after = dict(model.named_modules(remove_duplicate=False))
        assert [name for name in before if after[name] is not before[name]] == ["first", "blocks.0"]
        assert model(torch.zeros(1, 2, 8, 8)).shape == (1, 4, 8, 8)

    def test_names_why_nothing_can_be_rewritten(self) -> None:
        with pytest.raises(StageError) as caught:
            student_of(tiny_task("grouped"), convolutions="separable")
        assert (
            "stem has one input channel, depthwise has 32 groups, pointwise has a 1 x 1 kernel" in caught.value.reason
        )
        assert "set student.convolutions to dense" in caught.value.reason

    def test_names_what_a_model_without_convolutions_has(self) -> None:
        with pytest.raises(StageError, match=r"it has none, but embed \(Embedding\), norm1 \(LayerNorm\), .* and more"):
            student_of(tiny_task("transformer"), convolutions="inverted")

    def test_a_model_that_reads_its_convolution_is_refused(self) -> None:
        class Reads(TinyCnn):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return super().forward(image) + self.conv1.weight.mean()

        task = replace(tiny_task("cnn"), model=lambda: Reads().eval())
        with pytest.raises(StageError, match=r"convolutions separable\) does not run on the example: AttributeError"):
            student_of(task, convolutions="separable")


class TestTakeOver:
    def test_a_shorter_stack_takes_blocks_spread_over_the_longer_one(self) -> None:
        for ours, theirs, expected in ((1, 4, [0]), (2, 4, [0, 3]), (3, 6, [0, 2, 5]), (4, 12, [0, 4, 7, 11])):
            student = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(ours)))
            teacher = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(theirs)))
            take_over(student, numbered(teacher))
            assert [layer.weight.unique().tolist() for layer in student] == [[number] for number in expected]

    def test_a_stack_inside_a_block_is_followed(self) -> None:
        def model(blocks: int) -> nn.Module:
            return nn.ModuleList(nn.ModuleDict({"f": nn.Linear(2, 2, bias=False)}) for _ in range(blocks))

        student, teacher = nn.ModuleDict({"layers": model(2)}), nn.ModuleDict({"layers": model(3)})
        take_over(student, numbered(teacher))
        assert [float(value[0, 0]) for value in student.state_dict().values()] == [0, 2]

    def test_a_block_that_does_not_fit_gives_way_to_the_one_of_the_same_number(self) -> None:
        teacher, student = ResNet(8), ResNet(8, 2 / 3)
        take_over(student, teacher)
        for name, value in student.state_dict().items():
            if not name.startswith("head."):
                assert torch.equal(value, teacher.state_dict()[name]), name
        assert student.head.weight.shape != teacher.head.weight.shape

    def test_a_layer_is_taken_as_a_whole_or_not_at_all(self) -> None:
        student, teacher = nn.ModuleDict({"a": nn.Linear(3, 2)}), nn.ModuleDict({"a": nn.Linear(4, 2)})
        before = copy.deepcopy(student.state_dict())
        take_over(student, teacher)
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())

    def test_an_encoder_without_its_middle_layers(self) -> None:
        teacher, student = PatchEncoder(), PatchEncoder.of_shares(1, 0.5)
        take_over(student, teacher)
        theirs = teacher.state_dict()
        for name, value in student.state_dict().items():
            assert torch.equal(value, theirs[name.replace("layers.1.", "layers.3.")]), name


class TestStudent:
    def test_is_off_only_when_everything_is_known_to_stay(self) -> None:
        off = {"width": 1.0, "depth": 1, "convolutions": "dense"}
        assert Student().is_off(off)
        assert not Student().is_off({"width": 1})
        assert not Student().is_off({"width": 1, "depth": 1})
        for other in ({"width": 0.5}, {"depth": 0.5}, {"convolutions": "separable"}):
            assert not Student().is_off({**off, **other})

    def test_has_the_width_of_its_family(self) -> None:
        task = tiny_task("cnn")
        student = student_of(task, width=0.5, epochs=0)
        assert isinstance(student, TinyCnn)
        assert student.head.in_features == 16

    def test_untrained_it_is_the_family_with_the_teachers_weights_where_they_fit(self) -> None:
        task = replace(tiny_task("cnn"), student=lambda width, depth: TinyCnn(24))
        student = student_of(task, width=0.5, epochs=0)
        assert all(torch.equal(v, task.model().state_dict()[name]) for name, v in student.state_dict().items())

    def test_cheaper_convolutions_leave_the_other_weights(self) -> None:
        task = tiny_task("cnn")
        student = student_of(task, convolutions="separable", epochs=0)
        for layer in ("stem", "norm", "norm1", "norm2", "head"):
            for name, value in task.model().get_submodule(layer).state_dict().items():
                assert torch.equal(student.state_dict()[f"{layer}.{name}"], value)
        assert count(student) == count(task.model()) - 2 * (9 * 24 * 24 - (9 * 24 + 2 * 24 + 24 * 24))

    def test_family_and_cheaper_convolutions_together(self) -> None:
        student = student_of(tiny_task("cnn"), width=0.5, convolutions="inverted", epochs=0)
        assert isinstance(student.get_submodule("conv1"), InvertedResidual)
        assert student.get_parameter("conv1.expand.weight").shape == (EXPANSION * 16, 16, 1, 1)

    def test_seed_fixes_the_first_weights(self) -> None:
        task = tiny_task("cnn")
        first, again, other = (
            student_of(task, seed, width=0.5, epochs=0).get_parameter("conv1.weight") for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("settings", [{"width": 0.7}, {"convolutions": "separable"}, {"convolutions": "inverted"}])
    def test_learns_the_task(self, settings: dict[str, Any]) -> None:
        task = tiny_task("cnn")
        student = student_of(task, epochs=8, **settings)
        assert accuracy(student, task) > accuracy(student_of(task, epochs=0, **settings), task) + 0.2
        assert accuracy(student, task) > 0.6, "chance is 0.25"

    @pytest.mark.parametrize("kind", ["separable", "inverted"])
    def test_can_be_pruned_afterwards(self, kind: str) -> None:
        task = tiny_task("cnn")
        student = student_of(task, convolutions=kind, epochs=0)
        pruned, _ = prune(student, task, ratio=0.5, round_to=8)
        assert count(pruned) < count(student)
        assert run_example(pruned, task)["logits"].shape == (1, 4)

    def test_a_small_model_needs_no_family(self) -> None:
        student_of(replace(tiny_task("conv_only"), student=None), convolutions="separable", epochs=0)

    def test_rebuilding_draws_nothing_from_the_global_random_state(self) -> None:
        task = tiny_task("cnn")
        model = task.model()
        before = torch.get_rng_state()
        Student().rebuild(model, {"width": 0.5, "depth": 1.0, "convolutions": "separable"}, task)
        assert torch.equal(before, torch.get_rng_state())

    def test_fingerprint_sees_the_familys_code(self) -> None:
        task = tiny_task("cnn")
        variants = [
            task,
            replace(task, student=None),
            replace(task, student=lambda width, depth: TinyCnn(int(24 * width))),
            replace(task, student=lambda width, depth: TinyCnn(int(32 * width))),
        ]
        assert len({Student().fingerprint(variant) for variant in variants}) == 4


class TestRefusals:
    @pytest.mark.parametrize("settings", [{"width": 0.5}, {"depth": 0.5}])
    def test_no_family(self, settings: dict[str, float]) -> None:
        task = replace(tiny_task("cnn"), student=None)
        with pytest.raises(
            StageError, match=r"task tiny-cnn brings no student family; give Task.student, or leave width"
        ):
            student_of(task, **settings)

    def test_a_family_that_fails(self) -> None:
        def family(width: float, depth: float) -> nn.Module:
            raise ValueError("no such width")

        with pytest.raises(StageError, match=r"Task.student\(0.5, 1\) fails: ValueError: no such width"):
            student_of(replace(tiny_task("cnn"), student=family), width=0.5)

    def test_a_family_of_something_else(self) -> None:
        task = replace(tiny_task("cnn"), student=lambda width, depth: "model")
        with pytest.raises(StageError, match=r"Task.student\(0.5, 1\) gives a str; it must give a torch.nn.Module"):
            student_of(task, width=0.5)

    def test_a_student_that_does_not_run(self) -> None:
        task = replace(tiny_task("cnn"), student=lambda width, depth: nn.Linear(3, 4))
        with pytest.raises(
            StageError, match=r"the student \(width 0.5, .*\) does not run on the example: RuntimeError"
        ):
            student_of(task, width=0.5)

    def test_a_student_with_other_outputs(self) -> None:
        task = replace(tiny_task("cnn"), student=lambda width, depth: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
        with pytest.raises(StageError, match=r"has the outputs {'logits': \[1, 3\]}, the model {'logits': \[1, 4\]}"):
            student_of(task, width=0.5)

    def test_a_student_with_another_number_of_outputs(self) -> None:
        class Two(TinyCnn):
            def forward(self, image: torch.Tensor) -> Any:
                return super().forward(image), image

        task = replace(tiny_task("cnn"), student=lambda width, depth: Two())
        with pytest.raises(StageError, match="the model returns 2 outputs"):
            student_of(task, width=0.5)

    def test_a_model_that_is_one_convolution(self) -> None:
        task = model_task(lambda: nn.Conv2d(2, 4, 3), IMAGE)
        with pytest.raises(StageError, match="it is the whole model"):
            student_of(task, convolutions="separable")
