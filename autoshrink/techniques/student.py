"""Students: a smaller model of the task's family, or one with cheaper convolutions, trained under its teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from autoshrink.errors import AutoshrinkError, StageError
from autoshrink.fingerprints import function_fingerprint, training_fingerprint
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.tasks.user_code import described
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.student_blocks import CONVOLUTIONS, rewrite
from autoshrink.techniques.training import OPTIMIZERS, Plan, train
from autoshrink.tensors import run_example
from autoshrink.types import Choice, Range, Settings, content_key

TEXTS = ("convolutions", "optimizer")


class Student(ModuleTechnique):
    """Replaces the model by a smaller one that learns from it (Hinton et al. 2015)."""

    name: ClassVar[str] = "student"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "width": Parameter(Range(0.1, 1.0), 1.0, "share of the width, as the task's family understands it"),
        "depth": Parameter(Range(0.25, 1.0), 1.0, "share of the layers, as the task's family understands it"),
        "convolutions": Parameter(
            Choice(CONVOLUTIONS), "dense", "as they are, or rewritten: depthwise separable, or inverted residuals"
        ),
        "epochs": Parameter(Range(0.0, 100.0), 8.0, "passes over the training set; 0 leaves the student untrained"),
        "learning_rate": Parameter(
            Range(0.0, 1.0), 0.0, "largest step of the one-cycle schedule; 0 is the optimizer's usual: 0.05, 0.001"
        ),
        "optimizer": Parameter(
            Choice(OPTIMIZERS), "auto", "SGD with momentum, AdamW, or what suits the model: SGD for convolutions"
        ),
        "temperature": Parameter(Range(1.0, 20.0), 4.0, "softens the teacher's class scores"),
        "alpha": Parameter(Range(0.0, 1.0), 0.7, "share of the teacher in the loss; the rest is the task's own"),
        "hint": Parameter(
            Range(0.0, 10.0), 0.0, "weight of the loss between the features of model and teacher before the last layer"
        ),
    }
    trains: ClassVar[bool] = True

    def is_off(self, settings: Settings) -> bool:
        """Full width and depth, and the convolutions as they are."""
        smaller = [settings.get(name) != 1 for name in ("width", "depth")]
        return not any(smaller) and settings.get("convolutions") == "dense"

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:  # noqa: ARG002
        """The settings with their defaults, numbers with a point: a student is the same for every target."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        return {name: v if name in TEXTS else float(v) for name, v in {**defaults, **settings}.items()}

    def fingerprint(self, task: Task) -> str:
        """Of the training set, its augmentation and the loss, and of the code of the family."""
        family = function_fingerprint(task.student) if task.student else ""
        return content_key([training_fingerprint(task), family])

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The trained student, in eval mode, and what makes its structure.

        It begins with random weights that the seed fixes, and with those of `model` where they fit, see `take_over`.

        Args:
            model: the teacher; not touched.
            settings: as `resolve` gives them.
            context: see `training.train`.

        Raises:
            StageError: the task brings no family; the family's model does not run, or has outputs of other shapes; no
                convolution can be rewritten; the training fails.
        """
        task = context.task
        structure = {name: settings[name] for name in ("width", "depth", "convolutions")}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            if structure["width"] == structure["depth"] == 1:
                student = copy.deepcopy(model)
            else:
                student = _of_family(task, structure)
                take_over(student, model)
            if structure["convolutions"] != "dense":
                rewrite(student, structure["convolutions"])
        _check_outputs(student, model, task, structure)
        if settings["epochs"] == 0:
            return student.eval(), structure
        plan = Plan(
            float(settings["epochs"]),
            float(settings["learning_rate"]),
            optimizer=str(settings["optimizer"]),
            temperature=float(settings["temperature"]),
            alpha=float(settings["alpha"]),
            hint=float(settings["hint"]),
        )
        return train(student, context, plan, self.name), structure

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:
        """The untrained student; `model` itself where only its convolutions are rewritten."""
        with torch.random.fork_rng(devices=[]):
            student = model
            if not structure["width"] == structure["depth"] == 1:
                student = _of_family(task, structure)
            if structure["convolutions"] != "dense":
                rewrite(student, structure["convolutions"])
        return student


def take_over(student: nn.Module, teacher: nn.Module) -> None:
    """Copies the teacher's weights and buffers into the student's layers of the same name and the same shapes.

    A layer is taken as a whole or not at all. Where a stack (`nn.Sequential`, `nn.ModuleList`) of the student has fewer
    blocks, its block i takes those of the teacher's block round(i (T - 1) / (S - 1)), spread evenly from the first to
    the last (Sanh et al. 2019, section 3), if the whole block fits, and else those of the same number.
    """
    ours, theirs = _own(student), _own(teacher)
    if _shapes(ours) == _shapes(theirs):
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])
    for name, child in student.named_children():
        source = _source(student, name, child, teacher)
        if source is not None:
            take_over(child, source)


def _source(student: nn.Module, name: str, child: nn.Module, teacher: nn.Module) -> nn.Module | None:
    """The teacher's layer from which `student`'s child takes its weights."""
    children = dict(teacher.named_children())
    own, others = len(list(student.children())), len(children)
    if own != others and _is_stack(student) and _is_stack(teacher):
        spread = children[str(round(int(name) * (others - 1) / max(1, own - 1)))]
        if _shapes(child.state_dict()) == _shapes(spread.state_dict()):
            return spread
    return children.get(name)


def _is_stack(layer: nn.Module) -> bool:
    names = [name for name, _ in layer.named_children()]
    return isinstance(layer, nn.Sequential | nn.ModuleList) and names == [str(i) for i in range(len(names))] != []


def _own(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the layer itself, without those of layers in it."""
    tensors = {name: value for name, value in layer.state_dict().items() if "." not in name}
    return {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}


def _shapes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(tensor, "shape", None) for name, tensor in tensors.items()}


def _of_family(task: Task, structure: Mapping[str, Any]) -> nn.Module:
    if task.student is None:
        reason = f"task {task.name} brings no student family; give Task.student, or leave width and depth at 1"
        raise StageError("student", reason)
    width, depth = float(structure["width"]), float(structure["depth"])
    try:
        student = task.student(width, depth)
    except AutoshrinkError:
        raise
    except Exception as error:
        reason = f"Task.student({width:g}, {depth:g}) fails: {described(error, task.source)}"
        raise StageError("student", reason) from error
    if not isinstance(student, nn.Module):
        reason = f"Task.student({width:g}, {depth:g}) gives a {type(student).__name__}; it must give a torch.nn.Module"
        raise StageError("student", reason)
    return student


def _check_outputs(student: nn.Module, model: nn.Module, task: Task, structure: Mapping[str, Any]) -> None:
    """The student runs on the example, and its outputs have the shapes of the model's."""
    which = ", ".join(f"{name} {value}" for name, value in structure.items())
    try:
        found = _output_shapes(student, task)
    except Exception as error:
        reason = f"the student ({which}) does not run on the example: {described(error, task.source)}"
        way_out = "mend Task.student, or leave width, depth and convolutions as they are"
        raise StageError("student", f"{reason}; {way_out}") from error
    expected = _output_shapes(model, task)
    if found != expected:
        reason = f"the student ({which}) has the outputs {found}, the model {expected}; they must be of the same shapes"
        raise StageError("student", f"{reason}: mend Task.student")


def _output_shapes(model: nn.Module, task: Task) -> dict[str, list[int]]:
    copied = copy.deepcopy(model).cpu().eval()
    with torch.no_grad():
        return {name: list(output.shape) for name, output in run_example(copied, task).items()}
