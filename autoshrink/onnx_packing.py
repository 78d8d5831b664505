"""Lossless packing: a weight that takes few distinct values is stored in few bits each and decoded at load.

The file holds the bits of each weight's index into a codebook (Han et al. 2016, section 3), one plane of bits after the
other, and standard ONNX operators that make the weight of them again. ONNX Runtime and OpenVINO calculate those once,
when they load the file: the file becomes smaller, not the time or the memory of a call.
"""

from __future__ import annotations

import math
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
BYTE = 8
"""Bits of a byte, and the most of an index."""
SAMPLE = 4096
"""Elements that are looked at first: when they already have too many values, the rest is not sorted."""

MARK = "autoshrink.packed/bit_values"
"""The initializer that every packed file holds: what each bit of a byte is worth, the first bit the most."""
BASE, AXES, FLAT, START, PLANES = (f"autoshrink.packed/{name}" for name in ("base", "axes", "flat", "start", "planes"))

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
    bytes, the codebook, 4 bytes a channel where there are scales, and about a kilobyte of nodes: 1 bit each for binary
    weights +-s, 2 bits for ternary ones.

    Every decoded weight equals the one before; the sign of a zero is not kept. Equal models give equal results, and a
    packed model comes out as it is.

    Args:
        model: opset 13 to 24 (axes of a sum are an input), with its weights inside.
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
    if _size(replaced) <= sum(decoder.size for decoder in decoders.values()) + _size(shared):
        return 0
    initializers = list(shared)
    for initializer in graph.initializer:
        initializers += decoders[initializer.name].tensors if initializer.name in decoders else [initializer]
    nodes = [*(node for decoder in decoders.values() for node in decoder.nodes), *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)
    return int(before - model.ByteSize())


def packed_bits(model: onnx.ModelProto) -> dict[str, int]:
    """Name of each packed weight -> bits of one of its elements."""
    made = {name for node in model.graph.node for name in node.output}
    planes = {tensor.name.removesuffix("/packed"): tensor for tensor in model.graph.initializer}
    return {name: int(tensor.dims[0]) for name, tensor in planes.items() if name in made and name != tensor.name}


def is_packed(model: onnx.ModelProto | Path) -> bool:
    """Whether any weight of a model, or of an ONNX file, is packed. A file is searched without the package onnx."""
    if isinstance(model, Path):
        return MARK.encode() in model.read_bytes()
    return any(initializer.name == MARK for initializer in model.graph.initializer)


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
    """Operators that give the value `name`: bytes to bits to indices to values.

    Divisions and remainders, not shifts: OpenVINO does not calculate those at load.
    """
    import onnx
    from onnx import helper, numpy_helper

    count, bits = coded.index.size, coded.bits
    planes = np.stack([np.packbits(coded.index.reshape(-1) >> bit & 1) for bit in range(bits)])
    own = {"packed": planes[:, :, None], "shape": np.array(coded.index.shape, np.int64), "codebook": coded.codebook}
    if coded.scale is not None:
        own["scale"] = coded.scale
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, *inputs: str, suffix: str = "", **attributes: int) -> str:
        value = f"{name}/{suffix or operator}"
        nodes.append(helper.make_node(operator, list(inputs), [value], value, **attributes))
        return value

    value = add("Cast", f"{name}/packed", to=int(onnx.TensorProto.INT32))
    value = add("Mod", add("Div", value, MARK), BASE)
    if bits > 1:
        value = add("ReduceSum", add("Mul", value, f"{PLANES}/{bits}"), AXES, keepdims=0)
    if count % BYTE:
        own["end"] = np.array([count], np.int64)
        value = add("Slice", add("Reshape", value, FLAT, suffix="Flatten"), START, f"{name}/end")
    value = add("Gather", f"{name}/codebook", add("Reshape", value, f"{name}/shape"))
    if coded.scale is not None:
        value = add("Mul", value, f"{name}/scale", suffix="Scale")
        if coded.is_half:
            add("Cast", value, suffix="Half", to=int(onnx.TensorProto.FLOAT16))
    nodes[-1].output[0] = name
    return _Decoder(nodes, [numpy_helper.from_array(array, f"{name}/{part}") for part, array in own.items()])


def _shared(used: set[str]) -> list[onnx.TensorProto]:
    """The tensors among `used` that all decoders share."""
    from onnx import numpy_helper

    arrays = {
        MARK: 2 ** np.arange(BYTE - 1, -1, -1, dtype=np.int32),
        BASE: np.array(2, np.int32),
        AXES: np.array([0], np.int64),
        FLAT: np.array([-1], np.int64),
        START: np.array([0], np.int64),
    }
    for bits in range(2, BYTE + 1):
        arrays[f"{PLANES}/{bits}"] = (2 ** np.arange(bits, dtype=np.int32)).reshape(bits, 1, 1)
    return [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used]


def _size(messages: Sequence[Any]) -> int:
    """Bytes of messages in a file: each has a tag and, in base 128, its length before it."""
    sizes = [message.ByteSize() for message in messages]
    return sum(1 + max(1, math.ceil(size.bit_length() / 7)) + size for size in sizes)
