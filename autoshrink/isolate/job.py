"""What a child is told and what it answers, and their JSON form. The timed process imports this: keep it light."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoshrink.backends.base import Source
from autoshrink.target import ChildLimits, Measuring
from autoshrink.types import (
    ArtifactFile,
    Audit,
    Figure,
    Interval,
    Kernel,
    Latency,
    Layer,
    Profile,
    Recipe,
    Settings,
    StageSpec,
)

JOB = "job.json"
RESULT = "result.json"
LOG = "child.log"
SAMPLES = "samples.npy"
OUTPUTS = "outputs"


@dataclass(frozen=True)
class Loaded:
    """Files of an artifact to load, the one to open first, and the precision they were compiled for.

    `options` are those to load it with, where they are not the job's.
    """

    folder: Path
    files: tuple[str, ...]
    precision: str
    options: Settings | None = None


@dataclass(frozen=True)
class Job:
    """What a child does, in this order: compile, load, audit, measure, profile, evaluate. What is not asked for is
    left out.

    Attributes:
        backend: as `Target.backend` names it.
        threads: of the runtime for one call.
        batch: rows of one call.
        limits: wall time and address space of the child.
        artifact: what is worked on; with no files it is compiled from `source` into its folder first.
        source: what is compiled.
        run: whether what was compiled is loaded; without it the job ends there.
        options: of the target.
        pin: numbers of the processors that the child keeps to; empty is all.
        reference: artifact that is timed beside it; None with `measure` set is a second loaded copy of itself.
        example: folder with one `<input>.npy` [batch, ...] an input; what is measured runs on it.
        measure: the measuring protocol; None measures nothing.
        audit: whether the runtime's kernels are counted.
        profile: how many calls on `example` are profiled, kernel by kernel; 0 is none.
        evaluate: name -> folder with one `<input>.npy` [N, ...] an input, run in batches of `batch`.
        probe: only ask for the runtime's capabilities; nothing else of the job is looked at.
        seed: of the measurement's order and bootstrap.
        device: what is locked while the child runs.
    """

    backend: str
    threads: int
    batch: int
    limits: ChildLimits
    artifact: Loaded
    source: Source | None = None
    run: bool = True
    options: Settings = field(default_factory=dict)
    pin: tuple[int, ...] = ()
    reference: Loaded | None = None
    example: Path | None = None
    measure: Measuring | None = None
    audit: bool = False
    profile: int = 0
    evaluate: Mapping[str, Path] = field(default_factory=dict)
    probe: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.probe:
            return
        if bool(self.artifact.files) == (self.source is not None):
            model = self.source.model if self.source else None
            raise ValueError(
                f"artifact.files is {list(self.artifact.files)} and source {model}; a job has either the files of "
                f"an artifact, or a model to compile"
            )
        if (self.measure or self.profile) and self.example is None:
            what = "measure" if self.measure else "profile"
            raise ValueError(f"{what} is set and example is not; what is measured needs an input")

    def to_json(self) -> str:
        """The inverse of `from_json`."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job of `to_json`."""
        data = json.loads(text)
        return cls(
            **{
                **data,
                "limits": ChildLimits(**data["limits"]),
                "artifact": _loaded(data["artifact"]),
                "source": _source(data["source"]) if data["source"] else None,
                "pin": tuple(data["pin"]),
                "reference": _loaded(data["reference"]) if data["reference"] else None,
                "example": _path(data["example"]),
                "measure": Measuring(**data["measure"]) if data["measure"] else None,
                "evaluate": {name: Path(folder) for name, folder in data["evaluate"].items()},
            }
        )


@dataclass(frozen=True)
class JobResult:
    """What a child found. What was not asked for is None or empty.

    Attributes:
        files: of the artifact.
        runtime: what ran it, with its version.
        audit: the kernels; of compiling where that tells more.
        figures: what compiling found beside them.
        latency: beside the reference.
        samples: npy file of the raw latency samples (see `autoshrink.measure.timing.Samples`).
        sensors: what the machine shows (see `autoshrink.measure.sensors`) -> its values before and after measuring.
        profile: where the time of a call goes.
        outputs: name of the evaluated set -> folder with one `<output>.npy` [N, ...] an output.
        capabilities: what the runtime has on this machine; of a probe only.
        seconds: stage -> wall seconds; `start` is what the process and its imports took.
        peak_memory_bytes: most memory that the child had resident.
        modules: names of the top-level modules that were imported when timing began.
    """

    files: tuple[ArtifactFile, ...] = ()
    runtime: str = ""
    audit: Audit | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    latency: Latency | None = None
    samples: Path | None = None
    sensors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    profile: Profile | None = None
    outputs: Mapping[str, Path] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    modules: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The inverse of `from_json`."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str) -> JobResult:
        """The result of `to_json`."""
        data = json.loads(text)
        return cls(
            **{
                **data,
                "files": tuple(ArtifactFile(**file) for file in data["files"]),
                "audit": _audit(data["audit"]) if data["audit"] else None,
                "figures": {name: Figure(**figure) for name, figure in data["figures"].items()},
                "latency": _latency(data["latency"]) if data["latency"] else None,
                "samples": _path(data["samples"]),
                "sensors": {name: (before, after) for name, (before, after) in data["sensors"].items()},
                "profile": profile_from_json(data["profile"]) if data["profile"] else None,
                "outputs": {name: Path(folder) for name, folder in data["outputs"].items()},
                "capabilities": frozenset(data["capabilities"]),
                "modules": tuple(data["modules"]),
            }
        )


@dataclass(frozen=True)
class Failure:
    """Why a child gave up: the stage it was in and the reason in one line; the traceback is in its log."""

    stage: str
    reason: str

    def to_json(self) -> str:
        """The form in which it takes the place of a result."""
        return json.dumps({"error": asdict(self)})


def parse_answer(text: str) -> JobResult | Failure:
    """What a child wrote: its result, or why there is none.

    Raises:
        ValueError: the text is not what a child writes.
    """
    try:
        data = json.loads(text)
        return Failure(**data["error"]) if "error" in data else JobResult.from_json(text)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{RESULT} does not hold a result: {error!r}") from error


def _to_json(value: Job | JobResult) -> str:
    return json.dumps(asdict(value), default=_plain, indent=1)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no place in a job")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _loaded(data: Mapping[str, Any]) -> Loaded:
    return Loaded(Path(data["folder"]), tuple(data["files"]), data["precision"], data["options"])


def _source(data: Mapping[str, Any]) -> Source:
    recipe = Recipe(
        tuple(StageSpec.of(stage["technique"], dict(stage["settings"])) for stage in data["recipe"]["stages"])
    )
    return Source(**{**data, "model": Path(data["model"]), "recipe": recipe, "calibration": _path(data["calibration"])})


def _audit(data: Mapping[str, Any]) -> Audit:
    return Audit(
        tuple(Layer(**layer) for layer in data["layers"]), data["conversions"], data["kernels"], tuple(data["notes"])
    )


def profile_from_json(data: Mapping[str, Any]) -> Profile:
    """The profile of `dataclasses.asdict`, after JSON."""
    kernels = tuple(
        Kernel(**{**kernel, **{side: tuple(map(tuple, kernel[side])) for side in ("inputs", "outputs")}})
        for kernel in data["kernels"]
    )
    return Profile(**{**data, "kernels": kernels, "notes": tuple(data["notes"])})


def _latency(data: Mapping[str, Any]) -> Latency:
    return Latency(**{**data, "ms_ci": Interval(**data["ms_ci"]), "ratio_ci": Interval(**data["ratio_ci"])})
