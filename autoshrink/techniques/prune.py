"""Structured pruning: whole channels are removed, and with them everything in other layers that belongs to them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from autoshrink.cache import StageCache
from autoshrink.errors import StageError
from autoshrink.fingerprints import training_fingerprint
from autoshrink.target import Target
from autoshrink.task import Task, fingerprint
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.channel_pruning import HEADS, IMPORTANCES, RATIO_MAX, SCOPES, Pruning, replay
from autoshrink.techniques.training import Plan, train
from autoshrink.types import Choice, Range, Settings


class Prune(ModuleTechnique):
    """Removes the channels that matter least, in multiples that the target computes well, at once or in steps."""

    name: ClassVar[str] = "prune"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "ratio": Parameter(
            Range(0.0, RATIO_MAX), 0.5, "share of the channels that are removed; per_layer: of the weights they hold"
        ),
        "importance": Parameter(
            Choice(IMPORTANCES),
            "magnitude",
            "how channels are ranked: L2 norm of their weights, or first-order effect on the loss (needs train)",
            trains=("taylor",),
        ),
        "scope": Parameter(
            Choice(SCOPES),
            "global",
            "all layers ranked together, or a share for each layer from how far the outputs move without its channels",
        ),
        "heads": Parameter(Choice(HEADS), "narrow", "attention heads become narrower, or some go as a whole"),
        "steps": Parameter(
            Choice((1, 2, 3, 4)), 1, "steps to the ratio, with fine-tuning between them (needs train)", trains=(2, 3, 4)
        ),
        "step_epochs": Parameter(
            Range(0.05, 5.0), 0.5, "passes over the training set between two steps", when=("steps", (2, 3, 4))
        ),
    }
    trains: ClassVar[bool] = False

    def is_off(self, settings: Settings) -> bool:
        """A ratio of 0."""
        return settings.get("ratio") == 0

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:
        """The settings with their defaults, and `round_to`, the target's channel multiple."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items() if parameter.when is None}
        resolved: dict[str, Any] = {**defaults, **settings, "round_to": target.channel_multiple}
        resolved |= {"ratio": float(resolved["ratio"]), "steps": int(resolved["steps"])}
        if resolved["steps"] > 1:
            resolved["step_epochs"] = float(resolved.get("step_epochs", self.parameters["step_epochs"].default))
        return resolved

    def shares_out(self, settings: Mapping[str, Any]) -> bool:
        """The scope `per_layer`."""
        return bool(settings["scope"] == "per_layer")

    def fingerprint(self, task: Task) -> str:
        """Of the training set and its loss, the calibration set, on which `per_layer` measures, and the kept layers."""
        return f"{training_fingerprint(task)} {fingerprint(task.calibration)} {' '.join(task.keep)}"

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The pruned model, and what each step removed.

        With several steps the same share of what is left goes in each; after all but the last the model is fine-tuned
        under the teacher for `step_epochs`.

        Raises:
            StageError: as `prune`, or as `training.train` in between.
        """
        task, ratio, steps = context.task, float(settings["ratio"]), int(settings["steps"])
        if steps > 1 and not task.trains:
            raise StageError(
                "prune", f"steps {steps} needs a training set and a loss, task {task.name} has none; use steps 1"
            )
        kept, history = 1.0, []
        for step in range(1, steps + 1):
            pruning = Pruning(
                model,
                task,
                importance=str(settings["importance"]),
                scope=str(settings["scope"]),
                heads=str(settings["heads"]),
                round_to=int(settings["round_to"]),
                seed=context.seed,
            )
            if step > 1 and pruning.nothing_to_remove():
                break
            # Of what is left by now: rounding to blocks does not add up over the steps.
            share = max(0.0, 1 - (1 - ratio) ** (step / steps) / kept) if steps > 1 else ratio
            model, structure, removed = pruning.by(share, context.cache, context.progress, context.shared_out)
            kept *= 1 - removed
            history.append(structure)
            if step < steps and removed:
                model = _trained(model, context, Plan(float(settings["step_epochs"])), step)
        if context.checkpoint:
            shutil.rmtree(context.checkpoint, ignore_errors=True)
        return model, history

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:
        """Removes the same channels of a fresh model."""
        for step in structure:
            model = replay(model, step, task)
        return model


def _load(model: nn.Module, file: Path) -> bool:
    """Puts a model's state into it; False when the file is cut short or of another model."""
    try:
        state = load_file(file)
    except (OSError, SafetensorError):
        return False
    # Looked at first: torch has copied what fits when it raises.
    own = model.state_dict()
    if state.keys() != own.keys() or any(value.shape != own[name].shape for name, value in state.items()):
        return False
    model.load_state_dict(state)
    return True


def prune(
    model: nn.Module,
    task: Task,
    *,
    ratio: float,
    importance: str = "magnitude",
    scope: str = "global",
    heads: str = "narrow",
    round_to: int = 1,
    seed: int = 0,
    cache: StageCache | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of `model` with the least important channels removed, in eval mode.

    Channels are ranked by group importance, normalised by the group's mean (Fang et al. 2023, section 3.3):
    `magnitude` is the L2 norm of the weights, `taylor` the first-order change of the loss (Molchanov et al. 2019,
    equation 8), its gradient taken over some batches in the order that `seed` fixes. They go in blocks, so that a layer
    that loses any keeps a multiple of `round_to`. Which layers they come from is decided in one of two ways:

    - `global` ranks the channels of all layers together; none loses more than half of what uniform pruning would leave
      it.
    - `per_layer` lets the allocator share the loss out so that the outputs move least (`prune_sensitivity`). The cost
      of a layer is the parameters that its channels hold; `ratio` is the share of the summed cost that goes. No layer
      loses more than 7/8.

    Layers that feed an output, that `task.keep` names, or whose channels cannot be followed (`nn.MultiheadAttention`,
    recurrent layers, fused attention projections) keep their width. May make a model smaller and no faster when
    `round_to` is not the target's vector width.

    Args:
        model: not touched.
        task: its example input is run; `taylor` needs `train` and `loss`, `per_layer` measures on the calibration set.
        ratio: share to remove, 0 to 0.95; `global` meets it to within half a block, `per_layer` exceeds it by up to
            one, and by what the outputs do not feel at all.
        importance: `magnitude` or `taylor`.
        scope: `global` or `per_layer`.
        heads: of attention: with `narrow` every head loses the same channels; with `remove` some of them go as a whole
            (Michel et al. 2019) where the model runs with fewer, and a single one becomes narrower.
        round_to: channels of a block.
        seed: of the order of batches.
        cache: keeps the sensitivities of `per_layer`, so that another ratio does not measure them again.

    Returns:
        The model, and the JSON value from which `replay` removes the same channels.

    Raises:
        ValueError: a setting is not one of those above.
        StageError: nothing can be removed, or the pruned model does not run or has outputs of another shape.
        OSError: the cache cannot be written.
    """
    if not 0 <= ratio <= RATIO_MAX:
        raise ValueError(f"ratio is {ratio}; it must be between 0 and {RATIO_MAX}")
    pruning = Pruning(model, task, importance=importance, scope=scope, heads=heads, round_to=round_to, seed=seed)
    pruned, structure, _ = pruning.by(ratio, cache)
    return pruned, structure


def _trained(model: nn.Module, context: Context, plan: Plan, step: int) -> nn.Module:
    """The fine-tuned model after a step; kept beside the checkpoints, so that an interrupted stage goes on from it."""
    if context.checkpoint is None:
        return train(model, context, plan, "prune")
    done = context.checkpoint / f"step{step}.safetensors"
    if done.exists() and _load(model, done):
        return model
    trained = train(model, replace(context, checkpoint=context.checkpoint / f"step{step}"), plan, "prune")
    context.checkpoint.mkdir(parents=True, exist_ok=True)
    partial = done.with_suffix(".partial")
    partial.write_bytes(save({name: value.contiguous().clone() for name, value in trained.state_dict().items()}))
    partial.replace(done)
    return trained
