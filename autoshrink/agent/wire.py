"""What travels between a search and an agent: a job as JSON with its files named by their SHA-256, and its result.

Read strictly: a key that is not known, a number that is a text, a name that is no plain file name are all refused.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from autoshrink.backends import BACKENDS, get_backend
from autoshrink.cache import file_sha256
from autoshrink.isolate.job import Job, JobResult, Loaded
from autoshrink.target import ChildLimits, Measuring, PrecisionName
from autoshrink.types import Scalar, Settings

PROTOCOL = 1
LONGEST_NAME = 100
DEEPEST = 8
MOST_FILES = 256
MOST_PROFILED = 10_000

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def plain_name(name: str) -> str:
    """`name`, when it names a file below a folder and nothing else: no way up, no hidden part, nothing unprintable.

    Raises:
        ValueError: it does not.
    """
    parts = name.split("/")
    wrong = not name.isprintable() or "\\" in name or len(parts) > DEEPEST
    if wrong or any(not part or part.startswith(".") or len(part) > LONGEST_NAME for part in parts):
        raise ValueError(f"{name[:LONGEST_NAME]!r} is no plain file name")
    return name


def _plain_part(name: str) -> str:
    if "/" in name:
        raise ValueError(f"{name[:LONGEST_NAME]!r} is no plain file name")
    return plain_name(name)


PlainName = Annotated[str, AfterValidator(plain_name)]
"""May lie in a folder below, as the parts of some artifacts do."""
PlainPart = Annotated[str, AfterValidator(_plain_part)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileRef(_Message):
    """A file by its content; `name` is where the job finds it."""

    name: PlainName
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


Files = Annotated[list[FileRef], Field(max_length=MOST_FILES)]


class ArtifactRef(_Message):
    """The files of an artifact, the one to open first."""

    files: Annotated[Files, Field(min_length=1)]
    precision: PrecisionName
    options: dict[str, Scalar] | None = None


class JobRequest(_Message):
    """A `Job` that compiles nothing; see there."""

    backend: str
    threads: Annotated[int, Field(ge=1, le=1024)]
    batch: Annotated[int, Field(ge=1, le=2**20)]
    limits: ChildLimits
    artifact: ArtifactRef | None
    reference: ArtifactRef | None
    options: dict[str, Scalar]
    pin: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1024)]
    example: Files
    measure: Measuring | None
    audit: bool
    profile: Annotated[int, Field(ge=0, le=MOST_PROFILED)] = 0
    evaluate: Annotated[dict[PlainPart, Files], Field(max_length=16)]
    probe: bool
    seed: int

    def files(self) -> dict[str, int]:
        """SHA-256 -> bytes of everything that the job needs."""
        listed = [*self.example, *(file for files in self.evaluate.values() for file in files)]
        for artifact in (self.artifact, self.reference):
            listed += artifact.files if artifact else []
        return {file.sha256: file.size for file in listed}

    def problems(self) -> list[str]:
        """Why an agent does not take it, whatever the files hold: what could name a program to run is refused."""
        if self.backend not in BACKENDS:
            return [f"backend is {self.backend!r}; an agent runs {', '.join(BACKENDS)} and nothing else"]
        found = []
        known = get_backend(self.backend).options
        own = [artifact.options for artifact in (self.artifact, self.reference) if artifact and artifact.options]
        for name, value in (pair for options in (self.options, *own) for pair in options.items()):
            allowed = known[name].allowed if name in known else None
            if allowed is None:
                found.append(f"options.{name}: an agent takes only options whose values are listed")
            elif not any(value == each and type(value) is type(each) for each in allowed.values):
                found.append(f"options.{name} is {value!r}; it must be one of {', '.join(map(str, allowed.values))}")
        if not self.probe and self.artifact is None:
            found.append("artifact is missing")
        if (self.measure or self.profile) and not self.example:
            what = "measure" if self.measure else "profile"
            found.append(f"{what} is set and example is not; what is measured needs an input")
        return found


def request_of(job: Job) -> tuple[JobRequest, dict[str, Path]]:
    """The message of a job, and SHA-256 -> file of what it needs.

    Options that are as the backend has them by default are left out: they say nothing.

    Raises:
        ValueError: the job has something that no agent takes, such as a name with a slash.
    """
    found: dict[str, Path] = {}
    backend = get_backend(job.backend)

    def refer(folder: Path, names: Iterable[str], suffix: str = "") -> list[FileRef]:
        files = []
        for name in names:
            path = folder / f"{name}{suffix}"
            stat = path.stat()
            sha256 = _sha256(path, stat.st_mtime_ns, stat.st_size)
            found[sha256] = path
            files.append(FileRef(name=name, sha256=sha256, size=stat.st_size))
        return files

    def arrays(folder: Path) -> list[FileRef]:
        return refer(folder, sorted(path.stem for path in folder.glob("*.npy")), ".npy")

    def artifact(loaded: Loaded | None) -> ArtifactRef | None:
        if loaded is None or not loaded.files:
            return None
        own = None if loaded.options is None else telling(loaded.options)
        return ArtifactRef(files=refer(loaded.folder, loaded.files), precision=loaded.precision, options=own)  # type: ignore[arg-type]

    default = {name: option.default for name, option in backend.options.items()}

    def telling(options: Settings) -> dict[str, Scalar]:
        return {name: value for name, value in options.items() if value != default.get(name)}

    request = JobRequest(
        backend=job.backend,
        threads=job.threads,
        batch=job.batch,
        limits=job.limits,
        artifact=artifact(job.artifact),
        reference=artifact(job.reference),
        options=telling(job.options),
        pin=list(job.pin),
        example=arrays(job.example) if job.example else [],
        measure=job.measure,
        audit=job.audit,
        profile=job.profile,
        evaluate={name: arrays(folder) for name, folder in job.evaluate.items()},
        probe=job.probe,
        seed=job.seed,
    )
    return request, found


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, _changed: int, _size: int) -> str:
    """Of a file as it was changed last; the same data set goes to a device with every job."""
    return file_sha256(path)


def job_of(request: JobRequest, folder: Path, device: str) -> tuple[Job, dict[Path, str]]:
    """The job of a message, whose files lie in `folder`, and file -> SHA-256 of what must be put there first."""
    places: dict[Path, str] = {}

    def put(files: Iterable[FileRef], below: str, suffix: str = "") -> Path:
        for file in files:
            places[folder / below / f"{file.name}{suffix}"] = file.sha256
        return folder / below

    def artifact(ref: ArtifactRef | None, below: str) -> Loaded | None:
        if ref is None:
            return None
        return Loaded(put(ref.files, below), tuple(file.name for file in ref.files), ref.precision, ref.options)

    job = Job(
        backend=request.backend,
        threads=request.threads,
        batch=request.batch,
        limits=request.limits,
        artifact=artifact(request.artifact, "artifact") or Loaded(folder / "artifact", (), "fp32"),
        options=request.options,
        pin=tuple(request.pin),
        reference=artifact(request.reference, "reference"),
        example=put(request.example, "example", ".npy") if request.example else None,
        measure=request.measure,
        audit=request.audit,
        profile=request.profile,
        evaluate={name: put(files, f"inputs/{name}", ".npy") for name, files in request.evaluate.items()},
        probe=request.probe,
        seed=request.seed,
        device=device,
    )
    return job, places


def result_without_paths(result: JobResult) -> dict[str, Any]:
    """A result as JSON; its files go as files."""
    data: dict[str, Any] = json.loads(result.to_json())
    return {**data, "samples": None, "outputs": {}}


def result_with_paths(data: Mapping[str, Any], work: Path, files: Iterable[str]) -> JobResult:
    """The inverse, for files that were put into `work`: `samples.npy`, `outputs/<set>/<output>.npy`.

    Raises:
        ValueError: it is no result.
    """
    names = set(files)
    sets = {name.split("/")[1] for name in names if name.startswith("outputs/")}
    whole = {
        **data,
        "samples": str(work / "samples.npy") if "samples.npy" in names else None,
        "outputs": {name: str(work / "outputs" / name) for name in sets},
    }
    try:
        return JobResult.from_json(json.dumps(whole))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no result: {error!r}") from error
