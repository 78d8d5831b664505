"""The range of values that each activation of a float `.tflite` takes on a set of samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoshrink.backends.base import Arrays
from autoshrink.backends.tflite_convert import quiet
from autoshrink.backends.tflite_graph import Graph
from autoshrink.errors import StageError

METHODS = ("minmax", "percentile")


def collect_ranges(content: bytes, samples: Arrays, batch: int, method: str) -> dict[str, tuple[float, float]]:
    """Runs the file on all of `samples`: tensor name -> lowest and highest value of each float32 activation.

    What goes beyond all bounds, such as a masked attention score, has none.

    Args:
        content: of a float `.tflite` file with a signature.
        samples: input name -> [N, ...]; an incomplete last call is filled up with the first rows again.
        batch: rows of a call.
        method: `minmax`, or `percentile`: without the tails that `autoshrink.techniques.calibrate` cuts off.

    Raises:
        StageError: of stage `compile`; an activation is NaN, or the samples are not what the file takes.
    """
    from autoshrink.onnx_graph import fixed_batches
    from autoshrink.techniques.calibrate import UNBOUNDED, histogram, spread, tail_range

    if method not in METHODS:
        raise StageError("compile", f"calibration is {method!r}; LiteRT has {' and '.join(METHODS)}")
    graph = Graph(content)
    inputs = graph.ports()[0]
    if set(samples) != set(inputs):
        raise StageError("compile", f"the calibration set has inputs {sorted(samples)}; the model {sorted(inputs)}")
    if not len(next(iter(samples.values()))):
        raise StageError("compile", "the calibration set has no rows; quantization needs some hundred")
    interpreter = _observed(content)
    watched = {index: graph.name(index) for index in graph.tensors if _is_float(graph, index)}
    ranges: dict[int, tuple[float, float]] = {}
    counts: dict[int, Any] = {}
    for step in range(1 + (method == "percentile")):
        for rows in fixed_batches(samples, batch):
            for name, array in rows.items():
                interpreter.set_tensor(inputs[name], array)
            interpreter.invoke()
            for index, name in watched.items():
                values = interpreter.get_tensor(index)
                if not values.size:
                    continue
                if step:
                    counts[index] = counts.get(index, 0) + histogram(spread(values), *ranges[index])
                    continue
                low, high = float(values.min()), float(values.max())
                if np.isnan(low):
                    raise StageError("compile", f"{name!r} is NaN on a calibration sample; outputs must be finite")
                before = ranges.get(index, (low, high))
                ranges[index] = min(low, before[0]), max(high, before[1])
    bounded = {index: ends for index, ends in ranges.items() if max(map(abs, ends)) <= UNBOUNDED}
    if method == "percentile":
        bounded = {index: tail_range(counts[index], *ends) for index, ends in bounded.items()}
    return {watched[index]: ends for index, ends in bounded.items()}


def _observed(content: bytes) -> Any:
    """An interpreter that keeps every tensor, without XNNPACK, which does not."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with quiet():
        interpreter = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    return interpreter


def _is_float(graph: Graph, index: int) -> bool:
    return graph.dtype(index) == "FLOAT32" and not graph.is_constant(index)
