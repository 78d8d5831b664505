"""What a search spent and where trials were lost: stages made and reused, and reasons, grouped."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoshrink.dashboard.figures import stage_place
from autoshrink.search.words import human_seconds
from autoshrink.types import Outcome, TrialRecord

_OF_A_TRIAL = frozenset(
    (
        "cache",
        "prepare",
        "start",
        "compile",
        "load",
        "audit",
        "profile",
        "measure",
        "evaluate",
        "score",
        "other",
        "wait",
    )
)
"""Stages that belong to one trial and are never taken from the cache."""
STAGE_HEADS = (
    ("stage", False), ("time", True), ("share", True), ("made", True), ("from the cache", True), ("saved", True),
)  # fmt: skip
"""Of the table of stages: (head, whether the column holds figures)."""
SAVED_IS = "Saved is an estimate: as often as the cache had it, times the mean of what it took when it was made."
_NUMBER = re.compile(r"(?<!\w)\d[\d.,]*(?=\W|$)")


@dataclass(frozen=True)
class StageUse:
    """A stage over all trials.

    Attributes:
        seconds: wall seconds spent on it.
        made: trials that made it.
        reused: trials that took it from the cache.
        saved: seconds that the cache saved, as often as reused times the mean of those that made it; None when that is
            not known, since none made it.
    """

    stage: str
    seconds: float
    made: int
    reused: int
    saved: float | None

    @property
    def share_reused(self) -> float | None:
        """Of the times that it was wanted; None of a stage that is never taken from the cache."""
        if self.stage in _OF_A_TRIAL:
            return None
        return self.reused / (self.made + self.reused)


def stage_cells(use: StageUse, whole: float) -> list[tuple[str, float | None]]:
    """A row of the table of stages under `STAGE_HEADS`, less the stage: each figure in words, and as it sorts.

    Args:
        use: the stage.
        whole: seconds of all stages.
    """
    reused = use.share_reused
    share = 100 * use.seconds / whole
    saved = use.saved if reused is not None and use.saved else None
    return [
        (human_seconds(use.seconds) if use.seconds >= 1 else f"{use.seconds:.2f} s", use.seconds),
        (f"{share:.1f} %", share),
        (str(use.made), use.made),
        ("-", None) if reused is None else (f"{use.reused} ({100 * reused:.0f} %)", reused),
        ("-", None) if saved is None else (f"~{human_seconds(saved)}", saved),
    ]


def stage_uses(records: Sequence[TrialRecord]) -> list[StageUse]:
    """Every stage of `records`, in the order of a trial."""
    seconds: dict[str, float] = defaultdict(float)
    spent: dict[str, float] = defaultdict(float)
    made, reused = Counter[str](), Counter[str]()
    for record in records:
        reused.update(record.reused)
        # A stage from the cache may stand among the seconds too, with what looking it up took.
        for stage, value in record.seconds.items():
            seconds[stage] += value
            if stage not in record.reused:
                spent[stage] += value
                made[stage] += 1
    return [
        StageUse(
            name,
            seconds[name],
            made[name],
            reused[name],
            reused[name] * spent[name] / made[name] if made[name] else None,
        )
        for name in sorted({*seconds, *reused}, key=stage_place)
    ]


@dataclass(frozen=True)
class Reused:
    """What the cache gave in all: of `wanted` stages `reused`, and about how many seconds that saved."""

    wanted: int
    reused: int
    saved: float


def reused_in_all(uses: Iterable[StageUse]) -> Reused:
    """The sum over the stages that can come from the cache."""
    cached = [use for use in uses if use.share_reused is not None]
    return Reused(
        sum(use.made + use.reused for use in cached),
        sum(use.reused for use in cached),
        sum(use.saved or 0.0 for use in cached),
    )


@dataclass(frozen=True)
class Reason:
    """Trials that ended in the same way for the same reason; numbers in which their texts differ are left out."""

    outcome: Outcome
    text: str
    numbers: tuple[int, ...]


def reasons(records: Iterable[TrialRecord]) -> list[Reason]:
    """Why trials did not complete: failed ones first, the most frequent first."""
    groups: dict[tuple[Outcome, str], list[TrialRecord]] = {}
    for record in records:
        if record.outcome is not Outcome.COMPLETE:
            groups.setdefault((record.outcome, _NUMBER.sub("…", record.reason)), []).append(record)
    found = []
    for (outcome, pattern), members in groups.items():
        alike = {record.reason for record in members}
        text = members[0].reason if len(alike) == 1 else pattern
        found.append(Reason(outcome, text or "no reason was recorded", tuple(record.number for record in members)))
    order = (Outcome.FAILED, Outcome.INFEASIBLE, Outcome.STOPPED, Outcome.REJECTED, Outcome.COMPILED)
    return sorted(found, key=lambda reason: (order.index(reason.outcome), -len(reason.numbers), reason.numbers))
