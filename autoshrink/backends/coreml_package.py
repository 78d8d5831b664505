"""The `.mlpackage` folder: its files made equal for equal models, and looked over before they are loaded.

Standard library and Core ML's own description of the file (protobuf); nothing here needs an Apple device.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.backends.coreml_vendor import vendor
from autoshrink.backends.ports import Port
from autoshrink.errors import StageError

PACKAGE = "model.mlpackage"
MANIFEST = "Manifest.json"
PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
SIGNATURE = "autoshrink.signature"
"""Key of the program's metadata: names, shapes and dtypes of the task."""
DATES = ("conversion_date",)

BLOB = struct.Struct("<IIQQ")
"""Of a weight file's entry: a mark, the data type, bytes, and where they begin."""
BLOB_MARK = 0xDEADBEEF


@dataclass(frozen=True)
class NamedPort:
    """An input or output: as the task names and types it, and as the program does.

    Attributes:
        name: of the task.
        port: of the program, whose names are identifiers.
        dtype: of the task; the program has float32 and int32.
        shape: with the batch in the first dimension.
    """

    name: str
    port: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def checked(self) -> Port:
        """What a caller's array is compared with."""
        return Port(self.name, self.shape, np.dtype(self.dtype))


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in the task's order."""

    inputs: tuple[NamedPort, ...]
    outputs: tuple[NamedPort, ...]

    def to_json(self) -> str:
        """The inverse of `from_json`."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """The signature of the text in a program's metadata."""
        data = json.loads(text)
        return cls(*(tuple(_port(port) for port in data[side]) for side in ("inputs", "outputs")))


def _port(data: Mapping[str, Any]) -> NamedPort:
    return NamedPort(data["name"], data["port"], data["dtype"], tuple(data["shape"]))


def identifiers(names: Sequence[str]) -> dict[str, str]:
    """Name -> an identifier for it, each another: Core ML's programs allow letters, digits and underscores."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = plain if plain[:1].isalpha() else f"port_{plain}"
        while plain in found.values():
            plain += "_"
        found[name] = plain
    return found


def make_reproducible(package: Path) -> tuple[str, ...]:
    """Rewrites what differs from run to run: random identifiers, dates, the order of maps. Gives the files' names.

    Files that Core ML does not read, which a converter leaves beside, are removed.
    """
    from coremltools.proto import Model_pb2

    program = Model_pb2.Model()
    program.ParseFromString((package / PROGRAM).read_bytes())
    metadata = program.description.metadata.userDefined
    for key in [key for key in metadata if key.endswith(DATES)]:
        del metadata[key]
    (package / PROGRAM).write_bytes(program.SerializeToString(deterministic=True))
    manifest = json.loads((package / MANIFEST).read_text())
    entries = {}
    for old, entry in manifest["itemInfoEntries"].items():
        new = _identifier(entry["path"])
        entries[new] = entry
        if manifest["rootModelIdentifier"] == old:
            manifest["rootModelIdentifier"] = new
    manifest["itemInfoEntries"] = entries
    (package / MANIFEST).write_text(json.dumps(manifest, indent=4, sort_keys=True))
    for path in package.iterdir():
        if path.name not in (MANIFEST, "Data"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    files = sorted(path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file())
    first = f"{PACKAGE}/{MANIFEST}"
    return (first, *(name for name in files if name != first))


def _identifier(path: str) -> str:
    """Of an entry, by its path: Core ML asks for UUIDs that differ, not for random ones."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"autoshrink:{path}"))


def read_program(package: Path) -> Any:
    """The description (`Model_pb2.Model`) of a package all of whose parts are there.

    Raises:
        StageError: of stage `load`: a file is missing, cut off or is no part of a Core ML package; names it.
    """
    try:
        manifest = json.loads((package / MANIFEST).read_text())
        paths = [str(entry["path"]) for entry in manifest["itemInfoEntries"].values()]
        manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    except OSError as error:
        raise _damaged(MANIFEST, error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(MANIFEST, f"it is no manifest of a package ({type(error).__name__})") from error
    for path in paths:
        if not (package / "Data" / path).exists():
            raise _damaged(f"Data/{path}", "it is missing")
    program = _parsed(package)
    _check_blobs(package, program)
    return program


def _parsed(package: Path) -> Any:
    vendor(converts=False)
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    program = Model_pb2.Model()
    try:
        program.ParseFromString((package / PROGRAM).read_bytes())
    except OSError as error:
        raise _damaged(PROGRAM, error.strerror or str(error)) from error
    except DecodeError as error:
        raise _damaged(PROGRAM, "it is no Core ML program") from error
    if not program.HasField("mlProgram") or "main" not in program.mlProgram.functions:
        raise _damaged(PROGRAM, "it holds no program")
    return program


def _check_blobs(package: Path, program: Any) -> None:
    """Whether each weight that the program refers to lies whole in the weight file."""
    offsets = sorted({value.blobFileValue.offset for value in _values(program) if value.HasField("blobFileValue")})
    if not offsets:
        return
    try:
        size = (package / WEIGHTS).stat().st_size
        with (package / WEIGHTS).open("rb") as stream:
            for offset in offsets:
                stream.seek(offset)
                header = stream.read(BLOB.size)
                if len(header) < BLOB.size:
                    raise _damaged(WEIGHTS, f"it is cut off: {size} bytes, and a weight begins at {offset}")
                mark, _, length, start = BLOB.unpack(header)
                if mark != BLOB_MARK:
                    raise _damaged(WEIGHTS, f"no weight begins at byte {offset}")
                if start + length > size:
                    raise _damaged(WEIGHTS, f"it is cut off: {size} bytes, and a weight ends at {start + length}")
    except OSError as error:
        raise _damaged(WEIGHTS, error.strerror or str(error)) from error


def _values(program: Any) -> Iterator[Any]:
    for operation in operations_of(program):
        yield from operation.attributes.values()
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.HasField("value"):
                    yield binding.value


def operations_of(program: Any) -> Sequence[Any]:
    """The operations of a program's main function, in their order."""
    function = program.mlProgram.functions["main"]
    operations: Sequence[Any] = function.block_specializations[function.opset].operations
    return operations


def signature_of(program: Any) -> Signature:
    """Names, shapes and dtypes, which compiling put into the metadata.

    Raises:
        StageError: of stage `load`: they are not there.
    """
    try:
        return Signature.from_json(program.description.metadata.userDefined[SIGNATURE])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(PROGRAM, f"its metadata has no {SIGNATURE}; compile the model again") from error


def _damaged(name: str, why: str) -> StageError:
    return StageError("load", f"Core ML cannot load {PACKAGE}/{name}: {why}")
