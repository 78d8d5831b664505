"""Runs the compiled model of the package in this folder. Needs numpy and what requirements.txt names, no more.

    python run.py                       runs the samples and compares with the outputs that were recorded
    python run.py x.npy [y.npy ...]     runs arrays [N, ...], one file an input, in the order of the signature
    python run.py x.npy --save FOLDER   and saves each output as FOLDER/<output>.npy

As a module: `Model(folder)(inputs)`, inputs and outputs being dictionaries from name to array [N, ...].

`runtime.py`, beside this file, opens the compiled files.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

SCHEMA = 1
RUNTIME = "runtime.py"
AGREEMENT_DB = 30.0
"""Least signal to noise of an output against the recorded one; processors round differently, not more than that."""

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], "list[npt.NDArray[Any]]"]
"""One call with the batch that was compiled in: arrays by input name in, arrays in the order of the signature out."""


class PackageError(Exception):
    """The package is not as it was written, or cannot run here."""


class Model:
    """The compiled model.

    Args:
        folder: of the package; the folder of this file when not given.
        check: compare the SHA-256 of every file first.

    Raises:
        PackageError: a file is missing or was changed, the schema is unknown, or the runtime is not installed.
    """

    def __init__(self, folder: Path | None = None, check: bool = True) -> None:
        self.folder = folder or Path(__file__).resolve().parent
        self.manifest = _read_manifest(self.folder)
        if check:
            _check_files(self.folder, self.manifest["files"])
        self.inputs: list[dict[str, Any]] = self.manifest["signature"]["inputs"]
        self.outputs: list[dict[str, Any]] = self.manifest["signature"]["outputs"]
        self.batch: int = self.manifest["target"]["batch"]
        self._run = self._load()

    def __call__(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Outputs [N, ...] by name for inputs [N, ...] by name, in calls of the batch that was compiled in.

        The last call is filled up with repeated rows, whose results are left out.

        Raises:
            ValueError: a name, shape or dtype is not the signature's; the message gives both.
        """
        count = self._check_inputs(inputs)
        parts: list[list[npt.NDArray[Any]]] = []
        for first in range(0, count, self.batch):
            rows = np.arange(first, first + self.batch).clip(max=count - 1)
            parts.append(self._run({port["name"]: inputs[port["name"]][rows] for port in self.inputs}))
        names = [port["name"] for port in self.outputs]
        return {name: np.concatenate([part[i] for part in parts])[:count] for i, name in enumerate(names)}

    def samples(self, kind: str) -> dict[str, npt.NDArray[Any]]:
        """The arrays [N, ...] of `samples/<kind>`: `inputs`, `outputs`, or `float` (the outputs of the float model)."""
        ports = self.inputs if kind == "inputs" else self.outputs
        return {port["name"]: load_array(self.folder / "samples" / kind / f"{port['name']}.npy") for port in ports}

    def _check_inputs(self, inputs: Arrays) -> int:
        wanted = {port["name"]: port for port in self.inputs}
        if set(inputs) != set(wanted):
            raise ValueError(f"inputs are {sorted(inputs)}; the model takes {sorted(wanted)}")
        for name, array in inputs.items():
            shape, dtype = wanted[name]["shape"], wanted[name]["dtype"]
            if str(array.dtype) != dtype or list(array.shape[1:]) != shape[1:] or array.ndim != len(shape):
                sizes = ", ".join(["N", *map(str, shape[1:])])
                raise ValueError(f"{name!r} is {array.dtype} {list(array.shape)}; the model takes {dtype} [{sizes}]")
        counts = {name: len(array) for name, array in inputs.items()}
        if len(set(counts.values())) != 1 or not min(counts.values()):
            raise ValueError(f"numbers of rows are {counts}; every input needs equally many, 1 at least")
        return next(iter(counts.values()))

    def _load(self) -> Run:
        runtime, opener = self.manifest["runtime"], _imported(self.folder / RUNTIME)
        try:
            run: Run = opener.load(self.folder / "artifact", self.manifest)
        except ImportError as error:
            raise PackageError(f"{error}; install it: pip install -r requirements.txt") from error
        except Exception as error:
            first = runtime["artifact"][0]
            raise PackageError(f"{runtime['version']} made {first}, and it cannot be loaded: {error}") from error
        return run


def _imported(path: Path) -> Any:
    """The module of a file, whatever lies on the path under its name."""
    spec = importlib.util.spec_from_file_location(f"package_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PackageError(f"{path.name} is missing; fetch the package again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_array(path: Path) -> npt.NDArray[Any]:
    """An array of numbers; a file that holds Python objects is refused with a ValueError."""
    # Mapped first: a header that promises more than the file holds then fails before anything is allocated.
    array: npt.NDArray[Any] = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    return array


def agreement_db(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """Signal to noise of `found` against `expected`, decibel; infinite when they are equal."""
    if expected.shape != found.shape:
        return -math.inf
    if np.array_equal(expected, found):
        return math.inf
    signal = float(np.sum(expected.astype(np.float64) ** 2))
    noise = float(np.sum((expected.astype(np.float64) - found.astype(np.float64)) ** 2))
    return 10 * math.log10(signal / noise) if signal and noise and math.isfinite(noise) else -math.inf


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(f"{folder / 'package.json'}: {error.strerror or error}") from error
    except ValueError as error:
        raise PackageError(f"{folder / 'package.json'}: is not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise PackageError(f"{folder / 'package.json'}: its schema is unknown; this run.py reads {SCHEMA}")
    return manifest


def _check_files(folder: Path, files: Sequence[Mapping[str, Any]]) -> None:
    problems = []
    for file in files:
        name = str(file["name"])
        if "\\" in name or ":" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            problems.append(f"{name!r} leads out of the package")
        elif not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif (folder / name).stat().st_size != file["size"] or _sha256(folder / name) != file["sha256"]:
            problems.append(f"{name} is not the file that was packed: its SHA-256 differs")
    if problems:
        raise PackageError("\n".join([*problems, "fetch the package again"]))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _run_samples(model: Model) -> int:
    found = model(model.samples("inputs"))
    if model.manifest.get("not_run"):
        return _compare_with_float(model, found)
    expected = model.samples("outputs")
    agrees = True
    for port in model.outputs:
        name = port["name"]
        decibel = agreement_db(expected[name], found[name])
        agrees = agrees and decibel >= AGREEMENT_DB
        words = "equal to" if decibel == math.inf else f"within {decibel:.1f} dB of"
        line = (
            f"{name} {list(found[name].shape)}: {words} the recorded outputs (at least {AGREEMENT_DB:.0f} dB is right)"
        )
        if port["kind"] == "logits":
            same = float(np.mean(expected[name].argmax(-1) == found[name].argmax(-1)))
            line += f", same answer on {100 * same:.1f} % of the samples"
        _say(line)
    _say("The package runs here as it was recorded." if agrees else "The outputs are NOT those that were recorded.")
    return 0 if agrees else 1


def _compare_with_float(model: Model, found: Arrays) -> int:
    _say(f"No outputs were recorded when this package was written ({model.manifest['not_run']}).")
    expected = model.samples("float")
    for name, array in found.items():
        if not np.isfinite(array).all():
            _say(f"{name} holds NaN or infinity: the compiled model does NOT work here.")
            return 1
        decibel = agreement_db(expected[name], array)
        _say(f"{name} {list(array.shape)}: within {decibel:.1f} dB of the float model, before its compression")
    _say("The package runs here; how well a compressed model has to agree with the float one is yours to say.")
    return 0


def _run_files(model: Model, paths: Sequence[Path], save: Path | None) -> int:
    names = [port["name"] for port in model.inputs]
    if len(paths) != len(names):
        raise ValueError(f"{len(paths)} files for the inputs {', '.join(names)}; give one .npy file for each")
    outputs = model({name: load_array(path) for name, path in zip(names, paths)})  # noqa: B905
    for name, array in outputs.items():
        _say(f"{name} {array.dtype} {list(array.shape)}")
        _say(np.array2string(array, threshold=200, edgeitems=3, precision=5))
        if save:
            save.mkdir(parents=True, exist_ok=True)
            np.save(save / f"{name}.npy", array, allow_pickle=False)
    return 0


def main() -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(description="Runs the compiled model in this folder.")
    parser.add_argument("inputs", nargs="*", type=Path, help=".npy file of each input [N, ...]; none: the samples")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="save each output as FOLDER/<output>.npy")
    options = parser.parse_args()
    try:
        model = Model()
        return _run_files(model, options.inputs, options.save) if options.inputs else _run_samples(model)
    except (PackageError, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
    except KeyError as error:
        sys.stderr.write(f"package.json: {error} is missing; fetch the package again\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
