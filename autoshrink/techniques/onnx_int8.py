"""8-bit integer graphs by ONNX Runtime's quantizers, with the grid that a target's kernels want."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from autoshrink.errors import StageError
from autoshrink.onnx_graph import weight_nodes
from autoshrink.onnx_packing import MOST_VALUES, SMALLEST, distinct
from autoshrink.target import Precision
from autoshrink.techniques.calibrate import Ranges


@dataclass(frozen=True)
class Grid:
    """The integer grid of a target.

    Attributes:
        operators: ONNX operator types that are quantized.
        activations: `uint8` (affine) or `int8` (symmetric).
        per_channel: one scale per output channel of a weight rather than one per tensor.
        weight_bits: 8, integers of a weight from -127 to 127, or 7, from -64 to 64.
    """

    operators: tuple[str, ...]
    activations: str = "uint8"
    per_channel: bool = True
    weight_bits: int = 8

    @classmethod
    def of(cls, precision: Precision, operators: tuple[str, ...] = ()) -> Grid:
        """The grid of a target's precision, for these operator types."""
        return cls(operators, precision.activations, precision.per_channel, precision.weight_bits or 8)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Grid:
        """The inverse of `to_json`."""
        bits = int(data.get("weight_bits", 8))
        return cls(tuple(data["operators"]), str(data["activations"]), bool(data["per_channel"]), bits)

    def to_json(self) -> dict[str, Any]:
        """JSON values, equal for equal grids. 8 bits go without saying, as in results that were kept before 7 were."""
        narrow = {} if self.weight_bits == 8 else {"weight_bits": self.weight_bits}
        return {
            "operators": sorted(self.operators),
            "activations": self.activations,
            "per_channel": self.per_channel,
            **narrow,
        }


def quantize_static(
    model: onnx.ModelProto, ranges: Ranges, grid: Grid, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """`model` with QuantizeLinear / DequantizeLinear pairs around the operators of `grid`.

    Weights are int8, symmetric, scale max|w| / 127 (Jacob et al. 2018, section 2.1, with a zero point of 0), or
    max|w| / 64 where the grid has 7 bits for them; a weight that takes its values from a codebook has one scale
    whatever `grid` says of channels, for its integers then are few too.
    Biases are int32 with the product of both scales; activations span their range, widened to include 0. A rectifier
    after a quantized layer disappears into the lower end of its uint8 range.

    Args:
        model: with shapes inferred; is modified.
        ranges: of its activations.
        grid: what the target wants.
        keep_float: names of nodes that are not quantized.

    Raises:
        StageError: nothing in the graph can be quantized.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

    unbounded = [node.name for node in model.graph.node if ranges.unbounded & {*node.input, *node.output}]
    symmetric = grid.activations == "int8"
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            grid.per_channel,
            grid.weight_bits < 8,
            QuantType.QInt8,
            QuantType.QInt8 if symmetric else QuantType.QUInt8,
            TensorsData(
                CalibrationMethod.MinMax,
                {
                    name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
                    for name, (low, high) in ranges.of.items()
                },
            ),
            [],
            sorted({*keep_float, *unbounded}),
            list(grid.operators),
            {
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "TensorQuantOverrides": {name: [{"symmetric": True}] for name in shared_weights(model.graph)},
            },
        )
        quantizer.quantize_model()
        # It appends the new nodes at the end; ONNX wants every node after those it reads.
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    if not any(node.op_type == "QuantizeLinear" for node in quantized.graph.node):
        raise StageError(
            "quantize",
            f"no {'/'.join(grid.operators)} that could be quantized is in the graph; "
            "leave int8_static out of the space, or keep_float out of the recipe",
        )
    return quantized


def shared_weights(graph: onnx.GraphProto) -> list[str]:
    """The weights of Conv, Gemm and MatMul whose values come from one small codebook for all channels.

    Binary and ternary weights, which have no more than one magnitude a channel, are none of them: with a scale for
    each channel they become -127, 0 and 127 exactly.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    found = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        if weight.size < SMALLEST or not np.isfinite(weight).all() or distinct(weight, MOST_VALUES["int8"]) is None:
            continue
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else -1
        magnitudes = np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1)
        if ((magnitudes > 0) & (magnitudes < magnitudes.max(1, keepdims=True))).any():
            found.append(node.input[1])
    return sorted(set(found))


def quantize_dynamic(model: onnx.ModelProto, grid: Grid, folder: Path) -> onnx.ModelProto:
    """`model` with int8 weights whose activations are quantized at each call (DynamicQuantizeLinear, MatMulInteger).

    Args:
        model: is not modified.
        grid: its operators, `per_channel` and `weight_bits`; the activations are always uint8.
        folder: where temporary files may lie; they are gone afterwards.

    Raises:
        StageError: the graph has no such operator with constant weights.
    """
    from onnxruntime import quantization

    if not weight_nodes(model.graph, grid.operators):
        raise StageError(
            "quantize",
            f"no {'/'.join(grid.operators)} with constant weights is in the graph, so int8_dynamic would change "
            "nothing; use int8_static",
        )
    with tempfile.TemporaryDirectory(dir=folder) as temporary, _quiet():
        source, out = Path(temporary) / "float.onnx", Path(temporary) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        quantization.quantize_dynamic(
            source,
            out,
            op_types_to_quantize=list(grid.operators),
            per_channel=grid.per_channel,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=grid.weight_bits < 8,
        )
        return onnx.load(str(out))


def ends(layers: Sequence[str], keep_float: str) -> list[str]:
    """Which of `layers`, in the order they are computed, `none`, `first`, `last` or `first_last` names."""
    first = layers[:1] if keep_float.startswith("first") else []
    last = layers[-1:] if keep_float.endswith("last") else []
    return [*first, *last]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantizers log by the root logger, which would print, and gain a handler for good."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silent)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)
