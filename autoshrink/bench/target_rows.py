"""What the benchmark of the targets tries, and one result of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autoshrink.types import Outcome, Recipe, TrialRecord

TARGETS = (
    *("onnxruntime-cpu", "openvino-cpu", "tflite-mobile", "executorch-mobile", "browser-wasm"),
    *("coreml-iphone", "tensorrt-gpu", "tensorrt-rtx-sm86", "tensorrt-rtx-sm89", "tensorrt-rtx-sm120"),
    "microcontroller",
)
CNN, EFFICIENTNET = "cnn", "efficientnet-lite0"
MODELS = (CNN, EFFICIENTNET)
FLOAT = "fp32"


def _quantize(scheme: str) -> Recipe:
    return Recipe.from_json([{"technique": "quantize", "scheme": scheme}])


_SHARED: Mapping[str, Recipe] = {FLOAT: Recipe(), "fp16": _quantize("fp16"), "int8": _quantize("int8_static")}
_QAT = Recipe.from_json([{"technique": "qat", "epochs": 1.0, "weight_bits": 4}])
VARIANTS: Mapping[str, Mapping[str, Recipe]] = {
    # Trained. For the other there is no training set: only the weights of its products become integers of 4 bits.
    CNN: {**_SHARED, "4-bit": _QAT},
    EFFICIENTNET: {**_SHARED, "4-bit": _quantize("int4_weights")},
}
"""Model -> variant -> recipe, the baseline first."""


@dataclass(frozen=True)
class Row:
    """A variant of a model on a target. What was not measured is None, and `reason` says why.

    Attributes:
        size_bytes: of the files that ship.
        latency_ratio: to the fp32 artifact of the same runtime, interleaved; `latency_ratio_ci` its 95 % interval.
        latency_ratio_to_ort_fp32: milliseconds to those of ONNX Runtime's fp32 artifact, which was timed alone before
            and after; not interleaved, since a process holds one runtime.
        accuracy: on the test split, where it has labels.
        top1_agreement: on the test split with the top class of the float model, where it has none.
        agreement_db: of the artifact's outputs with the recipe's torch model in float, decibel.
        low_precision_layers: of `layers` with weights, those that do not calculate or store in fp32.
        figures: name -> value, what the backend found beside them, in the units of `figure_units`; `estimates` names
            those that are estimates.
    """

    model: str
    target: str
    variant: str
    size_bytes: int | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    latency_ratio_ci: tuple[float, float] | None = None
    latency_ratio_to_ort_fp32: float | None = None
    accuracy: float | None = None
    top1_agreement: float | None = None
    agreement_db: float | None = None
    low_precision_layers: int | None = None
    layers: int | None = None
    compile_seconds: float | None = None
    figures: Mapping[str, float] | None = None
    figure_units: Mapping[str, str] = field(default_factory=dict)
    estimates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """The inverse of `to_json`.

        Raises:
            TypeError: a field is missing or unknown.
        """
        interval = data["latency_ratio_ci"]
        return cls(
            **{
                **data,
                "latency_ratio_ci": tuple(interval) if interval else None,
                "estimates": tuple(data["estimates"]),
                "notes": tuple(data["notes"]),
            }
        )


def row_of(record: TrialRecord, model: str, variant: str, ort_ms: float | None) -> Row:
    """The row of a record whose test split is scored where the target can; `ort_ms` of ONNX Runtime's fp32 artifact."""
    if record.artifact is None:
        return Row(model, record.target, variant, reason=record.reason or record.outcome.value)
    latency, audit, test = record.latency, record.audit, record.test
    labelled = model == CNN
    return Row(
        model,
        record.target,
        variant,
        size_bytes=record.artifact.size_bytes,
        latency_ms=latency.ms if latency else None,
        latency_ratio=latency.ratio if latency else None,
        latency_ratio_ci=(latency.ratio_ci.low, latency.ratio_ci.high) if latency else None,
        latency_ratio_to_ort_fp32=latency.ms / ort_ms if latency and ort_ms else None,
        accuracy=test.value if test and labelled else None,
        top1_agreement=test.value if test and not labelled else None,
        agreement_db=record.agreement_db,
        low_precision_layers=sum(layer.precision != FLOAT for layer in audit.layers) if audit else None,
        layers=len(audit.layers) if audit else None,
        compile_seconds=round(record.seconds["compile"], 2) if "compile" in record.seconds else None,
        figures={name: figure.value for name, figure in record.figures.items()},
        figure_units={name: figure.unit for name, figure in record.figures.items()},
        estimates=tuple(name for name, figure in record.figures.items() if figure.estimate),
        notes=audit.notes if audit else (),
        reason="" if record.outcome is Outcome.COMPLETE and latency else record.reason,
    )
