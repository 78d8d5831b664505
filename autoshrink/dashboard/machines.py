"""Targets and devices, as far as they are known from what lies on disk: nobody is asked, since that would disturb."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import yaml

from autoshrink.config import profile_folder, profile_names
from autoshrink.dashboard.library import Library
from autoshrink.errors import ConfigError
from autoshrink.target import Target
from autoshrink.target_states import TargetState, all_known
from autoshrink.types import TrialRecord

HERE = "this machine"
STATES = ("ready", "untimed", "compile-only", "unavailable")
LATEST = 20
"""Measurements that the steadiness of a device is told from."""


@dataclass(frozen=True)
class Steadiness:
    """How steady the latest measurements of a target on a device were.

    Attributes:
        device: which one; `HERE` is the machine that searched.
        studies: in which, by name.
        count: measurements that this is told from.
        interval: half the 95 % interval of the ratio to the reference, as a share of it: the median of them.
        drift: the largest change of the device's own pace while it measured, as a share, with its sign.
        unstable: how many intervals were wider than the target asks.
        contended: during how many other processes held the processor.
        when: of the last one, ISO 8601; empty when no record says.
    """

    target: str
    device: str
    studies: tuple[str, ...]
    count: int
    interval: float
    drift: float
    unstable: int
    contended: int
    when: str

    @property
    def is_steady(self) -> bool:
        """Whether all were as narrow as asked, on a device that kept its pace and did nothing else."""
        return not self.unstable and not self.contended


@dataclass(frozen=True)
class KnownTarget:
    """A target: shipped with autoshrink, or of a study.

    Attributes:
        summary: what it is, in a line.
        state: None when nobody has asked yet.
        studies: those that search for it, by name.
    """

    name: str
    summary: str
    state: TargetState | None
    studies: tuple[str, ...] = ()


def known_targets(library: Library) -> list[KnownTarget]:
    """The shipped targets and those of the studies: those that were asked about by what they can, then the others.

    A study that cannot be read is passed over.
    """
    states = all_known()
    summaries = shipped()
    studies: dict[str, list[str]] = {}
    for study, name, target, _ in _of_studies(library):
        studies.setdefault(name, []).append(study)
        summaries.setdefault(name, target.summary)
    found = [
        KnownTarget(name, summaries.get(name, ""), states.get(name), tuple(studies.get(name, ())))
        for name in {*summaries, *states}
    ]
    return sorted(found, key=lambda each: (_place(each.state), not each.studies, each.name))


def _place(state: TargetState | None) -> int:
    if state is None:
        return len(STATES)
    return STATES.index(state.state) if state.state in STATES else len(STATES) - 1


def shipped() -> dict[str, str]:
    """Name of a shipped target -> its summary. Read without being checked: checking wants every technique loaded."""
    found = {}
    for name in profile_names("targets"):
        try:
            profile = yaml.safe_load((profile_folder("targets") / f"{name}.yaml").read_text())
        except (OSError, yaml.YAMLError):
            continue
        if isinstance(profile, Mapping):
            found[name] = str(profile.get("summary", ""))
    return found


def steadiness(library: Library) -> list[Steadiness]:
    """Of each target and device that a study measured on, the latest first."""
    measured: dict[tuple[str, str], list[tuple[TrialRecord, str]]] = {}
    for study, name, _, records in _of_studies(library):
        for record in records:
            if record.latency is not None:
                measured.setdefault((name, record.device or HERE), []).append((record, study))
    found = [_steadiness(target, device, pairs) for (target, device), pairs in measured.items()]
    return sorted(sorted(found, key=lambda each: (each.target, each.device)), key=lambda each: each.when, reverse=True)


def _steadiness(target: str, device: str, pairs: Iterable[tuple[TrialRecord, str]]) -> Steadiness:
    latest = sorted(pairs, key=lambda pair: (pair[0].finished, pair[0].number))[-LATEST:]
    latencies = [record.latency for record, _ in latest if record.latency is not None]
    return Steadiness(
        target,
        device,
        tuple(sorted({study for _, study in latest})),
        len(latencies),
        statistics.median((each.ratio_ci.high - each.ratio_ci.low) / 2 / each.ratio for each in latencies),
        max((each.drift for each in latencies), key=abs),
        sum(not each.stable for each in latencies),
        sum(each.contended for each in latencies),
        max(record.finished for record, _ in latest),
    )


def _of_studies(library: Library) -> Iterable[tuple[str, str, Target, Iterable[TrialRecord]]]:
    """Study, name of a target, the target, its records."""
    for study in library.names():
        try:
            snapshot = library.snapshot(study)
        except ConfigError:
            continue
        for name, view in snapshot.views.items():
            yield study, name, view.target, view.records
