"""What is known of an artifact when it is explained: the profile, the audit, and the file's own graph, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from autoshrink.explain.graph import FileGraph, GraphLayer
from autoshrink.types import Audit, Kernel, Profile, Recipe, Scalar


@dataclass(frozen=True)
class KnownLayer:
    """A layer with weights.

    Attributes:
        name: as the file has it where it can be read, else as the audit has it.
        precision: of its arithmetic as the runtime runs it; empty where it is not known.
        ms: of its kernel, and of unpacking its weights in each call; None without times.
        graph: what the file says of it.
        kernel: what the profile says of it.
    """

    name: str
    precision: str
    ms: float | None
    graph: GraphLayer | None = None
    kernel: Kernel | None = None

    @property
    def is_int8(self) -> bool:
        """Whether it multiplies in 8 bit."""
        return self.precision in ("int8", "uint8")

    @property
    def bytes_moved(self) -> int | None:
        """Bytes that a call reads and writes for it: weights, input, output."""
        if self.graph is not None:
            return None if self.graph.value_bytes is None else self.graph.value_bytes + self.graph.weight_bytes
        return None

    @property
    def macs(self) -> int | None:
        """Multiplications and additions of a call."""
        return self.graph.macs if self.graph else None


@dataclass(frozen=True)
class Known:
    """Everything the rules look at.

    Attributes:
        backend: as `Target.backend`.
        profile: of the runtime.
        audit: of the runtime or of compiling.
        graph: of the file; None where its format has none that is read here.
        is_file: a user's own file, which has no recipe and no training set.
        precision: of the recipe; `fp32` for a user's own file.
        recipe: None for a user's own file.
        channel_multiple: of the target.
        batch: rows of a call.
        precisions: those that the target lists.
        activations: integer grid of the target's static int8; empty where it has none.
        options: of the target.
        capabilities: what the runtime reports on the device; see `Backend.capabilities`.
    """

    backend: str
    profile: Profile
    audit: Audit | None = None
    graph: FileGraph | None = None
    is_file: bool = True
    precision: str = "fp32"
    recipe: Recipe | None = None
    channel_multiple: int = 8
    batch: int = 1
    precisions: tuple[str, ...] = ()
    activations: str = ""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()

    @cached_property
    def overhead_ms(self) -> float | None:
        """Of a call outside every kernel; None where it cannot be told."""
        if not self.profile.is_timed or self.profile.call_ms is None or self.profile.estimate:
            return None
        return max(0.0, self.profile.call_ms - self.profile.kernels_ms)

    @cached_property
    def scale(self) -> float:
        """From a kernel's time while it is profiled to its part of a plain call, where profiling makes them longer."""
        call_ms, kernels_ms = self.profile.call_ms, self.profile.kernels_ms
        return min(1.0, call_ms / kernels_ms) if call_ms and kernels_ms and not self.profile.estimate else 1.0

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """Those of the profile, their times as parts of a plain call."""
        return tuple(
            kernel if kernel.ms is None else replace(kernel, ms=self.scale * kernel.ms)
            for kernel in self.profile.kernels
        )

    @cached_property
    def total_ms(self) -> float | None:
        """What shares are of: all kernels and what is outside them, which is a plain call."""
        if not self.profile.is_timed:
            return None
        return self.scale * self.profile.kernels_ms + (self.overhead_ms or 0.0)

    def share(self, ms: float | None) -> float | None:
        """Of the call, 0 to 1."""
        return None if ms is None or not self.total_ms else ms / self.total_ms

    @cached_property
    def layers(self) -> tuple[KnownLayer, ...]:
        """The layers of the file with their kernels, then kernels with weights that match no layer of the file."""
        free = {place: kernel for place, kernel in enumerate(self.kernels) if kernel.has_weights}
        found: list[KnownLayer] = []
        for layer in self.graph.layers if self.graph else ():
            place = next((place for place, kernel in free.items() if _is_of(kernel, layer)), None)
            kernel = None if place is None else free.pop(place)
            precision = kernel.precision if kernel else self._audited(layer)
            found.append(KnownLayer(layer.name, precision, self._ms(kernel, layer.name), layer, kernel))
        found += [KnownLayer(kernel.name, kernel.precision, kernel.ms, None, kernel) for kernel in free.values()]
        return tuple(found)

    def _audited(self, layer: GraphLayer) -> str:
        layers = self.audit.layers if self.audit else ()
        names = (layer.name, *layer.values)
        return next((each.precision for each in layers if each.name in names), "")

    def _ms(self, kernel: Kernel | None, layer: str) -> float | None:
        if kernel is None or kernel.ms is None:
            return None
        unpacks = {name for name, of in self.graph.weight_conversions if of == layer} if self.graph else set()
        return kernel.ms + sum(each.ms or 0.0 for each in self.kernels if each.name in unpacks)

    @cached_property
    def conversions(self) -> tuple[Kernel, ...]:
        """The conversion kernels that the model's own inputs and outputs do not need, nor the weights of a layer."""
        graph = self.graph or FileGraph()
        needed = graph.edge_conversions | {name for name, _ in graph.weight_conversions}
        return tuple(each for each in self.kernels if each.is_conversion and each.name not in needed)

    def rate(self, layers: tuple[KnownLayer, ...]) -> float | None:
        """Multiplications and additions a millisecond of these layers together; None where it cannot be told."""
        told = [layer for layer in layers if layer.macs and layer.ms]
        ms = sum(layer.ms or 0.0 for layer in told)
        return sum(layer.macs or 0 for layer in told) / ms if ms else None


def _is_of(kernel: Kernel, layer: GraphLayer) -> bool:
    return kernel.name == layer.name or kernel.name in layer.values
