"""The layers of a trial, one by one: bits, channels, rank, the kernel that really runs, its share of the time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoshrink.explain.explanation import Explanation, Row
from autoshrink.types import Layer, TrialRecord

TRANSPOSED = ("transpose", "deconv")
"""In the kinds of kernels whose weights have their input channels first."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerRow:
    """A layer of the model that was compiled.

    Attributes:
        name: of the module in torch; of the kernel where the record names no modules.
        bits: of its weights' integers, trained or of an 8-bit kernel; None of floats, and where nobody says.
        channels: of its output; None where the shape of its weight is not known.
        channels_before: of the same layer of the baseline; None where it has none of that name.
        rank: of a thinner pair or triple that the layer of the baseline became: the channels between the two.
        full_rank: what it could be at most.
        kernel: what the runtime runs for it; None where no kernel could be told to be its own.
        share: of the time of a call, 0 to 1; None unless the trial was explained.
        ms: of a call.
    """

    name: str
    bits: int | None = None
    channels: int | None = None
    channels_before: int | None = None
    rank: int | None = None
    full_rank: int | None = None
    kernel: Layer | None = None
    share: float | None = None
    ms: float | None = None

    @property
    def is_renamed(self) -> bool:
        """Whether the kernel has the name of something else, such as of the ReLU that it was fused with."""
        return self.kernel is not None and self.name not in (self.kernel.name, *scopes(self.kernel.name))


@dataclass(frozen=True)
class LayerPicture:
    """All layers of a trial.

    Attributes:
        rows: in the order of the model, or of the kernels where the record names no modules.
        unmatched: kernels with weights of which nobody can tell the layer.
        gone: layers of the baseline that the trial has no more, nor factors of.
        is_timed: whether shares of the time are known.
    """

    rows: tuple[LayerRow, ...]
    unmatched: tuple[Layer, ...] = ()
    gone: tuple[str, ...] = ()
    is_timed: bool = False


def layer_picture(
    record: TrialRecord, baseline: TrialRecord | None = None, explanation: Explanation | None = None
) -> LayerPicture:
    """What is known of each layer of a trial.

    Args:
        record: of the trial.
        baseline: of its target; gives the channels that there were.
        explanation: of the trial, when `autoshrink explain` was run on it.
    """
    kernels = list(record.audit.layers) if record.audit else []
    names = list(record.weights) or list(record.weight_bits)
    if not names:
        return _of_kernels(kernels, explanation)
    before = dict(baseline.weights) if baseline else {}
    matched = matches(names, [kernel.name for kernel in kernels])
    timed = _timed(names, explanation)
    rows = []
    for name in names:
        kernel = next((kernels[place] for place, layer in matched.items() if layer == name), None)
        shape = record.weights.get(name, ())
        told = timed.get(name, ())
        rows.append(
            LayerRow(
                name,
                _bits(record, name, kernel),
                _outputs(shape, kernel),
                _channels_before(name, names, before, kernel),
                *_rank(name, names, record.weights, before),
                kernel=kernel,
                share=_sum(row.share for row in told),
                ms=_sum(row.ms for row in told),
            )
        )
    unmatched = tuple(kernel for place, kernel in enumerate(kernels) if place not in matched)
    gone = tuple(name for name in before if name not in names and not _factors(name, names))
    return LayerPicture(tuple(rows), unmatched, gone, any(row.share is not None for row in rows))


def scopes(kernel: str) -> list[str]:
    """Modules that a kernel's name may speak of, the innermost first: `a.b`, `a` for `a.b/Conv`.

    A runtime names a kernel after a node of the model, the node is named after its module and its operator.
    """
    parts = [part for part in kernel.replace("/", ".").split(".") if part]
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def matches(layers: Sequence[str], kernels: Sequence[str]) -> dict[int, str]:
    """Place of a kernel -> the layer that it runs, where that is certain.

    By name, where a scope of the kernel's name is a layer. A kernel that was fused has the name of another module, as
    `blocks.0/Relu` for `blocks.0.conv1`: it belongs to the only layer without a kernel within its scope, when it is the
    only kernel there without a layer. The same within the scope around it, and so on outwards. Where two are left, none
    is guessed.
    """
    found: dict[int, str] = {}
    for place, kernel in enumerate(kernels):
        layer = next((scope for scope in scopes(kernel) if scope in layers), None)
        if layer is not None:
            found[place] = layer
    left = {place: scopes(kernel)[1:] for place, kernel in enumerate(kernels) if place not in found}
    around = sorted({scope for own in left.values() for scope in own}, key=lambda scope: -scope.count("."))
    for scope in [*around, ""]:
        inside = [place for place, own in left.items() if place not in found and (scope in own or not scope)]
        free = [name for name in layers if name not in found.values() and _is_within(name, scope)]
        if len(inside) == len(free) == 1:
            found[inside[0]] = free[0]
    return found


def _is_within(name: str, scope: str) -> bool:
    return not scope or name.startswith(f"{scope}.")


def _of_kernels(kernels: Sequence[Layer], explanation: Explanation | None) -> LayerPicture:
    """Of a record that names no modules: a row a kernel."""
    names = [kernel.name for kernel in kernels]
    told: dict[str, list[Row]] = {}
    if explanation:
        layers = [row for row in explanation.rows if row.precision]
        for row, layer in ((layers[place], layer) for place, layer in _same(layers, kernels).items()):
            told.setdefault(layer, []).append(row)
    rows = tuple(
        LayerRow(
            name,
            bits=8 if kernel.is_int8 else None,
            channels=next((_last_number(row.channels) for row in told.get(name, ()) if row.channels), None),
            kernel=kernel,
            share=_sum(row.share for row in told.get(name, ())),
            ms=_sum(row.ms for row in told.get(name, ())),
        )
        for name, kernel in zip(names, kernels, strict=True)
    )
    return LayerPicture(rows, is_timed=any(row.share is not None for row in rows))


def _same(rows: Sequence[Row], kernels: Sequence[Layer]) -> dict[int, str]:
    """Place of a row -> the kernel of the audit: of that name, or the same place where they are equally many."""
    names = [kernel.name for kernel in kernels]
    found = {place: row.name for place, row in enumerate(rows) if row.name in names}
    if len(rows) == len(names) and all(
        row.kind == kernel.kind and found.get(place, kernel.name) == kernel.name
        for place, (row, kernel) in enumerate(zip(rows, kernels, strict=True))
    ):
        return dict(enumerate(names))
    return found


def _last_number(channels: str) -> int | None:
    text = channels.rpartition(" ")[2]
    return int(text) if text.isdecimal() else None


def _timed(names: Sequence[str], explanation: Explanation | None) -> dict[str, list[Row]]:
    """Layer -> the rows of the explanation that are its own."""
    told: dict[str, list[Row]] = {}
    rows = [row for row in explanation.rows if row.precision] if explanation else []
    for place, layer in matches(names, [row.name for row in rows]).items():
        told.setdefault(layer, []).append(rows[place])
    return told


def _bits(record: TrialRecord, name: str, kernel: Layer | None) -> int | None:
    known = record.weight_bits.get(name)
    return known if known is not None else 8 if kernel is not None and kernel.is_int8 else None


def _outputs(shape: Shape, kernel: Layer | None) -> int | None:
    """Output channels of a weight: the first dimension, the second where it is of a transposed convolution."""
    if len(shape) < 2:
        return None
    kind = kernel.kind.lower().replace("_", "") if kernel else ""
    return shape[1] if any(word in kind for word in TRANSPOSED) else shape[0]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _factors(name: str, names: Sequence[str]) -> list[str]:
    """The layers that a layer became: the numbered ones right within it."""
    return [each for each in names if _parent(each) == name and each.rpartition(".")[2].isdecimal()]


def _channels_before(name: str, names: Sequence[str], before: Mapping[str, Shape], kernel: Layer | None) -> int | None:
    if name in before:
        return _outputs(before[name], kernel)
    parent = _parent(name)
    if parent in before and name == _factors(parent, names)[-1]:
        return _outputs(before[parent], None)
    return None


def _rank(
    name: str, names: Sequence[str], shapes: Mapping[str, Shape], before: Mapping[str, Shape]
) -> tuple[int | None, int | None]:
    """Rank and full rank of a factor; a pair's stand with its first, a triple's two with its first and second."""
    parent = _parent(name)
    if name in before or parent not in before:
        return None, None
    factors = _factors(parent, names)
    if name not in factors[:-1] or any(len(shapes.get(each, ())) < 2 for each in factors):
        return None, None
    cut = factors.index(name) + 1
    # Together the factors are a matrix from inputs and kernel positions on one side to those on the other side.
    inside = math.prod(size for each in factors[:cut] for size in shapes[each][2:]) * before[parent][1]
    outside = math.prod(size for each in factors[cut:] for size in shapes[each][2:]) * before[parent][0]
    return shapes[name][0], min(inside, outside)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
