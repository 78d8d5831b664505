"""Half-precision storage: weights lie in the file as float16 and are expanded to float32 when it is loaded."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autoshrink.errors import StageError

SMALLEST = 256
"""Elements below which a tensor stays float32: nothing to save, and biases and norms are sensitive."""

FLOAT16_MAX = float(np.finfo(np.float16).max)


def store_float16(model: onnx.ModelProto) -> None:
    """Replaces, in place, each float32 weight of 256 elements or more by a float16 one and a Cast back to float32.

    The arithmetic stays float32. ONNX Runtime folds the Cast at load, OpenVINO keeps the half-size constant in its IR.

    Raises:
        StageError: a weight is beyond the range of float16, +-65504.
    """
    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT or np.prod(initializer.dims) < SMALLEST:
            continue
        values = numpy_helper.to_array(initializer)
        finite = values[np.isfinite(values)]
        largest = float(np.abs(finite).max()) if finite.size else 0.0
        if largest > FLOAT16_MAX:
            raise StageError(
                "quantize",
                f"weight {initializer.name!r} holds {largest:.4g}; float16 ends at {FLOAT16_MAX:.0f}. "
                "Scale the layer down, or leave fp16 and bf16 out of the space.",
            )
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/float16"))
        casts.append(
            helper.make_node("Cast", [initializer.name], [name], f"{name}/Cast", to=int(onnx.TensorProto.FLOAT))
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
