"""The checks of `verify`, one function each: what is compared, and when it is right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoshrink.agreement import sqnr_db
from autoshrink.backends import get_backend
from autoshrink.backends.base import State, processor_name
from autoshrink.cache import file_sha256
from autoshrink.errors import StageError
from autoshrink.package.manifest import Manifest, OutputPort
from autoshrink.search.words import human_ms
from autoshrink.types import ArtifactFile, Latency, Score

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Tolerance:
    """What may differ from the record.

    Attributes:
        sqnr_db: least signal to noise of an output against the recorded one, decibel.
        same_answers: least share of samples on which the largest logit is the same.
        latency: on the recorded processor, the latency ratio may be over the recorded one by this factor.
    """

    sqnr_db: float = 30.0
    same_answers: float = 0.99
    latency: float = 1.10


@dataclass(frozen=True)
class Check:
    """One thing that was compared.

    Attributes:
        name: `files`, `runtime`, `run`, `parity <output>`, `answers <output>`, `first run <output>`, `<metric>` or
            `latency`.
        found: here and now; `expected`: by the record; both as people read them.
        rule: when it is right.
        text: the whole in a sentence.
    """

    name: str
    ok: bool
    found: str
    expected: str
    rule: str
    text: str


def check_files(folder: Path, manifest: Manifest) -> Check:
    """Whether every listed file is there, unchanged."""
    problems = [problem for file in manifest.files if (problem := _file_problem(folder / file.name, file))]
    count = len(manifest.files)
    return Check(
        name="files",
        ok=not problems,
        found="; ".join(problems) or f"{count} files as packed",
        expected=f"{count} files",
        rule="every listed file has its bytes and its SHA-256",
        text="; ".join(problems) or f"all {count} files are as they were packed",
    )


def _file_problem(path: Path, file: ArtifactFile) -> str:
    """What is wrong with a listed file; empty when nothing is."""
    try:
        if not path.is_file():
            return f"{file.name} is missing"
        if path.stat().st_size != file.size:
            return f"{file.name} has {path.stat().st_size} bytes, {file.size} were packed"
        return "" if file_sha256(path) == file.sha256 else f"{file.name} was changed: its SHA-256 differs"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror or error})"


def check_runtime(manifest: Manifest) -> tuple[Check, State, list[str]]:
    """Whether the runtime works here, what it can do here, and what is to be known about it.

    A package that was never run is right, too, where it cannot be run: then it stays compiled, not measured.
    """
    backend, recorded = get_backend(manifest.runtime.backend), manifest.runtime.version
    available = backend.available()
    state = available.state
    runs = state in ("ready", "untimed")
    never_ran = state == "compile-only" and bool(manifest.not_run)
    version = backend.runtime() if runs else state
    notes = []
    if runs:
        text = f"{version} runs here"
        if version != recorded:
            notes.append(f"{version} is here, the package was made with {recorded}")
        if state == "untimed":
            notes.append(f"latency was not measured: {available.why}")
    elif never_ran:
        text = f"compiled, not measured: {available.why}"
        notes.append(f"nothing was run, neither here nor where the package was written; {available.fix}")
    else:
        text = f"{available.why}; {available.fix}"
    check = Check(
        name="runtime",
        ok=runs or never_ran,
        found=version,
        expected=recorded,
        rule="the runtime is installed and works here, or never did for this package; its version may differ",
        text=text,
    )
    return check, state, notes


def failed_run(error: StageError) -> Check:
    """The check that fails when there are no outputs to compare."""
    return Check(
        name="run",
        ok=False,
        found=str(error),
        expected="the samples run",
        rule="the compiled files run here",
        text=f"the compiled files do not run here: {error}",
    )


def check_parity(port: OutputPort, expected: Array, found: Array, tolerance: Tolerance) -> Check:
    """Whether an output [N, ...] agrees with the recorded one."""
    decibel = sqnr_db(expected, found) if expected.shape == found.shape else -math.inf
    words = "equal" if decibel == math.inf else f"{decibel:.1f} dB"
    if expected.shape != found.shape:
        words = f"shape {list(found.shape)}, recorded {list(expected.shape)}"
    return Check(
        name=f"parity {port.name}",
        ok=decibel >= tolerance.sqnr_db,
        found=words,
        expected=f"at least {tolerance.sqnr_db:g} dB",
        rule=f"signal to noise against the recorded outputs is {tolerance.sqnr_db:g} dB or more",
        text=f"{port.name} of {len(expected)} samples against the recorded outputs: {words} "
        f"(at least {tolerance.sqnr_db:g} dB; processors round differently)",
    )


def check_first_run(port: OutputPort, float_output: Array, found: Array) -> Check:
    """Whether an output [N, ...] of a package that was never run is of numbers, and how near the float model's it is.

    How near it has to be depends on the compression, so any number will do.
    """
    finite = bool(np.isfinite(found).all())
    fits = float_output.shape == found.shape
    decibel = sqnr_db(float_output, found) if finite and fits else -math.inf
    words = f"{decibel:.1f} dB from the float model's" if decibel > -math.inf else "not finite, or of another shape"
    return Check(
        name=f"first run {port.name}",
        ok=finite and fits,
        found=words,
        expected="not recorded",
        rule="the outputs are finite, and one comes for each sample",
        text=f"{port.name} of {len(float_output)} samples: {words} (nothing was recorded to compare with)",
    )


def check_answers(port: OutputPort, expected: Array, found: Array, tolerance: Tolerance) -> Check:
    """Whether the largest of the logits [N, ..., classes] is the recorded one often enough."""
    share = float(np.mean(expected.argmax(-1) == found.argmax(-1)))
    return Check(
        name=f"answers {port.name}",
        ok=share >= tolerance.same_answers,
        found=f"{share:.2%}",
        expected=f"at least {tolerance.same_answers:.2%}",
        rule=f"the largest of {port.name} is the same on {tolerance.same_answers:.2%} of the samples",
        text=f"{port.name} gives the recorded answer on {share:.2%} of {len(expected)} samples "
        f"(at least {tolerance.same_answers:.2%})",
    )


def check_score(manifest: Manifest, score: Score, recorded: Score | None) -> Check:
    """Whether the task's metric is as good as recorded; better is fine."""
    split = "test" if manifest.figures.test else "val"
    found = f"{score.value:.4f} [{score.ci.low:.4f}, {score.ci.high:.4f}]"
    if recorded is None:
        rule, expected, ok = "nothing was recorded to compare with", "not recorded", True
    else:
        rule = "not under the lower end of the recorded 95 % interval"
        expected = f"{recorded.value:.4f} [{recorded.ci.low:.4f}, {recorded.ci.high:.4f}]"
        ok = score.value >= recorded.ci.low
    return Check(
        name=manifest.metric,
        ok=ok,
        found=found,
        expected=expected,
        rule=rule,
        text=f"{manifest.metric} on {split}: {found}, recorded {expected} ({rule})",
    )


def check_latency(manifest: Manifest, found: Latency, tolerance: Tolerance) -> tuple[Check, list[str]]:
    """Whether the latency ratio to the baseline is as good as recorded, and what is to be known about the figures.

    A ratio that was over 1 when recorded (a package picked for its size, say) may stay over 1 on another processor.
    """
    recorded = manifest.figures.latency
    here, there = processor_name(), str(manifest.machine.get("processor") or "an unnamed processor")
    notes = []
    if recorded is None:
        most, rule = 1.0, "not slower than the fp32 baseline (no latency was recorded)"
    elif here == there:
        most = recorded.ratio_ci.high * tolerance.latency
        rule = f"lower end not over the recorded upper end times {tolerance.latency:g} ({most:.3f})"
    else:
        most = max(1.0, recorded.ratio_ci.high * tolerance.latency)
        rule = f"not slower than the fp32 baseline: lower end not over {most:.3f} (another processor than recorded)"
        notes.append(f"measured on {here}, recorded on {there}: ratio {_ratio(found)} here, {_ratio(recorded)} there")
    if not found.stable:
        notes.append("the latency ratio did not settle within the target's rounds and time: its interval is wide")
    if found.contended:
        notes.append("other processes held the core while latency was measured: measure again on a quiet machine")
    if found.drifts:
        notes.append(f"the device's own pace changed by {found.drift:+.0%} while it measured, as heat does it")
    expected = "not recorded" if recorded is None else _ratio(recorded)
    return Check(
        name="latency",
        ok=found.ratio_ci.low <= most,
        found=_ratio(found),
        expected=expected,
        rule=rule,
        text=f"latency ratio to the fp32 baseline: {_ratio(found)} ({human_ms(found.ms)} a call), recorded {expected} "
        f"({rule})",
    ), notes


def _ratio(latency: Latency) -> str:
    return f"{latency.ratio:.3f} [{latency.ratio_ci.low:.3f}, {latency.ratio_ci.high:.3f}]"
