"""Frozen types that travel between the rooms. Standard library only: the timed child imports this file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from autoshrink.sensitivities import Allocation

Scalar = bool | int | float | str
Settings = Mapping[str, Scalar]

FLOAT_PRECISIONS = ("fp32", "fp16", "bf16")
PRECISIONS = (*FLOAT_PRECISIONS, "int8_dynamic", "int8_static", "int8_weights", "int4_weights")


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
        named = ((stage["technique"], {n: value for n, value in stage.items() if n != "technique"}) for stage in data)
        return cls(tuple(StageSpec.of(name, settings) for name, settings in named))

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


DRIFT = 0.1
"""A device whose reference changes by more than this share while it measures is said to drift."""


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
        drift: share by which the reference ran slower in the last third of all rounds than in the first: a device
            that grows hot and clocks down. Its ratio to the candidate is not touched by it.
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
    drift: float = 0.0

    @property
    def drifts(self) -> bool:
        """Whether the device's pace changed while it measured."""
        return abs(self.drift) > DRIFT

    @property
    def unrest(self) -> str:
        """What was not steady about the measurement, in words; empty when all was."""
        said = []
        if not self.stable:
            half = (self.ratio_ci.high - self.ratio_ci.low) / 2 / self.ratio
            said.append(f"the ratio is known to +-{100 * half:.1f} % only, after {self.rounds} rounds")
        if self.contended:
            said.append("other processes held the processor")
        if self.drifts:
            how = "slower, as one that grows hot does" if self.drift > 0 else "faster"
            said.append(f"the device became {100 * abs(self.drift):.0f} % {how}")
        return "; ".join(said)


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
        notes: what else a user should know, such as where the target does other than the recipe says.
    """

    layers: tuple[Layer, ...]
    conversions: int
    kernels: int
    notes: tuple[str, ...] = ()

    @property
    def int8_layers(self) -> int:
        """How many layers run in 8 bit."""
        return sum(layer.is_int8 for layer in self.layers)


@dataclass(frozen=True)
class Kernel:
    """A kernel of one call, as the runtime's own profiler tells of it.

    Attributes:
        name: as the audit names it: of the layer, or of what the runtime fused it into.
        kind: the runtime's name for what it does, such as `QLinearConv`.
        precision: of its arithmetic, as the audit names it; empty where the runtime does not say.
        ms: median over the profiled calls, milliseconds; None where the runtime gives no time per kernel.
        inputs: shapes of its inputs, those of parameters among them where the runtime lists them; empty if it does not.
        outputs: the same of its outputs.
        weight_bytes: of the parameters that it reads, where the runtime tells.
        has_weights: whether it carries weights (a convolution, a matrix product with a constant).
        is_conversion: whether it quantizes, dequantizes, casts or changes the layout, and nothing else.
    """

    name: str
    kind: str
    precision: str = ""
    ms: float | None = None
    inputs: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()
    weight_bytes: int | None = None
    has_weights: bool = False
    is_conversion: bool = False


@dataclass(frozen=True)
class Profile:
    """Where the time of a call goes. What the runtime does not tell is absent, and `notes` say so.

    Attributes:
        kernels: of one call, in the order they ran.
        call_ms: median of the wall time of calls that nothing profiled, in turns with those, milliseconds.
        calls: how many were profiled.
        source: what gave the times, such as `onnxruntime 1.31.1, its profiler`.
        estimate: whether the times are those of a model of the device, and none of a clock.
        notes: what a reader should know.
    """

    kernels: tuple[Kernel, ...] = ()
    call_ms: float | None = None
    calls: int = 0
    source: str = ""
    estimate: bool = False
    notes: tuple[str, ...] = ()

    @property
    def kernels_ms(self) -> float:
        """Of all kernels that have a time, together."""
        return sum(kernel.ms or 0.0 for kernel in self.kernels)

    @property
    def is_timed(self) -> bool:
        """Whether there is a time per kernel."""
        return any(kernel.ms is not None for kernel in self.kernels)


@dataclass(frozen=True)
class Figure:
    """A figure of an artifact beside accuracy, latency and size, with its unit and who found it.

    An estimate of a device that is not here has `estimate` set, and is shown as one.
    """

    value: float
    unit: str
    source: str
    estimate: bool = False


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
    COMPILED = "compiled"
    """There is no device here to run it on: size and audit are known, accuracy and latency are not."""
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
        allocations: what stages shared out among the layers by their sensitivities, in the order of the stages.
        weights: layer -> shape of its weight after the stages (see `weight_shapes`); a factorized one has its factors.
        figures: name -> what the backend found in compiling beside size and audit.
        log: file of the child's output, relative to the study's folder.
        samples: npy file of the raw latency samples, relative to the study's folder.
        predictions: the same of the class that it gives each sample of val; of classification (see `val_set`).
        scores: the same of the metric of each sample of val, float32; of other tasks.
        device: which one measured it; empty is the machine that searched.
        sensors: what that device shows of itself -> before and after measuring; see `autoshrink.measure.sensors`.
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
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    allocations: tuple[Allocation, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    log: str | None = None
    samples: str | None = None
    predictions: str | None = None
    scores: str | None = None
    finished: str = ""
    device: str = ""
    sensors: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        """Whether accuracy, latency and size are all known."""
        return self.is_scored and self.latency is not None

    @property
    def is_scored(self) -> bool:
        """Whether accuracy and size are known; on a target that only imitates its device there is no latency."""
        return self.val is not None and self.artifact is not None
