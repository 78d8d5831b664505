"""The kernels of a call as the profiler of ONNX Runtime, native or in a page, tells of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoshrink.types import LOW_BIT_WEIGHTS, Audit, Kernel, Layer

Shape = tuple[int, ...]

FIRST_INPUT_KERNELS = (
    *("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"),
    *("TransposeMatMul", "Attention", "LSTM", "GRU", "RNN"),
)
"""Kernels with weights whose arithmetic is that of their first input."""
INT8_KERNELS = (
    *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"),
    *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention"),
)
"""Kernels that multiply 8-bit integers, whatever type comes in."""
LOW_BIT_KERNELS = ("MatMulNBits", "MatMulBnb4")
"""Weights of few bits, unpacked within the kernel; the profile does not tell in what it multiplies."""
PRODUCTS = (
    *("MatMul", "FusedMatMul", "TransposeMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat"),
    "DynamicQuantizeMatMul",
)
"""Kernels that multiply activations with each other as well; the others always have weights."""
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "ReorderInput", "ReorderOutput")
PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
ITEM_SIZES = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}


def audit_of(kernels: Sequence[Mapping[str, Any]]) -> Audit:
    """The audit of the `Node` events of one profiled call."""
    found = kernels_of(kernels, 1)
    layers = tuple(Layer(kernel.name, kernel.kind, kernel.precision) for kernel in found if kernel.has_weights)
    return Audit(layers, sum(kernel.is_conversion for kernel in found), len(found))


def kernels_of(events: Sequence[Mapping[str, Any]], calls: int) -> tuple[Kernel, ...]:
    """The kernels of one call, of the `Node` events of `calls` profiled calls.

    Where the calls do not run the same kernels, as with control flow, those of the last one, each with its own time.
    """
    length = len(events) // calls
    runs = [events[start : start + length] for start in range(0, length * calls, length or 1)] if length else []
    names = [[event["name"] for event in run] for run in runs]
    if len(events) % calls or any(each != names[0] for each in names):
        last = next(i for i in reversed(range(len(events))) if events[i]["name"] == events[0]["name"])
        runs = [events[last:]]
    if not runs:
        return ()
    latest = runs[-1]
    dequantized = [_shapes(event["args"])[0] for event in latest if _is_dequantized_weight(event["args"])]
    return tuple(
        _kernel(event, float(np.median([run[place]["dur"] for run in runs])) / 1000, dequantized)
        for place, event in enumerate(latest)
    )


def _kernel(event: Mapping[str, Any], ms: float, dequantized: Sequence[Shape]) -> Kernel:
    details = event["args"]
    kind, name = details["op_name"], event["name"].removesuffix("_kernel_time")
    precision = _arithmetic(kind, details)
    return Kernel(
        _plain(name),
        kind,
        precision or "",
        ms,
        _all_shapes(details.get("input_type_shape", ())),
        _all_shapes(details.get("output_type_shape", ())),
        int(details.get("parameter_size", 0)),
        bool(precision) and (kind not in PRODUCTS or _has_weights(details, dequantized)),
        kind in CONVERSIONS or (kind == "Transpose" and _is_inserted(name)),
    )


def _all_shapes(values: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Shape, ...]:
    return tuple(tuple(shape) for value in values for shape in value.values())


def _arithmetic(kind: str, details: Mapping[str, Any]) -> str | None:
    """The precision a kernel multiplies in, or None when its kind has no weights."""
    if kind in INT8_KERNELS:
        return "int8"
    if kind in LOW_BIT_KERNELS:
        return LOW_BIT_WEIGHTS
    if kind in FIRST_INPUT_KERNELS:
        first: str = next(iter(details["input_type_shape"][0]))
        return PRECISIONS.get(first, first)
    return None


def _has_weights(product: Mapping[str, Any], dequantized: Sequence[Shape]) -> bool:
    """Whether one operand of a matrix product is a weight, and not both are activations, as in attention.

    The profile does not say where an operand comes from. It does not list a weight that the kernel has repacked,
    and counts the bytes of the parameters that it lists. A weight that is dequantized in each call, since the layer
    fell back to float, is told by its shape.
    """
    shapes = _shapes(product)
    return len(shapes) < 2 or _has_parameter(product) or any(shape in dequantized for shape in shapes)


def _is_dequantized_weight(kernel: Mapping[str, Any]) -> bool:
    return kernel["op_name"] == "DequantizeLinear" and bool(_shapes(kernel)) and _has_parameter(kernel)


def _has_parameter(kernel: Mapping[str, Any]) -> bool:
    """Whether a matrix among the inputs is a parameter of the model, by the bytes that the kernel has of them."""
    sizes = [
        ITEM_SIZES.get(dtype, 1) * int(np.prod(shape))
        for operand in kernel["input_type_shape"]
        for dtype, shape in operand.items()
        if len(shape) > 1
    ]
    return int(kernel["parameter_size"]) >= min(sizes)


def _shapes(kernel: Mapping[str, Any]) -> list[Shape]:
    """The shapes of the inputs that are matrices, or have more dimensions."""
    return [tuple(shape) for operand in kernel["input_type_shape"] for shape in operand.values() if len(shape) > 1]


def _is_inserted(transpose: str) -> bool:
    """Whether the runtime itself put this transpose there, to change the layout; those have only made-up names."""
    return re.fullmatch(r"Transpose(_token_\d+)?", transpose) is not None


def _plain(name: str) -> str:
    """The name without what the runtime's optimizers put around it."""
    name = name.removeprefix("InsertedPrecisionFreeCast_").removesuffix("_nchwc").removesuffix("/MatMulAddFusion")
    return re.sub(r"_token_\d+$", "", name)
