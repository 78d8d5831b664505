"""Weights of matrix products as integers of 4 or 8 bits in blocks; a kernel multiplies them as they are.

The form is `com.microsoft.MatMulNBits`: ONNX Runtime has a kernel for it, and OpenVINO reads it as compressed weights.
A blockwise DequantizeLinear of opset 21 is as fast in both, but OpenVINO refuses it where the block does not divide K.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoshrink.errors import StageError
from autoshrink.onnx_graph import drop_unused, fixed_batches, quiet_session
from autoshrink.task import Arrays
from autoshrink.techniques.calibrate import Progress
from autoshrink.techniques.weight_rounding import Codes, Matrix, Rounded, gptq, hqq, nearest

STAGE = "quantize"
DOMAIN = "com.microsoft"
INT8_ARITHMETIC = 4
"""`accuracy_level`: activations are rounded to 8 bits within the kernel. In float, 8-bit weights run 2.5 times slower
than float32 ones."""

SMALLEST_BLOCK = 16
"""Of the kernel; a block is a power of two."""

Grams = Mapping[str, Matrix]


@dataclass(frozen=True)
class Product:
    """A matrix product with a constant weight.

    Attributes:
        node: a MatMul or Gemm.
        weight: float32 [N, K], whatever its layout in the file.
    """

    node: onnx.NodeProto
    weight: Matrix

    @property
    def source(self) -> str:
        """The activation that it reads."""
        return str(self.node.input[0])


def find_products(
    graph: onnx.GraphProto, operators: Collection[str], bits: int, block: int
) -> tuple[list[Product], dict[str, str]]:
    """The products whose weights can be packed, in the order they are computed; and the others, each with the reason.

    Raises:
        StageError: a weight is not finite.
    """
    constants = {initializer.name: initializer for initializer in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    layouts: dict[str, set[bool]] = {}
    products: list[Product] = []
    left: dict[str, str] = {}
    candidates = [node for node in graph.node if node.op_type in operators and constants.keys() & {*node.input[:2]}]
    for node in candidates:
        layouts.setdefault(node.input[1], set()).add(_is_transposed(node))
    alike = Counter(node.input[1] for node in candidates)
    for node in candidates:
        name = node.input[1]
        reason = _objection(node, constants, readers[name] == alike[name] and len(layouts[name]) == 1)
        if not reason:
            stored = numpy_helper.to_array(constants[name])
            if not np.isfinite(stored).all():
                raise StageError(STAGE, f"weight {name!r} of {node.name} is not finite; train it again, or mend it")
            product = Product(node, np.ascontiguousarray(stored if _is_transposed(node) else stored.T))
            outputs, inputs = product.weight.shape
            if packed_bytes(outputs, inputs, bits, block) < product.weight.nbytes:
                products.append(product)
                continue
            reason = f"its {inputs} inputs fill so little of a block of {SMALLEST_BLOCK} that nothing would be saved"
        left[node.name] = reason
    return products, left


def fitting_block(inputs: int, block: int) -> int:
    """The block of a layer: a layer with fewer inputs has the smallest one that holds them all."""
    return min(block, max(SMALLEST_BLOCK, 1 << (inputs - 1).bit_length()))


def packed_bytes(outputs: int, inputs: int, bits: int, block: int) -> int:
    """Bytes of a weight: codes of `bits`, by block a float16 scale and a zero point of `bits`."""
    block = fitting_block(inputs, block)
    blocks = -(-inputs // block)
    return outputs * (blocks * block * bits // 8 + 2 * blocks + -(-blocks * bits // 8))


def collect_grams(
    model: onnx.ModelProto,
    products: Collection[Product],
    samples: Arrays,
    batch: int,
    progress: Progress = lambda _done, _total: None,
) -> Grams:
    """X^T X [K, K] of what each of the products reads, X [rows, K], by the name of the activation.

    Those of the float model: the error that earlier layers make once they are rounded is not in them.

    Args:
        model: is not modified.
        products: of `model`.
        samples: input name -> array [N, ...].
        batch: rows of a call.
        progress: called with calls done and calls in all.

    Raises:
        StageError: an activation is not finite.
    """
    inputs = {value.name for value in model.graph.input}
    sizes = {product.source: product.weight.shape[1] for product in products}
    watched = [name for name in sizes if name not in inputs]
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    already = {value.name for value in model.graph.output}
    observed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched if name not in already
    )
    session = quiet_session(observed.SerializeToString())
    grams = {name: np.zeros((size, size), np.float32) for name, size in sizes.items()}
    calls = -(-len(next(iter(samples.values()))) // batch)
    for done, rows in enumerate(fixed_batches(samples, batch), 1):
        results = dict(zip(watched, session.run(watched, rows) if watched else (), strict=True))
        for name, gram in grams.items():
            values: Matrix = np.asarray(results.get(name, rows.get(name)), np.float32).reshape(-1, sizes[name])
            if not np.isfinite(values).all():
                raise StageError(
                    STAGE,
                    f"activation {name!r} is not finite on a calibration sample, so gptq has nothing to go by; "
                    "take rounding nearest or hqq",
                )
            gram += values.T @ values
        progress(done, calls)
    return grams


def pack_weights(
    model: onnx.ModelProto, products: Collection[Product], bits: int, block: int, rounding: str, grams: Grams
) -> None:
    """Rewrites, in place, each of the products as MatMulNBits, and the bias of a Gemm as an Add after it.

    Codes [N, ceil(K / block), block * bits / 8], two of 4 bits in a byte, the first one low; zero points likewise. The
    last block is filled up with zeros. Scales lie in the file as float16 where that loses nothing, and a Cast that
    runtimes fold at load.

    Args:
        model: where the products come from.
        products: those that are rewritten.
        bits: 4 or 8.
        block: 32, 64 or 128.
        rounding: `nearest`, `hqq` or `gptq`.
        grams: from `collect_grams` for `gptq`, else empty.
    """
    graph = model.graph
    rewritten = {product.node.output[0]: product for product in products}
    packed: dict[str, list[str]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        product = rewritten.get(node.output[0]) if node.output else None
        if product is None:
            nodes.append(node)
            continue
        name = node.input[1]
        if name not in packed:
            readers = [other.source for other in products if other.node.input[1] == name]
            size = fitting_block(product.weight.shape[1], block)
            rounded = _round(product.weight, bits, size, rounding, [grams[source] for source in readers if grams])
            packed[name] = _store(graph, nodes, name, rounded, bits)
        nodes.extend(_rewritten(product, packed[name], bits, block))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _is_transposed(node: onnx.NodeProto) -> bool:
    """Whether the weight lies as [N, K]."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _objection(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], only_products: bool) -> str:
    weight = constants.get(node.input[1])
    if weight is None or node.input[0] in constants:
        return "its weight is the first factor"
    if weight.data_type != TensorProto.FLOAT:
        return f"its weight is {TensorProto.DataType.Name(weight.data_type).lower()}, not float32"
    if len(weight.dims) != 2:
        return f"its weight has {len(weight.dims)} dimensions"
    if not only_products:
        return "its weight is read elsewhere in another form, and would be stored twice"
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        return "it is a Gemm with transA, alpha or beta"
    return ""


def _round(weight: Matrix, bits: int, block: int, rounding: str, grams: Sequence[Matrix]) -> Rounded:
    """`grams` are those of every product that reads the weight."""
    if rounding == "gptq":
        return gptq(weight, bits, block, np.sum(grams, 0))
    return (hqq if rounding == "hqq" else nearest)(weight, bits, block)


def _store(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], name: str, rounded: Rounded, bits: int) -> list[str]:
    """Adds the initializers of a weight, and the node that widens its scales; gives the names of the three inputs."""
    codes, scales, zeros = (f"{name}/{part}" for part in ("codes", "scales", "zeros"))
    stored = f"{scales}/float16" if rounded.scales.dtype == np.float16 else scales
    arrays: tuple[tuple[npt.NDArray[np.generic], str], ...] = (
        (_in_bytes(rounded.codes, bits), codes),
        (rounded.scales, stored),
        (_in_bytes(rounded.zeros, bits), zeros),
    )
    graph.initializer.extend(numpy_helper.from_array(array, part) for array, part in arrays)
    if stored != scales:
        nodes.append(helper.make_node("Cast", [stored], [scales], f"{scales}/Cast", to=int(TensorProto.FLOAT)))
    return [codes, scales, zeros]


def _in_bytes(codes: Codes, bits: int) -> Codes:
    """Codes [..., n] of 8 bits as they are, of 4 bits as [..., ceil(n / 2)], the first of a pair in the low half."""
    if bits == 8:
        return codes
    pairs = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return np.asarray(pairs[..., ::2] | pairs[..., 1::2] << 4)


def _rewritten(product: Product, packed: list[str], bits: int, block: int) -> list[onnx.NodeProto]:
    node, (outputs, inputs) = product.node, product.weight.shape
    bias = node.input[2] if len(node.input) > 2 else ""
    result = f"{node.name}/product" if bias else node.output[0]
    rewritten = helper.make_node(
        "MatMulNBits",
        [product.source, *packed],
        [result],
        node.name,
        domain=DOMAIN,
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=fitting_block(inputs, block),
        accuracy_level=INT8_ARITHMETIC,
    )
    if not bias:
        return [rewritten]
    return [rewritten, helper.make_node("Add", [result, bias], [node.output[0]], f"{node.name}/bias")]
