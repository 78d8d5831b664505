"""What a Core ML program asks for, layer by layer, read from the file that ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoshrink.backends.coreml_package import operations_of
from autoshrink.backends.coreml_store import OPERANDS, WEIGHTED
from autoshrink.backends.coreml_weights import Stored
from autoshrink.types import LOW_BIT_WEIGHTS, Audit, Layer

if TYPE_CHECKING:
    from autoshrink.backends.coreml_graph import Prepared

CONVERSIONS = ("cast", "quantize", "dequantize")
MOVES = ("reshape", "transpose", "squeeze", "expand_dims", "slice_by_index", "concat", "max_pool")
"""Operations whose output holds values of their inputs only."""
NOT_RUN = ("const",)
CONSTANT = "constexpr_"
SINGLE = "float32 arithmetic runs on the CPU and the GPU; the Neural Engine has float16 and int8 only"
DEVICE = (
    "the device chooses the CPU, GPU or Neural Engine for each operation when it loads the model; Xcode's performance "
    "report shows which"
)
PACKED = (
    "8-bit activations meet weights in fewer bits, computed in float16: {}; set low_bit_weights of the target to int8 "
    "for 8-bit arithmetic and a larger file"
)
INT8 = "int8 layers: 8-bit arithmetic is in Neural Engines from the A17 Pro and M4 on; others compute in float16"


def audit_of(program: Any, stored: Mapping[str, Stored], prepared: Prepared) -> Audit:
    """The audit of a program (`Model_pb2.Model`).

    A layer is `int8` where its weight is dense int8 and what it reads is on an 8-bit grid, of low-bit weights where
    they are other integers, and else what it computes in.

    Args:
        program: as `coreml_package.read_program` gives it.
        stored: name of the variable that a layer reads -> its weight.
        prepared: knows the layers' names.
    """
    operations = operations_of(program)
    makers = {output.name: operation for operation in operations for output in operation.outputs}
    layers: list[Layer] = []
    forms: dict[str, list[str]] = {}
    packed: list[str] = []
    for operation in operations:
        weight = _weight(operation, makers)
        if not weight:
            continue
        chosen = stored.get(weight)
        names = prepared.layers_of(weight)
        # Of layers that share a weight, in the order they run.
        before = sum(layer.name in names for layer in layers)
        name = names[min(before, len(names) - 1)] if names else operation.outputs[0].name
        arithmetic = _arithmetic(operation)
        if chosen is not None and chosen.form != "plain" and _on_grid(operation, makers):
            arithmetic = "int8" if chosen.is_int8 else arithmetic
            packed += [] if chosen.is_int8 else [name]
        if chosen is not None and chosen.form == "linear" and arithmetic != "int8":
            arithmetic = LOW_BIT_WEIGHTS
        layers.append(Layer(name, operation.type, arithmetic))
        words = chosen.words if chosen is not None else "float"
        forms.setdefault(words, []).append(name)
    run = [each for each in operations if each.type not in NOT_RUN and not each.type.startswith(CONSTANT)]
    notes = [DEVICE]
    notes += [f"weights stored as {words}: {_listed(names)}" for words, names in forms.items()]
    notes += [SINGLE] if any(layer.precision == "fp32" for layer in layers) else []
    notes += [INT8] if any(layer.precision == "int8" for layer in layers) else []
    notes += [PACKED.format(_listed(packed))] if packed else []
    notes += dict.fromkeys(prepared.notes)
    return Audit(tuple(layers), sum(each.type in CONVERSIONS for each in run), len(run), tuple(notes))


def _inputs(operation: Any) -> list[str]:
    return [binding.name for argument in operation.inputs.values() for binding in argument.arguments if binding.name]


def _weight(operation: Any, makers: Mapping[str, Any]) -> str:
    """Name of the constant variable of a layer; empty where it has none, as a product of activations."""
    if operation.type not in WEIGHTED:
        return ""
    for operand in OPERANDS:
        if operand in operation.inputs:
            name = str(operation.inputs[operand].arguments[0].name)
            maker = makers.get(name)
            if maker is not None and (maker.type == "const" or maker.type.startswith(CONSTANT)):
                return name
    return ""


def _arithmetic(operation: Any) -> str:
    from coremltools.proto import MIL_pb2

    kind = operation.outputs[0].type.tensorType.dataType
    return {MIL_pb2.FLOAT16: "fp16", MIL_pb2.FLOAT32: "fp32"}.get(kind, str(MIL_pb2.DataType.Name(kind)).lower())


def _on_grid(operation: Any, makers: Mapping[str, Any]) -> bool:
    """Whether what a layer reads was just dequantized."""
    name = operation.inputs["x"].arguments[0].name
    while name in makers and makers[name].type in MOVES:
        name = _inputs(makers[name])[0]
    return name in makers and makers[name].type == "dequantize"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
