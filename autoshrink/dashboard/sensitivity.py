"""What stages measured of the layers of a model, and whether what they expected came to be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath

from autoshrink.dashboard.correlation import rank_correlation
from autoshrink.dashboard.factors import technique_name
from autoshrink.dashboard.view import TargetView
from autoshrink.sensitivities import Allocation, Sensitivities
from autoshrink.types import TrialRecord

PARTS = 8
"""Shares of channels are told in eighths."""
NAMED = 3
"""Trials that are named of those that share a measurement."""


@dataclass(frozen=True)
class Measurement:
    """What was measured once of the layers of a model, and the trials that shared something out by it.

    Attributes:
        allocations: of `records`, one each; all name the same file.
        records: by number.
    """

    allocations: tuple[Allocation, ...]
    records: tuple[TrialRecord, ...]

    @property
    def key(self) -> str:
        """What tells it apart."""
        return PurePosixPath(self.allocations[0].sensitivities).stem

    @property
    def title(self) -> str:
        """As it is chosen: `QAT, trials 3, 5, 8 and 4 more`."""
        numbers = [str(record.number) for record in self.records]
        more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
        noun = "trial" if len(numbers) == 1 else "trials"
        return f"{technique_name(self.allocations[0].technique)}, {noun} {', '.join(numbers[:NAMED])}{more}"

    def given(self, layer: str) -> Counter[float]:
        """Option -> how many of the trials gave it to a layer."""
        return Counter(own.chosen[layer] for own in self.allocations if layer in own.chosen)


def measurements(view: TargetView) -> list[Measurement]:
    """Everything that was measured for the trials of a target, what most trials share first."""
    found: dict[str, list[tuple[Allocation, TrialRecord]]] = {}
    for record in view.records:
        for own in record.allocations:
            found.setdefault(own.sensitivities, []).append((own, record))
    all_ = [
        Measurement(tuple(own for own, _ in pairs), tuple(record for _, record in pairs)) for pairs in found.values()
    ]
    return sorted(all_, key=lambda each: (-len(each.records), each.records[0].number))


@dataclass(frozen=True)
class Foresight:
    """What was expected of trials, and what they came to.

    Attributes:
        name: the techniques that shared something out, as `prune + QAT`; they are the same in all these trials.
        records: measured trials, by number.
        expected: of each; see `SharedOut.expected`, summed where something was shared out several times.
        lost: of each the loss of the metric against the baseline, on val.
    """

    name: str
    records: tuple[TrialRecord, ...]
    expected: tuple[float, ...]
    lost: tuple[float, ...]


def foresights(view: TargetView) -> list[Foresight]:
    """Of the measured trials of which something was expected, those with the same techniques together."""
    found: dict[str, list[tuple[TrialRecord, float, float]]] = {}
    for record in view.records:
        if record.allocations and record.drop is not None:
            name = " + ".join(dict.fromkeys(technique_name(own.technique) for own in record.allocations))
            expected = math.fsum(own.expected for own in record.allocations)
            found.setdefault(name, []).append((record, expected, record.drop))
    return [Foresight(name, *zip(*rows, strict=True)) for name, rows in sorted(found.items())]


def foresight_words(found: Sequence[Foresight]) -> str:
    """Whether the trials of which more loss was expected did lose more: of all, then of each kind."""
    whole = [value for each in found for value in each.expected], [value for each in found for value in each.lost]
    parts = [("All", *whole)] if len(found) > 1 else []
    parts += [(each.name, [*each.expected], [*each.lost]) for each in found]
    said = [(name, len(expected), rank_correlation(expected, lost)) for name, expected, lost in parts]
    few = "too early to say, with"
    return " ".join(f"{name}: {value or f'{few} {trials} of them'}." for name, trials, value in said)


def option_words(measured: Sensitivities, option: float) -> str:
    """An option as it is shown: `4 bits`; of shares the nearest eighth, `3/8 of channels`, as layers have in common."""
    if is_share(measured):
        return f"{Fraction(round(PARTS * option), PARTS)} of channels"
    return f"{option:g} {measured.option}"


def is_share(measured: Sensitivities) -> bool:
    """Whether the options are shares between 0 and 1."""
    return all(0 <= option <= 1 for losses in measured.losses.values() for option, _ in losses)


def options_of(measured: Sensitivities) -> list[str]:
    """What was tried on any layer, the mildest first; to change nothing is no option."""
    kinds = {
        option_words(measured, option): option
        for losses in measured.losses.values()
        for option, _ in losses
        if not (is_share(measured) and option == 0)
    }
    return sorted(kinds, key=lambda name: kinds[name], reverse=not is_share(measured))


def losses_by_option(measured: Sensitivities, layer: str) -> dict[str, tuple[float, float]]:
    """Option in words -> (option, loss), of one layer."""
    return {option_words(measured, option): (option, loss) for option, loss in measured.losses[layer]}


def most_sensitive(measured: Sensitivities, most: int) -> list[str]:
    """The layers that move the outputs most at the worst, `most` of them, in the order of the model.

    Those that can only stay as they are have no place among them.
    """
    names = options_of(measured)
    worst = {
        layer: max(loss for _, loss in losses)
        for layer, losses in measured.losses.items()
        if any(option_words(measured, option) in names for option, _ in losses)
    }
    kept = set(sorted(worst, key=lambda layer: -worst[layer])[:most])
    return [layer for layer in worst if layer in kept]


def positive_floor(values: Sequence[float]) -> float | None:
    """Where a logarithmic axis shows a 0: a third of the least that is over it; None where nothing is."""
    known = [value for value in values if value > 0]
    return min(known) / 3 if known else None
