"""How a trial was made: stages and their time, agreement with the float model, log, and what it was measured on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autoshrink.dashboard.figures import stage_seconds
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.report_sections import machine_facts
from autoshrink.dashboard.trial_block import Block, Listing, Part, Rows, facts, heads, meter, note, region
from autoshrink.errors import ConfigError
from autoshrink.records import StudyFolder
from autoshrink.search.words import human_bytes, human_seconds
from autoshrink.target import Target
from autoshrink.types import TrialRecord

LOG_BYTES = 64 * 1024
"""Of the end of a log that is shown."""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
"""Colours and other commands to a terminal."""
FULL_DB = 100
"""Agreement that float artifacts reach."""


def stages_block(record: TrialRecord) -> Block:
    """Where the trial's own time went, and how its outputs agree with the float model's."""
    parts: list[Part] = []
    if record.agreement_db is not None:
        parts.append(element("p", _agreement(record.agreement_db), class_="why"))
    elif record.artifact is not None:
        parts.append(note("Agreement with the float model in torch is not known: the artifact did not run."))
    seconds = stage_seconds([record])
    whole = sum(seconds.values())
    if whole <= 0:
        parts.append(note("The record has no times."))
        return Block("making", "How it was made", tuple(parts))
    cached = [stage for stage in seconds if stage in record.reused]
    rows = [
        element(
            "tr",
            element("th", stage, scope="row"),
            element("td", _duration(value), class_="number"),
            element("td", meter(value / whole), f"{100 * value / whole:.0f} %", class_="share"),
            element("td", "from the cache" if stage in cached else "") if cached else None,
        )
        for stage, value in seconds.items()
    ]
    columns = [("stage", False), ("time", True), ("share", False), *([("made", False)] if cached else [])]
    table = element("table", heads(columns), element("tbody", rows), class_="stages")
    hidden = sorted(set(record.reused) - set(seconds))
    values = Rows(
        ("stage", "seconds", "from the cache"),
        tuple((stage, value, stage in record.reused) for stage, value in seconds.items()),
    )
    parts.append(Listing("stages", region(table, "Stages of the trial"), "the stages", values))
    free = f" From the cache, for nothing: {', '.join(hidden)}." if hidden else ""
    parts.append(note(f"{_duration(whole)} in all.{free}"))
    return Block("making", "How it was made", tuple(parts))


def _duration(seconds: float) -> str:
    return human_seconds(seconds) if seconds >= 10 else f"{seconds:.2f} s"


def _agreement(decibel: float) -> str:
    """The signal to noise ratio, and what it is as a share of the amplitude."""
    if decibel <= 0:
        return (
            f"The outputs do not agree with the float model in torch: {decibel:.0f} dB, the error is as large as they."
        )
    error = 10 ** (-decibel / 20)
    share = f"{100 * error:.2g} %" if error >= 1e-4 else "less than 0.01 %"
    return (
        f"On the first samples of val the outputs agree with those of the float model in torch to {decibel:.0f} dB: "
        f"the error is {share} of their amplitude."
    )


def environment_block(record: TrialRecord, study: StudyFolder, target: Target) -> Block:
    """What compiled, ran and measured it."""
    artifact = record.artifact
    meta = study.meta
    measured: list[tuple[str, object]] = [
        ("target", f"{target.name}: {target.summary}" if target.summary else target.name),
        ("runtime", artifact.runtime if artifact else ""),
        ("threads, batch", f"{target.threads}, {target.batch}"),
        ("device", record.device or "the machine that searched"),
        ("ended", record.finished),
        *_sensors(record.sensors),
    ]
    identity = _identity(study, record.target)
    machine = machine_facts(meta.machine)
    files = [
        (file.name, f"{human_bytes(file.size)}, SHA-256 {file.sha256}") for file in (artifact.files if artifact else ())
    ]
    parts: list[Part | tuple[Part, ...]] = [
        (_group("The measurement", measured), _group("The device", [*identity.items()])),
    ]
    if files:
        parts.append(_group("The artifact", files))
    parts.append(
        element(
            "details", element("summary", "The machine that searched, when the study began"), facts(machine.items())
        )
    )
    return Block("environment", "Where it was measured", tuple(parts))


def _group(title: str, pairs: Sequence[tuple[str, object]]) -> Markup:
    if not any(value not in ("", None) for _, value in pairs):
        return element("div")
    return element("div", element("h4", title), facts(pairs))


def _sensors(sensors: Mapping[str, tuple[float, float]]) -> Iterator[tuple[str, object]]:
    for name, (before, after) in sensors.items():
        yield f"{name.replace('_', ' ')}, before and after", f"{before:g} → {after:g}"


def _identity(study: StudyFolder, target: str) -> dict[str, str]:
    try:
        return study.identity(target)
    except ConfigError:
        return {}


def log_block(record: TrialRecord, study: StudyFolder) -> Block:
    """The end of the trial's log."""
    text, why = log_tail(study, record)
    if not text:
        return Block("log", "Log", (note(f"{why}"),))
    lines = text.count("\n") + 1
    summary = element("summary", f"Show {counted(lines, 'line')}{' of its end' if why else ''}")
    is_open = record.val is None
    pre = element("pre", text, class_="log", tabindex="0")
    return Block("log", "Log", (element("details", summary, pre, open=is_open), note(why) if why else note(record.log)))


def log_tail(study: StudyFolder, record: TrialRecord) -> tuple[str, str]:
    """The last `LOG_BYTES` of the log that a record names, and what is to be said of it.

    Only a file within the study's folder is read, links followed.
    """
    if not record.log:
        return "", "The record names no log."
    try:
        path = study.file(record.log)
        return _tail(path)
    except ConfigError as error:
        return "", "; ".join(error.problems)
    except (OSError, ValueError) as error:
        return "", f"{Path(record.log).name} cannot be read ({getattr(error, 'strerror', None) or error})."


def _tail(path: Path) -> tuple[str, str]:
    if not path.is_file():
        return "", f"{path.name} is not there any more."
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - LOG_BYTES))
        text = stream.read(LOG_BYTES).decode("utf-8", "replace")
    text = ESCAPES.sub("", text.replace("\r\n", "\n")).strip("\n")
    if size > LOG_BYTES:
        return text.partition("\n")[2] or text, f"The last {LOG_BYTES // 1024} kB of {human_bytes(size)}."
    return text, "" if text else "The log is empty: nothing was said."
