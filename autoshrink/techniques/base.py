"""The contract of a technique: parameters a space may sample, what it needs of a target, and the pure function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoshrink.sensitivities import SharedOut
from autoshrink.target import Target
from autoshrink.types import Choice, Range, Scalar, Settings

if TYPE_CHECKING:
    import torch

    from autoshrink.cache import StageCache
    from autoshrink.task import Task


@dataclass(frozen=True)
class Parameter:
    """A setting of a technique.

    Attributes:
        allowed: the values it may have.
        default: its value when a space does not mention it.
        when: `(other parameter, values)`: it exists only when the other one has one of these values.
        about: one line for `autoshrink spaces` and the reference.
        trains: those of its values that need the task's training set and loss; they leave the space without them.
        trains_above: numbers over this one need them; without them the parameter is held at this one. None: no number.
    """

    allowed: Choice | Range
    default: Scalar
    about: str
    when: tuple[str, tuple[Scalar, ...]] | None = None
    trains: tuple[Scalar, ...] = ()
    trains_above: float | None = None


@dataclass(frozen=True)
class Context:
    """What a technique may use besides the model and its settings.

    Attributes:
        task: data, loss, names.
        teacher: the trained model as the user brought it, in eval mode; never modified.
        seed: of the study.
        progress: called with (steps done, steps in all) during long work.
        cache: for intermediate results worth keeping, such as the teacher's outputs; None is to keep none.
        fidelity: share of the training steps that are made, over 0 to 1: a cheap first look trains for a tenth.
        checkpoint: folder in which long training keeps its state, to go on from there when it is interrupted; None is
            to keep none. It may not exist yet, and is removed when training is done.
        shared_out: told what was shared out among the layers by their sensitivities, each time that this is done.
    """

    task: Task
    teacher: Callable[[], torch.nn.Module]
    seed: int = 0
    progress: Callable[[int, int], None] = lambda _done, _total: None
    cache: StageCache | None = None
    fidelity: float = 1.0
    checkpoint: Path | None = None
    shared_out: Callable[[SharedOut], None] = lambda _found: None


class Technique(ABC):
    """What module and graph techniques share."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised when the same settings give another result: it is part of the cache's key."""
    parameters: ClassVar[Mapping[str, Parameter]]
    trains: ClassVar[bool]
    """Needs the task's training set and loss."""
    only_after_change: ClassVar[bool] = False
    """Mends what earlier stages did: without one that works on the module it is left out of the recipe."""
    excluded_by: ClassVar[frozenset[str]] = frozenset()
    """Techniques after which this one cannot be applied: with one of them earlier in a recipe it is left out."""
    few_values: ClassVar[bool] = False
    """Leaves weights that take few distinct values, which the exported file can then hold in few bits each."""

    @abstractmethod
    def is_off(self, settings: Settings) -> bool:
        """Whether these settings change nothing, so that the stage is left out of the recipe."""

    @abstractmethod
    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:
        """The settings with what the target adds (JSON values): equal results mean equal work on every target."""

    def shares_out(self, settings: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Whether with these resolved settings it measures how sensitive layers are, and tells `Context.shared_out`."""
        return False

    @abstractmethod
    def fingerprint(self, task: Task) -> str:
        """Of the data that the result depends on; an empty string when it depends on none."""


class ModuleTechnique(Technique):
    """Works on the torch module."""

    @abstractmethod
    def apply(
        self, model: torch.nn.Module, settings: Mapping[str, Any], context: Context
    ) -> tuple[torch.nn.Module, Any]:
        """A new model (the given one is not touched), and the JSON value from which `rebuild` repeats its structure.

        Raises:
            StageError: the model cannot be treated; names the layer and the reason.
        """

    @abstractmethod
    def rebuild(self, model: torch.nn.Module, structure: Any, task: Task) -> torch.nn.Module:
        """`model` in the structure that `apply` gave; its weights may be anything, they are loaded afterwards."""


class GraphTechnique(Technique):
    """Works on the exported ONNX file."""

    @abstractmethod
    def transform(self, source: Path, out: Path, settings: Mapping[str, Any], context: Context) -> None:
        """Writes the transformed model of `source` to `out`.

        Raises:
            StageError: the graph cannot be treated; names the node and the reason.
        """
