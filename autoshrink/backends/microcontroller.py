"""Microcontrollers: TFLite Micro, its reference kernels on this machine, and Vela's estimate for Ethos-U.

The artifact is `model.tflite`, with int8 inputs and outputs in int8_static, and `ports.json`, which says what their
integers stand for. The interpreter of TFLite Micro's Python package runs the same integer kernels as a device does
without optimized ones, so outputs are those of the artifact; how long it takes here says nothing, and nobody asks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

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
    installed_version,
)
from autoshrink.backends.ports import in_order
from autoshrink.backends.tflm_arena import arena_bytes
from autoshrink.backends.tflm_model import End, MicroModel, ends, for_micro, operator_names, operators, weight_kernels
from autoshrink.backends.tflm_ports import PORTS, MicroPort, MicroPorts, read_ports
from autoshrink.backends.tflm_runtime import runtime
from autoshrink.backends.vela_estimate import ACCELERATORS, estimate, per_layer
from autoshrink.errors import StageError
from autoshrink.types import Audit, Choice, Figure, Kernel, Layer, Profile, Settings

ARTIFACT = "model.tflite"
NO_NPU = "none"
SPARE = 2**16
"""Bytes beyond the arena that was found, for an interpreter on another machine; here they cost nothing."""
PRECISIONS = {"FLOAT32": "fp32", "INT8": "int8", "INT4": "int8", "INT16": "int16"}
_FEW_BITS = re.compile(r"(\d)-bit weights in int\d: (.*)")
"""How the converter notes weights that are stored in more bits than they have."""
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST", "TRANSPOSE")


class Microcontroller(Backend):
    """TFLite Micro."""

    name = "microcontroller"
    packages = ("tflite-micro", "ethos-u-vela", "litert-torch", "ai-edge-quantizer", "ai-edge-litert")
    extra = "mcu"
    form = "program"
    apart = True
    options: ClassVar[Mapping[str, Option]] = {
        "npu": Option(
            Choice((NO_NPU, *ACCELERATORS)), NO_NPU, "Ethos-U beside the main processor, for which Vela estimates"
        ),
        "system": Option(None, "", "Vela's system configuration; empty is one with the weights in flash"),
        "memory": Option(None, "", "Vela's memory mode; empty is one with the weights in flash"),
        "four_bit": Option(
            Choice(("packed", "unpacked")),
            "packed",
            "weights of 4 bits: packed takes half the flash and room in the arena for the largest layer unpacked; "
            "with an npu they are always unpacked",
        ),
    }

    def machine(self) -> Availability:
        """The interpreter runs wherever its package installs; the device is elsewhere."""
        return Availability("untimed", "artifacts run in TFLite Micro's interpreter here, whose speed says nothing")

    def capabilities(self) -> frozenset[str]:
        """Nothing: what the device has is not known here."""
        return frozenset()

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Converts and quantizes the program; finds the arena and, with an `npu`, what Vela says.

        Figures: `arena`, bytes of RAM for tensors and the runtime's own data; `flash`, bytes of the model, without the
        code of the kernels; and those of `autoshrink.backends.vela_estimate` in int8_static.

        Raises:
            StageError: the program cannot be converted or quantized, or an operator has no kernel in TFLite Micro.
        """
        from autoshrink.backends.tflite_model import write_tflite

        folder.mkdir(parents=True, exist_ok=True)
        npu = str(source.options.get("npu", NO_NPU))
        pack = npu == NO_NPU and source.options.get("four_bit", "packed") == "packed"
        with TemporaryDirectory() as temporary:
            converted = Path(temporary) / ARTIFACT
            audit = write_tflite(source, converted, integer_ports=source.precision == "int8_static")
            model = for_micro(converted.read_bytes(), pack)
        path = folder / ARTIFACT
        path.write_bytes(model.content)
        arena = arena_bytes(path)
        _ports_of(source.model, model.content, arena).write(folder / PORTS)
        host = f"{self.packages[0]} {installed_version(self.packages[0])} on a machine with 64-bit pointers"
        figures = {
            "arena": Figure(arena, "bytes", host, True),
            "flash": Figure(len(model.content), "bytes", f"{ARTIFACT}; the code of the kernels is not in it"),
        }
        notes = _container_notes(audit.notes, model)
        notes.append(f"operators for the resolver: {', '.join(operators(model.content))}")
        if npu != NO_NPU:
            system, memory = (str(source.options.get(key, "")) for key in ("system", "memory"))
            found = estimate(path, npu, system, memory)
            figures.update(found.figures)
            notes += found.notes
        return Compiled((ARTIFACT, PORTS), replace(audit, notes=tuple(notes)), figures)

    def load(
        self,
        folder: Path,
        files: tuple[str, ...],
        precision: str,  # noqa: ARG002 - the file tells
        threads: int,  # noqa: ARG002 - the runtime has one
        options: Settings = NO_OPTIONS,
    ) -> MicrocontrollerSession:
        """The artifact in TFLite Micro's interpreter.

        Raises:
            StageError: a file is missing or damaged, or the runtime cannot run the model.
        """
        return MicrocontrollerSession(folder, files[0], options)


class MicrocontrollerSession(Session):
    """A loaded model."""

    def __init__(self, folder: Path, model: str, options: Settings = NO_OPTIONS) -> None:
        self._path = folder / model
        self._options = options
        self._ports, self._content = read_ports(folder, model)
        try:
            self._interpreter: Any = runtime().Interpreter.from_bytes(
                self._content, arena_size=2 * self._ports.arena + SPARE
            )
        except RuntimeError as error:
            raise StageError("load", f"TFLite Micro cannot load {model}: {error}; the log has its reason") from error

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call on the task's arrays; see `Session.run`.

        Floats become the model's integers before it, and its integers floats after it, by the scales of its ports.
        """
        self._call(self._to_model(inputs))
        return self.outputs()

    def timed(self, inputs: Arrays) -> Callable[[], object]:
        """A call on inputs that are integers already. The inputs are set each time: the runtime reuses their memory."""
        arrays = [array.copy() for array in self._to_model(inputs)]
        return lambda: self._call(arrays)

    def audit(self) -> Audit:
        """The kernels of the file; the runtime chooses none."""
        layers = tuple(
            Layer(kernel.layer, kernel.operator, PRECISIONS.get(kernel.input_type, kernel.input_type.lower()))
            for kernel in weight_kernels(self._content)
        )
        names = operator_names(self._content)
        return Audit(layers, sum(name in CONVERSIONS for name in names), len(names))

    def profile(self, inputs: Arrays, calls: int) -> Profile:  # noqa: ARG002 - nothing here is timed
        """The operators of the file; with an `npu`, what Vela estimates of each. Nothing here is a clock's.

        Raises:
            StageError: Vela gives no estimate.
        """
        npu = str(self._options.get("npu", NO_NPU))
        estimated = self._estimated(npu) if npu != NO_NPU else None
        if estimated is not None:
            return estimated
        layers = list(weight_kernels(self._content))
        kernels = []
        for kind in operator_names(self._content):
            own = layers.pop(0) if layers and layers[0].operator == kind else None
            precision = PRECISIONS.get(own.input_type, own.input_type.lower()) if own else ""
            name = own.layer if own else kind.lower()
            kernels.append(
                Kernel(name, kind, precision, has_weights=own is not None, is_conversion=kind in CONVERSIONS)
            )
        note = "artifacts run in an interpreter on this machine, whose speed says nothing of the device"
        return Profile(tuple(kernels), source="the file's operators", notes=(note,))

    def _estimated(self, npu: str) -> Profile | None:
        """By Vela; None when it can place nothing of the model."""
        system, memory = (str(self._options.get(key, "")) for key in ("system", "memory"))
        kernels, source = per_layer(self._path, npu, system, memory)
        if all(kernel.ms is None for kernel in kernels):
            return None
        names = [kernel.layer for kernel in weight_kernels(self._content)]
        # The file has no names of tensors; the order of its layers is that of the estimate, if none was split.
        if len(names) == sum(kernel.has_weights for kernel in kernels):
            own = iter(names)
            kernels = tuple(replace(each, name=next(own)) if each.has_weights else each for each in kernels)
        note = "milliseconds are estimates of the neural processor; what stays on the main processor has none"
        return Profile(kernels, source=source, estimate=True, notes=(note,))

    def outputs(self) -> dict[str, Array]:
        """What the last call gave, by the task's names."""
        found = {
            port.name: port.to_task(self._interpreter.get_output(index))
            for index, port in enumerate(self._ports.outputs)
        }
        return {name: found[name] for name in self._ports.output_names}

    def _to_model(self, inputs: Arrays) -> list[Array]:
        arrays = in_order(inputs, [port.port for port in self._ports.inputs])
        return [port.to_model(array) for port, array in zip(self._ports.inputs, arrays, strict=True)]

    def _call(self, arrays: list[Array]) -> None:
        for index, array in enumerate(arrays):
            self._interpreter.set_input(array, index)
        self._interpreter.invoke()


def _container_notes(notes: tuple[str, ...], model: MicroModel) -> list[str]:
    """The converter's notes; those on how weights of few bits are stored are made anew, as that has changed."""
    bits: dict[str, int] = dict.fromkeys(model.unpacked, 4)
    others = []
    for note in notes:
        told = _FEW_BITS.fullmatch(note)
        bits.update(dict.fromkeys(told[2].split(", "), int(told[1])) if told else {})
        others += [] if told else [note]
    if model.packed:
        others.append(f"weights packed two to a byte: {', '.join(model.packed)}")
    for width in sorted(set(bits.values())):
        wide = [layer for layer, own in bits.items() if own == width and layer not in model.packed]
        if wide:
            others.append(f"{width}-bit weights in int8: {', '.join(wide)}")
    return others


def _ports_of(program: Path, content: bytes, arena: int) -> MicroPorts:
    import torch

    from autoshrink.program import read_program

    read = read_program(program)
    with torch.no_grad():
        results = read.module(*read.example)
    dtypes = {
        name: tensor.numpy().dtype.name
        for names, tensors in ((read.inputs, read.example), (read.outputs, results))
        for name, tensor in zip(names, tensors, strict=True)
    }
    inputs, outputs = (tuple(_port(end, dtypes) for end in found) for found in ends(content))
    return MicroPorts(inputs, outputs, read.outputs, arena, hashlib.sha256(content).hexdigest())


def _port(end: End, dtypes: dict[str, str]) -> MicroPort:
    # A grid of an integer tensor whose task has integers too is none of ours.
    scale = end.scale if dtypes[end.name].startswith("float") and not end.dtype.startswith("float") else 0.0
    return MicroPort(end.name, end.shape, dtypes[end.name], end.dtype, scale, end.zero_point if scale else 0)
