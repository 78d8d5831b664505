"""What explain finds, what to change about it, and what that is expected to bring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoshrink.types import Scalar

ChangeKind = Literal["recipe", "target", "file"]


@dataclass(frozen=True)
class Change:
    """Something that can be tried by itself.

    Attributes:
        kind: `recipe` is another recipe on the same target, `target` another profile for the same recipe, `file` a
            rewritten file.
        key: `technique.parameter` or a technique; a key of the profile, such as `precisions.int8_static.activations`;
            the name of a rewrite.
        value: of it; None takes a technique out of the recipe.
    """

    kind: ChangeKind
    key: str
    value: Scalar | None = None

    @property
    def text(self) -> str:
        """In a few words, as a user would write it."""
        if self.kind == "recipe":
            return f"recipe: without {self.key}" if self.value is None else f"recipe: {self.key}={self.value}"
        if self.kind == "target":
            return f"target: {self.key}: {self.value}"
        return f"file: {self.key}"


@dataclass(frozen=True)
class Expected:
    """What a change is expected to bring.

    Attributes:
        ms: milliseconds of a call less; None where it is not known.
        basis: how that was estimated, or why it is not known.
    """

    ms: float | None
    basis: str


@dataclass(frozen=True)
class Finding:
    """One thing that costs time.

    Attributes:
        rule: which rule found it.
        layers: names of the layers that it is about; empty for the whole call.
        what: what is the case.
        why: why it costs time.
        advice: what to do, in words.
        ms: milliseconds of a call that it is about; None where the runtime gives no times.
        change: what `--apply` tries; None where nothing can be tried without the user.
        expected: of the advice.
    """

    rule: str
    layers: tuple[str, ...]
    what: str
    why: str
    advice: str
    ms: float | None
    change: Change | None
    expected: Expected


NOT_KNOWN = "not known"


def counted(count: int, what: str) -> str:
    """`1 layer`, `3 layers`."""
    return f"{count} {what}{'s' * (count != 1)}"
