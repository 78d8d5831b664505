"""What the processor that runs the tests does with 8-bit integers, for tests on real kernels."""

from __future__ import annotations

from autoshrink.backends.base import INT8_SATURATES
from autoshrink.measure.environment import int8_sums_saturate
from autoshrink.search.weight_range import with_exact_sums
from autoshrink.target import Target

SATURATES = int8_sums_saturate()
WEIGHT_BITS = 7 if SATURATES else 8
"""Of the integers of a weight with which native x86 kernels compute exactly here."""
LARGEST_WEIGHT = 64 if SATURATES else 127


def for_kernels_here(target: Target) -> Target:
    """A target of ONNX Runtime or OpenVINO as a search on this processor would have it."""
    return with_exact_sums(target, frozenset({INT8_SATURATES} if SATURATES else ()))
