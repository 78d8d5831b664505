"""The file that a microcontroller gets: what TFLite Micro reads of a `.tflite`, and nothing else.

A file as the converters write it does not do as it is:
- The quantizer puts the weights of larger models behind the flatbuffer. LiteRT finds them there; TFLite Micro takes
  such a tensor for one without data, gives it room in the arena, and computes with whatever lies there.
- Names of inner tensors and the converter's notes are up to a quarter of a small model, and nobody reads them there.
- Weights of 4 bits are packed for LiteRT's kernels. Those of TFLite Micro take them where others do not: in
  convolutions, not in layers of matrix products with a scale for each output.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoshrink.errors import StageError

IDENTIFIER = b"TFL3"
WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
"""Operators whose second input is their weights."""
FEW_BITS = {"INT4": 4, "INT2": 2}
"""Types that hold several integers a byte, the first in the lowest bits."""

# How `MicroMutableOpResolver` writes the words of an operator's name that it does not just capitalise.
_WORDS = {"2D": "2D", "3D": "3D", "PADV2": "PadV2", "MATMUL": "MatMul", "CUMSUM": "CumSum", "LSTM": "LSTM"}


@dataclass(frozen=True)
class Node:
    """An operator of a parsed model: its name in the schema, its graph, itself."""

    name: str
    graph: Any
    operator: Any

    @property
    def weights(self) -> Any:
        """The tensor of its weights, for operators that have some."""
        return self.graph.tensors[self.operator.inputs[1]]


@dataclass(frozen=True)
class WeightKernel:
    """A kernel with weights: the layer of the user's model, the operator, the types of its input and weights."""

    layer: str
    operator: str
    input_type: str
    weight_type: str


@dataclass(frozen=True)
class End:
    """An input or output: its name in the signature, shape, numpy dtype, and grid where it stands for floats."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


def operators(model: bytes) -> tuple[str, ...]:
    """The operators of a model by their names in the schema, such as `CONV_2D`, each once, in the order of first use.

    A custom operator has its own name.

    Raises:
        StageError: of stage `compile`: this is no TensorFlow Lite model.
    """
    return tuple(dict.fromkeys(operator_names(model)))


def operator_names(model: bytes) -> list[str]:
    """The names of a model's operators, in the order in which they run.

    Raises:
        StageError: as `operators`.
    """
    return [node.name for node in _nodes(_parsed(model))]


def resolver_calls(names: Sequence[str]) -> tuple[str, ...]:
    """The methods of `tflite::MicroMutableOpResolver` that add these operators: `CONV_2D` -> `AddConv2D`."""
    return tuple("Add" + "".join(_WORDS.get(word, word.capitalize()) for word in name.split("_")) for name in names)


def weight_kernels(model: bytes) -> list[WeightKernel]:
    """The kernels with constant weights, in the order in which they run.

    Raises:
        StageError: as `operators`.
    """
    return [
        WeightKernel(_layer(node), node.name, _type(node.graph.tensors[_data_input(node)]), _type(node.weights))
        for node in _layers(_parsed(model))
    ]


def ends(model: bytes) -> tuple[list[End], list[End]]:
    """The inputs and the outputs of a model with a signature, in the order in which the runtime counts them.

    Raises:
        StageError: as `operators`; or the signature leaves one out.
    """
    parsed = _parsed(model)
    graph, signature = parsed.subgraphs[0], parsed.signatureDefs[0]
    found = []
    for indices, entries in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        names = {int(entry.tensorIndex): entry.name.decode() for entry in entries}
        if not {int(index) for index in indices} <= set(names):
            raise StageError("compile", f"the model's signature names only {sorted(names.values())}")
        found.append([_end(names[int(index)], graph.tensors[index]) for index in indices])
    return found[0], found[1]


def _end(name: str, tensor: Any) -> End:
    grid = tensor.quantization
    quantized = grid is not None and grid.scale is not None and len(grid.scale) > 0
    scale, zero_point = (float(grid.scale[0]), int(grid.zeroPoint[0])) if quantized else (0.0, 0)
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    return End(name, shape, _type(tensor).lower(), scale, zero_point)


@dataclass(frozen=True)
class MicroModel:
    """A file for TFLite Micro.

    Attributes:
        content: of the `.tflite` file.
        packed: layers whose weights became two to a byte.
        unpacked: layers whose weights were, and are not any more.
    """

    content: bytes
    packed: tuple[str, ...]
    unpacked: tuple[str, ...]


def for_micro(model: bytes, pack: bool = True) -> MicroModel:
    """The model as TFLite Micro can read it, with equal values.

    All data lies inside the flatbuffer, aligned to 16 bytes. Names stay only of inputs, outputs and weights. Weights
    whose integers fit into 4 bits are stored so where a kernel takes them, others in 8 bits.

    Args:
        model: content of a `.tflite` file.
        pack: without it, all integer weights are stored in 8 bits; Vela ends on others.

    Raises:
        StageError: of stage `compile`: this is no TensorFlow Lite model.
    """
    parsed = _parsed(model)
    for buffer in parsed.buffers:
        # Schema: 0 and 1 stand for data inside.
        if buffer.offset > 1:
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    layers = list(_layers(parsed))
    able = _packable(parsed) if pack else set()
    packed = _pack(parsed, layers, able)
    unpacked = _unpack(parsed, able)
    _drop_names(parsed, layers)
    parsed.metadata = parsed.metadataBuffer = parsed.description = None
    _empty_unused(parsed)
    named = {id(node.weights): _layer(node) for node in layers}
    return MicroModel(
        _written(parsed), tuple(packed), tuple(dict.fromkeys(named.get(id(each), "a constant") for each in unpacked))
    )


def _drop_names(model: Any, layers: Sequence[Node]) -> None:
    weights = {id(node.weights) for node in layers}
    for graph in model.subgraphs:
        ends = {int(index) for index in (*graph.inputs, *graph.outputs)}
        graph.name = None
        for index, tensor in enumerate(graph.tensors):
            if index not in ends and id(tensor) not in weights:
                tensor.name = None


def _packable(model: Any) -> set[int]:
    """The weights, by identity, that every kernel which reads them takes in 4 bits."""
    able: set[int] = set()
    refused: set[int] = set()
    for node in _nodes(model):
        for place, index in enumerate(node.operator.inputs):
            # -1 stands for an input that is left out.
            if index >= 0:
                tensor = id(node.graph.tensors[index])
                (able if place == 1 and _takes_packed(node) else refused).add(tensor)
    return able - refused


def _pack(model: Any, layers: Sequence[Node], able: set[int]) -> list[str]:
    """Stores those of the `able` weights that fit two to a byte; the layers."""
    packed = []
    for node in layers:
        tensor = node.weights
        if _type(tensor) != "INT8" or id(tensor) not in able:
            continue
        values = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.int8)
        if values.min() >= -8 and values.max() <= 7:
            _give(model, tensor, pack_fours(values), "INT4")
            packed.append(_layer(node))
    return packed


def _unpack(model: Any, able: set[int]) -> list[Any]:
    """Stores constants of few bits in 8 bits, but for weights of 4 that are `able`; the ones changed."""
    changed = []
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            bits = FEW_BITS.get(_type(tensor))
            if bits is not None and not (bits == 4 and id(tensor) in able):
                values = unpack_bits(model.buffers[tensor.buffer].data, bits, int(np.prod(tensor.shape)))
                _give(model, tensor, values.view(np.uint8), "INT8")
                changed.append(tensor)
    return changed


def _give(model: Any, tensor: Any, data: npt.NDArray[np.uint8], kind: str) -> None:
    # In a buffer of its own: the old one may be that of other tensors too.
    tensor.buffer, tensor.type = len(model.buffers), getattr(_schema().TensorType, kind)
    model.buffers.append(_schema().BufferT(data=data))


def pack_fours(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Integers from -8 to 7 two to a byte, the first in the low half; a last half without one is 0."""
    halves = np.append(values, np.zeros(values.size % 2, np.int8)).view(np.uint8) & np.uint8(0xF)
    packed: npt.NDArray[np.uint8] = halves[0::2] | (halves[1::2] << np.uint8(4))
    return packed


def unpack_bits(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.int8]:
    """`count` signed integers of `bits` bits, 4 or 2, that lie in `packed`, the first in a byte's lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (packed[:, np.newaxis] >> shifts).reshape(-1)[:count]
    # To the top of the byte and back, which repeats the sign.
    return (values << (8 - bits)).astype(np.uint8).view(np.int8) >> (8 - bits)


def _takes_packed(node: Node) -> bool:
    """Whether the kernel of this layer takes weights of 4 bits."""
    if node.name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return False
    if _type(node.graph.tensors[_data_input(node)]) != "INT8":
        return False
    # That of matrix products refuses them with a scale for each output.
    return node.name != "FULLY_CONNECTED" or len(node.weights.quantization.scale) == 1


def _empty_unused(model: Any) -> None:
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


def _layers(model: Any) -> Iterator[Node]:
    """The operators with weights; a product of two activations has none."""
    for node in _nodes(model):
        if node.name in WITH_WEIGHTS and len(node.operator.inputs) > 1:
            buffer = model.buffers[node.weights.buffer]
            if buffer.data is not None or buffer.offset > 1:
                yield node


def _nodes(model: Any) -> Iterator[Node]:
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            yield Node(_operator_name(model.operatorCodes[operator.opcodeIndex]), graph, operator)


def _layer(node: Node) -> str:
    """The layer in the user's model, which its weights are named after."""
    return (node.weights.name or b"").decode().removesuffix(".weight") or node.name.lower()


def _data_input(node: Node) -> int:
    """The input that the weights are applied to: the first but for TRANSPOSE_CONV, whose first is a shape."""
    return int(node.operator.inputs[2 if node.name == "TRANSPOSE_CONV" else 0])


def _operator_name(code: Any) -> str:
    # Files from before there were more than 127 operators have only the first of the two.
    number = max(code.deprecatedBuiltinCode, code.builtinCode)
    if number == _schema().BuiltinOperator.CUSTOM:
        return str(code.customCode.decode())
    return _word(_schema().BuiltinOperator, number)


def _type(tensor: Any) -> str:
    return _word(_schema().TensorType, tensor.type)


def _word(table: Any, number: int) -> str:
    return next((name for name, value in vars(table).items() if value == number), f"number {number}")


def _parsed(model: bytes) -> Any:
    if model[4:8] != IDENTIFIER:
        raise StageError("compile", f"this is no TensorFlow Lite model: it has no {IDENTIFIER.decode()} at byte 4")
    schema = _schema()
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    except Exception as error:
        raise StageError("compile", f"this is no TensorFlow Lite model: {error}") from error


def _written(model: Any) -> bytes:
    from ai_edge_litert.tools.flatbuffer_utils import convert_object_to_bytearray
    from tflite_micro.tensorflow.lite.micro.tools import tflite_flatbuffer_align_wrapper

    with tempfile.TemporaryDirectory() as folder:
        loose, aligned = Path(folder) / "loose.tflite", Path(folder) / "aligned.tflite"
        loose.write_bytes(convert_object_to_bytearray(model))
        # The Python builder aligns data to 4 bytes at most; the schema says 16, and vector kernels rely on it.
        tflite_flatbuffer_align_wrapper.align_tflite_model(str(loose), str(aligned))
        return aligned.read_bytes()


def _schema() -> Any:
    from autoshrink.backends.tflm_runtime import schema

    return schema()
