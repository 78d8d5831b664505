"""Rules on the sizes of layers, and on where a layer runs."""

from __future__ import annotations

from collections.abc import Callable

from autoshrink.explain.findings import NOT_KNOWN, Change, Expected, Finding, counted
from autoshrink.explain.graph import GraphLayer
from autoshrink.explain.known import Known, KnownLayer

VECTOR = 8
"""Least channels that a vector of the processors here holds."""
PAD = "pad_channels"


def misaligned_channels(known: Known) -> list[Finding]:
    """Channel counts that are no multiple of the vector: the last vector is computed in part for nothing."""
    multiple = max(VECTOR, known.channel_multiple)
    found = [layer for layer in known.layers if layer.graph and _odd(layer.graph, multiple)]
    if not found or known.backend == "microcontroller":
        return []
    counts = sorted({count for layer in found if layer.graph for count in _odd(layer.graph, multiple)})
    listed = ", ".join(f"{count} (of {-(-count // multiple) * multiple})" for count in counts)
    change = None
    if known.is_file:
        change = Change("file", PAD) if known.backend in ("onnxruntime", "openvino", "browser") else None
    elif known.channel_multiple % VECTOR and known.recipe is not None and known.recipe.settings("prune"):
        change = Change("target", "channel_multiple", multiple)
    return [
        Finding(
            "misaligned_channels",
            tuple(layer.name for layer in found),
            f"{counted(len(found), 'layer')} with channel counts that are no multiple of {multiple}: {listed}",
            "kernels compute whole vectors, so that the next multiple takes as long; some leave their fast layout "
            "altogether",
            "use multiples: prune to the one below, or keep the one above for nothing "
            + ("(the rewrite pads with zeros, which changes no output)" if known.is_file else "(channel_multiple)"),
            _ms(found),
            change,
            _pruned(found, multiple, is_padded=change is not None and change.key == PAD),
        )
    ]


def outside_delegate(known: Known) -> list[Finding]:
    """Operators that the delegate leaves to the runtime's own kernels, as the audit's notes say."""
    notes = [*(known.audit.notes if known.audit else ()), *known.profile.notes]
    left = next((note for note in notes if note.startswith("not fully accelerated")), "")
    if not left:
        return []
    return [
        Finding(
            "outside_delegate",
            (),
            left,
            "XNNPACK has no kernel for them with these types; the runtime's own are not optimized, and each change "
            "between the two may copy",
            "use a precision that the delegate has for them: static int8, or float",
            None,
            None,
            Expected(None, NOT_KNOWN),
        )
    ]


RULES: tuple[Callable[[Known], list[Finding]], ...] = (misaligned_channels, outside_delegate)


def _odd(layer: GraphLayer, multiple: int) -> list[int]:
    """The channel counts of a layer that could be others: not those of the model's own inputs and outputs."""
    counts = [] if layer.is_last else [layer.out_channels]
    if not layer.is_first and layer.kind != "depthwise":
        counts.append(layer.in_channels)
    return [count for count in counts if count % multiple and count > multiple]


def _ms(layers: list[KnownLayer]) -> float | None:
    times = [layer.ms for layer in layers if layer.ms is not None]
    return sum(times) if times else None


def _pruned(layers: list[KnownLayer], multiple: int, is_padded: bool) -> Expected:
    """What the multiple below would save if a layer takes the time of the multiple above now."""
    if _ms(layers) is None:
        return Expected(None, NOT_KNOWN)
    saved = 0.0
    for layer in layers:
        assert layer.graph is not None  # noqa: S101 - chosen so
        share = 1.0
        for count in _odd(layer.graph, multiple):
            above = -(-count // multiple) * multiple
            share *= (above - multiple) / above
        saved += (layer.ms or 0.0) * (1 - share)
    if is_padded:
        return Expected(
            None,
            "of padding not known: nothing, or more where a layer gets the runtime's fast layout back; pruned to the "
            f"multiple below {saved:.3f} ms less, if they take the time of the one above now",
        )
    return Expected(saved, "pruned to the multiple below, if they take the time of the one above now")
