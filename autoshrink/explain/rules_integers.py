"""Rules on layers that the file has in integers and the runtime runs in float, or slower than it could."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoshrink.explain.findings import NOT_KNOWN, Change, Expected, Finding, counted
from autoshrink.explain.known import Known, KnownLayer
from autoshrink.types import FLOAT_PRECISIONS

ONNX = ("onnxruntime", "browser")
SIGNED = "unsigned_activations"
BIAS = "integer_bias"
WIDEN = "int8_weights"
FUSION = "fuse_matmul_add"
FLOAT_DEPTHWISE = "float_depthwise"


def signed_activations(known: Known) -> list[Finding]:
    """ONNX Runtime on x86 has its fast kernels for unsigned activations.

    With signed ones a convolution before a ReLU stays in float (Conv and ReLU are fused before integers are looked
    for), and those that run in 8 bit run in a slower kernel.
    """
    if known.backend not in ONNX:
        return []
    found = [layer for layer in known.layers if layer.graph and layer.graph.activation == "int8"]
    if not found:
        return []
    floats = [layer for layer in found if not layer.is_int8]
    key = f"precisions.{known.precision if known.precision in known.precisions else 'int8_static'}.activations"
    change = Change("file", SIGNED) if known.is_file else Change("target", key, "uint8")
    basis = "seen on another machine, whole CNNs: .91 of fp32's time signed, .18 unsigned; not known for this one"
    return [
        Finding(
            "signed_activations",
            _names(found),
            f"activations are signed (int8): {len(floats)} of {len(found)} such layers run in float",
            "this runtime's 8-bit kernels on x86 want unsigned activations: with signed ones it leaves convolutions "
            "before a ReLU in float, and runs the others in a slower kernel",
            "use uint8 activations: zero point + 128, or the same scale and zero point 0 behind a ReLU",
            _ms(found),
            change,
            _as_int8(known, floats, basis),
        )
    ]


def float_bias(known: Known) -> list[Finding]:
    """A Gemm with integer weights becomes an integer kernel only with a bias of 32 bits in the product's scale."""
    if known.backend not in ONNX:
        return []

    def lacks(layer: KnownLayer) -> bool:
        graph = layer.graph
        if graph is None or graph.operator != "Gemm" or graph.is_requantized or graph.activation == "int8":
            return False
        return graph.bias == "float" or not graph.has_zero_point

    found = [layer for layer in _fallen(known) if lacks(layer)]
    if not found:
        return []
    return [
        Finding(
            "float_bias",
            _names(found),
            f"{_count(found)} with 8-bit weights in float: the bias is float, or weights have no zero point",
            "without an output in integers, the runtime makes an integer Gemm only of a bias in 32-bit integers with "
            "the scale of input x weight, and of weights whose DequantizeLinear has a zero point",
            "store the bias as int32 with scale input x weight, and give the weights a zero point of 0",
            _ms(found),
            Change("file", BIAS) if known.is_file else None,
            _as_int8(known, found),
        )
    ]


def matmul_add_fusion(known: Known) -> list[Finding]:
    """MatMul + Add are fused to a Gemm before integers are looked for, and that Gemm has a float bias."""
    if known.backend not in ONNX:
        return []
    found = [
        layer for layer in _fallen(known) if layer.graph and layer.graph.operator == "MatMul" and layer.graph.then_adds
    ]
    found = [layer for layer in found if layer.kernel is not None and "Gemm" in layer.kernel.kind]
    if not found or known.options.get(FUSION) == "off":
        return []
    return [
        Finding(
            "matmul_add_fusion",
            _names(found),
            f"{_count(found)} with 8-bit weights in float arithmetic: MatMul + Add were fused to a Gemm",
            "the fusion comes first and makes a Gemm with a float bias, for which there is no integer kernel; the "
            "weights are then unpacked in each call",
            'load the file with the optimizer "MatMulAddFusion" disabled',
            _ms(found),
            Change("target", f"options.{FUSION}", "off"),
            _as_int8(known, found),
        )
    ]


def int4_convolution(known: Known) -> list[Finding]:
    """No runtime here has a convolution on 4-bit weights: it unpacks them in each call, or leaves its fast kernels."""
    found = [
        layer
        for layer in known.layers
        if layer.graph
        and layer.graph.kind != "linear"
        and layer.graph.stored in ("int4", "uint4", "int2")
        and (layer.graph.packs_weights or known.backend == "litert")
    ]
    if not found or known.backend not in (*ONNX, "litert"):
        return []
    seen = (
        "seen on another machine: 12 times float32's time on a CNN with weight-only int4"
        if known.backend == "litert"
        else ""
    )
    return [
        Finding(
            "int4_convolution",
            _names(found),
            f"{_count(found)} with 4-bit weights, for which there is no convolution kernel",
            "the weights are unpacked in each call and multiplied in float, or by a slow kernel",
            "store the same values as int8 weights; in ONNX by a Cast, which keeps the file small: it is done "
            "once, at load",
            _ms(found),
            Change("file", WIDEN) if known.is_file else None,
            _as_int8(known, found, seen or NOT_KNOWN),
        )
    ]


def dynamic_depthwise(known: Known) -> list[Finding]:
    """LiteRT has no fast kernel for depthwise convolutions of a float input with integer weights."""
    if known.backend != "litert":
        return []
    found = [
        layer
        for layer in known.layers
        if layer.graph and layer.graph.kind == "depthwise" and layer.graph.activation == "dynamic"
    ]
    if not found:
        return []
    change = Change("file", FLOAT_DEPTHWISE)
    if not known.is_file:
        change = Change("recipe", "quantize.scheme", "int8_static")
    return [
        Finding(
            "dynamic_depthwise",
            _names(found),
            f"{_count(found)} of depthwise convolution with 8-bit weights and a float input",
            "XNNPACK has no kernel for that: it leaves them to LiteRT's own, which rounds the input in each call",
            "keep depthwise layers in float, or quantize activations too (static int8)",
            None,
            change,
            Expected(None, "not known for this file: no times; seen: 5.6 times float32's time on a MobileNet-like CNN"),
        )
    ]


def float_fallback(known: Known) -> list[Finding]:
    """What else has integers in the file and runs in float, the cause not being one of the others."""
    named: set[str] = set()
    for rule in (signed_activations, float_bias, matmul_add_fusion, int4_convolution, dynamic_depthwise):
        named.update(name for finding in rule(known) for name in finding.layers)
    found = [layer for layer in _fallen(known) if layer.name not in named]
    wide = [layer for layer in found if layer.graph and layer.graph.activation in ("int16", "uint16")]
    float_input = [layer for layer in found if layer.graph and not layer.graph.activation]
    others = [layer for layer in found if layer not in wide and layer not in float_input]
    causes: tuple[tuple[Sequence[KnownLayer], str, str], ...] = (
        (wide, "its activations have 16 bits, for which there is no integer kernel", "use 8-bit activations"),
        (
            float_input,
            "only its weights are integers: the input is float, so the arithmetic is too",
            "quantize activations as well (static int8) where time is the aim; this saves bytes only",
        ),
        (
            others,
            "why is not known",
            "compare it with a layer that runs in 8 bit: bias, zero points, what is behind it",
        ),
    )
    return [
        Finding(
            "float_fallback",
            _names(layers),
            f"{_count(layers)} with integer weights in float arithmetic",
            why,
            advice,
            _ms(layers),
            _static(known) if layers is float_input else None,
            _as_int8(known, layers),
        )
        for layers, why, advice in causes
        if layers
    ]


def mixed_blocks(known: Known) -> list[Finding]:
    """Float layers between 8-bit ones: each boundary converts."""
    layers = known.layers
    inside = [
        layer
        for place, layer in enumerate(layers)
        if layer.graph
        and not layer.graph.is_integer
        and not layer.is_int8
        and layer.precision in FLOAT_PRECISIONS
        and any(each.is_int8 for each in layers[:place])
        and any(each.is_int8 for each in layers[place + 1 :])
    ]
    ends = [
        layer
        for layer in (layers[:1] + layers[-1:] if len(layers) > 2 else ())
        if layer.graph and not layer.graph.is_integer and any(each.is_int8 for each in layers)
    ]
    found = inside or ends
    if not found:
        return []
    recipe = (known.recipe.settings("quantize") or {}) if known.recipe else {}
    change = Change("recipe", "quantize.keep_float", "none") if recipe.get("keep_float", "none") != "none" else None
    return [
        Finding(
            "mixed_blocks",
            _names(found),
            f"{_count(found)} in float in the file, beside {sum(layer.is_int8 for layer in layers)} in 8 bit",
            "they take the time of float, and at every boundary values are converted",
            "quantize them too, or keep float layers together in one block",
            _ms(found),
            change,
            _as_int8(known, found),
        )
    ]


RULES: tuple[Callable[[Known], list[Finding]], ...] = (
    signed_activations,
    float_bias,
    matmul_add_fusion,
    int4_convolution,
    dynamic_depthwise,
    float_fallback,
    mixed_blocks,
)


def _fallen(known: Known) -> list[KnownLayer]:
    """Layers with integers in the file that multiply in float."""
    return [
        layer
        for layer in known.layers
        if layer.graph and layer.graph.is_integer and layer.precision in FLOAT_PRECISIONS
    ]


def _static(known: Known) -> Change | None:
    if (
        known.is_file
        or "int8_static" not in known.precisions
        or not (known.recipe and known.recipe.settings("quantize"))
    ):
        return None
    return Change("recipe", "quantize.scheme", "int8_static")


def _as_int8(known: Known, layers: Sequence[KnownLayer], otherwise: str = NOT_KNOWN) -> Expected:
    """What these layers would save at the rate of the 8-bit layers of this very profile."""
    kinds = {layer.graph.kind for layer in layers if layer.graph}
    eights = tuple(each for each in known.layers if each.is_int8 and each.graph and each.graph.kind in kinds)
    rate = known.rate(eights)
    told = [layer for layer in layers if layer.macs and layer.ms]
    if rate is None or not told:
        basis = otherwise if layers else "none of them runs in float"
        return Expected(None, basis if basis != NOT_KNOWN else "not known: no such layer of this file runs in 8 bit")
    saved = sum((layer.ms or 0.0) - (layer.macs or 0) / rate for layer in told)
    return Expected(max(0.0, saved), f"at the rate of the 8-bit layers of this profile ({_count(eights)})")


def _ms(layers: Sequence[KnownLayer]) -> float | None:
    times = [layer.ms for layer in layers if layer.ms is not None]
    return sum(times) if times else None


def _names(layers: Sequence[KnownLayer]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers)


def _count(layers: Sequence[KnownLayer]) -> str:
    return counted(len(layers), "layer")
