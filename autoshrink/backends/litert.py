"""LiteRT (TFLite) with XNNPACK on the processor. The artifact is one `.tflite` file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from autoshrink.backends.base import (
    NO_OPTIONS,
    Array,
    Arrays,
    Availability,
    Backend,
    Compiled,
    Option,
    Session,
    Source,
)
from autoshrink.backends.ports import Port, in_order
from autoshrink.errors import StageError
from autoshrink.measure.timing import beside_ms
from autoshrink.target import Target
from autoshrink.types import Audit, Choice, Profile, Recipe, Settings

ARTIFACT = "model.tflite"
LAYOUT = "layout"


class LiteRt(Backend):
    """LiteRT's interpreter, with XNNPACK for every operator that it has a kernel for."""

    name = "litert"
    packages = ("ai-edge-litert", "litert-torch", "ai-edge-quantizer")
    runs_with = ("ai-edge-litert",)
    extra = "tflite"
    form = "program"
    apart = True
    options: ClassVar[Mapping[str, Option]] = {
        LAYOUT: Option(
            Choice(("nchw", "nhwc")),
            "nchw",
            "of inputs with 4 dimensions in the file: as in torch, or with the channels last, as cameras give them",
        )
    }

    def machine(self) -> Availability:
        """The interpreter is in every build of the package."""
        return Availability("ready")

    def preload(self) -> None:
        """The interpreter."""
        import ai_edge_litert.interpreter  # noqa: F401

    def capabilities(self) -> frozenset[str]:
        """Nothing: the runtime does not tell what the processor has, and picks its kernels by itself."""
        return frozenset()

    def refuses(self, recipe: Recipe, target: Target) -> str:  # noqa: ARG002 - it is the same on every target
        """Rounding by gptq, which LiteRT's quantizer has for few layers only."""
        quantize = recipe.settings("quantize") or {}
        if str(quantize.get("scheme", "")).endswith("_weights") and quantize.get("rounding") == "gptq":
            return "quantize.rounding=gptq is not available for LiteRT; use nearest"
        return ""

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Writes `model.tflite`; the float form of the program is kept beside it, for other precisions of it.

        The audit's notes say which layers stayed float and what XNNPACK on this machine leaves to LiteRT's own
        kernels.

        Raises:
            StageError: the program cannot be converted or quantized.
        """
        from autoshrink.backends.tflite_audit import with_acceleration
        from autoshrink.backends.tflite_model import write_tflite

        folder.mkdir(parents=True, exist_ok=True)
        audit = write_tflite(source, folder / ARTIFACT)
        return Compiled((ARTIFACT,), with_acceleration(audit, folder / ARTIFACT, "compile"))

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,  # noqa: ARG002 - the file says it
        threads: int,
        options: Settings = NO_OPTIONS,
    ) -> LiteRtSession:
        """The artifact in an interpreter with `threads` threads.

        Args:
            folder: of the artifact.
            files: of the artifact.
            precision: what it was compiled for.
            threads: of XNNPACK.
            options: `layout` must be that of compiling.

        Raises:
            StageError: the runtime cannot load it; with the runtime's own reason.
        """
        return LiteRtSession(folder / files[0], threads, str(options.get(LAYOUT, "nchw")))


class LiteRtSession(Session):
    """A loaded `.tflite` file.

    It takes the task's arrays, [N, C, H, W] among them, whatever the layout of the file: the transpose to a file with
    channels last is made in `run` and before a call of `timed`, not within what is timed.
    """

    def __init__(self, path: Path, threads: int, layout: str) -> None:
        self._path, self._threads, self._last = path, threads, layout == "nhwc"
        self._interpreter = self._open()
        runner = self._interpreter.get_signature_runner()
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        order = [int(detail["index"]) for detail in self._interpreter.get_output_details()]
        self._inputs = {name: int(detail["index"]) for name, detail in inputs.items()}
        self._outputs = dict(
            sorted(((name, int(d["index"])) for name, d in outputs.items()), key=lambda pair: order.index(pair[1]))
        )
        self._ports = tuple(
            Port(name, self._shape(detail["shape"]), np.dtype(detail["dtype"])) for name, detail in inputs.items()
        )

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call; see `Session.run`."""
        self._set(self._interpreter, inputs)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}

    def timed(self, inputs: Arrays) -> Callable[[], object]:
        """A call of an interpreter of its own, its inputs set; the results stay in the interpreter."""
        interpreter = self._open()
        self._set(interpreter, inputs)
        call: Callable[[], object] = interpreter.invoke
        return call

    def audit(self) -> Audit:
        """The layers of the file and what XNNPACK takes of it.

        What compiling knew beside, such as why a layer stayed float, is in the audit of `compile`.
        """
        from autoshrink.backends.tflite_audit import audit_of, with_acceleration
        from autoshrink.backends.tflite_graph import Graph

        return with_acceleration(audit_of(Graph(self._path.read_bytes())), self._path, "audit")

    def profile(self, inputs: Arrays, calls: int) -> Profile:
        """The operators of the file with their precisions and what a call takes; see `Session.profile`.

        LiteRT's Python package gives no way to its profilers, so there is no time per operator.

        Raises:
            StageError: the runtime cannot load the file.
        """
        from autoshrink.backends.tflite_audit import kernels_of, with_acceleration
        from autoshrink.backends.tflite_graph import Graph

        kernels = kernels_of(Graph(self._path.read_bytes()))
        notes = with_acceleration(Audit((), 0, 0), self._path, "profile").notes
        return Profile(
            kernels,
            beside_ms(self.timed(inputs), calls),
            calls,
            "the file's operators",
            notes=("LiteRT's Python package gives no time per operator", *notes),
        )

    def _set(self, interpreter: Any, inputs: Arrays) -> None:
        for port, array in zip(self._ports, in_order(inputs, self._ports), strict=True):
            if self._last and array.ndim == 4:
                array = np.ascontiguousarray(np.moveaxis(array, 1, -1))
            interpreter.set_tensor(self._inputs[port.name], array)

    def _shape(self, shape: Any) -> tuple[int, ...]:
        """Of an input of the task whose array in the file has `shape`."""
        sizes = tuple(int(size) for size in shape)
        return (sizes[0], sizes[3], *sizes[1:3]) if self._last and len(sizes) == 4 else sizes

    def _open(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(model_path=str(self._path), num_threads=self._threads)
            interpreter.allocate_tensors()
            interpreter.get_signature_runner()
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise StageError("load", f"LiteRT cannot load {self._path.name}: {lines[0]}") from error
        return interpreter
