"""A link as a QR code for the terminal, in half blocks: two rows of modules to a line of text."""

from __future__ import annotations

from collections.abc import Sequence

BORDER = 2
"""Modules of light around the code: half of what the standard asks for, which readers do with."""
BLOCKS = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}
"""Upper and lower module, dark or not -> the character. Light is drawn."""
WHITE_ON_BLACK, AS_BEFORE = "\x1b[97;40m", "\x1b[0m"
"""Whatever the terminal's own colours: readers do not know an inverted code."""


def qr_lines(text: str) -> list[str]:
    """The lines of the code of `text`; none where segno, of the extra `phone`, is not installed."""
    try:
        import segno
    except ImportError:
        return []
    code = segno.make_qr(text, error="l", boost_error=False)
    lines = in_half_blocks([[bool(module) for module in row] for row in code.matrix_iter(border=BORDER)])
    return [f"{WHITE_ON_BLACK}{line}{AS_BEFORE}" for line in lines]


def in_half_blocks(dark: Sequence[Sequence[bool]]) -> list[str]:
    """Modules [rows, columns], true where dark, two rows to a line; what would be below the last one is light."""
    rows = [*dark, [False] * len(dark[0])] if len(dark) % 2 else dark
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(BLOCKS[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in pairs]
