"""What a file says of its layers, whatever its format: sizes, what they are stored in, what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
LayerKind = Literal["conv", "depthwise", "linear"]
Bias = Literal["none", "float", "int32"]

FLOAT_STORED = ("fp32", "fp16", "bf16", "fp64")
ITEM_BYTES = {
    "fp64": 8.0,
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "int16": 2.0,
    "uint16": 2.0,
    "int8": 1.0,
    "uint8": 1.0,
}


@dataclass(frozen=True)
class GraphLayer:
    """A layer with weights as a file describes it.

    Attributes:
        name: of its node, or of its weight where nodes have no names.
        kind: `depthwise` is a convolution with one input channel a group, and more than one group.
        operator: as the format names it.
        stored: what the weights lie in, such as `fp32`, `int8`, `int4`.
        weight: shape of the weights.
        macs: multiplications and additions of one call, with free dimensions as 1; None where shapes are not known.
        in_channels: of its input.
        out_channels: of its output.
        weight_bytes: of the weights as stored.
        value_bytes: of what it reads and writes beside them.
        activation: integer grid of its input, `dynamic` where it is made in each call; empty for a float input.
        bias: `int32` is one in the scale of the product.
        has_zero_point: whether its weights' DequantizeLinear names a zero point; True where there is none to name.
        is_requantized: whether its output, behind a fused activation, goes to integers.
        then_adds: whether a constant is added to its output by a node of its own.
        relu: name of the ReLU or Clip that alone reads its output; empty without one.
        is_first: reads an input of the model, perhaps through Q/DQ.
        is_last: what it gives is an output of the model, perhaps through Q/DQ and element-wise nodes.
        packs_weights: whether weights of under 8 bits are unpacked right before it, in each call.
        values: names that a runtime may give the kernel instead: of its outputs, and of what is fused to it.
        largest_weight: magnitude of the largest of int8 weights; None where they are others, or are not read.
    """

    name: str
    kind: LayerKind
    operator: str
    stored: str
    weight: Shape
    macs: int | None
    in_channels: int
    out_channels: int
    weight_bytes: int
    value_bytes: int | None
    activation: str = ""
    bias: Bias = "none"
    has_zero_point: bool = True
    is_requantized: bool = False
    then_adds: bool = False
    relu: str = ""
    is_first: bool = False
    is_last: bool = False
    packs_weights: bool = False
    values: tuple[str, ...] = ()
    largest_weight: int | None = None

    @property
    def is_integer(self) -> bool:
        """Whether the file holds integers for weights."""
        return self.stored not in FLOAT_STORED


@dataclass(frozen=True)
class FileGraph:
    """The layers of a file in their order, and its conversions.

    Attributes:
        layers: those with weights.
        edge_conversions: names of the Q/DQ nodes at inputs and outputs of the model, which must be there.
        weight_conversions: node that unpacks weights in each call -> the layer they belong to.
        inner_conversions: the other Q/DQ and cast nodes.
    """

    layers: tuple[GraphLayer, ...] = ()
    edge_conversions: frozenset[str] = frozenset()
    weight_conversions: tuple[tuple[str, str], ...] = ()
    inner_conversions: frozenset[str] = frozenset()


def kind_of(is_conv: bool, weight: Sequence[int], groups: int) -> LayerKind:
    """`weight` has its output channels first and the inputs of one group second."""
    if not is_conv:
        return "linear"
    return "depthwise" if groups > 1 and weight[1] == 1 else "conv"
