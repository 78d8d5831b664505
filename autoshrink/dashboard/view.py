"""One target of a study as its tables and figures see it: its trials, those of the other targets, what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from autoshrink.dashboard.formatting import Metric
from autoshrink.package.candidates import Candidate, candidates, scored_elsewhere
from autoshrink.package.choose import applicable, choose
from autoshrink.records import StudyFolder
from autoshrink.search.front import LATENCY, METRIC, axes_of, compiled, front
from autoshrink.search.words import human_rate, rows_per_second
from autoshrink.target import Limits, Target
from autoshrink.types import Outcome, Recipe, TrialRecord

NOT_MEASURED = "not measured"


def baseline_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The record of the model as the user brought it, whether or not it could be measured."""
    return next((record for record in records if not record.recipe.stages), None)


@dataclass(frozen=True)
class TargetView:
    """A target with its trials, and those of the study's other targets."""

    target: Target
    records: Sequence[TrialRecord]
    others: Sequence[TrialRecord] = ()

    @classmethod
    def of(cls, study: StudyFolder, name: str) -> TargetView:
        """The view of one target of a study.

        Raises:
            ConfigError: the study has no such target, or a record cannot be read.
        """
        own = study.records(name)
        return cls.among({**{other: study.records(other) for other in study.meta.targets}, name: own}, study, name)

    @classmethod
    def among(cls, records: Mapping[str, Sequence[TrialRecord]], study: StudyFolder, name: str) -> TargetView:
        """The same from records that were read already: target -> its trials."""
        others = [record for other, of_target in records.items() if other != name for record in of_target]
        return cls(study.meta.targets[name], records[name], others)

    @property
    def name(self) -> str:
        """Of the target."""
        return self.target.name

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The record of the model as the user brought it, whether or not it could be measured."""
        return baseline_of(self.records)

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """In what the trials can be compared; see `axes_of`."""
        return axes_of(self.records)

    @property
    def is_timed(self) -> bool:
        """Whether latencies were measured."""
        return LATENCY in self.axes

    @property
    def is_scored(self) -> bool:
        """Whether accuracies were measured; where not, everything was only compiled, or nothing came to be."""
        return METRIC in self.axes

    @property
    def shows_throughput(self) -> bool:
        """Whether rows a second go before the latency of a call."""
        return self.target.objective == "throughput"

    @cached_property
    def members(self) -> list[TrialRecord]:
        """The front; on a target that only compiles the trials that are worth a look (see `compiled`)."""
        return front(self.records) if self.is_scored or not self.axes else compiled(self.records, self.others)

    @cached_property
    def metric(self) -> Metric:
        """How accuracies are written."""
        return Metric.of([*self.records, *self.others])

    @cached_property
    def _elsewhere(self) -> dict[Recipe, TrialRecord]:
        return scored_elsewhere(self.others)

    def elsewhere(self, record: TrialRecord) -> TrialRecord | None:
        """The trial of another target that tells the accuracy of one that was compiled here and did not run."""
        return None if record.val is not None or record.artifact is None else self._elsewhere.get(record.recipe)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """The trials that may be shipped, with the bounds that limits are held against."""
        return candidates(self.records, self.target.batch, self.others)

    def choose(self, limits: Limits) -> TrialRecord:
        """The trial to ship.

        Raises:
            NothingFits: see `choose`.
        """
        return choose(self.records, limits, found=self.candidates)

    def applicable(self, limits: Limits) -> tuple[Limits, list[str]]:
        """The limits that can be held against something, and the names of those on what was not measured."""
        return applicable(limits, self.records, found=self.candidates)

    def throughput(self, record: TrialRecord) -> float | None:
        """Rows a second; None where latency was not measured."""
        return rows_per_second(record.latency, self.target.batch) if record.latency else None

    def rate(self, record: TrialRecord) -> str:
        """`throughput` in words; empty where it is not known."""
        rows = self.throughput(record)
        return "" if rows is None else human_rate(rows)

    @cached_property
    def why_not_measured(self) -> str:
        """The reason that the trials give for what is absent on the whole target; empty where nothing is."""
        if self.is_timed:
            return ""
        return next((record.reason for record in self.records if NOT_MEASURED in record.reason), "")

    @cached_property
    def notes(self) -> dict[str, list[int]]:
        """What the target does other than a recipe says -> numbers of the members that it is said of."""
        found: dict[str, list[int]] = {}
        for record in self.members:
            for note in record.audit.notes if record.audit else ():
                found.setdefault(note, []).append(record.number)
        return found

    @property
    def was_compiled(self) -> bool:
        """Whether there are trials that were compiled, and none that ran."""
        return not self.is_scored and any(record.outcome is Outcome.COMPILED for record in self.records)


def absent(record: TrialRecord) -> str:
    """What stands in the place of a figure: of an artifact that was not measured, or of a trial that has none."""
    return NOT_MEASURED if record.artifact is not None else "-"
