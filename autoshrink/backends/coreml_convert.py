"""torch program -> Core ML package, what it became layer by layer, and the proof that its weights decode as asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoshrink.agreement import bounded_db, sqnr_db
from autoshrink.backends.base import Compiled, Source
from autoshrink.backends.coreml_audit import audit_of
from autoshrink.backends.coreml_graph import Prepared
from autoshrink.backends.coreml_package import (
    PACKAGE,
    SIGNATURE,
    NamedPort,
    Signature,
    identifiers,
    make_reproducible,
    read_program,
)
from autoshrink.backends.coreml_store import store_weights
from autoshrink.backends.coreml_vendor import quietly, vendor
from autoshrink.backends.coreml_weights import Stored
from autoshrink.errors import StageError
from autoshrink.tracing import quiet_exporter
from autoshrink.types import Figure

STAGE = "compile"
PORTS = {
    torch.float32: np.float32,
    torch.float16: np.float32,
    torch.int32: np.int32,
    torch.int64: np.int32,
}
"""What a program takes and gives for what the model does."""
DECODED_DB = {4: 120.0, 2: 50.0}
"""Bytes of a float -> least agreement of a weight as it decodes with what was to be stored. A scale in float16 is off
by up to 2^-11, which is 66 dB, and more where it is subnormal."""


def compile_package(source: Source, folder: Path) -> Compiled:
    """Writes `model.mlpackage` into `folder`.

    Raises:
        StageError: coremltools cannot convert the model, with its own reason; or the file does not decode to the
            weights that were to be stored.
    """
    prepared = Prepared(source)
    signature = _signature(prepared)
    with quietly():
        model, stored = _converted(prepared, signature, source.precision)
        folder.mkdir(parents=True, exist_ok=True)
        package = folder / PACKAGE
        model.user_defined_metadata[SIGNATURE] = signature.to_json()
        model.save(str(package))
        files = make_reproducible(package)
        _prove(package, stored, prepared)
    audit = audit_of(read_program(package), stored, prepared)
    return Compiled(files, audit, _figures(stored, prepared))


def _signature(prepared: Prepared) -> Signature:
    program = prepared.program
    with torch.no_grad():
        results = program.module(*program.example)
    named: list[tuple[NamedPort, ...]] = []
    names = identifiers([*program.inputs, *program.outputs])
    for side, values in ((program.inputs, program.example), (program.outputs, results)):
        ports = []
        for name, value in zip(side, values, strict=True):
            if value.dtype not in PORTS:
                raise StageError(
                    STAGE,
                    f"{name!r} is {str(value.dtype).removeprefix('torch.')}; Core ML takes and gives float32 and "
                    "int32: cast it in the model",
                )
            dtype = str(value.dtype).removeprefix("torch.")
            ports.append(NamedPort(name, names[name], dtype, tuple(int(size) for size in value.shape)))
        named.append(tuple(ports))
    return Signature(*named)


def _converted(prepared: Prepared, signature: Signature, precision: str) -> tuple[Any, dict[str, Stored]]:
    coremltools = vendor()
    target = {17: coremltools.target.iOS17, 18: coremltools.target.iOS18}[prepared.system]
    single = precision == "fp32"
    program = prepared.program
    inputs = [
        coremltools.TensorType(name=port.port, shape=port.shape, dtype=PORTS[example.dtype])
        for port, example in zip(signature.inputs, program.example, strict=True)
    ]
    outputs = [
        coremltools.TensorType(name=port.port, dtype=PORTS[getattr(torch, port.dtype)]) for port in signature.outputs
    ]
    try:
        with quiet_exporter():
            # The converter refuses an example that lies channels last, even where there is one channel.
            example = tuple(torch.empty(value.shape, dtype=value.dtype).copy_(value) for value in program.example)
            exported = torch.export.export(program.module, example, strict=False).run_decompositions({})
        converted = coremltools.convert(
            exported,
            inputs=inputs,
            outputs=outputs,
            minimum_deployment_target=target,
            compute_precision=coremltools.precision.FLOAT32 if single else coremltools.precision.FLOAT16,
            convert_to="milinternal",
        )
        stored = store_weights(converted, prepared.choose, prepared.system)
        model = coremltools.convert(
            converted,
            convert_to="mlprogram",
            pass_pipeline=coremltools.PassPipeline.EMPTY,
            minimum_deployment_target=target,
            skip_model_load=True,
        )
    except StageError:
        raise
    except Exception as error:
        raise StageError(STAGE, f"coremltools cannot convert the model: {_reason(error)}") from error
    return model, stored


def _prove(package: Path, stored: Mapping[str, Stored], prepared: Prepared) -> None:
    """Decodes the written file with coremltools and compares each weight with what was to be stored."""
    coremltools = vendor()
    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    plain = coremltools.optimize.coreml.decompress_weights(model)
    constants = coremltools.optimize.coreml.get_weights_metadata(plain, weight_threshold=0)
    for name, wanted in stored.items():
        if name not in constants:
            raise StageError(STAGE, f"the package has no weight {name}; this is coremltools' doing, please report it")
        found = sqnr_db(wanted.restored(), np.asarray(constants[name].val))
        if found < DECODED_DB[prepared.width]:
            layers = ", ".join(prepared.layers_of(name)) or name
            raise StageError(
                STAGE,
                f"the weight of {layers} decodes from {wanted.words} with {found:.1f} dB only; its scale is too small "
                "for float16: use fp32, or keep_float",
            )


def _figures(stored: Mapping[str, Stored], prepared: Prepared) -> dict[str, Figure]:
    count = sum(weight.data.size for weight in stored.values())
    if not count:
        return {}
    content = sum(weight.content_bits for weight in stored.values())
    figures = {"weight_bits": Figure(round(content / count, 3), "bits a weight", "the program of the package")}
    least = min((prepared.rounding_db(name, weight) for name, weight in stored.items()), default=math.inf)
    figures["weight_agreement"] = Figure(bounded_db(least), "dB", "decoded weights against torch, the worst layer")
    return figures


def _reason(error: Exception) -> str:
    """What coremltools says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__
