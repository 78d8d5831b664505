"""Frozen types that travel between the rooms. Standard library only: the timed child imports this file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Scalar = bool | int | float | str
Settings = Mapping[str, Scalar]

FLOAT_PRECISIONS = ("fp32", "fp16", "bf16")
PRECISIONS = (*FLOAT_PRECISIONS, "int8_dynamic", "int8_static", "int8_weights", "int4_weights")
# Read by pydantic where a profile is loaded: a key that is not a field is a problem, and so is a text for a number.
_NO_OTHER_KEYS = {"extra": "forbid", "strict": True}

PrecisionName = Literal["fp32", "fp16", "bf16", "int8_dynamic", "int8_static", "int8_weights", "int4_weights"]


def content_key(value: Any) -> str:
    """The SHA-256 (64 hex digits) of a JSON value in its canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class StageSpec:
    """One technique with its settings, as the space samples it. Settings are sorted by name."""

    technique: str
    settings: tuple[tuple[str, Scalar], ...] = ()

    @classmethod
    def of(cls, technique: str, settings: Settings) -> StageSpec:
        """The spec with `settings` in the canonical order."""
        return cls(technique, tuple(sorted(settings.items())))


@dataclass(frozen=True)
class Recipe:
    """One point of the space: the stages in the order they are applied. Equal recipes are one recipe.

    The empty recipe is the baseline: the model as the user brought it, in fp32.
    """

    stages: tuple[StageSpec, ...] = ()

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Recipe:
        """The recipe of `[{"technique": NAME, SETTING: VALUE, ...}, ...]`."""
        return cls(
            tuple(
                StageSpec.of(stage["technique"], {name: value for name, value in stage.items() if name != "technique"})
                for stage in data
            )
        )

    def to_json(self) -> list[dict[str, Scalar]]:
        """The inverse of `from_json`."""
        return [{"technique": stage.technique, **dict(stage.settings)} for stage in self.stages]

    @property
    def key(self) -> str:
        """16 hex digits that name this recipe."""
        return content_key(self.to_json())[:16]

    def settings(self, technique: str) -> dict[str, Scalar] | None:
        """The settings of `technique`, or None when the recipe does not use it."""
        for stage in self.stages:
            if stage.technique == technique:
                return dict(stage.settings)
        return None

    @property
    def precision(self) -> str:
        """The precision that the last stage asks for; fp32 when none does."""
        if self.settings("qat"):
            return "int8_static"
        quantize = self.settings("quantize")
        return str(quantize["scheme"]) if quantize else "fp32"


@dataclass(frozen=True)
class Precision:
    """How a target runs one precision.

    Attributes:
        kernels: `native` when the arithmetic itself is done in this precision, `storage` when only the file is smaller
            and the arithmetic stays float32.
        operators: ONNX operator types that are quantized (integers only).
        activations: integer grid of the activations (static int8 only).
        per_channel: one scale per output channel of a weight rather than one per tensor (int8 only).
        requires: a capability the runtime must report on this machine, such as `BF16`; None when it needs none.
        note: what a user should know about it.
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    kernels: Literal["native", "storage"] = "native"
    operators: tuple[str, ...] = ()
    activations: Literal["uint8", "int8"] = "uint8"
    per_channel: bool = True
    requires: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Limits:
    """What a trial must keep to be feasible; None is no limit.

    Attributes:
        latency_ms: of one call with the target's batch, milliseconds.
        size_bytes: of the files that ship.
        drop: loss of the metric against the baseline on the same target, in the metric's own unit (0.01 is one point
            of accuracy).
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    latency_ms: float | None = None
    size_bytes: int | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("latency_ms", "size_bytes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, which no artifact can keep; it must be over 0")
        if self.drop is not None and self.drop < 0:
            raise ValueError(f"drop is {self.drop}; it must be 0 or more (0.01 is one point of accuracy)")


@dataclass(frozen=True)
class Measuring:
    """The measuring protocol of a target.

    Attributes:
        interval: stop when the 95 % interval of the latency ratio is narrower than +- this share.
        rounds_min: interleaved rounds before that may happen.
        rounds_max: rounds after which it is over; flagged unstable when the interval is still wider.
        turn_ms: least time for which an artifact runs in its turn of a round, milliseconds.
        warm_up_calls: calls before the running median is looked at.
        time_limit_s: seconds after which no further round begins.
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    interval: float = 0.02
    rounds_min: int = 8
    rounds_max: int = 40
    turn_ms: float = 12.0
    warm_up_calls: int = 30
    time_limit_s: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.interval < 1:
            raise ValueError(f"interval is {self.interval}; it must be between 0 and 1 (0.02 is +- 2 %)")
        if not 3 <= self.rounds_min <= self.rounds_max:
            raise ValueError(
                f"rounds_min is {self.rounds_min} and rounds_max {self.rounds_max}; "
                "it must be 3 <= rounds_min <= rounds_max"
            )
        for name in ("turn_ms", "warm_up_calls", "time_limit_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be over 0")


@dataclass(frozen=True)
class ChildLimits:
    """What the child process of a trial may take: wall seconds in all, and address space in MiB."""

    __pydantic_config__ = _NO_OTHER_KEYS

    time_limit_s: float = 300.0
    memory_limit_mb: int = 8192

    def __post_init__(self) -> None:
        if self.time_limit_s < 1:
            raise ValueError(f"time_limit_s is {self.time_limit_s}; starting a child alone takes a second: 1 or more")
        if self.memory_limit_mb < 512:
            raise ValueError(f"memory_limit_mb is {self.memory_limit_mb}; a runtime alone needs 512 or more")


@dataclass(frozen=True)
class Target:
    """A hardware profile.

    Attributes:
        name: as the command line names it.
        backend: key of the table in `autoshrink/backends`.
        summary: one line for `autoshrink targets`.
        device: what is locked while it measures; two targets on one device never measure at once.
        threads: threads of the runtime for one call.
        batch: rows of one call.
        precisions: precision name -> how it runs here; only these are searched.
        unsupported: precision name -> why it is not searched here.
        avoid: technique, or `technique.parameter=value` -> why it gains nothing here; searched only when forced.
        channel_multiple: channel counts are rounded to multiples of this when channels are pruned.
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    name: str
    backend: str
    precisions: Mapping[PrecisionName, Precision]
    summary: str = ""
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    unsupported: Mapping[PrecisionName, str] = field(default_factory=dict)
    avoid: Mapping[str, str] = field(default_factory=dict)
    channel_multiple: int = 8
    limits: Limits = field(default_factory=Limits)
    measuring: Measuring = field(default_factory=Measuring)
    child: ChildLimits = field(default_factory=ChildLimits)

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "channel_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if "fp32" not in self.precisions:
            raise ValueError("precisions has no fp32; the baseline is measured in it, so it must be there")
        both = sorted(set(self.precisions) & set(self.unsupported))
        if both:
            raise ValueError(f"{', '.join(both)} stands under precisions and under unsupported; it must be one of them")


@dataclass(frozen=True)
class Choice:
    """A dimension of the space with listed values."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """A numeric dimension: `low` to `high`, both included, in steps of `step` when given."""

    low: float
    high: float
    step: float | None = None


Dimension = Choice | Range


@dataclass(frozen=True)
class Space:
    """A search space: technique -> parameter -> dimension. A parameter that is absent has its technique's default.

    `orders` are those that a recipe's stages may stand in, by their names in `techniques/order.py`.
    """

    name: str
    techniques: Mapping[str, Mapping[str, Dimension]]
    summary: str = ""
    orders: tuple[str, ...] = ("pipeline",)


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """A metric over `count` samples, with how its interval was made (`wilson`, `student` or `bootstrap`)."""

    value: float
    ci: Interval
    count: int
    method: str
    name: str = "accuracy"


@dataclass(frozen=True)
class Latency:
    """Latency of one call, interleaved with the reference artifact.

    Attributes:
        ms: median over the kept rounds of the round's lower quartile, milliseconds.
        ratio: to the reference, by round, then the median: the figure that is compared.
        p50_ms: median over every call; beside `p90_ms` it tells how quiet the machine was.
        rounds: rounds kept.
        dropped: slow rounds, left out.
        stable: the interval of the ratio is as narrow as the target asked.
        contended: the wall clock ran far ahead of the processor clock: other processes held the core.
    """

    ms: float
    ms_ci: Interval
    ratio: float
    ratio_ci: Interval
    p50_ms: float
    p90_ms: float
    rounds: int
    dropped: int
    stable: bool
    contended: bool


LOW_BIT_WEIGHTS = "low-bit weights"
"""The precision of a kernel that unpacks integer weights itself; what it multiplies in, it does not tell."""


@dataclass(frozen=True)
class Layer:
    """A kernel that the runtime really runs for a layer with weights: its name, kind, and arithmetic precision."""

    name: str
    kind: str
    precision: str

    @property
    def is_int8(self) -> bool:
        """Whether the arithmetic is 8 bit."""
        return self.precision in ("int8", "uint8")


@dataclass(frozen=True)
class Audit:
    """What the runtime made of the model.

    Attributes:
        layers: kernels that carry weights (convolutions, matrix products).
        conversions: quantize, dequantize, cast and reorder kernels left between layers.
        kernels: all kernels of one call.
    """

    layers: tuple[Layer, ...]
    conversions: int
    kernels: int

    @property
    def int8_layers(self) -> int:
        """How many layers run in 8 bit."""
        return sum(layer.is_int8 for layer in self.layers)


@dataclass(frozen=True)
class ArtifactFile:
    """A file of an artifact: name relative to its folder, bytes, SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """Compiled files that ship.

    Attributes:
        backend: which backend made and loads it.
        precision: the recipe's precision; some runtimes need it again at load time.
        files: what ships; the first one is what the runtime opens.
        folder: where they lie, relative to the study's folder (absolute while a child works on them).
        runtime: the runtime's version.
        compressed_bytes: of all files that ship, each compressed with gzip; None in records from before it was kept.
    """

    backend: str
    precision: str
    files: tuple[ArtifactFile, ...]
    folder: str
    runtime: str
    compressed_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that ship."""
        return sum(file.size for file in self.files)


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    INFEASIBLE = "infeasible"
    REJECTED = "rejected"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class TrialRecord:
    """What is kept of a trial. What was not measured is None, and `reason` says why.

    Attributes:
        number: counted from 0 within the study and target; 0 is the baseline.
        drop: loss of the metric against the baseline's artifact on the same val samples; `test_drop` on those of test.
        agreement_db: signal to quantization noise of the artifact's outputs against the float torch model, decibel.
        seconds: stage -> wall seconds spent in this trial (a cached stage costs only its lookup).
        reused: stages that came from the cache.
        weight_bits: layer -> bits of its integers, as quantization-aware training was asked or chose.
        log: file of the child's output, relative to the study's folder.
        samples: npy file of the raw latency samples, relative to the study's folder.
    """

    number: int
    target: str
    recipe: Recipe
    outcome: Outcome
    reason: str = ""
    val: Score | None = None
    drop: float | None = None
    drop_ci: Interval | None = None
    test: Score | None = None
    test_drop: float | None = None
    test_drop_ci: Interval | None = None
    latency: Latency | None = None
    artifact: Artifact | None = None
    audit: Audit | None = None
    agreement_db: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    reused: tuple[str, ...] = ()
    weight_bits: Mapping[str, int] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    log: str | None = None
    samples: str | None = None
    finished: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether accuracy, latency and size are all known."""
        return self.val is not None and self.latency is not None and self.artifact is not None
