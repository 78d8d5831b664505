"""Fake backends that are ONNX Runtime, and say of themselves that they cannot do all of it here: for control flow."""

from __future__ import annotations

import sys
from pathlib import Path

from autoshrink.backends.base import INT8_SATURATES, Availability, Compiled, Source
from autoshrink.backends.onnxruntime import OnnxRuntime
from autoshrink.target import Target
from autoshrink.types import Audit, Figure, Layer, Recipe


class FakeUntimed(OnnxRuntime):
    """Imitates a device: what it computes is right, how long it takes says nothing."""

    def machine(self) -> Availability:
        return Availability("untimed", "this is a fake of a device", "run it on the device")

    def compile(self, source: Source, folder: Path) -> Compiled:
        compiled = super().compile(source, folder)
        size = float((folder / compiled.files[0]).stat().st_size)
        return Compiled(compiled.files, figures={"arena": Figure(size, "bytes", "fake", True)})


class FakeAway(FakeUntimed):
    """The device is somewhere else."""

    def machine(self) -> Availability:
        return Availability("compile-only", "there is no fake device", "find one")


class FakeSaturating(OnnxRuntime):
    """Says that its 8-bit sums overflow, whatever the processor is."""

    def capabilities(self) -> frozenset[str]:
        return frozenset({INT8_SATURATES})


class FakeExact(OnnxRuntime):
    """Says that they do not."""

    def capabilities(self) -> frozenset[str]:
        return frozenset()


class FakeApart(OnnxRuntime):
    """Compiles with a package that must not be beside what is timed."""

    apart = True

    def refuses(self, recipe: Recipe, target: Target) -> str:
        return "fp16 is not for this fake" if recipe.precision == "fp16" else ""

    def compile(self, source: Source, folder: Path) -> Compiled:
        import onnx  # noqa: F401

        audit = Audit((Layer("from compiling", "Conv", "int8"),), 0, 1, ("found while compiling",))
        return Compiled(super().compile(source, folder).files, audit)

    def load(self, *arguments, **named):  # type: ignore[no-untyped-def]
        assert "onnx" not in sys.modules
        return super().load(*arguments, **named)
