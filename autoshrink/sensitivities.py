"""How sensitive the layers of a model are, and what was shared out among them by that. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Losses = tuple[tuple[float, float], ...]
"""Of a layer: (option, how far the model's outputs move when this layer alone is treated so) each, at least 0."""


@dataclass(frozen=True)
class Sensitivities:
    """What a technique measured of each layer of a model, before it chose what to do to each.

    Attributes:
        technique: which one.
        option: what a layer may be given, in words: `bits`, `share of channels removed`.
        method: what was done and compared, in words.
        unit: of the losses, in words.
        losses: layer -> its options. Of layers that are treated together the first one stands for all.
    """

    technique: str
    option: str
    method: str
    unit: str
    losses: Mapping[str, Losses]


@dataclass(frozen=True)
class SharedOut:
    """What a technique gave to the layers by what it measured of them: `chosen`, layer -> option."""

    sensitivities: Sensitivities
    chosen: Mapping[str, float]

    @property
    def expected(self) -> float:
        """Losses of what was chosen, summed over the layers: what the allocator made as small as it could.

        Raises:
            KeyError: a layer was given what was not measured.
        """
        losses = self.sensitivities.losses
        return math.fsum(dict(losses[layer])[option] for layer, option in self.chosen.items())


def shared_out_from_json(value: Mapping[str, Any]) -> SharedOut:
    """The inverse of `dataclasses.asdict`, after a way through JSON."""
    measured = value["sensitivities"]
    losses = {layer: tuple((option, loss) for option, loss in pairs) for layer, pairs in measured["losses"].items()}
    return SharedOut(Sensitivities(**{**measured, "losses": losses}), value["chosen"])


@dataclass(frozen=True)
class Allocation:
    """What a record keeps of a `SharedOut`.

    Attributes:
        technique: the stage.
        chosen: layer -> option.
        expected: see `SharedOut.expected`, in the unit of the sensitivities.
        sensitivities: JSON file, relative to the study's folder; trials that were given the same measurement share it.
    """

    technique: str
    chosen: Mapping[str, float]
    expected: float
    sensitivities: str
