"""Which layers with weights a TensorRT network or engine has, and in what precision."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from autoshrink.types import LOW_BIT_WEIGHTS, Audit, Kernel, Layer

CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")
PRODUCT = "MATRIX_MULTIPLY"
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")
MOVES = ("SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE")
PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "INT4": "int4"}
"""Data types of a network."""
WORDS = (
    *(("int8", "int8"), ("int4", "int4"), ("fp8", "fp8"), ("bf16", "bf16"), ("bfloat", "bf16"), ("fp16", "fp16")),
    *(("half", "fp16"), ("fp32", "fp32"), ("float", "fp32")),
)
"""Words of the types in an engine's report, in the order they are looked for."""
CONVERSION_KERNELS = ("reformat", "quantize", "dequantize", "cast")
SHIFT = "/Shift"
"""End of the name of the product that zero points became, which is no layer of the model; see `tensorrt_blocks`."""
ONNX_LAYER = "[ONNX Layer: {}]"

Report = Mapping[str, Any]


def audit_of(network: Any) -> Audit:
    """The layers of a parsed network, before the builder fuses them.

    A layer is `int8` where both its activation and its weight are dequantized; one whose weight alone is has `low-bit
    weights`. `kernels` are the layers that are no constants.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
        if layer.get_output(index) is not None
    }
    found = []
    for layer in layers:
        kind = layer.type.name
        if kind in CONVOLUTIONS or kind == PRODUCT:
            precision = _precision(layer, makers)
            if precision and not layer.name.endswith(SHIFT):
                found.append(Layer(layer.name, kind.title().replace("_", ""), precision))
    running = [layer for layer in layers if not _is_constant(layer, makers)]
    conversions = sum(layer.type.name in CONVERSIONS for layer in running)
    return Audit(tuple(found), conversions, len(running))


def _precision(layer: Any, makers: Mapping[str, Any]) -> str:
    """Of the arithmetic that the network asks for; empty for a product of activations."""
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    values = [value for value in inputs[:2] if value is not None]
    sources = [_source(value, makers) for value in values]
    constant = [source is not None and _is_constant(source, makers) for source in sources]
    if layer.type.name == PRODUCT and not any(constant):
        return ""
    integers = [source is not None and source.type.name == "DEQUANTIZE" for source in sources]
    if len(values) == 2 and all(integers):
        return PRECISIONS.get(_source_type(sources), "int8")
    if any(is_integer and is_weight for is_integer, is_weight in zip(integers, constant, strict=True)):
        return LOW_BIT_WEIGHTS
    result = str(layer.get_output(0).dtype.name)
    return PRECISIONS.get(result, result.lower())


def _source_type(sources: list[Any]) -> str:
    """The widest of the dequantized types: a product of int8 and int4 is computed in int8."""
    names = {source.get_input(0).dtype.name for source in sources}
    return "INT8" if "INT8" in names else sorted(names)[0]


def _source(value: Any, makers: Mapping[str, Any]) -> Any:
    """The layer that makes a value, before what only moves it."""
    layer = makers.get(value.name)
    while layer is not None and layer.type.name in MOVES:
        layer = makers.get(layer.get_input(0).name)
    return layer


def _is_constant(layer: Any, makers: Mapping[str, Any]) -> bool:
    """Whether a layer gives the same at every call: a constant, or what is made of constants alone."""
    if layer.type.name == "CONSTANT":
        return True
    if layer.type.name not in (*CONVERSIONS, *MOVES):
        return False
    source = makers.get(layer.get_input(0).name)
    return source is not None and _is_constant(source, makers)


def audit_of_engine(report: str, names: Iterable[str] | None = None) -> Audit:
    """The kernels of an engine, from the JSON of its inspector.

    Args:
        report: of an engine that was built with detailed verbosity, by version 10 or 11.
        names: of the layers with weights, as the network has them; without, those kernels count whose report has
            weights.
    """
    kernels = [kernel for kernel in json.loads(report)["Layers"] if isinstance(kernel, dict)]
    found = []
    if names is None:
        for kernel in kernels:
            if dict(kernel.get("Weights") or {}).get("Count"):
                found.append(Layer(str(kernel["Name"]), str(kernel.get("LayerType", "")), _kernel_precision(kernel)))
    else:
        for name in names:
            holding = [kernel for kernel in kernels if _holds(kernel, name)]
            if holding:
                found.append(Layer(name, str(holding[0].get("LayerType", "")), _kernel_precision(holding[0])))
    conversions = sum(
        any(word in str(kernel.get("LayerType", "")).lower() for word in CONVERSION_KERNELS) for kernel in kernels
    )
    missing = [] if names is None else sorted({*names} - {layer.name for layer in found})
    notes = (f"the engine's report does not name {', '.join(missing)}",) if missing else ()
    return Audit(tuple(found), conversions, len(kernels), notes)


def kernels_of_engine(report: str, times: Mapping[str, float]) -> tuple[Kernel, ...]:
    """The kernels in the JSON of an engine's inspector; `times` has the milliseconds of each by its name."""
    kernels = [kernel for kernel in json.loads(report)["Layers"] if isinstance(kernel, dict)]
    return tuple(
        Kernel(
            str(kernel["Name"]),
            str(kernel.get("LayerType", "")),
            _kernel_precision(kernel),
            times.get(str(kernel["Name"])),
            tuple(tuple(port.get("Dimensions", ())) for port in kernel.get("Inputs", ())),
            tuple(tuple(port.get("Dimensions", ())) for port in kernel.get("Outputs", ())),
            has_weights=bool(dict(kernel.get("Weights") or {}).get("Count")),
            is_conversion=any(word in str(kernel.get("LayerType", "")).lower() for word in CONVERSION_KERNELS),
        )
        for kernel in kernels
    )


def _holds(kernel: Report, name: str) -> bool:
    """Whether the kernel computes the layer `name` of the ONNX file, perhaps fused with others."""
    if ONNX_LAYER.format(name) in str(kernel.get("Metadata", "")):
        return any(_words(port) for port in kernel.get("Inputs", ()))
    return name in str(kernel.get("Name", "")).split(" + ")


def _kernel_precision(kernel: Report) -> str:
    """Of its first input that is no integer of 32 bits or more, which is what it multiplies in."""
    types = (_words(port) for port in kernel.get("Inputs", ()))
    return next((precision for precision in types if precision), "unknown")


def _words(port: Report) -> str:
    # Version 11 has a field of its own; 10 says it in one with the layout: "Thirty-two wide ... Int8 format".
    text = str(port.get("DataType") or port.get("Format/Datatype") or "").lower()
    return next((precision for word, precision in WORDS if word in text), "")
