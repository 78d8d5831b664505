"""Fine-tuning under the teacher: a changed model learns the task again from the labels and from the trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from autoshrink.cache import StageCache
from autoshrink.fingerprints import training_fingerprint
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.training import OPTIMIZERS, Plan, train
from autoshrink.types import Choice, Range, Settings


class FineTune(ModuleTechnique):
    """Trains what earlier stages changed, with the trained model's outputs as soft targets (Hinton et al. 2015)."""

    name: ClassVar[str] = "finetune"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "epochs": Parameter(Range(0.1, 20.0), 1.0, "passes over the training set"),
        "learning_rate": Parameter(
            Range(0.0, 1.0), 0.0, "largest step of the one-cycle schedule; 0 is the optimizer's usual: 0.05, 0.001"
        ),
        "optimizer": Parameter(
            Choice(OPTIMIZERS), "auto", "SGD with momentum, AdamW, or what suits the model: SGD for convolutions"
        ),
        "temperature": Parameter(Range(1.0, 20.0), 4.0, "softens the teacher's class scores"),
        "alpha": Parameter(Range(0.0, 1.0), 0.7, "share of the teacher in the loss; the rest is the task's own"),
        "patience": Parameter(Range(0, 20, 1), 0, "epochs without a better loss on val before it stops; 0 never does"),
        "hint": Parameter(
            Range(0.0, 10.0), 0.0, "weight of the loss between the features of model and teacher before the last layer"
        ),
    }
    trains: ClassVar[bool] = True
    only_after_change: ClassVar[bool] = True

    def is_off(self, settings: Settings) -> bool:
        """No epochs."""
        return settings.get("epochs") == 0

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:  # noqa: ARG002
        """The settings with their defaults, numbers with a point: training is the same for every target."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        resolved = {**defaults, **settings}
        return {name: value if isinstance(value, str) else float(value) for name, value in resolved.items()}

    def fingerprint(self, task: Task) -> str:
        """Of the training set, its augmentation and the loss."""
        return training_fingerprint(task)

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The trained model; its structure is that of `model`."""
        plan = Plan(
            float(settings["epochs"]),
            float(settings["learning_rate"]),
            optimizer=str(settings["optimizer"]),
            temperature=float(settings["temperature"]),
            alpha=float(settings["alpha"]),
            patience=int(settings["patience"]),
            hint=float(settings["hint"]),
        )
        return train(model, context, plan, self.name), None

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:  # noqa: ARG002
        """The model as it is: training changes no structure."""
        return model


def finetune(
    model: nn.Module,
    task: Task,
    teacher: Callable[[], nn.Module],
    *,
    epochs: float,
    learning_rate: float = 0.0,
    temperature: float = 4.0,
    alpha: float = 0.7,
    hint: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    cache: StageCache | None = None,
) -> nn.Module:
    """A trained copy of `model`, on the CPU, in eval mode; see `training.train` for the method and what is raised.

    Args:
        model: not touched.
        task: its `train` and `loss` are used; an incomplete last batch is dropped.
        teacher: gives the trained model; asked when `alpha` or `hint` is over 0. Without augmentation its
            outputs are computed once and kept in `cache`.
        epochs: passes over the training set, may be a fraction; at least one step is made.
        learning_rate: the largest of the schedule; 0 is the optimizer's usual.
        temperature: T of the soft targets.
        alpha: share of the teacher in the loss, 0 to 1.
        hint: weight of the loss between the features of model and teacher.
        seed: of batch order, augmentation and dropout.
        progress: called with (steps done, steps in all) after each step.
        cache: None computes the teacher's outputs without keeping them.
    """
    plan = Plan(epochs, learning_rate, temperature=temperature, alpha=alpha, hint=hint)
    return train(model, Context(task, teacher, seed, progress, cache), plan, "finetune")
