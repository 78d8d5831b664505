"""The main graph of a `.tflite` file as it is read, renamed and written: operators, tensors, constants, ports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

WEIGHT_KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D")
"""Operators whose second input may be a weight."""
CHANNELS_LAST = ("DEPTHWISE_CONV_2D", "BATCH_MATMUL", "CONV_3D")
"""Those of them that have the output channels in the last dimension of the weight; the others in the first."""
DTYPES = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class Operation:
    """An operator of the graph: its kind as the schema names it, and the indices of its tensors, -1 for none."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def value(self) -> int:
        """The input that an operator with weights multiplies with them."""
        return self.inputs[2 * (self.kind == "TRANSPOSE_CONV")]

    @property
    def bias(self) -> int:
        """The third operand of an operator with weights, -1 without one."""
        at = 2 + (self.kind == "TRANSPOSE_CONV")
        return self.inputs[at] if len(self.inputs) > at else -1


class Graph:
    """A model whose first subgraph is read, and may be changed in place.

    Args:
        content: of a `.tflite` file.
    """

    def __init__(self, content: bytes) -> None:
        self._model: Any = _schema().read_model_from_bytearray(bytearray(content))
        self._main: Any = self._model.subgraphs[0]

    def content(self) -> bytes:
        """The file."""
        return bytes(_schema().convert_object_to_bytearray(self._model))

    @property
    def operations(self) -> list[Operation]:
        """In the order they run."""
        names = self._kinds
        return [
            Operation(names[operator.opcodeIndex], tuple(map(int, operator.inputs)), tuple(map(int, operator.outputs)))
            for operator in self._main.operators
        ]

    @property
    def inputs(self) -> list[int]:
        """Tensors that a call sets."""
        return [int(index) for index in self._main.inputs]

    @property
    def outputs(self) -> list[int]:
        """Tensors that a call gives."""
        return [int(index) for index in self._main.outputs]

    def signature_inputs(self) -> list[tuple[str, int]]:
        """(name in the first signature, tensor) of what a call sets; without a signature the tensors' own names."""
        signatures = self._model.signatureDefs or []
        if not signatures:
            return [(self.name(index), index) for index in self.inputs]
        return [(str(each.name.decode()), int(each.tensorIndex)) for each in signatures[0].inputs]

    @property
    def tensors(self) -> range:
        """The indices of all tensors."""
        return range(len(self._main.tensors))

    def name(self, index: int) -> str:
        """Of a tensor."""
        return str(self._main.tensors[index].name.decode())

    def rename(self, index: int, name: str) -> None:
        """Names a tensor; names must be unique, which is the caller's to keep."""
        self._main.tensors[index].name = name.encode()

    def shape(self, index: int) -> tuple[int, ...]:
        """Of a tensor."""
        shape = self._main.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def dtype(self, index: int) -> str:
        """Of a tensor, as the schema names it, such as `FLOAT32` or `INT4`."""
        return self._types[self._main.tensors[index].type]

    def is_constant(self, index: int) -> bool:
        """Whether the file holds the tensor's values."""
        return index >= 0 and self._model.buffers[self._main.tensors[index].buffer].data is not None

    def size_bytes(self, index: int) -> int:
        """Of a constant tensor's values in the file; 0 for one that has none."""
        data = self._model.buffers[self._main.tensors[index].buffer].data
        return 0 if data is None else len(data)

    def array(self, index: int) -> npt.NDArray[Any]:
        """The stored values of a constant tensor, integers of 4 bits as int8."""
        raw = np.asarray(self._model.buffers[self._main.tensors[index].buffer].data, dtype=np.uint8)
        dtype, shape = self.dtype(index), self.shape(index)
        if dtype == "INT4":
            # The first of two values lies in the low half of a byte.
            both = np.stack((raw << 4, raw & 0xF0), -1).view(np.int8) >> 4
            return both.reshape(-1)[: int(np.prod(shape))].reshape(shape)
        return raw.view(DTYPES[dtype]).reshape(shape)

    def set_array(self, index: int, values: npt.NDArray[Any], dtype: str) -> None:
        """Puts other values of the same shape in a constant tensor's place; tensors that shared them keep theirs."""
        if dtype == "INT4":
            flat = np.append(values.reshape(-1), np.zeros(values.size % 2, values.dtype)).astype(np.int8).view(np.uint8)
            raw = (flat[0::2] & 0xF) | (flat[1::2] << 4)
        else:
            raw = np.ascontiguousarray(values, DTYPES[dtype]).reshape(-1).view(np.uint8)
        tensor = self._main.tensors[index]
        if sum(other.buffer == tensor.buffer for other in self._main.tensors) > 1:
            self._model.buffers.append(_schema().BufferT())
            tensor.buffer = len(self._model.buffers) - 1
        self._model.buffers[tensor.buffer].data = raw
        tensor.type = next(number for number, name in self._types.items() if name == dtype)

    def forget_grid(self, index: int) -> None:
        """Takes scales and zero points from a tensor that holds floats now."""
        self._main.tensors[index].quantization = None

    def grid(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], int] | None:
        """Scales, zero points and the dimension they lie along of a tensor of integers; None where it has none."""
        quantization = self._main.tensors[index].quantization
        if quantization is None or quantization.scale is None:
            return None
        scale = np.asarray(quantization.scale, np.float32)
        return scale, np.asarray(quantization.zeroPoint, np.int64), int(quantization.quantizedDimension)

    def values(self, index: int) -> npt.NDArray[np.float32]:
        """What the stored values of a constant tensor stand for; grids by tensor or by channel."""
        array, grid = self.array(index), self.grid(index)
        if grid is None:
            return array.astype(np.float32)
        scale, zero, axis = grid
        along = [1] * array.ndim
        if len(scale) > 1:
            along[axis] = -1
            scale, zero = scale.reshape(along), zero.reshape(along)
        return ((array.astype(np.int64) - zero) * scale).astype(np.float32)

    def layers(self) -> Iterator[tuple[Operation, int]]:
        """(operator, its weight tensor) of those with weights; the weight may be unpacked by a DEQUANTIZE before it."""
        unpacked = {
            operation.outputs[0]: operation.inputs[0]
            for operation in self.operations
            if operation.kind == "DEQUANTIZE" and self.is_constant(operation.inputs[0])
        }
        for operation in self.operations:
            if operation.kind in WEIGHT_KINDS:
                weight = unpacked.get(operation.inputs[1], operation.inputs[1])
                if self.is_constant(weight):
                    yield operation, weight

    def name_ports(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Gives signature and tensors the names, in the order of the converted module's arguments and results.

        Raises:
            ValueError: there are not as many of them.
        """
        signature = self._model.signatureDefs[0]
        for ports, names, what in ((signature.inputs, inputs, "args"), (signature.outputs, outputs, "output")):
            numbered = {f"{what}_{number}": name for number, name in enumerate(names)}
            found = [port.name.decode() for port in ports]
            if sorted(found) != sorted(numbered):
                raise ValueError(f"the converted model has {what} {found}, not those of {list(names)}")
            for port in ports:
                port.name = numbered[port.name.decode()].encode()

    def ports(self) -> tuple[dict[str, int], dict[str, int]]:
        """Name -> tensor of the inputs and of the outputs, as the signature has them."""
        signature = self._model.signatureDefs[0]
        inputs, outputs = (
            {port.name.decode(): int(port.tensorIndex) for port in ports}
            for ports in (signature.inputs, signature.outputs)
        )
        return inputs, outputs

    def take_ports(self, before: Graph) -> bool:
        """Puts the signature's ports where the graph has them; whether that changed anything.

        The quantizer moves a port of the graph and forgets a second name of it in the signature.
        """
        changed = False
        inputs, outputs = before.ports()
        signature = self._model.signatureDefs[0]
        for ports, old, places, now in (
            (signature.inputs, inputs, before.inputs, self.inputs),
            (signature.outputs, outputs, before.outputs, self.outputs),
        ):
            for port in ports:
                index = now[places.index(old[port.name.decode()])]
                changed |= port.tensorIndex != index
                port.tensorIndex = index
        return changed

    def make_float_ports(self) -> None:
        """Lets a call set and give float32 where the file has integers with a grid, by a conversion at each."""
        signature = self._model.signatureDefs[0]
        for index in dict.fromkeys(self.inputs):
            if self.grid(index) is not None:
                port = self._port(index, self._main.inputs, signature.inputs)
                self._main.operators.insert(0, self._operator("QUANTIZE", port, index))
        for index in dict.fromkeys(self.outputs):
            if self.grid(index) is not None:
                port = self._port(index, self._main.outputs, signature.outputs)
                self._main.operators.append(self._operator("DEQUANTIZE", index, port))

    def _port(self, index: int, places: list[Any], ports: list[Any]) -> int:
        """A float32 tensor with the name of `index`, in its places among the graph's and the signature's ports."""
        old, new = self._main.tensors[index], _schema().schema_fb.TensorT()
        new.name, new.shape, new.buffer = old.name, old.shape, 0
        new.type = _schema().TensorType.FLOAT32
        old.name += b".integers"
        self._main.tensors.append(new)
        made = len(self._main.tensors) - 1
        places[:] = [made if place == index else place for place in places]
        for port in ports:
            if port.tensorIndex == index:
                port.tensorIndex = made
        return made

    def _operator(self, kind: str, source: int, result: int) -> Any:
        code = getattr(_schema().BuiltinOperator, kind)
        codes = [known.builtinCode for known in self._model.operatorCodes]
        if code not in codes:
            made = _schema().OperatorCodeT()
            made.builtinCode, made.version = code, 1
            made.deprecatedBuiltinCode = code
            self._model.operatorCodes.append(made)
            codes.append(code)
        operator = _schema().OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = codes.index(code), [source], [result]
        return operator

    def clear_metadata(self) -> None:
        """Leaves out what only the converter wanted to know."""
        kept = [entry for entry in self._model.metadata or [] if entry.name == b"min_runtime_version"]
        self._model.metadata = kept

    @cached_property
    def _types(self) -> dict[int, str]:
        return {value: key for key, value in vars(_schema().TensorType).items() if isinstance(value, int)}

    @property
    def _kinds(self) -> list[str]:
        codes = {value: key for key, value in vars(_schema().BuiltinOperator).items() if isinstance(value, int)}
        return [codes[code.builtinCode] for code in self._model.operatorCodes]


def _schema() -> Any:
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils
