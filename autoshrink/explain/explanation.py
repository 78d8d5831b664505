"""What an explanation holds, and its JSON form: beside a trial, for `--json`, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autoshrink.errors import ConfigError
from autoshrink.explain.findings import Change, Finding
from autoshrink.explain.known import Known
from autoshrink.explain.rules import findings_of
from autoshrink.records import SCHEMA, read_json, write_json
from autoshrink.types import Interval, Latency

FILE = "explain.json"
SAME = 0.03
"""Copies of one artifact that are loaded anew were seen to differ by up to this share."""


@dataclass(frozen=True)
class Row:
    """A kernel of the call, with what the file says of its layer.

    Attributes:
        name: of the layer, or of the kernel where it carries no weights.
        kind: as the runtime names the kernel.
        precision: of its arithmetic; empty where the runtime does not say.
        ms: of a plain call; None without times.
        share: of the call.
        channels: `in → out`, where the file tells; empty otherwise.
        macs: multiplications and additions.
        is_conversion: whether it only changes type or layout.
    """

    name: str
    kind: str
    precision: str
    ms: float | None
    share: float | None
    channels: str = ""
    macs: int | None = None
    is_conversion: bool = False


@dataclass(frozen=True)
class Tried:
    """A change that was really made and measured, turn by turn with what it was made from.

    Attributes:
        changes: made together.
        ratio: of the changed artifact's latency to that before; None where it was not measured, and `why` says why.
        ratio_ci: 95 % interval of it.
        before_ms: of a call.
        after_ms: of a call.
        expected_ms: milliseconds less that were expected; None where that was not known.
        int8_before: layers in 8 bit and layers in all.
        int8_after: the same of the changed artifact.
        agreement_db: of the outputs of the two on the same inputs, decibel; None where they were not compared.
        figure_change: of the metric on val against the trial before (positive is better); of a trial only.
        where: the trial or the file that it is now.
        why: what kept it from being measured, or is to be known of it.
    """

    changes: tuple[Change, ...]
    ratio: float | None = None
    ratio_ci: Interval | None = None
    before_ms: float | None = None
    after_ms: float | None = None
    expected_ms: float | None = None
    int8_before: tuple[int, int] | None = None
    int8_after: tuple[int, int] | None = None
    agreement_db: float | None = None
    figure_change: float | None = None
    where: str = ""
    why: str = ""

    def timed(self, latency: Latency | None) -> Tried:
        """The same with what was measured beside the artifact before.

        Raises:
            ValueError: nothing was measured.
        """
        if latency is None:
            raise ValueError("there is no latency; a change is tried by a job that measures")
        return replace(
            self,
            ratio=latency.ratio,
            ratio_ci=latency.ratio_ci,
            before_ms=latency.ms / latency.ratio,
            after_ms=latency.ms,
            why="" if latency.stable else "unstable: the interval is wider than the target asks",
        )

    @property
    def verdict(self) -> str:
        """What it really brought, in a few words."""
        if self.ratio is None or self.ratio_ci is None:
            return f"not measured: {self.why}" if self.why else "not measured"
        if self.ratio_ci.high < 1 - SAME:
            return f"{1 / self.ratio:.2f}x as fast"
        if self.ratio_ci.low > 1 + SAME:
            return f"slower: {self.ratio:.2f} times as long"
        return "brought nothing"


@dataclass(frozen=True)
class Explanation:
    """Why an artifact takes its time.

    Attributes:
        subject: what is explained, in words.
        target: name of the profile.
        backend: of it.
        runtime: what ran it, with its version.
        rows: the kernels of one call in their order.
        findings: what costs time, the dearest first.
        call_ms: median of calls that nothing profiled.
        total_ms: what shares are of.
        overhead_ms: of it, outside every kernel.
        source: what gave the times.
        notes: what to know.
        tried: what `--apply` did.
        made: when, ISO 8601.
        trial: number of the trial; None of a file.
    """

    subject: str
    target: str
    backend: str
    runtime: str
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    call_ms: float | None
    total_ms: float | None
    overhead_ms: float | None
    source: str
    notes: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    made: str = ""
    trial: int | None = None

    def with_tried(self, tried: tuple[Tried, ...]) -> Explanation:
        """The same with what was tried."""
        return replace(self, tried=tried)


_EXPLANATION: TypeAdapter[Explanation] = TypeAdapter(Explanation)


def explained(
    known: Known, subject: str, target: str, runtime: str, notes: tuple[str, ...] = (), trial: int | None = None
) -> Explanation:
    """The explanation of what is known."""
    return Explanation(
        subject,
        target,
        known.backend,
        runtime,
        _rows(known),
        findings_of(known),
        known.profile.call_ms,
        known.total_ms,
        known.overhead_ms,
        known.profile.source,
        (*known.profile.notes, *_scaled(known), *notes),
        (),
        datetime.now(UTC).isoformat(timespec="seconds"),
        trial,
    )


def _scaled(known: Known) -> list[str]:
    if known.scale > 0.9:
        return []
    return [f"profiled calls take {1 / known.scale:.1f} times as long; times of kernels are scaled to a plain call"]


def _rows(known: Known) -> tuple[Row, ...]:
    layers = {id(layer.kernel): layer for layer in known.layers if layer.kernel is not None}
    rows = []
    for kernel in known.kernels:
        layer = layers.get(id(kernel))
        graph = layer.graph if layer else None
        channels = f"{graph.in_channels} → {graph.out_channels}" if graph else ""
        rows.append(
            Row(
                layer.name if layer else kernel.name,
                kernel.kind,
                kernel.precision,
                kernel.ms,
                known.share(kernel.ms),
                channels,
                graph.macs if graph else None,
                kernel.is_conversion,
            )
        )
    if not rows and known.audit:
        rows = [Row(layer.name, layer.kind, layer.precision, None, None) for layer in known.audit.layers]
    return tuple(rows)


def to_json(explanation: Explanation) -> dict[str, Any]:
    """As a JSON object, with what is in words for people in it too."""
    data = _EXPLANATION.dump_python(explanation, mode="json")
    for told, change in zip(data["findings"], explanation.findings, strict=True):
        told["try"] = change.change.text if change.change else None
    for told, tried in zip(data["tried"], explanation.tried, strict=True):
        told["verdict"] = tried.verdict
    return {"schema": SCHEMA, **data}


def from_json(data: Mapping[str, Any], source: Path) -> Explanation:
    """The inverse of `to_json`; `source` is named in errors.

    Raises:
        ConfigError: it is no explanation.
    """
    try:
        return _EXPLANATION.validate_python({name: value for name, value in data.items() if name != "schema"})
    except ValidationError as error:
        raise ConfigError(f"{source}:{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()) from error


def write(explanation: Explanation, folder: Path) -> Path:
    """Keeps it in `folder`, the trial's own; gives the file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, to_json(explanation))
    return folder / FILE


def read(folder: Path) -> Explanation | None:
    """What was kept in `folder`; None when nothing was.

    Raises:
        ConfigError: it is damaged.
    """
    path = folder / FILE
    return from_json(read_json(path), path) if path.exists() else None
