"""torch -> ONNX with a fixed batch, and the proof that the ONNX file computes what the torch model computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autoshrink.agreement import bounded_db, sqnr_db
from autoshrink.errors import StageError
from autoshrink.export_errors import STAGE, not_translatable, wrapped_name
from autoshrink.exporter_table import kept_table
from autoshrink.fake_quantize import translation_table, weight_quantizers
from autoshrink.measure.environment import int8_sums_saturate
from autoshrink.onnx_graph import (
    PROTOBUF_LIMIT,
    fixed_batches,
    pool_spatial_means,
    quiet_session,
    run,
    too_large,
    write_onnx,
)
from autoshrink.techniques.onnx_qdq import store_integers
from autoshrink.tracing import evaluating, quiet_exporter, run_torch, trace, try_torch

if TYPE_CHECKING:
    from autoshrink.task import Array, Arrays, Task

OPSET = 20
"""The first with Gelu as one operator. ONNX Runtime 1.31 refused some symmetric 8-bit products of opset 21."""

AGREEMENT_DB = 60.0
"""The least agreement of the ONNX file with torch; two float32 libraries agree to 100 dB and more."""

QUANTIZED_AGREEMENT_DB = 35.0
"""The same for a model with quantizers: a value that rounds to the other side of a step is a whole step away."""

PARITY_SAMPLES = 32


def export_onnx(model: nn.Module, task: Task, batch: int, out: Path) -> dict[str, Any]:
    """Writes `model` in evaluation mode as one ONNX file with `batch` rows a call, and checks it against torch.

    Batch normalisation is folded into the layer before it, means over all spatial axes become GlobalAveragePool, nodes
    bear the names of their layers. Equal models give equal bytes, and nothing in the file tells where it was made. The
    model is not changed, its training modes included.

    Args:
        model: takes the task's inputs by position; float32.
        task: gives the names, the example and the calibration samples that parity is checked on.
        batch: rows of each call, fixed in the file.
        out: the file that is written.

    Returns:
        `agreement_db`: output name -> signal to noise against torch, decibel (`inf`: equal); `max_abs`: output name ->
        largest absolute difference; `opset`; of a model with quantizers also `weight_bits`: layer -> bits.

    Raises:
        StageError: the model fails on its example, cannot be traced or written as ONNX (names layer and operator), is
            over 2 GB, or disagrees with torch.
        ConfigError: the model returns other outputs than the task names.
    """
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if weights > PROTOBUF_LIMIT:
        raise StageError(STAGE, too_large(weights))
    example = next(fixed_batches(task.example_inputs, batch))
    bits = {name: quantizer.bits for name, quantizer, _ in weight_quantizers(model)}
    with evaluating(model), torch.no_grad():
        try_torch(model, task, example)
        proto = _to_onnx(model, task, example)
        if bits:
            proto = store_integers(proto, bits)
        write_onnx(proto, out, STAGE)
        agreement_db, max_abs = _parity(model, task, batch, out)
    least = QUANTIZED_AGREEMENT_DB if bits else AGREEMENT_DB
    for name, decibel in agreement_db.items():
        if not decibel >= least:
            raise StageError(
                STAGE,
                f"output {name!r} of the ONNX file agrees with torch to {decibel:.1f} dB (largest difference "
                f"{max_abs[name]:.3g}); it must be {least:.0f} dB or more.\n"
                "Look for randomness in evaluation mode, a state kept between calls, or a layer that works in float64.",
            )
    bounded = {name: bounded_db(decibel) for name, decibel in agreement_db.items()}
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    report: dict[str, Any] = {"agreement_db": bounded, "max_abs": max_abs, "opset": opset}
    if bits:
        report["weight_bits"] = {name.removesuffix(".weight"): width for name, width in bits.items()}
    return report


def _to_onnx(model: nn.Module, task: Task, example: Arrays) -> Any:
    inputs, outputs = tuple(task.example_inputs), tuple(task.outputs)
    traced = trace(model, task, example)
    with quiet_exporter(), kept_table():
        try:
            program: Any = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                external_data=False,
                verbose=False,
                custom_translation_table=translation_table(),
            )
        except Exception as error:
            raise not_translatable(error) from error
        _name_by_layer(program.model)
        proto = program.model_proto
    pool_spatial_means(proto)
    return proto


def _name_by_layer(model: Any) -> None:
    """Names each node `layer/operator` and each value after its node, in place of the exporter's numbers."""
    fixed = {*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()}
    taken = {value.name for value in fixed}
    for initializer in list(model.graph.initializers.values()):
        name = initializer.name.removeprefix("model.")
        if name not in taken:
            taken.add(name)
            initializer.name = name
    for node in model.graph.all_nodes():
        # The innermost module is the one before last: `: Wrapper/model: Net/model.fc: Linear/linear: aten.linear`.
        scopes = [part.partition(":")[0] for part in node.metadata_props.get("namespace", "").split("/")]
        layer = wrapped_name(scopes[-2]) if len(scopes) > 1 else ""
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        # A folded normalisation leaves its own name on the convolution; the weight still has the convolution's.
        if weight is not None and weight.is_initializer():
            if weight.name.endswith(".weight"):
                layer = weight.name.removesuffix(".weight")
            elif layer and node.op_type == "MatMul" and f"{layer}.weight" not in taken:
                # The exporter transposed the weight of a linear layer and gave it a number for a name.
                weight.name = f"{layer}.weight"
                taken.add(weight.name)
        stem = f"{layer}/{node.op_type}" if layer else node.op_type
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        node.name = name
        for index, value in enumerate(node.outputs):
            if value not in fixed:
                value.name = f"{name}:{index}" if index else name


def _parity(model: nn.Module, task: Task, batch: int, out: Path) -> tuple[dict[str, float], dict[str, float]]:
    # The file is judged, not this processor, whose sums may overflow where those of the target do not.
    session = quiet_session(out, in_float=int8_sums_saturate())
    samples = {
        name: np.concatenate([example, task.calibration[name][:PARITY_SAMPLES]])
        for name, example in task.example_inputs.items()
    }
    expected: dict[str, list[Array]] = {name: [] for name in task.outputs}
    actual: dict[str, list[Array]] = {name: [] for name in task.outputs}
    for rows in fixed_batches(samples, batch):
        results = run(session, rows)
        for name, reference in run_torch(model, rows, tuple(task.outputs)).items():
            expected[name].append(reference)
            actual[name].append(results[name])
    decibel, largest = {}, {}
    for name in task.outputs:
        reference, other = np.stack(expected[name]), np.stack(actual[name])
        decibel[name] = sqnr_db(reference, other)
        difference = np.abs(reference.astype(np.float64) - other.astype(np.float64))
        largest[name] = float(difference.max()) if difference.size else 0.0
    return decibel, largest
