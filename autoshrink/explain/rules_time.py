"""Rules on where the time goes: outside the kernels, into conversions, into memory, into what is too small."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from autoshrink.explain.findings import NOT_KNOWN, Change, Expected, Finding, counted
from autoshrink.explain.known import Known, KnownLayer

SMALL_MS = 0.05
"""Calls of ONNX Runtime under this were seen to be slower in int8 than in fp32."""
OVERHEAD_SHARE = 0.25
CONVERSION_SHARE = 0.05
MEMORY_SHARE = 0.05
"""Least share of a call that a layer must have to be worth a finding."""
SLOW_RATE = 0.5
BUSY_MEMORY = 0.5
LEAST_KERNELS = 4
LEAST_BYTES = 256 * 1024
"""Moved by a layer, for it to wait for memory: less than this is in the caches of its core."""
LAYOUT = ("Reorder", "ReorderInput", "ReorderOutput", "Transpose", "TRANSPOSE", "permute_copy.out")
"""Kinds of kernels that change the layout only: the runtime's own, which nobody can take out."""


def small_model(known: Known) -> list[Finding]:
    """Quantizing and dequantizing, and a kernel's fixed cost, are more than what 8-bit arithmetic saves."""
    call_ms = known.profile.call_ms
    is_int8 = any(layer.is_int8 for layer in known.layers)
    if known.backend not in ("onnxruntime", "openvino") or not is_int8 or call_ms is None or call_ms >= SMALL_MS:
        return []
    converting = sum(each.ms or 0.0 for each in known.kernels if each.is_conversion)
    change = Change("file", "float_form")
    if known.recipe is not None:
        name = "qat" if known.recipe.settings("qat") else "quantize"
        change = Change("recipe", name)
    return [
        Finding(
            "small_model",
            (),
            f"a call takes {call_ms:.3f} ms, and it is quantized",
            f"under some {SMALL_MS} ms int8 was seen to be slower than fp32: fixed costs of kernels outweigh their "
            "arithmetic, and there are more of them",
            "keep it in float where time is the aim; int8 still makes the file smaller",
            call_ms,
            change,
            Expected(None, f"not known; the conversions alone take {converting:.4f} ms of it"),
        )
    ]


def fixed_overhead(known: Known) -> list[Finding]:
    """Time of a call that no kernel has: the runtime's own, the same for every model."""
    overhead, call_ms = known.overhead_ms, known.profile.call_ms
    if overhead is None or not call_ms or overhead < OVERHEAD_SHARE * call_ms:
        return []
    share = overhead / call_ms
    return [
        Finding(
            "fixed_overhead",
            (),
            f"{overhead:.3f} ms of {call_ms:.3f} ms a call ({100 * share:.0f} %) are outside every kernel",
            "the runtime takes it for each call, whatever the model: no compression makes it smaller",
            "several rows a call (batch in the target) where throughput is the aim, or a runtime with a cheaper call",
            overhead,
            None,
            Expected(overhead / 2, f"a row, with 2 rows a call instead of 1; with n rows {overhead:.3f} ms / n")
            if known.batch == 1
            else Expected(None, f"the {known.batch} rows of a call share it already"),
        )
    ]


def conversions(known: Known) -> list[Finding]:
    """Q/DQ and casts that are not at the model's own inputs and outputs; changes of layout are the runtime's own."""
    found = [kernel for kernel in known.conversions if kernel.kind.partition(" (")[0] not in LAYOUT]
    times = [kernel.ms for kernel in found if kernel.ms is not None]
    ms = sum(times) if times else None
    share = known.share(ms)
    if not found or (share is not None and share < CONVERSION_SHARE) or (share is None and len(found) < LEAST_KERNELS):
        return []
    if not any(layer.graph and layer.graph.is_integer for layer in known.layers) and known.precision == "fp32":
        # Of a float model they are casts that its author put there.
        return []
    kinds = sorted({kernel.kind for kernel in found})
    recipe = (known.recipe.settings("quantize") or {}) if known.recipe else {}
    change = Change("recipe", "quantize.keep_float", "none") if recipe.get("keep_float", "none") != "none" else None
    return [
        Finding(
            "conversions",
            tuple(kernel.name for kernel in found),
            f"{len(found)} conversions inside the model ({', '.join(kinds)})"
            + (f" take {100 * share:.0f} % of a call" if share is not None else ""),
            "each stands where integers meet float: between a layer in 8 bit and one in float",
            "mend the layers that stay in float first; quantize the element-wise operators between 8-bit layers too "
            "(operators in the target)",
            ms,
            change,
            Expected(ms, "all of them gone, which is the most it can be")
            if ms is not None
            else Expected(None, NOT_KNOWN),
        )
    ]


def memory_bound(known: Known) -> list[Finding]:
    """Layers whose time goes with the bytes that they move, and not with their arithmetic.

    The machine's balance is estimated from the profile itself: the best rate of arithmetic that a layer of the same
    precision reaches, and the most bytes a millisecond that any layer moves. Both are lower bounds of what the
    machine can do (roofline model, Williams, Waterman and Patterson 2009).
    """
    told = [layer for layer in known.layers if layer.macs and layer.bytes_moved and layer.ms]
    if len(told) < 3:
        return []
    speed = max((layer.bytes_moved or 0) / (layer.ms or 1.0) for layer in told)
    found: list[KnownLayer] = []
    for layer in told:
        macs, moved, ms = layer.macs or 0, layer.bytes_moved or 1, layer.ms or 1.0
        peak = max((e.macs or 0) / (e.ms or 1.0) for e in told if e.precision == layer.precision)
        is_slow = macs / ms < SLOW_RATE * peak
        is_busy = moved / ms >= BUSY_MEMORY * speed
        if (
            moved >= LEAST_BYTES
            and macs / moved < peak / speed
            and is_slow
            and is_busy
            and (known.share(ms) or 0.0) >= MEMORY_SHARE
        ):
            found.append(layer)
    if not found:
        return []
    heavy = [layer for layer in found if layer.graph and 2 * layer.graph.weight_bytes > (layer.bytes_moved or 0)]
    saving = sum(_smaller(layer) for layer in heavy)
    change = None
    if (
        heavy
        and known.recipe is not None
        and not known.recipe.settings("quantize")
        and not known.recipe.settings("qat")
    ):
        wanted = "int8_weights" if "int8_weights" in known.precisions else ""
        change = Change("recipe", "quantize.scheme", wanted) if wanted else None
    return [
        Finding(
            "memory_bound",
            tuple(layer.name for layer in found),
            f"{counted(len(found), 'layer')} waiting for memory: few multiplications for each byte they move",
            f"judged by this profile: no layer moves more than {speed / 1e6:.1f} GB/s, and the best layer of their "
            "precision multiplies over twice as fast",
            "fewer bytes: weights of 8 or 4 bits, several rows a call; pruning helps with the bytes it removes",
            sum(layer.ms or 0.0 for layer in found),
            change,
            Expected(saving, "8-bit weights in the place of these, if time goes with bytes: the most it can be")
            if heavy
            else Expected(None, NOT_KNOWN),
        )
    ]


def small_kernels(known: Known) -> list[Finding]:
    """Layers whose kernel takes about what the cheapest kernels of this profile take: nothing is left to gain."""
    times = sorted(kernel.ms for kernel in known.kernels if kernel.ms is not None)
    told = [layer for layer in known.layers if layer.ms is not None]
    if len(times) < LEAST_KERNELS or len(told) < 2:
        return []
    least = median(times[: max(1, len(times) // 4)])
    found = [layer for layer in told if (layer.ms or 0.0) <= 1.5 * least and layer.ms]
    if not found or len(found) == len(told):
        return []
    return [
        Finding(
            "small_kernels",
            tuple(layer.name for layer in found),
            f"{counted(len(found), 'layer')} no dearer than the cheapest kernels ({least:.4f} ms)",
            "a kernel has a fixed cost, and these are little more than that",
            "leave them as they are: compressing them makes the file smaller and nothing faster",
            sum(layer.ms or 0.0 for layer in found),
            None,
            Expected(None, "nothing"),
        )
    ]


RULES: tuple[Callable[[Known], list[Finding]], ...] = (
    small_model,
    fixed_overhead,
    conversions,
    memory_bound,
    small_kernels,
)


def _smaller(layer: KnownLayer) -> float:
    """Milliseconds less with weights of 8 bits, if time goes with bytes."""
    assert layer.graph is not None  # noqa: S101 - chosen so
    eight = layer.graph.weight_bytes / {"fp32": 4, "fp64": 8, "fp16": 2, "bf16": 2}.get(layer.graph.stored, 1)
    moved = layer.bytes_moved or 1
    return (layer.ms or 0.0) * (layer.graph.weight_bytes - eight) / moved
