"""ExecuTorch with the XNNPACK delegate, as phones run it. The artifact is `model.pte`, and `ports.json` beside it.

A `.pte` file has no names of inputs and outputs; the second file has them, the order of the layers, and the SHA-256
of the first: native code maps the program as it lies on disk, and a damaged one would end the process.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoshrink.backends.base import (
    NO_OPTIONS,
    Array,
    Arrays,
    Availability,
    Backend,
    Compiled,
    Session,
    Source,
    installed_version,
)
from autoshrink.backends.executorch_profile import audit_of, kernels_of, profile_of, runs_of
from autoshrink.backends.ports import Port, in_order
from autoshrink.errors import AutoshrinkError, StageError
from autoshrink.measure.timing import beside_ms
from autoshrink.target import Target
from autoshrink.types import Audit, Profile, Recipe, Settings

if TYPE_CHECKING:
    from autoshrink.backends.executorch_lowering import Lowered

ARTIFACT = ("model.pte", "ports.json")
METHOD = "forward"
XNNPACK = "XnnpackBackend"
NEEDED = ">=1.5"
"""Versions of executorch whose bindings have what is called here."""


class ExecuTorch(Backend):
    """ExecuTorch with XNNPACK on the processor."""

    name = "executorch"
    packages = ("executorch", "torchao")
    runs_with = ("executorch", "torch")
    extra = "executorch"
    form = "program"
    apart = True

    def machine(self) -> Availability:
        """XNNPACK is in every build of the package."""
        return Availability("ready")

    def preload(self) -> None:
        """The bindings, and torch with them."""
        _bindings()

    def capabilities(self) -> frozenset[str]:
        """Nothing: XNNPACK picks its kernels by itself."""
        return frozenset()

    def refuses(self, recipe: Recipe, target: Target) -> str:
        """4-bit weights whose rounding needs zero points."""
        del target
        quantize = recipe.settings("quantize") or {}
        rounding = quantize.get("rounding", "nearest")
        if recipe.precision == "int4_weights" and rounding != "nearest":
            return (
                f"quantize.rounding is {rounding!r}, which finds zero points; XNNPACK's 4-bit kernel has none: "
                "use nearest"
            )
        return ""

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Quantizes and lowers the program; the audit is of the kernels of one call.

        Raises:
            StageError: the program cannot be read, quantized or lowered; with ExecuTorch's own reason.
        """
        # Converters warn of what their next version will change.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                from autoshrink.backends.executorch_lowering import lower

                lowered = lower(source)
            except AutoshrinkError:
                raise
            except Exception as error:
                why = f"{type(error).__name__}: {_first_line(error)}"
                raise StageError("compile", f"ExecuTorch ({NEEDED}) cannot take {source.model.name}: {why}") from error
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ARTIFACT[0]).write_bytes(lowered.content)
        (folder / ARTIFACT[1]).write_text(json.dumps(_described(lowered), separators=(",", ":")))
        try:
            audit = self.load(folder, ARTIFACT, source.precision, 1).audit()
        except StageError as error:
            raise StageError("compile", f"the runtime cannot run what was lowered: {error.reason}") from error
        return Compiled(ARTIFACT, replace(audit, notes=(*lowered.notes, *audit.notes)))

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,
        threads: int,
        options: Settings = NO_OPTIONS,  # noqa: ARG002 - it has none
    ) -> ExecuTorchSession:
        """The artifact, with `threads` threads for every artifact of this process.

        Raises:
            StageError: a file is damaged, or not for this runtime.
        """
        return ExecuTorchSession(folder, files, precision, threads)


class ExecuTorchSession(Session):
    """A loaded program."""

    def __init__(self, folder: Path, files: tuple[str, ...], precision: str, threads: int) -> None:
        self._path = folder / files[0]
        self._precision = precision
        described = _read_ports(folder, files)
        self._inputs = tuple(_port(port) for port in described["inputs"])
        self._outputs = tuple(str(port["name"]) for port in described["outputs"])
        self._layers = tuple(str(name) for name in described["layers"])
        self._permutations = int(described["permutations"])
        self._torch, self._runtime = _bindings()
        self._runtime._unsafe_reset_threadpool(threads)
        self._program, self._method = self._loaded()
        self._bound: list[Any] = []

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call; see `Session.run`."""
        arrays = in_order(inputs, self._inputs)
        results = self._method.call([self._tensor(array) for array in arrays])
        return {name: value.numpy() for name, value in zip(self._outputs, results, strict=True)}

    def timed(self, inputs: Arrays) -> Callable[[], object]:
        """The execution alone, of a program of its own that points into copies of the inputs; gives None."""
        program, method = self._loaded()
        tensors = [self._tensor(array.copy()) for array in in_order(inputs, self._inputs)]
        method.set_inputs(tensors)
        self._bound.append((program, method, tensors))
        execute: Callable[[], object] = method.execute
        return execute

    def audit(self) -> Audit:
        """The kernels of one call on zeros, by the runtime's event trace.

        Raises:
            StageError: the call fails, or this build of the runtime traces nothing.
        """
        kernels = kernels_of(self._trace("audit", [port.zeros() for port in self._inputs]))
        return audit_of(kernels, self._layers, self._permutations, self._portable)

    def profile(self, inputs: Arrays, calls: int) -> Profile:
        """The kernels by the runtime's event trace; see `Session.profile`. It tells no shapes.

        Raises:
            StageError: a call fails, or this build of the runtime traces nothing.
        """
        took: list[float] = []

        def beside(run: Callable[[int], None]) -> None:
            took.append(beside_ms(self.timed(inputs), calls, run))

        runs = runs_of(self._trace("profile", in_order(inputs, self._inputs), beside))
        kernels = profile_of(runs, self._layers, self._permutations, self._portable)
        source = f"executorch {installed_version('executorch')}, its event trace"
        return Profile(kernels, took[0], calls, source)

    @property
    def _portable(self) -> str:
        return "fp16" if self._precision == "fp16" else "fp32"

    def _trace(
        self, stage: str, arrays: list[Array], conduct: Callable[[Callable[[int], None]], None] = lambda run: run(1)
    ) -> bytes:
        """The event trace; `conduct` is given what makes so many traced calls."""
        try:
            program, method = self._loaded(enable_etdump=True)
            tensors = [self._tensor(array) for array in arrays]

            def run(calls: int) -> None:
                for _ in range(calls):
                    method.call(tensors)

            conduct(run)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "trace"
                program.write_etdump_result_to_file(str(path), None)
                trace = path.read_bytes()
            traced = any(runs_of(trace))
        except Exception as error:
            raise StageError(stage, f"a traced call fails: {_first_line(error)}") from error
        if not traced:
            raise StageError(stage, "this build of ExecuTorch traces no kernel; install the package from PyPI")
        return trace

    def _tensor(self, array: Array) -> Any:
        """A tensor on the memory of a contiguous array, or of a copy of one that must not be written."""
        flat = array.reshape(-1)
        # Strides of dimensions of one entry are arbitrary in numpy; the runtime takes them for an order of dimensions.
        return self._torch.from_numpy(flat if flat.flags.writeable else flat.copy()).view(array.shape)

    def _loaded(self, **more: Any) -> tuple[Any, Any]:
        """The program and its method, both to be kept."""
        try:
            program = self._runtime._load_program(str(self._path), **more)
            return program, program.load_method(METHOD)
        except Exception as error:
            raise StageError("load", f"ExecuTorch cannot load {self._path.name}: {_first_line(error)}") from error


def _bindings() -> tuple[Any, Any]:
    """torch, and the runtime's bindings, which take their inputs as torch's tensors and no others.

    Not `executorch.runtime`: it imports the exporter as well.

    Raises:
        StageError: they cannot be imported, or have no XNNPACK.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
            from executorch.extension.pybindings import _C
    except ImportError as error:
        raise StageError("load", f"ExecuTorch cannot be imported: {error}; it must be {NEEDED}") from error
    if not _C._is_available(XNNPACK):
        raise StageError("load", f"this build of ExecuTorch has no {XNNPACK}; install the package from PyPI")
    return torch, _C


def _described(lowered: Lowered) -> dict[str, Any]:
    program = lowered.program
    return {
        "program": {"bytes": len(lowered.content), "sha256": hashlib.sha256(lowered.content).hexdigest()},
        "inputs": [
            {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in zip(program.inputs, program.example, strict=True)
        ],
        "outputs": [{"name": name} for name in program.outputs],
        "layers": list(lowered.layers),
        "permutations": lowered.permutations,
    }


def _read_ports(folder: Path, files: tuple[str, ...]) -> Mapping[str, Any]:
    """What `_described` gives, when the program is the one that it describes.

    Raises:
        StageError: a file is missing or damaged.
    """
    program = files[0]
    beside = files[1] if len(files) > 1 else ARTIFACT[1]
    try:
        described: Mapping[str, Any] = json.loads((folder / beside).read_text())
        wanted = described["program"]["sha256"], described["program"]["bytes"]
        _ = described["inputs"], described["outputs"], described["layers"], described["permutations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(
            "load", f"{program} cannot be loaded: {beside} beside it is missing or damaged ({_first_line(error)})"
        ) from error
    try:
        content = (folder / program).read_bytes()
    except OSError as error:
        raise StageError("load", f"{program} cannot be read: {_first_line(error)}") from error
    if (hashlib.sha256(content).hexdigest(), len(content)) != wanted:
        raise StageError(
            "load",
            f"{program} is damaged, or not the program of {beside}: it has {len(content)} bytes and must have "
            f"{wanted[1]} of SHA-256 {wanted[0]}",
        )
    return described


def _port(described: Mapping[str, Any]) -> Port:
    return Port(str(described["name"]), tuple(described["shape"]), np.dtype(described["dtype"]))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
