"""The kernels of one call of an ExecuTorch program, as the runtime's own event trace names them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from autoshrink.backends.executorch_trace import Event, events
from autoshrink.types import LOW_BIT_WEIGHTS, Audit, Kernel, Layer

WEIGHT_KERNELS = ("Convolution", "Deconvolution", "Fully Connected")
"""XNNPACK's kernels that have weights."""
PORTABLE_WEIGHT_KERNELS = ("convolution.out", "linear.out", "addmm.out", "mm.out")
PORTABLE_CASTS = ("_to_dim_order_copy.out", "_to_copy.out")
PORTABLE = "native_call_"
"""What the trace puts before kernels outside every delegate."""
EXECUTE = "Execute"


def kernels_of(trace: bytes) -> list[str]:
    """The kernels of the last call in an event trace; those outside XNNPACK begin with `PORTABLE`.

    Raises:
        ValueError: the trace is damaged.
    """
    runs = runs_of(trace)
    return [event.name for event in runs[-1]] if runs else []


def runs_of(trace: bytes) -> list[list[Event]]:
    """The kernels of each call in an event trace, with the ticks that they took.

    Raises:
        ValueError: the trace is damaged.
    """
    return [
        [event for event in found if "(" in event.name or event.name.startswith(PORTABLE)]
        for run, found in events(trace)
        if run == EXECUTE
    ]


def profile_of(
    runs: Sequence[Sequence[Event]], layers: Sequence[str], permutations: int, portable_precision: str
) -> tuple[Kernel, ...]:
    """The kernels of one call, with the median of their times over the calls `runs`; the rest as in `audit_of`.

    Ticks are nanoseconds: that of the clock which the runtime's Python bindings are built with.
    """
    names = [event.name for event in runs[-1]]
    own = iter(audit_of(names, layers, permutations, portable_precision).layers)
    same = [run for run in runs if [event.name for event in run] == names]
    found = []
    for place, name in enumerate(names):
        layer = next(own) if _has_weights(name) else None
        kind = _kind(name)
        found.append(
            Kernel(
                layer.name if layer else kind.removesuffix(".out"),
                name if "(" in name else kind,
                layer.precision if layer else _precision(name),
                float(np.median([run[place].ticks for run in same])) / 1e6,
                has_weights=layer is not None,
                is_conversion=kind in ("Convert", "Transpose", "permute_copy.out", *PORTABLE_CASTS),
            )
        )
    return tuple(found)


def audit_of(kernels: Sequence[str], layers: Sequence[str], permutations: int, portable_precision: str) -> Audit:
    """The audit of the kernels of one call.

    Args:
        kernels: such as `Convolution (NHWC, QC8) IGEMM #1` or `native_call_native_layer_norm.out`.
        layers: names in the user's model of the layers whose kernels these are, in their order.
        permutations: that the model asks for; the other transposes change the layout for XNNPACK.
        portable_precision: of the arithmetic outside XNNPACK.
    """
    weights = [kernel for kernel in kernels if _has_weights(kernel)]
    notes = []
    if len(weights) == len(layers):
        names = list(layers)
    else:
        names = [f"kernel {number}" for number in range(len(weights))]
        notes.append(f"{len(weights)} kernels have weights and {len(layers)} layers: which is which is not known")
    found = tuple(
        Layer(name, _kind(kernel), _precision(kernel) or portable_precision)
        for name, kernel in zip(names, weights, strict=True)
    )
    kinds = Counter(_kind(kernel) for kernel in kernels)
    conversions = kinds["Convert"] + sum(kinds[cast] for cast in PORTABLE_CASTS)
    conversions += max(0, kinds["Transpose"] + kinds["permute_copy.out"] - permutations)
    portable = Counter(_kind(kernel).removesuffix(".out") for kernel in kernels if kernel.startswith(PORTABLE))
    if portable:
        listed = ", ".join(f"{count} {name}" if count > 1 else name for name, count in sorted(portable.items()))
        notes.append(f"not fully accelerated: outside XNNPACK run {listed}")
    return Audit(found, conversions, len(kernels), tuple(notes))


def _has_weights(kernel: str) -> bool:
    return _kind(kernel) in (*WEIGHT_KERNELS, *PORTABLE_WEIGHT_KERNELS)


def _kind(kernel: str) -> str:
    """`Convolution` of an XNNPACK kernel, `native_layer_norm.out` of another."""
    if kernel.startswith(PORTABLE):
        return kernel.removeprefix(PORTABLE)
    return kernel.partition(" (")[0]


def _precision(kernel: str) -> str:
    """What an XNNPACK kernel multiplies in, by the types in its name: `(NHWC, QC8)`, `(NC, QDU8, F32, QC8W)`."""
    described = re.search(r"\((.+?)\)", kernel)
    types = described.group(1).split(", ")[1:] if described else []
    if any(name.endswith(("4W", "C4", "B4")) for name in types):
        return LOW_BIT_WEIGHTS
    if any(name.startswith("Q") for name in types):
        return "int8"
    return {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}.get(types[0], types[0].lower()) if types else ""
