"""Lossless packing: a weight that takes few distinct values is stored in few bits each and decoded at load.

The file holds the index of each weight into a codebook (Han et al. 2016, section 3), several to a byte, and standard
ONNX operators that make the weight of them again. ONNX Runtime and OpenVINO calculate those once, when they load the
file: the file becomes smaller, not the time or the memory of a call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

SMALLEST = 1024
"""Elements below which a weight is left as it is: the nodes that decode it are as large."""
MOST_VALUES = {"float32": 256, "float16": 256, "int8": 64}
"""For each type that is packed, the most distinct values; with more there is little to save."""
SAMPLE = 4096
"""Elements that are looked at first: when they already have too many values, the rest is not sorted."""

FIELDS = (8, 4, 2, 1)
"""Bits of which a byte holds a whole number of fields; an index of other width is split into two or three of these."""
OWN = re.compile(r"(.+)/packed\.(\d)bit")
"""Name of the initializer that holds the fields of a weight: its name, bits of a field."""
SHARED = "packed"
BYTES, FLAT, START = (f"{SHARED}/{name}" for name in ("bytes", "flat", "start"))

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Coded:
    """A weight as indices into a codebook.

    Attributes:
        index: uint8, of the weight's shape.
        codebook: the distinct values, ascending; of the weight's type, or float32 when there is a scale.
        scale: float32, one value a channel, of a shape that broadcasts to the weight's; None is no scale.
        is_half: the product with the scale is to be float16.
    """

    index: npt.NDArray[np.uint8]
    codebook: Array
    scale: npt.NDArray[np.float32] | None = None
    is_half: bool = False

    @property
    def bits(self) -> int:
        """Of one index."""
        return max(1, math.ceil(math.log2(len(self.codebook))))


@dataclass(frozen=True)
class _Decoder:
    """The nodes that give a weight, and the tensors they read that are its own."""

    nodes: list[onnx.NodeProto]
    tensors: list[onnx.TensorProto]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return _size([*self.nodes, *self.tensors])


def pack_weights(model: onnx.ModelProto) -> int:
    """Rewrites, in place, each weight that becomes smaller by it; gives the bytes that were saved.

    Weights are initializers of float32, float16 or int8 with 1,024 elements or more that nodes of the main graph read.
    The codebook holds the distinct values of the tensor, or (float types; first and last axis are tried) those that
    are left when each channel is divided by its largest magnitude. So n weights of K values take n x ceil(log2 K) / 8
    bytes, the codebook, 4 bytes a channel where there are scales, and nodes: about a kilobyte, two for an index of 3,
    5, 6 or 7 bits. Binary weights +-s take 1 bit each, ternary ones 2.

    Every decoded weight equals the one before; the sign of a zero is not kept. Equal models give equal results, and a
    packed model comes out as it is.

    Args:
        model: opset 13 or later, with its weights inside.
    """
    from onnx import numpy_helper

    graph = model.graph
    before = model.ByteSize()
    weights = {name for node in graph.node for name in node.input}
    weights -= {value.name for value in (*graph.input, *graph.output)}
    decoders: dict[str, _Decoder] = {}
    for initializer in graph.initializer:
        if initializer.name in weights and math.prod(initializer.dims) >= SMALLEST:
            array = numpy_helper.to_array(initializer)
            ways = [_decoder(initializer.name, coded) for coded in _codings(array)]
            best = min(ways, key=lambda decoder: decoder.size, default=None)
            if best is not None and best.size < _size([initializer]):
                decoders[initializer.name] = best
    shared = _shared({name for decoder in decoders.values() for node in decoder.nodes for name in node.input})
    replaced = [initializer for initializer in graph.initializer if initializer.name in decoders]
    if _size(replaced) <= sum(decoder.size for decoder in decoders.values()) + shared.size:
        return 0
    initializers = list(shared.tensors)
    for initializer in graph.initializer:
        initializers += decoders[initializer.name].tensors if initializer.name in decoders else [initializer]
    nodes = [*shared.nodes, *(node for decoder in decoders.values() for node in decoder.nodes), *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)
    return int(before - model.ByteSize())


def packed_bits(model: onnx.ModelProto) -> dict[str, int]:
    """Name of each packed weight -> bits of one of its elements."""
    bits: dict[str, int] = {}
    for name, width in _fields(model):
        bits[name] = bits.get(name, 0) + width
    return bits


def is_packed(model: onnx.ModelProto | Path) -> bool:
    """Whether any weight of a model, or of an ONNX file, is packed. A file is searched without the package onnx."""
    if isinstance(model, Path):
        return re.search(OWN.pattern.removeprefix("(.+)").encode(), model.read_bytes()) is not None
    return any(True for _ in _fields(model))


def _fields(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Name of a weight and bits of its fields, for each tensor of fields."""
    for initializer in model.graph.initializer:
        if found := OWN.fullmatch(initializer.name):
            yield found[1], int(found[2])


def _codings(weight: Array) -> Iterator[_Coded]:
    """Every way to write a weight as indices; none when it has too many values or one that is not finite."""
    most = MOST_VALUES.get(weight.dtype.name)
    if most is None or not np.isfinite(weight).all():
        return
    # Not float16: numpy 2.3 sorts that type wrongly on processors with AVX-512 for it.
    numbers = weight.astype(np.float32) if weight.dtype.kind == "f" else weight
    found = distinct(numbers, most)
    if found:
        yield _Coded(found[1], found[0].astype(weight.dtype))
    if weight.dtype.kind != "f" or weight.ndim < 2:
        return
    for axis in (0, weight.ndim - 1):
        others = tuple(other for other in range(weight.ndim) if other != axis)
        scale = np.abs(numbers).max(others, keepdims=True)
        scale[scale == 0] = 1
        found = distinct(numbers / scale, most)
        if found and np.array_equal((found[0][found[1]] * scale).astype(weight.dtype), weight):
            yield _Coded(found[1], found[0], scale, weight.dtype == np.float16)


def distinct(values: Array, most: int) -> tuple[Array, npt.NDArray[np.uint8]] | None:
    """The distinct values, ascending, and the index of each element among them; None when there are more than `most`.

    Of both zeros it is the positive one.
    """
    step = max(1, values.size // SAMPLE)
    if len(np.unique(values.reshape(-1)[::step])) > most:
        return None
    codebook = np.unique(values)
    if len(codebook) > most:
        return None
    return codebook + values.dtype.type(0), np.searchsorted(codebook, values).astype(np.uint8)


def _decoder(name: str, coded: _Coded) -> _Decoder:
    """Operators that give the value `name`: bytes to fields to indices to values."""
    import onnx
    from onnx import helper, numpy_helper

    shape = coded.index.shape
    own: dict[str, Array] = {"shape": np.array(shape, np.int64), "codebook": coded.codebook}
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, *inputs: str, suffix: str = "", **attributes: int) -> str:
        value = f"{name}/{suffix or operator}"
        nodes.append(helper.make_node(operator, list(inputs), [value], value, **attributes))
        return value

    index, lowest = "", 0
    for width in (width for width in FIELDS if coded.bits & width):
        own[f"packed.{width}bit"] = _in_bytes(coded.index.reshape(-1) >> lowest & 2**width - 1, width)
        field = add("Cast", f"{name}/packed.{width}bit", suffix=f"Cast{width}", to=int(onnx.TensorProto.INT32))
        if width < FIELDS[0]:
            table = f"{SHARED}/table{width}"
            if lowest:
                own[f"worth{width}"] = np.array(2**lowest, np.int32)
                table = add("Mul", table, f"{name}/worth{width}", suffix=f"Table{width}")
            field = add("Gather", table, field, suffix=f"Field{width}")
            if coded.index.size * width % 8:
                own["end"] = np.array([coded.index.size], np.int64)
                flat = add("Reshape", field, FLAT, suffix=f"Flatten{width}")
                field = add("Slice", flat, START, f"{name}/end", suffix=f"Slice{width}")
        field = add("Reshape", field, f"{name}/shape", suffix=f"Reshape{width}")
        index = add("Add", index, field, suffix=f"Add{width}") if index else field
        lowest += width
    value = add("Gather", f"{name}/codebook", index)
    if coded.scale is not None:
        own["scale"] = coded.scale
        value = add("Mul", value, f"{name}/scale")
        if coded.is_half:
            add("Cast", value, to=int(onnx.TensorProto.FLOAT16))
    nodes[-1].output[0] = name
    return _Decoder(nodes, [numpy_helper.from_array(array, f"{name}/{part}") for part, array in own.items()])


def _in_bytes(fields: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Fields [n] of `width` bits in ceil(n * width / 8) bytes, the first field in the highest bits, padded with 0."""
    each = 8 // width
    padded = np.zeros((-(-len(fields) // each), each), np.uint8)
    padded.reshape(-1)[: len(fields)] = fields
    shifted = padded << np.arange(8 - width, -1, -width, dtype=np.uint8)
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=1)
    return packed


def _shared(used: set[str]) -> _Decoder:
    """What the decoders that read the values `used` share: tables of the fields of each byte, [256, 8 / width]."""
    import onnx
    from onnx import helper, numpy_helper

    arrays: dict[str, Array] = {}
    nodes: list[onnx.NodeProto] = []
    # By division and remainder: OpenVINO does not calculate shifts at load.
    for width in FIELDS[1:]:
        table = f"{SHARED}/table{width}"
        if table in used:
            arrays[f"{table}/worth"] = 2 ** np.arange(8 - width, -1, -width, dtype=np.int32)
            arrays[f"{table}/base"] = np.array(2**width, np.int32)
            nodes.append(helper.make_node("Div", [f"{BYTES}/wide", f"{table}/worth"], [f"{table}/Div"], f"{table}/Div"))
            nodes.append(helper.make_node("Mod", [f"{table}/Div", f"{table}/base"], [table], table))
    if nodes:
        arrays[BYTES] = np.arange(256, dtype=np.uint8)[:, None]
        wide = f"{BYTES}/wide"
        nodes.insert(0, helper.make_node("Cast", [BYTES], [wide], wide, to=int(onnx.TensorProto.INT32)))
    for name, value in ((FLAT, -1), (START, 0)):
        if name in used:
            arrays[name] = np.array([value], np.int64)
    return _Decoder(nodes, [numpy_helper.from_array(array, name) for name, array in arrays.items()])


def _size(messages: Sequence[Any]) -> int:
    """Bytes of messages in a file: each has a tag and, in base 128, its length before it."""
    sizes = [message.ByteSize() for message in messages]
    return sum(1 + max(1, math.ceil(size.bit_length() / 7)) + size for size in sizes)
