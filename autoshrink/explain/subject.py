"""What is explained: a user's own file, put where a backend looks for it, and inputs for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from autoshrink.errors import ConfigError
from autoshrink.target import Target
from autoshrink.task import Arrays

FORMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "onnxruntime": {".onnx": ("model.onnx",)},
    "browser": {".onnx": ("model.onnx",)},
    "openvino": {".onnx": ("model.onnx",), ".xml": ("model.xml", "model.bin")},
    "litert": {".tflite": ("model.tflite",)},
    "executorch": {".pte": ("model.pte", "ports.json")},
}
"""Backend -> ending of a file that it runs -> the names under which it loads it and what lies beside it."""

XML_DTYPES = {"f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "i8": "int8", "u8": "uint8"}


@dataclass(frozen=True)
class Port:
    """An input of a file: free dimensions are 1."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    free: bool = False


@dataclass(frozen=True)
class Subject:
    """A file that a backend can load.

    Attributes:
        folder: with `files`.
        files: the one to open first.
        ports: its inputs.
        notes: what was done to it on the way.
    """

    folder: Path
    files: tuple[str, ...]
    ports: tuple[Port, ...]
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file to open first."""
        return self.folder / self.files[0]


def stage(file: Path, target: Target, folder: Path) -> Subject:
    """Copies a user's file into `folder` under the names that the target's backend knows.

    Nodes of an ONNX file that have no name get one, so that a kernel can be told by it; weights that lie beside the
    file come into it.

    Raises:
        ConfigError: the backend runs no such file, or it cannot be read.
    """
    forms = FORMS.get(target.backend, {})
    ending = file.suffix.lower()
    if ending not in forms:
        takes = ", ".join(forms) or "no file of its own: explain a trial of a study instead"
        others = sorted(name for name, known in FORMS.items() if ending in known)
        hint = f"; {ending} runs on targets of {', '.join(others)}" if others else ""
        raise ConfigError([f"{file}: target {target.name} ({target.backend}) takes {takes}{hint}"])
    folder.mkdir(parents=True, exist_ok=True)
    names = forms[ending]
    sources = [file, *(_beside(file, name) for name in names[1:])]
    missing = [source for source in sources if not source.is_file()]
    if missing:
        raise ConfigError(f"{source}: there is no such file; {ending} needs it" for source in missing)
    try:
        if ending == ".onnx":
            return _onnx(file, folder, names)
        for source, name in zip(sources, names, strict=True):
            shutil.copyfile(source, folder / name)
        return Subject(folder, names, _ports(folder, names))
    except ConfigError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError([f"{file}: cannot be read as {ending}: {lines[0]}"]) from error


def _beside(file: Path, name: str) -> Path:
    """`model.bin` beside `net.xml` is `net.bin`; `ports.json` has its own name."""
    return file.with_suffix(".bin") if name.endswith(".bin") else file.with_name(name)


def _onnx(file: Path, folder: Path, names: tuple[str, ...]) -> Subject:
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(str(file), load_external_data=False)
    notes = []
    outside = any(uses_external_data(tensor) for tensor in model.graph.initializer)
    if outside:
        model = onnx.load(str(file))
        notes.append("weights that lay beside the file were put into it")
    unnamed = [node for node in model.graph.node if not node.name]
    taken = {node.name for node in model.graph.node}
    for number, node in enumerate(unnamed):
        node.name = node.output[0] if node.output[0] not in taken else f"{node.op_type}_{number}"
        taken.add(node.name)
    if unnamed:
        notes.append(f"{len(unnamed)} nodes without a name were named after their outputs")
    if unnamed or outside:
        onnx.save(model, str(folder / names[0]))
    else:
        shutil.copyfile(file, folder / names[0])
    return Subject(folder, names, _onnx_ports(model), tuple(notes))


def _onnx_ports(model: Any) -> tuple[Port, ...]:
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        sizes = [size.dim_value if size.HasField("dim_value") else 0 for size in kind.shape.dim]
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
        found.append(Port(value.name, tuple(size or 1 for size in sizes), dtype, 0 in sizes))
    return tuple(found)


def _ports(folder: Path, names: tuple[str, ...]) -> tuple[Port, ...]:
    path = folder / names[0]
    if path.suffix == ".tflite":
        from autoshrink.backends.tflite_graph import DTYPES, Graph

        graph = Graph(path.read_bytes())
        found = []
        for name, index in graph.signature_inputs():
            shape = tuple(max(1, size) for size in graph.shape(index))
            found.append(Port(name, shape, str(np.dtype(DTYPES[graph.dtype(index)])), shape != graph.shape(index)))
        return tuple(found)
    if path.suffix == ".xml":
        return tuple(_xml_port(layer) for layer in ElementTree.parse(path).iter("layer") if _is_parameter(layer))  # noqa: S314 - the runtime parses the same file
    described = json.loads((folder / names[1]).read_text())
    return tuple(Port(str(each["name"]), tuple(each["shape"]), str(each["dtype"])) for each in described["inputs"])


def _is_parameter(layer: ElementTree.Element) -> bool:
    return layer.get("type") == "Parameter"


def _xml_port(layer: ElementTree.Element) -> Port:
    data = layer.find("data")
    assert data is not None  # noqa: S101 - every parameter has one
    text = [size.strip() for size in str(data.get("shape", "")).split(",") if size.strip()]
    sizes = [int(size) if size.lstrip("-").isdigit() and int(size) > 0 else 0 for size in text]
    dtype = XML_DTYPES.get(str(data.get("element_type")), str(data.get("element_type")))
    return Port(str(layer.get("name")), tuple(size or 1 for size in sizes), dtype, 0 in sizes)


def made_inputs(ports: tuple[Port, ...], seed: int, rows: int = 1) -> dict[str, np.ndarray]:
    """Random inputs: normal floats, integers of 0 or 1, which are in range as indices too; `rows` sets of them.

    The sets lie one behind the other in the first dimension.
    """
    random = np.random.default_rng(seed)
    made = {}
    for port in ports:
        shape = (rows * port.shape[0], *port.shape[1:]) if port.shape else ()
        dtype = np.dtype(port.dtype)
        values = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        made[port.name] = np.asarray(values).astype(dtype)
    return made


def read_inputs(file: Path, ports: tuple[Port, ...]) -> dict[str, np.ndarray]:
    """The inputs of one call from an `.npz` file with an array a name, or an `.npy` file for a single input.

    Raises:
        ConfigError: it cannot be read, or has other names, shapes or types than the model.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {ports[0].name: loaded}
        else:
            with loaded:
                arrays = dict(loaded)
    except (OSError, ValueError) as error:
        raise ConfigError([f"--input: {file} cannot be read as .npz or .npy ({error})"]) from error
    problems = []
    names = [port.name for port in ports]
    if set(arrays) != set(names):
        problems.append(f"--input: {file} has {sorted(arrays)}; the model takes {sorted(names)}")
    for port in ports:
        array = arrays.get(port.name)
        if array is None:
            continue
        if str(array.dtype) != port.dtype:
            problems.append(f"--input: {port.name} is {array.dtype}; the model takes {port.dtype}")
        if array.ndim != len(port.shape) or (not port.free and array.shape != port.shape):
            problems.append(f"--input: {port.name} has shape {list(array.shape)}; the model takes {list(port.shape)}")
    if problems:
        raise ConfigError(problems)
    return arrays


def write_arrays(arrays: Arrays, folder: Path) -> Path:
    """One npy file an input, as children read them; gives `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    return folder
