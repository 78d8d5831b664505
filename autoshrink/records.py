"""The study's folder: what is kept of a search, as JSON files that are written atomically.

results/<study>/
    study.json                    what was asked for: task, targets, space, seed; and the machine
    study.db                      the sampler's memory (Optuna); can be lost, the records cannot
    search.json                   what a search is doing now (see `autoshrink.activity`)
    val/                          samples that the trials are scored on (see `autoshrink.val_set`)
    sensitivities/<key>.json      what stages measured of the layers of a model, shared by trials
    <target>/device.json          what the device is that its trials are measured on
    <target>/trials/0007.json     one record a trial
    <target>/trials/0007/         raw latency samples, predictions, the child's log
    artifacts/<key>/              compiled files, shared by trials that came to the same bytes
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock
import pydantic_core
from pydantic import TypeAdapter, ValidationError

from autoshrink.errors import AutoshrinkError, ConfigError
from autoshrink.sensitivities import Allocation, Sensitivities, SharedOut
from autoshrink.target import Target
from autoshrink.types import Recipe, Scalar, Space, StageSpec, TrialRecord, content_key

SCHEMA = 1
STUDY_FILE = "study.json"
SENSITIVITIES = "sensitivities"
MOST_BYTES = 64 * 2**20
"""Of a JSON file that is read."""


@dataclass(frozen=True)
class StudyMeta:
    """What a study was asked to do.

    Attributes:
        name: also the folder's name.
        task: what `load_task` takes: a built-in name or the absolute path of a file.
        targets: target name -> profile, limits of the command line included.
        space: as the user gave it; what a target cannot run is taken out of it anew at each start.
        trials: trials a target; None is until the time is up or the space is used up.
        time_limit_s: seconds for one run of the search; None is no limit.
        machine: as `describe_machine` gave it when the study began.
        fidelity: share of the training steps that every stage makes, over 0 to 1.
        force: keys of what is searched although a target avoids it.
    """

    name: str
    task: str
    targets: Mapping[str, Target]
    space: Space
    seed: int
    trials: int | None
    time_limit_s: float | None
    created: str
    autoshrink: str
    machine: Mapping[str, Any]
    fidelity: float = 1.0
    force: tuple[str, ...] = ()


_META: TypeAdapter[StudyMeta] = TypeAdapter(StudyMeta)
_RECORD: TypeAdapter[TrialRecord] = TypeAdapter(TrialRecord)
_SENSITIVITIES: TypeAdapter[Sensitivities] = TypeAdapter(Sensitivities)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, also after a crash."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w") as stream:
            json.dump(value, stream, indent=1, allow_nan=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path, schema: int = SCHEMA, most: int = MOST_BYTES) -> dict[str, Any]:
    """A JSON object with a known `schema`.

    Raises:
        ConfigError: the file is missing, is no regular file, is longer than `most` bytes, is no JSON object with finite
            numbers, or has a schema that this version does not know.
    """
    content = _read(path, most)
    try:
        value = _parse(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: is not JSON ({error}); restore it from a copy"]) from error
    if not isinstance(value, dict) or value.get("schema") != schema:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        rule = f"this autoshrink reads {schema}; use the version of autoshrink that wrote it"
        raise ConfigError([f"{path}:schema: {found!s:.40}; {rule}"])
    return value


def _read(path: Path, most: int) -> bytes:
    try:
        # Opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError([f"{path}: is no file"])
            if found.st_size > most:
                raise ConfigError(
                    [f"{path}: has {found.st_size} bytes; it may have {most}, and no search writes so many"]
                )
            return os.read(descriptor, found.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error


def _parse(content: bytes) -> Any:
    try:
        return pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError:
        # It takes a third of the time and does not know half a surrogate pair, which a file's name may have.
        return json.loads(content, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


class StudyFolder:
    """Reads and appends to one study's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, meta: StudyMeta) -> StudyFolder:
        """A new folder with `study.json` in it.

        Raises:
            ConfigError: there is a study already, or the folder cannot be written.
        """
        if (path / STUDY_FILE).exists():
            raise ConfigError(
                [f"{path}: there is a study of this name; `autoshrink resume {meta.name}` goes on with it, "
                 "`--study NAME` starts another"]
            )  # fmt: skip
        try:
            for target in meta.targets:
                (path / target / "trials").mkdir(parents=True, exist_ok=True)
            write_json(path / STUDY_FILE, {"schema": SCHEMA, **_META.dump_python(meta, mode="json")})
        except OSError as error:
            raise ConfigError(
                [f"{path}: cannot be written ({error.strerror or error}); name another place with --results"]
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> StudyFolder:
        """An existing study.

        Raises:
            ConfigError: there is none; lists those that are there.
        """
        if not (path / STUDY_FILE).is_file():
            others = sorted(p.parent.name for p in path.parent.glob(f"*/{STUDY_FILE}")) if path.parent.is_dir() else []
            known = f"there are {', '.join(others)}" if others else "none was made yet"
            raise ConfigError([f"{path}: there is no study here; {known}"])
        return cls(path)

    @cached_property
    def meta(self) -> StudyMeta:
        """What the study was asked to do."""
        return meta_from_json(read_json(self.path / STUDY_FILE), self.path / STUDY_FILE)

    def update(self, **changes: Any) -> None:
        """Changes what `resume` may change: trials and time_limit_s."""
        meta = replace(self.meta, **changes)
        write_json(self.path / STUDY_FILE, {"schema": SCHEMA, **_META.dump_python(meta, mode="json")})
        self.__dict__.pop("meta", None)

    def trial_file(self, target: str, number: int) -> Path:
        """The record's file."""
        return self.path / target / "trials" / f"{number:04d}.json"

    def trial_folder(self, target: str, number: int) -> Path:
        """Where a trial's samples and log go."""
        return self.path / target / "trials" / f"{number:04d}"

    def file(self, relative: str) -> Path:
        """A file that a record names relative to the study's folder; it need not exist.

        Raises:
            ConfigError: it would lie outside of the study's folder.
        """
        path = (self.path / relative).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise ConfigError(
                [f"{relative!r}: lies outside of {self.path}; the files of a study are within its folder"]
            )
        return path

    def write(self, record: TrialRecord) -> None:
        """Appends a record, or replaces it (when the test split has been scored)."""
        write_json(self.trial_file(record.target, record.number), record_to_json(record))

    def check_target(self, target: str) -> None:
        """Refuses what is no target of the study.

        Raises:
            ConfigError: says which there are.
        """
        if target not in self.meta.targets:
            raise ConfigError(
                [f"--target: {target!r} is not in study {self.meta.name}; it has {', '.join(self.meta.targets)}"]
            )

    def records(self, target: str) -> list[TrialRecord]:
        """Every trial of a target, by number.

        Raises:
            ConfigError: the study has no such target, or a record is of an unknown schema.
        """
        self.check_target(target)
        files = sorted((self.path / target / "trials").glob("[0-9]*.json"))
        return [record_from_json(read_json(file), file) for file in files]

    def write_shared_out(self, found: SharedOut) -> Allocation:
        """Keeps what was measured of the layers, unless a trial with the same has; gives what the record keeps."""
        value = _SENSITIVITIES.dump_python(found.sensitivities, mode="json")
        name = f"{SENSITIVITIES}/{content_key(value)[:16]}.json"
        if not (self.path / name).exists():
            (self.path / SENSITIVITIES).mkdir(exist_ok=True)
            write_json(self.path / name, {"schema": SCHEMA, **value})
        return Allocation(found.sensitivities.technique, dict(found.chosen), found.expected, name)

    def sensitivities(self, allocation: Allocation) -> Sensitivities:
        """What was measured before an allocation.

        Raises:
            ConfigError: the file is missing, cannot be read, or would lie outside of the study's folder.
        """
        file = self.file(allocation.sensitivities)
        fields = {name: value for name, value in read_json(file).items() if name != "schema"}
        try:
            return _SENSITIVITIES.validate_python(fields)
        except ValidationError as error:
            raise ConfigError(f"{file}:{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()) from error

    def write_left_out(self, target: str, left_out: Mapping[str, str]) -> None:
        """Keeps what a target's space was relieved of: what -> why."""
        write_json(self.path / target / "left-out.json", {"schema": SCHEMA, "left_out": dict(left_out)})

    def left_out(self, target: str) -> dict[str, str]:
        """What a target's space was relieved of, and why; empty before the search has begun."""
        path = self.path / target / "left-out.json"
        if not path.exists():
            return {}
        return {str(what): str(why) for what, why in read_json(path).get("left_out", {}).items()}

    def write_identity(self, target: str, identity: Mapping[str, str]) -> None:
        """Keeps what the device is that a target's trials are measured on; see `autoshrink.measure.identity`."""
        write_json(self.path / target / "device.json", {"schema": SCHEMA, "identity": dict(identity)})

    def identity(self, target: str) -> dict[str, str]:
        """What the device of a target's trials is; empty before the search has begun."""
        path = self.path / target / "device.json"
        if not path.exists():
            return {}
        return {str(name): str(value) for name, value in read_json(path).get("identity", {}).items()}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held while a search runs, so that two never write one study.

        Raises:
            AutoshrinkError: another process holds it.
        """
        lock = filelock.FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise AutoshrinkError(
                f"{self.path}: another search is running on this study; wait for it, stop it, or name another --study"
            ) from None
        try:
            yield
        finally:
            lock.release()


def meta_from_json(data: Mapping[str, Any], source: Path) -> StudyMeta:
    """What `study.json` says; `source` is named in errors."""
    fields = {name: value for name, value in data.items() if name != "schema"}
    try:
        return _META.validate_json(json.dumps(fields))
    except ValidationError as error:
        raise ConfigError(f"{source}:{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()) from error


def record_to_json(record: TrialRecord) -> dict[str, Any]:
    """A record as a JSON object, recipe in its readable form."""
    return {"schema": SCHEMA, **_RECORD.dump_python(record, mode="json"), "recipe": record.recipe.to_json()}


def record_from_json(data: Mapping[str, Any], source: Path) -> TrialRecord:
    """The inverse of `record_to_json`; `source` is named in errors."""
    fields = {name: value for name, value in data.items() if name != "schema"}
    try:
        recipe = fields["recipe"] = Recipe.from_json(fields["recipe"])
        if not all(_is_stage(stage) for stage in recipe.stages):
            raise TypeError("a technique is a name, a setting a number, a text, true or false")
        return _RECORD.validate_python(fields)
    except ValidationError as error:
        raise ConfigError(f"{source}:{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError([f"{source}:recipe: is not a list of stages ({error!r})"]) from error


def _is_stage(stage: StageSpec) -> bool:
    return isinstance(stage.technique, str) and all(isinstance(value, Scalar) for _, value in stage.settings)
