"""Weights of 7 bits for targets whose 8-bit kernels are right only for those; see docs/decisions/0012."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from autoshrink.backends.base import INT8_SATURATES
from autoshrink.target import Target
from autoshrink.types import Choice, Space

INTEGERS = ("int8_static", "int8_dynamic")
"""Precisions whose kernels multiply 8-bit weights with 8-bit activations."""
NARROW: Final = 7


def with_exact_sums(target: Target, capabilities: frozenset[str]) -> Target:
    """The target whose integer weights have 7 bits where its runtime's kernels would overflow with 8.

    A profile that gives `weight_bits` keeps what it says.

    Args:
        target: of a profile.
        capabilities: what its runtime reports on its device.
    """
    if INT8_SATURATES not in capabilities:
        return target
    return replace(
        target,
        precisions={
            name: replace(precision, weight_bits=NARROW)
            if name in INTEGERS and precision.weight_bits is None
            else precision
            for name, precision in target.precisions.items()
        },
    )


def narrowed(target: Target, adapted: Target, space: Space) -> str:
    """The precisions of a space, with commas between, that `with_exact_sums` changed; empty when it is none of them."""
    before = {str(name): precision for name, precision in target.precisions.items()}
    changed = [str(name) for name, precision in adapted.precisions.items() if precision != before[str(name)]]
    schemes = space.techniques.get("quantize", {"scheme": Choice(())}).get("scheme", Choice(("int8_static",)))
    asked = set(schemes.values) if isinstance(schemes, Choice) else set()
    if "qat" in space.techniques:
        asked.add("int8_static")
    return ", ".join(name for name in changed if name in asked)


def why(precisions: str) -> str:
    """What a user is told of it.

    Args:
        precisions: as `narrowed` gives them; not empty.
    """
    return (
        "on a processor without VNNI this runtime adds pairs of 8-bit products in 16 bits, which overflow; weights of "
        f"{precisions} keep 7 bits, whose sums are exact (weight_bits: 8 in the profile would keep 8)"
    )
