"""Linear layers over more than two dimensions as Gemm, so that their bias is quantized with the product it joins."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper


def linear_as_gemm(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with each MatMul + Add of a linear layer as Reshape, Gemm, Reshape; the function is the same.

    A quantizer sees a separate Add as a sum of two activations and gives the constant bias 8 bits; the bias of a Gemm
    gets 32, in the scale of the product. Kernels are as fast or faster.

    Args:
        model: shapes of all values that a linear layer reads are fixed; it is not modified.

    Returns:
        A model with shapes inferred.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    constants = {initializer.name: tuple(initializer.dims) for initializer in graph.initializer}
    # A weight that is stored as integers is as constant as any.
    constants |= {
        node.output[0]: constants[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    products = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "MatMul"
        and len(constants.get(node.input[1], ())) == 2
        and len(shapes.get(node.input[0], ())) > 2
        and uses[node.output[0]] == 1
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        product = _biased_product(node, products, constants)
        if product is None or 0 in shapes[product.input[0]]:
            nodes.append(node)
            continue
        nodes.remove(product)
        nodes.extend(_gemm(graph, product, node, shapes[product.input[0]], constants[product.input[1]]))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return onnx.shape_inference.infer_shapes(inferred)


def _biased_product(
    node: onnx.NodeProto, products: dict[str, onnx.NodeProto], constants: dict[str, tuple[int, ...]]
) -> onnx.NodeProto | None:
    """The product that `node`, an Add, gives its bias to; None for every other node."""
    if node.op_type != "Add":
        return None
    for value, bias in (node.input, reversed(node.input)):
        product = products.get(value)
        if product is not None and constants.get(bias) == constants[product.input[1]][1:]:
            return product
    return None


def _gemm(
    graph: onnx.GraphProto, product: onnx.NodeProto, add: onnx.NodeProto, shape: list[int], weight: tuple[int, ...]
) -> list[onnx.NodeProto]:
    layer = product.name.removesuffix("MatMul")
    bias = next(name for name in add.input if name != product.output[0])
    flat, gemm = f"{layer}Flat", f"{layer}Gemm"
    for name, size in ((f"{flat}/shape", [-1, weight[0]]), (f"{gemm}/shape", [*shape[:-1], weight[1]])):
        graph.initializer.append(numpy_helper.from_array(np.array(size, np.int64), name))
    return [
        helper.make_node("Reshape", [product.input[0], f"{flat}/shape"], [flat], flat),
        helper.make_node("Gemm", [flat, product.input[1], bias], [gemm], gemm),
        helper.make_node("Reshape", [gemm, f"{gemm}/shape"], [add.output[0]], add.name),
    ]
