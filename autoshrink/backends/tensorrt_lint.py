"""What TensorRT's ONNX parser and builder refuse or misread, found in the graph before either is asked.

Each rule was seen in TensorRT-RTX 1.7, whose parser is that of TensorRT 11, and its test asks the real one. The parser
stops at the first fault, in words about its own source; here every fault is named at once, with a way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
INTEGER_OPERATORS = (
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"),
    "QLinearAdd",
)
STANDARD_DOMAINS = ("", "ai.onnx")
PRODUCTS = ("MatMul", "Gemm")
TURING = "SM75"
FLOAT8 = ("FLOAT8E4M3FN", "FLOAT8E5M2")
HARDWARE_TYPES = {TURING: ("BFLOAT16", "INT4", *FLOAT8), "SM80": FLOAT8, "SM86": FLOAT8}
"""Compute capability that the builder offers -> element types that it does not compile for it."""


@dataclass(frozen=True)
class Finding:
    """A fault of a graph.

    Attributes:
        code: of the rule; a key of `RULES`.
        node: name of the node, or its operator where it has none.
        reason: what TensorRT makes of it.
        way_out: what to do about it.
    """

    code: str
    node: str
    reason: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}; {self.way_out} [{self.code}]"


@dataclass(frozen=True)
class Facts:
    """What the rules go by.

    Attributes:
        model: with its weights inside.
        capability: such as `SM89`; empty when the engine is for the GPU that is here.
        constants: name -> array of the initializers and Constant nodes.
        types: name of a value -> `onnx.TensorProto` element type, where it is known.
    """

    model: onnx.ModelProto
    capability: str = ""
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)

    def nodes(self, *operators: str) -> Iterator[onnx.NodeProto]:
        """The nodes of these operators."""
        return (node for node in self.model.graph.node if node.op_type in operators)


Rule = Callable[[Facts], Iterator[tuple["onnx.NodeProto", str, str]]]


def lint(model: onnx.ModelProto, capability: str = "") -> list[Finding]:
    """Every fault of `model`, in the order of `RULES`.

    Args:
        model: is not modified.
        capability: the compute capability that is built for, such as `SM89`.
    """
    facts = Facts(model, capability, constants_of(model.graph), types_of(model))
    return [
        Finding(code, node.name or node.op_type, reason, way_out)
        for code, rule in RULES.items()
        for node, reason, way_out in rule(facts)
    ]


def constants_of(graph: onnx.GraphProto) -> dict[str, npt.NDArray[Any]]:
    """Name -> array of the initializers and of the Constant nodes that hold a tensor."""
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Name of each value -> its element type, as far as ONNX can infer it."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: kind for name, kind in types.items() if kind}


def grids(facts: Facts) -> Iterator[tuple[onnx.NodeProto, npt.NDArray[Any] | None]]:
    """Each grid once, by the first node that has it, with its zero point: None where that is left out or not constant.

    A pair shares its zero point's name; so do grids of several activations, which then are named by the first.
    """
    seen: set[tuple[str, str]] = set()
    for node in facts.nodes(*QUANTIZERS):
        zero = node.input[2] if len(node.input) > 2 else ""
        if not zero or (node.input[1], zero) not in seen:
            seen.add((node.input[1], zero))
            yield node, facts.constants.get(zero)


def quantized_type(node: onnx.NodeProto, facts: Facts) -> int:
    """The integer type of a QuantizeLinear's result or a DequantizeLinear's input; 0 when it is not known."""
    return facts.types.get(node.output[0] if node.op_type == "QuantizeLinear" else node.input[0], 0)


def _int32_dequantize(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    from onnx import TensorProto

    for node in facts.nodes("DequantizeLinear"):
        if facts.types.get(node.input[0]) == TensorProto.INT32:
            yield node, "it dequantizes int32, and TensorRT only takes 8 bits and fewer", "keep this bias float"


def _zero_point(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    for node, zero in grids(facts):
        # By its values as numbers: 8-bit floats have no `any` of their own.
        if zero is not None and (worst := zero.astype(np.float64)).any():
            largest = worst.flat[np.abs(worst).argmax()]
            yield (
                node,
                f"its zero point is {largest:g}, and TensorRT's grids are symmetric",
                "quantize with `activations: int8` in the profile",
            )


def _uint8_grid(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    from onnx import TensorProto

    for node, zero in grids(facts):
        if quantized_type(node, facts) != TensorProto.UINT8 or (zero is not None and zero.any()):
            continue
        if node.op_type == "DequantizeLinear" and node.input[0] in facts.constants:
            reason = "its integers are uint8, which TensorRT does not take as weights"
        else:
            reason = "it is uint8, which TensorRT reads as int8: all above 127 steps is cut off, and nothing says so"
        yield node, reason, "quantize with `activations: int8` in the profile"


def _integer_width(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    from onnx import TensorProto

    for node, _ in grids(facts):
        kind = quantized_type(node, facts)
        if kind in (TensorProto.INT16, TensorProto.UINT16):
            name = TensorProto.DataType.Name(kind).lower()
            yield node, f"its integers are {name}, and TensorRT knows 8 and 4 bits", "quantize it to int8"


def _scale(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    for node, _ in grids(facts):
        scale = facts.constants.get(node.input[1])
        if scale is not None and not (scale.astype(np.float64) > 0).all():
            lowest = float(scale.astype(np.float64).min())
            yield node, f"a scale is {lowest:g}, and each must be over 0", "give a dead channel the scale 1"


def _mixed_types(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    from onnx import TensorProto, defs

    versions = {entry.domain: entry.version for entry in facts.model.opset_import}
    for node in facts.model.graph.node:
        if node.domain not in STANDARD_DOMAINS or not defs.has(node.op_type, node.domain):
            continue
        formal = defs.get_schema(node.op_type, versions.get("", 1), node.domain).inputs
        seen: dict[str, set[int]] = {}
        for index, name in enumerate(node.input):
            parameter = formal[min(index, len(formal) - 1)]
            if name in facts.types and parameter.type_str not in parameter.types:
                seen.setdefault(parameter.type_str, set()).add(facts.types[name])
        for kinds in seen.values():
            if len(kinds) > 1:
                names = " and ".join(sorted(TensorProto.DataType.Name(kind).lower() for kind in kinds))
                yield node, f"its inputs are {names}", "cast them to one type"


def _integer_operator(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    for node in facts.nodes(*INTEGER_OPERATORS):
        yield (
            node,
            f"TensorRT has no {node.op_type}",
            "write integers as QuantizeLinear and DequantizeLinear around the float operator (int8_static)",
        )


def _foreign_operator(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    for node in facts.model.graph.node:
        if node.domain not in STANDARD_DOMAINS and node.op_type not in INTEGER_OPERATORS:
            yield (
                node,
                f"{node.domain}::{node.op_type} is no operator of the standard, so TensorRT looks for a plugin",
                "write it with standard operators",
            )


def _hardware_type(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    from onnx import TensorProto

    missing = HARDWARE_TYPES.get(facts.capability, ())
    for node in facts.model.graph.node:
        names = {TensorProto.DataType.Name(facts.types.get(name, 0)) for name in node.input}
        for name in sorted(names.intersection(missing)):
            yield node, f"{facts.capability} has no {name.lower()}", "build for a later GPU, or use another precision"


def _turing_product(facts: Facts) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    from onnx import TensorProto

    if facts.capability != TURING:
        return
    for node in facts.nodes(*PRODUCTS):
        if facts.types.get(node.output[0]) == TensorProto.FLOAT:
            yield node, f"TensorRT-RTX has no float32 matrix product for {TURING}", "use the precision fp16"


RULES: dict[str, Rule] = {
    "int32-dequantize": _int32_dequantize,
    "zero-point": _zero_point,
    "uint8-grid": _uint8_grid,
    "integer-width": _integer_width,
    "scale": _scale,
    "mixed-types": _mixed_types,
    "integer-operator": _integer_operator,
    "foreign-operator": _foreign_operator,
    "hardware-type": _hardware_type,
    "turing-product": _turing_product,
}
"""Code of each rule -> the rule, which gives a node, what TensorRT makes of it, and the way out."""
