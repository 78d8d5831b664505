"""A program that was trained with quantizers as a `.tflite` file of integer kernels on exactly the trained grids.

The quantizers stay in the program while it is converted: the converter would otherwise fold neighbouring factors, such
as those of a layer normalisation, into weights, which then lie on no grid. What training left in float behind a layer,
but LiteRT's integer kernels write as integers, gets a range from the calibration set.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoshrink.backends.base import Arrays
from autoshrink.backends.tflite_convert import convert
from autoshrink.backends.tflite_graph import Graph, Operation
from autoshrink.backends.tflite_quantize import Quantized
from autoshrink.errors import StageError

LOW, HIGH = -128, 127
LEAST_RANGE = 1e-8
FOUR_BITS = 4
CALIBRATION_ROWS = 256
"""Of the calibration set, from the first; as many as quantization without training takes unless told otherwise."""

Node = Any
"""A `torch.fx.Node`, whose arguments are typed as unions of everything."""


@dataclass(frozen=True)
class TrainedWeight:
    """A weight of the program on its grid: integers as torch has them, their scales, and the bits they were given."""

    integers: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float32]
    bits: int


def quantized_tflite(
    model: Path, layout: str, calibration: Arrays | None, batch: int, integer_ports: bool = False
) -> Quantized:
    """The integer `.tflite` of a program with quantizers.

    Args:
        model: of `autoshrink.program.write_program`.
        layout: of inputs with 4 dimensions.
        calibration: input name -> rows as the task has them; for outputs of layers whose range was not trained.
        batch: rows of one call of the program.
        integer_ports: whether what is integers at the ends stays so; else conversions from and to float stand there.

    Raises:
        StageError: of stage `compile`; the program cannot be read or converted, a range is missing, or a weight did not
            come out as it was trained.
    """
    from autoshrink.program import read_program, standard_program

    program = standard_program(read_program(model))
    graph = program.module.graph
    graph.eliminate_dead_code()
    trained = _trained(program.module)
    if not trained:
        raise StageError("compile", f"int8_static without settings is for trained quantizers; {model.name} has none")
    notes = [*_widen_activations(graph)]
    calibrated = _quantize_outputs(program, trained, calibration, batch)
    if calibrated:
        notes.append(f"range from the calibration set, not from training: the output of {', '.join(calibrated)}")
    _drop_unused_tensors(program.module)
    known = _grids(graph)
    result = Graph(convert(program, layout, static=True))
    if not integer_ports:
        result.make_float_ports()
    notes += _check_weights(result, trained)
    notes += _check_grids(result, known)
    return Quantized(result.content(), tuple(notes))


def _trained(module: Any) -> dict[str, TrainedWeight]:
    """Name of a layer in the user's model -> what its weight was trained to; the module gets it rounded.

    Else the converter would round by itself, and near the middle of two steps to the other side.
    """
    import torch

    from autoshrink.program import weight_layers

    found = {}
    for layer, product in weight_layers(module):
        back = product.args[1]
        if not _is_pair(back):
            continue
        node = back.args[0]
        parameter = operator.attrgetter(str(node.args[0].target))(module).detach()
        value = parameter.numpy()
        if _is_by_channel(node):
            tensor = operator.attrgetter(str(node.args[1].target))(module)
            scale, axis = tensor.detach().numpy().reshape(-1).astype(np.float32), int(node.args[3])
            low, high = node.args[4:6]
        else:
            scale, axis = np.array([node.args[1]], np.float32), 0
            low, high = node.args[3:5]
        along = [1] * value.ndim
        along[axis] = -1
        integers = np.clip(np.rint(value / scale.reshape(along)), low, high).astype(np.int64)
        parameter.copy_(torch.from_numpy((integers * scale.reshape(along)).astype(np.float32)))
        bits = int(high - low).bit_length()
        found[layer] = TrainedWeight(integers, scale, bits)
    return found


def _widen_activations(graph: Any) -> Iterator[str]:
    """Puts activations of fewer than 8 bits on a grid of 8 bits that holds theirs: each step becomes a power of two."""
    widened: dict[int, int] = {}
    for node in graph.nodes:
        if not _is_pair(node) or _is_by_channel(node):
            continue
        value, scale, zero, low, high, *rest = node.args
        bits = int(high - low).bit_length()
        if bits == 8 or (value.op == "get_attr" or _is_weight_back(value)):
            continue
        steps = 2 ** (8 - bits)
        node.args = (value, scale / steps, (zero - low) * steps + LOW, LOW, HIGH, *rest)
        widened[bits] = widened.get(bits, 0) + _is_quantize(node)
    for bits, count in sorted(widened.items()):
        yield f"{count} activations of {bits} bits are in int8, in finer steps of the same range"


def _quantize_outputs(
    program: Any, trained: Mapping[str, TrainedWeight], calibration: Arrays | None, batch: int
) -> list[str]:
    """Quantizes what trained layers give where training did not; the names of those layers.

    Other readers of a value that is quantized for one of them read it quantized too: the kernel writes integers only.
    """
    from autoshrink.program import weight_layers

    graph = program.module.graph
    open_ones: dict[Node, str] = {}
    for name, node in weight_layers(program.module):
        if name not in trained:
            continue
        value = _behind_rectifiers(node)
        pair = next((user for user in value.users if _is_quantize(user)), None)
        if pair is None:
            open_ones[value] = name
        else:
            back = next(iter(pair.users))
            value.replace_all_uses_with(back, delete_user_cb=lambda user, pair=pair: user is not pair)
    if not open_ones:
        return []
    for value, (low, high) in _ranges(program, open_ones, calibration, batch).items():
        scale = max(high - low, LEAST_RANGE) / (HIGH - LOW)
        _insert_pair(graph, value, scale, int(np.clip(round(LOW - low / scale), LOW, HIGH)))
    return list(open_ones.values())


def _insert_pair(graph: Any, value: Node, scale: float, zero: int) -> None:
    import torch

    ops = torch.ops.quantized_decomposed
    at = (scale, zero, LOW, HIGH, torch.int8)
    with graph.inserting_after(value):
        integers = graph.call_function(ops.quantize_per_tensor.default, (value, *at))
    with graph.inserting_after(integers):
        back = graph.call_function(ops.dequantize_per_tensor.default, (integers, *at))
    back.meta = dict(value.meta)
    value.replace_all_uses_with(back, delete_user_cb=lambda user: user is not integers)


def _ranges(
    program: Any, values: Mapping[Node, str], calibration: Arrays | None, batch: int
) -> dict[Node, tuple[float, float]]:
    """Node -> lowest and highest value on the calibration set, 0 within them."""
    import torch
    from torch import fx

    from autoshrink.onnx_graph import fixed_batches

    if not calibration:
        names = ", ".join(values.values())
        raise StageError(
            "compile",
            f"the outputs of {names} have no trained range, and integer kernels need one; give a calibration set",
        )
    found = dict.fromkeys(values, (0.0, 0.0))

    class Watch(fx.Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if n in found:
                low, high = found[n]
                found[n] = min(low, float(result.min())), max(high, float(result.max()))
            return result

    watch = Watch(program.module)
    with torch.no_grad():
        for rows in fixed_batches({name: calibration[name][:CALIBRATION_ROWS] for name in program.inputs}, batch):
            watch.run(*(torch.from_numpy(np.array(rows[name])) for name in program.inputs))
    return found


def _check_weights(graph: Graph, trained: Mapping[str, TrainedWeight]) -> list[str]:
    """Notes on containers; packs 4 bits and fewer where a kernel takes them.

    Raises:
        StageError: a trained weight is not in the file as it was trained.
    """
    notes = []
    found = {graph.name(weight).removesuffix(".weight"): (operation, weight) for operation, weight in graph.layers()}
    containers: dict[tuple[int, str], list[str]] = {}
    for layer, expected in trained.items():
        if layer not in found or graph.dtype(found[layer][1]) != "INT8":
            notes.append(f"float32, since the converter made no integer kernel of it: {layer}")
            continue
        operation, weight = found[layer]
        if operation.kind == "CONV_3D":
            raise StageError("compile", f"LiteRT has no integer kernel for the 3-D convolution {layer}; keep it float")
        grid = graph.grid(weight)
        integers = _torch_layout(graph.array(weight), operation, expected.integers.shape)
        if grid is None or not np.array_equal(integers, expected.integers) or not _same(grid[0], expected.scale):
            raise StageError("compile", f"the weight of {layer} is not in the file as it was trained")
        container = "INT8"
        # XNNPACK unpacks rows of whole bytes only.
        if expected.bits <= FOUR_BITS and operation.kind == "FULLY_CONNECTED" and graph.shape(weight)[-1] % 2 == 0:
            container = "INT4"
            graph.set_array(weight, graph.array(weight), container)
        if (expected.bits, container) not in ((8, "INT8"), (4, "INT4")):
            containers.setdefault((expected.bits, container), []).append(layer)
    untrained = [layer for layer in found if layer not in trained]
    if untrained:
        notes.append(f"float32, since training left them float: {', '.join(untrained)}")
    for (bits, container), layers in sorted(containers.items()):
        notes.append(f"{bits}-bit weights in {container.lower()}: {', '.join(layers)}")
    return notes


def _torch_layout(array: npt.NDArray[Any], operation: Operation, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A weight of the file as torch has it."""
    if array.ndim == 4:
        # [O, H, W, I] -> [O, I, H, W]; the others have the side that torch has first in the last place.
        last = operation.kind in ("DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
        array = array.transpose((3, 0, 1, 2) if last else (0, 3, 1, 2))
    return array.reshape(shape) if array.size == int(np.prod(shape)) else array


def _check_grids(graph: Graph, known: frozenset[tuple[float, int]]) -> list[str]:
    """A note on activations that are on no grid of the program."""
    strange = []
    for index in graph.tensors:
        grid = None if graph.is_constant(index) or graph.dtype(index) != "INT8" else graph.grid(index)
        if grid is not None and (float(grid[0][0]), int(grid[1][0])) not in known:
            strange.append(graph.name(index))
    return [f"range chosen by the converter: {', '.join(strange)}"] if strange else []


def _grids(graph: Any) -> frozenset[tuple[float, int]]:
    """(scale as float32, zero point) of every activation of the program."""
    return frozenset(
        (float(np.float32(node.args[1])), int(node.args[2]))
        for node in graph.nodes
        if _is_quantize(node) and not _is_by_channel(node)
    )


def _same(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> bool:
    return bool(np.array_equal(np.broadcast_to(found, expected.shape) if len(found) == 1 else found, expected))


def _behind_rectifiers(node: Node) -> Node:
    from autoshrink.techniques.quantized_graph import RECTIFIERS

    value = node
    while len(value.users) == 1 and next(iter(value.users)).target in RECTIFIERS:
        value = next(iter(value.users))
    return value


def _is_pair(node: Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "namespace", "") == "quantized_decomposed"


def _is_quantize(node: Node) -> bool:
    return _is_pair(node) and str(node.target).split(".")[1].startswith("quantize")


def _is_by_channel(node: Node) -> bool:
    return "per_channel" in str(node.target)


def _is_weight_back(node: Node) -> bool:
    return _is_quantize(node) and node.args[0].op == "get_attr"


def _drop_unused_tensors(module: Any) -> None:
    """Takes out what no node reads: unsigned zero points, which the converter cannot write, were left there."""
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_buffers(), *module.named_parameters()) if name not in read]:
        owner, _, attribute = name.rpartition(".")
        delattr(module.get_submodule(owner), attribute)
    module.recompile()
