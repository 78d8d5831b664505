"""A float32 graph computed in half precision throughout, as a strongly typed network wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoshrink.errors import StageError

FLOAT16_MAX = float(np.finfo(np.float16).max)
SMALLEST = {TensorProto.FLOAT16: 2.0**-24, TensorProto.BFLOAT16: 2.0**-133}
"""The least magnitudes over zero."""
KEPT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Operator -> indices of inputs that the standard wants in float32 whatever the others are."""
TYPE_ATTRIBUTES = ("to", "dtype")


def compute_in(model: onnx.ModelProto, kind: int) -> None:
    """Makes every float32 value of the graph one of `kind`, in place; inputs and outputs keep their types.

    Finite values beyond float16 become its largest; a single number, such as the epsilon of a division, never becomes
    zero. A float32 input is cast behind it, a float32 output before it.

    Args:
        model: float, with its weights inside.
        kind: `TensorProto.FLOAT16` or `BFLOAT16`.

    Raises:
        StageError: the graph has control flow, whose inner graphs are not rewritten.
    """
    graph = model.graph
    nested = [node for node in graph.node if any(attribute.HasField("g") for attribute in node.attribute)]
    if nested:
        raise StageError(
            "compile",
            f"{nested[0].op_type} {nested[0].name!r} holds a graph of its own, which cannot be made half precision; "
            "use fp32, or export the model without control flow",
        )
    stays = _float32_only(graph)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in stays:
            tensor.CopyFrom(_as_half(tensor, kind))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
            elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                if node.output[0] not in stays:
                    attribute.t.CopyFrom(_as_half(attribute.t, kind))
            elif attribute.name in ("value_float", "value_floats"):
                values = np.array(helper.get_attribute_value(attribute), np.float32)
                tensor = _as_half(numpy_helper.from_array(values), kind)
                attribute.CopyFrom(helper.make_attribute("value", tensor))
    _cast_ends(graph, kind)


def _float32_only(graph: onnx.GraphProto) -> set[str]:
    """Constants that are read where float32 is wanted."""
    return {
        node.input[index]
        for node in graph.node
        for index in KEPT_INPUTS.get(node.op_type, ())
        if index < len(node.input)
    }


def _as_half(tensor: onnx.TensorProto, kind: int) -> onnx.TensorProto:
    values: npt.NDArray[Any] = numpy_helper.to_array(tensor)
    if kind == TensorProto.FLOAT16:
        finite = np.isfinite(values)
        values = np.where(finite, np.clip(values, -FLOAT16_MAX, FLOAT16_MAX), values)
    if values.size == 1:
        magnitude = np.maximum(np.abs(values), np.float32(SMALLEST[kind]))
        values = np.where(values == 0, values, np.copysign(magnitude, values))
    half = values.astype(helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(half.reshape(tuple(tensor.dims)), tensor.name)


def _cast_ends(graph: onnx.GraphProto, kind: int) -> None:
    before, after = [], []
    renamed: dict[str, str] = {}
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            renamed[value.name] = f"{value.name}/half"
            before.append(helper.make_node("Cast", [value.name], [renamed[value.name]], f"{value.name}/Half", to=kind))
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in renamed:
            inner = renamed[value.name] = f"{value.name}/half"
            after.append(helper.make_node("Cast", [inner], [value.name], f"{value.name}/Float", to=TensorProto.FLOAT))
    nodes = []
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for names in (copy.input, copy.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
        nodes.append(copy)
    del graph.node[:]
    graph.node.extend([*before, *nodes, *after])
