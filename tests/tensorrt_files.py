"""Hand-built graphs for TensorRT, and children that ask the real parser and builder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import onnx_files

Array = npt.NDArray[Any]
Port = tuple[str, int, list[int]]

OUTER, INNER, ROWS = 32, 64, 2
OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")

CHILD = """
import json, sys
from pathlib import Path
import tensorrt_rtx as trt
from autoshrink.backends.tensorrt_build import Plan, build
from autoshrink.errors import StageError
said = []
class Log(trt.ILogger):
    def log(self, severity, message):
        if severity == trt.ILogger.Severity.WARNING:
            said.append(message)
for path in sys.argv[2:]:
    log = Log()
    network = trt.Builder(log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    trt.OnnxParser(network, log).parse(Path(path).read_bytes())
    try:
        build(trt, Path(path).read_bytes(), Plan(sys.argv[1], 2))
        print(json.dumps(["", said]))
    except StageError as error:
        print(json.dumps([error.reason, said]))
"""


def real_verdicts(folder: Path, capability: str, *models: onnx.ModelProto) -> list[tuple[str, list[str]]]:
    """Of TensorRT-RTX for each model, in one child: why it refuses it (empty when it builds), and its warnings so far.

    A build that fails changes the next one, so at most the last model may be one that is refused.
    """
    paths = []
    for index, model in enumerate(models):
        paths.append(folder / f"{index}.onnx")
        paths[-1].write_bytes(model.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, capability, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, Array | onnx.TensorProto],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    opset: int = 21,
) -> onnx.ModelProto:
    """A model, its tensors by name."""
    weights = [
        tensor if isinstance(tensor, onnx.TensorProto) else numpy_helper.from_array(np.asarray(tensor), name)
        for name, tensor in tensors.items()
    ]
    values = [[helper.make_tensor_value_info(*port) for port in ports] for ports in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "graph", *values, weights)
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", opset), ("com.microsoft", 1))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def random(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(*shape: int, kind: str = "int8") -> Array:
    low, high = (0, 256) if kind == "uint8" else (-127, 128)
    return np.random.default_rng(1).integers(low, high, shape).astype(kind)


def quantized_product(zero: Array, scale: float = 0.05, weight: Array | None = None) -> onnx.ModelProto:
    """Takes x [2, 64] on a grid, times int8 weights by output channel -> y [2, 32]. Nodes `quantize`, `product`."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x.q"], "quantize"),
        helper.make_node("DequantizeLinear", ["x.q", "scale", "zero"], ["x.dq"], "dequantize"),
        helper.make_node("DequantizeLinear", ["weight", "weight.scale"], ["weight.dq"], "weights", axis=1),
        helper.make_node("MatMul", ["x.dq", "weight.dq"], ["y"], "product"),
    ]
    tensors: dict[str, Array | onnx.TensorProto] = {
        "scale": np.float32(scale),
        "zero": zero,
        "weight": integers(INNER, OUTER) if weight is None else weight,
        "weight.scale": np.full(OUTER, 0.01, np.float32),
    }
    return model_of(nodes, tensors, *ends())


def ends(kind: int = TensorProto.FLOAT) -> tuple[list[Port], list[Port]]:
    return [("x", kind, [ROWS, INNER])], [("y", kind, [ROWS, OUTER])]


def low_bit_product(bits: int, with_zeros: bool, inputs: int = INNER, rank: int = 2) -> onnx.ModelProto:
    """A `MatMulNBits` named `product` with a bias behind it, as the weight-only technique writes it."""
    from autoshrink.techniques.onnx_weight_only import find_products, pack_weights

    shape = [ROWS, 3, inputs][3 - rank :]
    node = helper.make_node("MatMul", ["x", "weight"], ["sum"], "product")
    add = helper.make_node("Add", ["sum", "bias"], ["y"], "bias")
    tensors = {"weight": random(inputs, OUTER), "bias": random(OUTER)}
    ports = ("x", TensorProto.FLOAT, shape), ("y", TensorProto.FLOAT, [*shape[:-1], OUTER])
    model = model_of([node, add], dict(tensors), ports[:1], ports[1:], 20)
    del model.opset_import[1]
    products, _ = find_products(model.graph, ["MatMul"], bits, 32)
    pack_weights(model, products, bits, 32, "nearest", {})
    if not with_zeros:
        packed = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
        del packed.input[3:]
    return model


def cnn_int8(out: Path) -> None:
    """`onnx_files.cnn` on the symmetric grid that the profiles of TensorRT ask for, as the technique writes it."""
    from autoshrink.techniques.calibrate import collect_ranges
    from autoshrink.techniques.onnx_int8 import Grid, quantize_static

    source = out.with_suffix(".float.onnx")
    onnx_files.cnn(source)
    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    samples = {"image": onnx_files.image(9, 32)}
    ranges = collect_ranges(model, samples, onnx_files.BATCH, "minmax", lambda _done, _total: None)
    onnx.save(quantize_static(model, ranges, Grid(OPERATORS, "int8")), str(out))
    source.unlink()
