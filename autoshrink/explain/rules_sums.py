"""A rule on what is not slow but wrong: 8-bit sums that overflow."""

from __future__ import annotations

from collections.abc import Callable

from autoshrink.backends.base import INT8_SATURATES
from autoshrink.explain.findings import Change, Expected, Finding, counted
from autoshrink.explain.known import Known, KnownLayer

EXACT = 64
"""Largest weight with which two products with 255 fit into 16 bits."""


def saturating_sums(known: Known) -> list[Finding]:
    """Layers whose sums may overflow, on a processor that adds pairs of 8-bit products in 16 bits."""
    found = [layer for layer in known.layers if _overflows(layer)] if INT8_SATURATES in known.capabilities else []
    if not found:
        return []
    is_listed = not known.is_file and known.precision in known.precisions
    return [
        Finding(
            "saturating_sums",
            tuple(layer.name for layer in found),
            f"{counted(len(found), 'layer')} with 8-bit weights beyond {EXACT}: their sums may overflow here",
            "without VNNI, kernels on x86 add two products of an 8-bit activation and weight in 16 bits, and cut the "
            "sum off at 32767: outputs are wrong, not slow; on other processors the same file is right",
            "give weights 7 bits (-64 to 64): weight_bits: 7 in a profile, reduce_range of ONNX Runtime's quantizers",
            None,
            Change("target", f"precisions.{known.precision}.weight_bits", 7) if is_listed else None,
            Expected(None, "no time: other outputs"),
        )
    ]


def _overflows(layer: KnownLayer) -> bool:
    graph = layer.graph
    # Depthwise kernels were seen to be exact.
    if graph is None or graph.kind == "depthwise" or not graph.activation or not layer.is_int8:
        return False
    return graph.largest_weight is not None and graph.largest_weight > EXACT


RULES: tuple[Callable[[Known], list[Finding]], ...] = (saturating_sums,)
