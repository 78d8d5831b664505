"""A float `.tflite` in the precision of a recipe, by ai-edge-quantizer; what is quantized is decided here.

The quantizer skips in silence what it has no kernel for, so what it made is looked at afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.backends.base import Arrays
from autoshrink.backends.tflite_convert import quiet, reason
from autoshrink.backends.tflite_graph import Graph, Operation
from autoshrink.errors import StageError
from autoshrink.types import Settings

OPERATORS: Mapping[str, tuple[str, ...]] = {
    "Conv": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "ConvTranspose": ("TRANSPOSE_CONV",),
    "Gemm": ("FULLY_CONNECTED",),
    "MatMul": ("FULLY_CONNECTED", "BATCH_MATMUL"),
    "Add": ("ADD",),
    "Sub": ("SUB",),
    "Mul": ("MUL",),
    "Div": ("DIV",),
    "Relu": ("RELU",),
    "MaxPool": ("MAX_POOL_2D",),
    "AveragePool": ("AVERAGE_POOL_2D",),
    "GlobalAveragePool": ("AVERAGE_POOL_2D", "MEAN"),
    "ReduceMean": ("MEAN",),
    "Concat": ("CONCATENATION",),
    "Softmax": ("SOFTMAX",),
    "Sigmoid": ("LOGISTIC",),
    "Tanh": ("TANH",),
    "Gelu": ("GELU",),
    "HardSwish": ("HARD_SWISH",),
    "Resize": ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    "Gather": ("EMBEDDING_LOOKUP",),
}
"""ONNX operators, in whose words profiles speak -> LiteRT's."""
MOVES = ("RESHAPE", "TRANSPOSE", "PAD", "SLICE", "STRIDED_SLICE", "SPLIT", "PACK", "UNPACK", "SPACE_TO_DEPTH")
"""Their outputs hold values of their inputs only: integers wherever their readers want integers."""
NORMALISATION = re.compile(r"(layer|group|instance|rms)_norm")
"""In the names of what the converter takes a normalisation apart into; its products and sums are worth no grid."""
QUANTIZER_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
"""Operators that the quantizer calls otherwise than the schema."""
BLOCKS = (32, 64, 128)


@dataclass(frozen=True)
class Quantized:
    """A file, and what it does other than the recipe says."""

    content: bytes
    notes: tuple[str, ...] = ()


def quantize(
    content: bytes,
    precision: str,
    settings: Settings,
    calibration: Arrays | None = None,
    batch: int = 1,
    integer_ports: bool = False,
) -> Quantized:
    """The float model `content` in `precision`.

    Args:
        content: of a `.tflite` file with clean names.
        precision: of `Recipe.precision`.
        settings: of the recipe's quantize stage, resolved for the target.
        calibration: input name -> rows as the file's inputs want them; for int8_static.
        batch: rows of one call of the file.
        integer_ports: whether float inputs and outputs become int8 too (int8_static only), and with them everything in
            between that has an integer kernel.

    Raises:
        StageError: of stage `compile`; nothing can be quantized, or the calibration set is missing or has no numbers.
    """
    graph = Graph(content)
    if precision == "fp32":
        return Quantized(content)
    if precision == "fp16":
        return _checked(graph, _Run(content).weight_only("ALL_SUPPORTED", 16).done(), {}, ())
    if precision == "int8_static":
        return _static(graph, content, settings, calibration, batch, integer_ports)
    kinds = _kinds(_operators(settings))
    if precision == "int8_dynamic":
        return _dynamic(graph, content, kinds)
    if precision == "int8_weights":
        return _packed(graph, content, kinds, settings)
    if precision == "int4_weights":
        return _four_bits(graph, content, kinds, settings)
    raise StageError("compile", f"precision is {precision!r}, which LiteRT has no kernels for")


def _dynamic(graph: Graph, content: bytes, kinds: Sequence[str]) -> Quantized:
    # Where XNNPACK has no kernel for it, a depthwise convolution with float inputs and 8-bit weights takes several
    # times as long as in float.
    run = _Run(content)
    why = {}
    for operation, weight in graph.layers():
        name = graph.name(weight).removesuffix(".weight")
        if operation.kind not in kinds:
            why[name] = f"{operation.kind} is not among the operators of the profile"
        elif operation.kind in ("DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL"):
            why[name] = f"{operation.kind} with integer weights and a float input is slower than in float"
        else:
            run.dynamic(operation.kind, 8, at=graph.name(operation.outputs[0]))
    return _checked(graph, run.done(), why, ())


def _packed(graph: Graph, content: bytes, kinds: Sequence[str], settings: Settings) -> Quantized:
    run = _Run(content)
    why = {}
    for operation, weight in graph.layers():
        if operation.kind in kinds:
            run.weight_only(operation.kind, 8, at=graph.name(operation.outputs[0]))
        else:
            why[graph.name(weight).removesuffix(".weight")] = f"{operation.kind} is not among the profile's operators"
    block = settings.get("block")
    note = (f"a scale for each output channel, not for each block of {block} weights",) if block else ()
    return _checked(graph, run.done(), why, note)


def _four_bits(graph: Graph, content: bytes, kinds: Sequence[str], settings: Settings) -> Quantized:
    run = _Run(content)
    why, notes = {}, []
    block = int(settings.get("block", 0))
    for operation, weight in graph.layers():
        name = graph.name(weight).removesuffix(".weight")
        if operation.kind != "FULLY_CONNECTED" or operation.kind not in kinds:
            why[name] = f"only FULLY_CONNECTED has a fast kernel for weights of 4 bits, not {operation.kind}"
            continue
        if graph.shape(weight)[-1] % 2:
            why[name] = "weights of 4 bits need an even number of inputs to be fast"
            continue
        fits = block in BLOCKS and graph.shape(weight)[-1] % block == 0
        if block and not fits:
            width = graph.shape(weight)[-1]
            notes.append(f"{name} has a scale for each output channel: {width} inputs are no multiple of {block}")
        run.dynamic(operation.kind, 4, at=graph.name(operation.outputs[0]), block=block if fits else 0)
    notes.append("activations are rounded to 8 bits within the kernel")
    return _checked(graph, run.done(), why, notes)


def _static(
    graph: Graph, content: bytes, settings: Settings, calibration: Arrays | None, batch: int, integer_ports: bool
) -> Quantized:
    from autoshrink.backends.tflite_calibrate import collect_ranges

    if not calibration:
        raise StageError("compile", "int8_static needs a calibration set, and there is none")
    grid: Any = settings.get("grid", {})
    samples = {name: array[: int(settings.get("samples", len(array)))] for name, array in calibration.items()}
    ranges = collect_ranges(content, samples, batch, str(settings.get("calibration", "minmax")))
    names = [graph.name(weight).removesuffix(".weight") for _, weight in graph.layers()]
    kept = _ends(names, str(settings.get("keep_float", "none")))
    chosen = integer_operations(graph, _kinds(_operators(settings)), kept, frozenset(ranges), integer_ports)
    run = _Run(content, symmetric=grid.get("activations") == "int8", per_channel=bool(grid.get("per_channel", True)))
    for operation in chosen:
        run.static(operation.kind, at=";".join(graph.name(index) for index in operation.outputs))
    if integer_ports:
        run.static("INPUT", at="").static("OUTPUT", at="")
    ran = {operation.outputs[0] for operation in chosen}
    why = {}
    for (operation, _), name in zip(graph.layers(), names, strict=True):
        if name in kept:
            why[name] = "keep_float asks for it"
        elif operation.outputs[0] not in ran:
            why[name] = f"{operation.kind} is not among the profile's operators, or a value has no range"
    return _checked(graph, run.done(ranges), why, (), integer_ports)


def integer_operations(
    graph: Graph, kinds: Sequence[str], kept: Sequence[str], ranges: frozenset[str], everything: bool
) -> list[Operation]:
    """The operators that compute in integers: layers with weights, and others all of whose readers do.

    Between float neighbours an operator that is no layer gains nothing: conversions would stand around it.

    Args:
        graph: float.
        kinds: of the operators that may.
        kept: names of layers that stay float.
        ranges: names of the tensors that have one.
        everything: whether every operator of `kinds` does, and what the graph gives is integers too.
    """
    layers = {operation.outputs[0]: graph.name(weight) for operation, weight in graph.layers()}
    readers: dict[int, list[Operation]] = {}
    for operation in graph.operations:
        for index in operation.inputs:
            readers.setdefault(index, []).append(operation)
    chosen: set[int] = set()
    for operation in reversed(graph.operations):
        floats = [index for index in (*operation.inputs, *operation.outputs) if index >= 0]
        floats = [index for index in floats if graph.dtype(index) == "FLOAT32" and not graph.is_constant(index)]
        if not floats or any(graph.name(index) not in ranges for index in floats):
            continue
        if operation.outputs[0] in layers:
            able = operation.kind in kinds and layers[operation.outputs[0]].removesuffix(".weight") not in kept
        else:
            read = [reader for output in operation.outputs for reader in readers.get(output, [])]
            wanted = bool(read) and all(reader.outputs[0] in chosen for reader in read)
            given = any(output in graph.outputs for output in operation.outputs)
            product = operation.kind == "BATCH_MATMUL" and not everything
            part = operation.kind not in MOVES and NORMALISATION.search(graph.name(operation.outputs[0]))
            able = (operation.kind in kinds or operation.kind in MOVES) and not product and (everything or not part)
            able = able and (everything or (wanted and not given))
        if able:
            chosen.add(operation.outputs[0])
    return [operation for operation in graph.operations if operation.outputs[0] in chosen]


class _Run:
    """A run of the quantizer, its rules added one by one; what has none stays as it is."""

    def __init__(self, content: bytes, symmetric: bool = False, per_channel: bool = True) -> None:
        from ai_edge_quantizer import qtyping, quantizer

        self._types: Any = qtyping
        self._algorithms: Any = quantizer.AlgorithmName
        self._quantizer: Any = quantizer.Quantizer(bytearray(content))
        granularity = qtyping.QuantGranularity
        self._granularity = granularity.CHANNELWISE if per_channel else granularity.TENSORWISE
        self._symmetric = symmetric

    def dynamic(self, kind: str, bits: int, at: str, block: int = 0) -> _Run:
        """Integer weights; the kernel rounds its input by itself."""
        granularity = self._types.QuantGranularity[f"BLOCKWISE_{block}"] if block else self._granularity
        self._quantizer.add_dynamic_config(_scope(at), self._name(kind), bits, granularity)
        return self

    def weight_only(self, kind: str, bits: int, at: str = "") -> _Run:
        """Weights that are unpacked to float at load."""
        key = self._algorithms.FLOAT_CASTING if bits == 16 else self._algorithms.MIN_MAX_UNIFORM_QUANT
        self._quantizer.add_weight_only_config(_scope(at), self._name(kind), bits, algorithm_key=key)
        return self

    def static(self, kind: str, at: str) -> _Run:
        """Integer weights and activations."""
        tensor = self._types.TensorQuantizationConfig
        self._quantizer.update_quantization_recipe(
            _scope(at),
            self._name(kind),
            self._types.OpQuantizationConfig(
                activation_tensor_config=tensor(num_bits=8, symmetric=self._symmetric),
                weight_tensor_config=tensor(num_bits=8, symmetric=True, granularity=self._granularity),
                compute_precision=self._types.ComputePrecision.INTEGER,
            ),
        )
        return self

    def done(self, ranges: Mapping[str, tuple[float, float]] | None = None) -> bytes:
        """The quantized file.

        Raises:
            StageError: the quantizer fails; with its own reason in one line.
        """
        if not self._quantizer.get_quantization_recipe():
            return b""
        found = None
        if ranges is not None:
            found = {name: {"min": np.array([low]), "max": np.array([high])} for name, (low, high) in ranges.items()}
        try:
            with quiet():
                result = self._quantizer.quantize(found, enable_progress_bar=False, enable_progress_report=False)
        except Exception as error:
            raise StageError("compile", f"ai-edge-quantizer: {reason(error)}") from error
        return bytes(result.quantized_model)

    def _name(self, kind: str) -> Any:
        return self._types.TFLOperationName[QUANTIZER_NAMES.get(kind, kind)]


def _scope(at: str) -> str:
    """The quantizer's pattern for the operator with these outputs; of any operator without a name."""
    return f"^{re.escape(at)};$" if at else ".*"


def _checked(
    before: Graph, content: bytes, why: Mapping[str, str], notes: Sequence[str], integer_ports: bool = False
) -> Quantized:
    """The result with a note on each layer that stayed float.

    Raises:
        StageError: no layer changed.
    """
    if not content:
        reasons = "; ".join(f"{name}: {text}" for name, text in why.items()) or "no layer with weights"
        raise StageError("compile", f"no layer can be quantized ({reasons}); use fp32")
    after = Graph(content)
    if after.take_ports(before):
        if not integer_ports:
            after.make_float_ports()
        content = after.content()
    found = {after.name(weight): after.dtype(weight) for _, weight in after.layers()}
    floats = [name for name in _weights(before) if found.get(name, "FLOAT32") == "FLOAT32"]
    if found and len(floats) == len(found):
        raise StageError("compile", "ai-edge-quantizer left every layer in float32; use fp32")
    left: dict[str, list[str]] = {}
    for name in floats:
        plain = name.removesuffix(".weight")
        left.setdefault(why.get(plain, "the quantizer has no kernel for it"), []).append(plain)
    return Quantized(content, (*notes, *(f"float32, since {text}: {', '.join(names)}" for text, names in left.items())))


def _weights(graph: Graph) -> Iterator[str]:
    seen: set[int] = set()
    for _, weight in graph.layers():
        if weight not in seen:
            seen.add(weight)
            yield graph.name(weight)


def _kinds(operators: Sequence[str]) -> list[str]:
    return [kind for operator in operators for kind in OPERATORS.get(operator, ())]


def _operators(settings: Settings) -> list[str]:
    """Of the profile; without one, all that the table knows."""
    grid: Any = settings.get("grid", settings)
    found: Any = grid.get("operators", tuple(OPERATORS))
    return [str(operator) for operator in found]


def _ends(layers: Sequence[str], keep_float: str) -> list[str]:
    first = list(layers[:1]) if keep_float.startswith("first") else []
    return first + (list(layers[-1:]) if keep_float.endswith("last") else [])


def load_calibration(folder: Path) -> dict[str, Any]:
    """Input name -> rows [N, ...] of the folder's npy files, not read into memory before they are used."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
