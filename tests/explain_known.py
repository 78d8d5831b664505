"""Hand-made knowledge of artifacts, for the rules of `explain`: every figure in it is invented, and known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autoshrink.explain.graph import FileGraph, GraphLayer
from autoshrink.explain.known import Known
from autoshrink.types import Kernel, Profile

CONV = GraphLayer("conv", "conv", "Conv", "int8", (32, 32, 3, 3), 9_000_000, 32, 32, 9216, 50_000, "uint8", "int32")


def layer(name: str, **changes: Any) -> GraphLayer:
    """A convolution of 9 million products in static int8, with changes."""
    return replace(CONV, name=name, **changes)


def kernel(name: str, kind: str, precision: str = "", ms: float | None = 1.0, **changes: Any) -> Kernel:
    """A kernel of 1 ms; one that has a precision carries weights."""
    return Kernel(name, kind, precision, ms, has_weights=bool(precision), **changes)


def conversion(name: str, kind: str = "QuantizeLinear", ms: float | None = 0.5) -> Kernel:
    """A kernel that only converts."""
    return Kernel(name, kind, ms=ms, is_conversion=True)


def known(
    layers: list[GraphLayer],
    kernels: list[Kernel],
    call_ms: float | None = None,
    backend: str = "onnxruntime",
    **more: Any,
) -> Known:
    """Of a file on ONNX Runtime, unless told otherwise; a call takes what its kernels take."""
    total = sum(each.ms or 0.0 for each in kernels)
    profile = Profile(tuple(kernels), total if call_ms is None else call_ms, 10, "invented")
    edges = more.pop("edges", ())
    unpacks = more.pop("unpacks", ())
    return Known(backend, profile, graph=FileGraph(tuple(layers), frozenset(edges), tuple(unpacks)), **more)
