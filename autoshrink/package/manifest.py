"""`package.json`: what a package says of itself, and how it is read when a stranger wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from autoshrink.backends import BACKENDS, get_backend
from autoshrink.errors import ConfigError
from autoshrink.target import Target
from autoshrink.types import PRECISIONS, ArtifactFile, Figure, Interval, Latency, Outcome, Scalar, Score

SCHEMA = 1
MANIFEST = "package.json"
ARTIFACT, REFERENCE = "artifact", "reference"
INPUTS, TARGETS, OUTPUTS, FLOAT = "samples/inputs", "samples/targets", "samples/outputs", "samples/float"

# Far over what any package needs, far under what would hang the machine that reads one.
_MANIFEST_BYTES = 16 * 2**20
_FILES = 10_000
_THREADS = 1024
_BATCH = 65_536
_SECONDS = 86_400.0
_MEMORY_MB = 2**20


@dataclass(frozen=True)
class Port:
    """An input or output: its name, its shape with the batch first, its numpy dtype (`float32`)."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class OutputPort(Port):
    """An output, with what it means: `logits` or `values`, as in the task."""

    kind: Literal["logits", "values"]


@dataclass(frozen=True)
class Signature:
    """What goes in and comes out of one call."""

    inputs: tuple[Port, ...]
    outputs: tuple[OutputPort, ...]


@dataclass(frozen=True)
class Runtime:
    """What runs the artifact, and how.

    Attributes:
        version: distribution and version that made it and that it was measured with, such as `onnxruntime 1.31.1`.
        artifact: file names in `artifact/`, the one that the runtime opens first.
        reference: the same in `reference/`, the baseline that latencies are compared with; empty when left out.
    """

    backend: str
    version: str
    precision: str
    artifact: tuple[str, ...]
    reference: tuple[str, ...]
    reference_precision: str


@dataclass(frozen=True)
class AuditCounts:
    """How many kernels with weights the runtime chose, how many of them in 8 bit, conversions left, kernels in all.

    `notes` say where the target does other than the recipe.
    """

    layers: int
    int8_layers: int
    conversions: int
    kernels: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """What was measured of one compiled artifact; None is not measured.

    Attributes:
        drop: loss of the metric on val against the baseline, paired over the samples.
        size_ratio: bytes over the baseline's.
        agreement_db: signal to quantization noise of the outputs against the float torch model, decibel.
        outcome: of the trial.
        reason: why something is None.
        figures: name -> what the backend found in compiling, such as the bytes of an arena.
    """

    val: Score | None
    test: Score | None
    drop: float | None
    drop_ci: Interval | None
    latency: Latency | None
    size_bytes: int
    size_ratio: float
    audit: AuditCounts | None
    agreement_db: float | None
    outcome: Outcome = Outcome.COMPLETE
    reason: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A package.

    Attributes:
        study: name of the study, of the trial and of the seed that it came from.
        recipe: the stages, as `Recipe.to_json` gives them; `words` is how people read them.
        target: the hardware profile that it was made and measured for, without what names programs of one machine.
        machine: as `describe_machine` gave it when the study began.
        samples: how many rows of the test split lie in `samples/`.
        files: every file of the package but this one, names relative to the package with `/`.
        not_run: why nothing could run the artifact where the package was written; empty when something did. Then
            there is no `samples/outputs`, but `samples/float`: what the task's float model gives for the samples.
    """

    name: str
    task: str
    metric: str
    created: str
    autoshrink: str
    study: Mapping[str, Scalar]
    recipe: tuple[Mapping[str, Scalar], ...]
    words: str
    target: Target
    runtime: Runtime
    signature: Signature
    preprocessing: str
    figures: Figures
    baseline: Figures
    machine: Mapping[str, Any]
    samples: int
    files: tuple[ArtifactFile, ...]
    not_run: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object, the schema's number first."""
        return {"schema": SCHEMA, **_MANIFEST.dump_python(self, mode="json")}


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def read_manifest(folder: Path) -> Manifest:
    """`package.json` of a package that anybody may have written.

    Raises:
        ConfigError: it is missing, is no JSON, has an unknown schema, lacks something, names a file outside the
            package, or asks for more threads, memory or time than any package needs. Every problem at once.
    """
    path = folder / MANIFEST
    # A pipe of that name would be waited for without end.
    if not path.is_file():
        raise ConfigError([f"{path}: is not there; name the folder of a package"])
    try:
        if path.stat().st_size > _MANIFEST_BYTES:
            raise ConfigError(
                [f"{path}: has {path.stat().st_size} bytes; a package's own description has a few thousand"]
            )
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: is not JSON ({error}); fetch the package again"]) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ConfigError([f"{path}:schema: {found!r}; this autoshrink reads {SCHEMA}; use the version that wrote it"])
    try:
        # From text: the profile is strict, and takes a JSON list for a tuple only when it reads JSON.
        manifest = _MANIFEST.validate_json(json.dumps({key: value for key, value in data.items() if key != "schema"}))
    except ValidationError as error:
        raise ConfigError(f"{path}:{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()) from error
    problems = [f"{path}:{problem}" for problem in _problems(manifest, folder)]
    if problems:
        raise ConfigError(problems)
    return manifest


def _problems(manifest: Manifest, folder: Path) -> list[str]:
    problems = []
    runtime, target = manifest.runtime, manifest.target
    if runtime.backend not in BACKENDS or target.backend != runtime.backend:
        problems.append(f"runtime.backend: {runtime.backend!r} is none of {', '.join(BACKENDS)}, or not the target's")
    else:
        problems += _option_problems(target)
    if target.python:
        problems.append(f"target.python: {target.python!r}; a package may not name what runs it")
    for precision in (runtime.precision, runtime.reference_precision):
        if precision not in PRECISIONS:
            problems.append(f"runtime: precision {precision!r} is none of {', '.join(PRECISIONS)}")
    for name, value, most in (
        ("target.threads", target.threads, _THREADS),
        ("target.batch", target.batch, _BATCH),
        ("target.measuring.time_limit_s", target.measuring.time_limit_s, _SECONDS),
        ("target.child.time_limit_s", target.child.time_limit_s, _SECONDS),
        ("target.child.memory_limit_mb", target.child.memory_limit_mb, _MEMORY_MB),
        ("files", len(manifest.files), _FILES),
    ):
        if value > most:
            problems.append(f"{name}: {value} is over {most}, which no package needs")
    listed = {file.name for file in manifest.files}
    if len(listed) != len(manifest.files):
        problems.append("files: a name stands there twice")
    for file in manifest.files:
        if not is_inside(file.name, folder):
            problems.append(f"files: {file.name!r} is not a plain path inside the package; do not run this package")
        elif file.size < 0:
            problems.append(f"files: {file.name!r} has {file.size} bytes")
    signature = manifest.signature
    needed = [f"{ARTIFACT}/{name}" for name in runtime.artifact] + [f"{REFERENCE}/{name}" for name in runtime.reference]
    needed += [f"{INPUTS}/{port.name}.npy" for port in signature.inputs]
    needed += [f"{FLOAT if manifest.not_run else OUTPUTS}/{port.name}.npy" for port in signature.outputs]
    problems += [f"files: {name!r} is used and not listed" for name in needed if name not in listed]
    if not runtime.artifact:
        problems.append("runtime.artifact: is empty; there is nothing to run")
    if not signature.inputs or not signature.outputs:
        problems.append("signature: needs an input and an output")
    return problems


def options_that_ship(target: Target) -> dict[str, Scalar]:
    """The target's options but for those of any text, which name what is on one machine: a program, a folder."""
    known = get_backend(target.backend).options if target.options else {}
    return {key: value for key, value in target.options.items() if key in known and known[key].allowed is not None}


def _option_problems(target: Target) -> list[str]:
    """What a stranger's options may not say: a key the backend does not have, or a value that is none of its list.

    Any text at all would do for some keys, and name a program to start: a package may not say those.
    """
    options = get_backend(target.backend).options if target.options else {}
    problems = []
    for key, value in target.options.items():
        if key not in options:
            problems.append(f"target.options.{key}: is none of {', '.join(options) or 'this backend, which has none'}")
            continue
        allowed = options[key].allowed
        if allowed is None:
            problems.append(f"target.options.{key}: {value!r}; a package may not name what is on another machine")
        elif value not in allowed.values:
            problems.append(f"target.options.{key}: {value!r} is none of {', '.join(map(str, allowed.values))}")
    return problems


def is_inside(name: str, folder: Path) -> bool:
    """Whether `name` is a plain relative path with `/`, and no link on its way leads anywhere else."""
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or name.startswith("/") or ".." in parts or "." in parts:
        return False
    if any(character in name for character in "\\:\0") or not name.isprintable():
        return False
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            return False
    return True
