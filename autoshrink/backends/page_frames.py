"""What goes between a page and its server: a header in JSON, then plain buffers. See `browser_page/models.js`.

Standard library only: the timed child imports it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

ALIGNMENT = 8
"""Every buffer of a frame begins at a multiple of this, so that the page can look at it as any type without a copy."""

Buffer = bytes | memoryview
Frame = tuple[dict[str, Any], list[memoryview]]


class PageError(Exception):
    """The page could not do a task, in the runtime's own words."""


def pack(header: Mapping[str, Any], buffers: Sequence[Buffer] = ()) -> bytes:
    """The frame: uint32 bytes of the header, the header with the bytes of each buffer, and the buffers, all aligned."""
    views = [memoryview(buffer).cast("B") if len(buffer) else memoryview(b"") for buffer in buffers]
    text = json.dumps({**header, "buffers": [view.nbytes for view in views]}).encode()
    text += b" " * (-(4 + len(text)) % ALIGNMENT)
    parts: list[Buffer] = [struct.pack("<I", len(text)), text]
    for view in views:
        parts += [view, bytes(-view.nbytes % ALIGNMENT)]
    return b"".join(parts)


def unpack(frame: bytes) -> Frame:
    """The inverse of `pack`; the buffers are views.

    Raises:
        ValueError: it is no frame.
    """
    try:
        (size,) = struct.unpack_from("<I", frame)
        header = json.loads(frame[4 : 4 + size])
        lengths = header.pop("buffers")
        begin, buffers = 4 + size, []
        for length in lengths:
            buffers.append(memoryview(frame)[begin : begin + length])
            begin += length + -length % ALIGNMENT
    except (struct.error, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{len(frame)} bytes are no frame: {error!r}") from error
    if begin != len(frame):
        raise ValueError(f"a frame of {len(frame)} bytes says that it has {begin}")
    return header, buffers


def first_line(error: object) -> str:
    """What an error says, in one line; its type when it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
