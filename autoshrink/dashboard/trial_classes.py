"""What a trial takes for what: confusions, changes by class, and samples whose answer flipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoshrink.errors import ConfigError, StageError
from autoshrink.measure.stats import paired_difference
from autoshrink.records import StudyFolder
from autoshrink.task import Arrays
from autoshrink.types import Interval, TrialRecord
from autoshrink.val_set import ValSet, read_per_sample, read_val_set

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Answers:
    """The classes that a trial and its baseline give the samples of val.

    Attributes:
        val: the samples.
        truth: int64 [N], the true class of each.
        given: int64 [N], what the trial says.
        before: int64 [N], what the baseline says; None where that is not known, or the trial is the baseline.
    """

    val: ValSet
    truth: Ints
    given: Ints
    before: Ints | None = None

    @property
    def classes(self) -> int:
        """How many there are."""
        arrays = [self.truth, self.given, *([] if self.before is None else [self.before])]
        return max(len(self.val.classes), 1 + max(int(array.max(initial=-1)) for array in arrays))

    @property
    def right(self) -> Bools:
        """Which samples the trial is right about, bool [N]."""
        found: Bools = self.given == self.truth
        return found

    def lost(self) -> Ints:
        """Samples that the baseline is right about and the trial is not."""
        return np.flatnonzero(~self.right & (self.before == self.truth)) if self.before is not None else _NONE

    def gained(self) -> Ints:
        """Samples that the trial is right about and the baseline is not."""
        return np.flatnonzero(self.right & (self.before != self.truth)) if self.before is not None else _NONE


_NONE: Ints = np.empty(0, np.int64)


def read_answers(study: StudyFolder, record: TrialRecord, baseline: TrialRecord | None) -> Answers | str:
    """The answers of a trial; else why they are not known."""
    if record.val is None:
        return record.reason.rstrip(".") or "accuracy was not measured"
    try:
        val = read_val_set(study.path)
        if val is None:
            return "the study is from before samples and predictions were kept; a new search keeps them"
        if val.targets is None:
            return "the task is no classification: each sample has no single true class"
        truth = val.targets.astype(np.int64)
        given = _read(study, record, len(truth))
        if isinstance(given, str):
            return given
        before = None if baseline is None or baseline is record else _read(study, baseline, len(truth))
    except ConfigError as error:
        return "; ".join(error.problems)
    if truth.min(initial=0) < 0:
        return f"the true classes go down to {truth.min()}; class numbers start at 0"
    return Answers(val, truth, given, None if isinstance(before, str) else before)


def _read(study: StudyFolder, record: TrialRecord, count: int) -> Ints | str:
    if record.predictions is None:
        return f"of trial {record.number} no predictions were kept"
    found = read_per_sample(study.file(record.predictions), "u")
    if len(found) != count:
        return f"there are {len(found)} predictions of trial {record.number} for {count} samples"
    return found.astype(np.int64)


def confusion(truth: Ints, given: Ints, classes: int) -> Ints:
    """How often each true class (rows) was taken for each class (columns): int64 [classes, classes]."""
    counts: Ints = np.bincount(truth * classes + given, minlength=classes * classes).astype(np.int64)
    return counts.reshape(classes, classes)


def paired(before: Bools, after: Bools) -> tuple[float, Interval | None]:
    """Share of right answers after minus before on the same samples, with its interval (None of under two samples)."""
    if len(before) < 2:
        return float(np.mean(after) - np.mean(before)) if len(before) else 0.0, None
    a, b = ({"right": right.astype(np.float64)} for right in (before, after))
    try:
        difference, interval = paired_difference(_right, a, b, a)
    except StageError:
        return float(np.mean(after) - np.mean(before)), None
    return difference, interval


def _right(outputs: Arrays, _targets: Arrays) -> npt.NDArray[np.float64]:
    return outputs["right"].astype(np.float64)


@dataclass(frozen=True)
class ClassChange:
    """A class through the baseline and the trial.

    Attributes:
        number: of the class.
        count: samples of it.
        right: of them that the trial is right about.
        before: of them that the baseline is right about.
        change: of their share.
        interval: 95 %, of the change.
    """

    number: int
    count: int
    right: int
    before: int
    change: float
    interval: Interval | None

    @property
    def is_certain(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


def class_changes(answers: Answers) -> list[ClassChange]:
    """For each class that has samples, the greatest loss first; empty without answers of the baseline."""
    if answers.before is None:
        return []
    found = []
    for number in range(answers.classes):
        own = answers.truth == number
        if not own.any():
            continue
        before, after = answers.before[own] == number, answers.given[own] == number
        found.append(ClassChange(number, int(own.sum()), int(after.sum()), int(before.sum()), *paired(before, after)))
    return sorted(found, key=lambda each: (each.change, each.number))
