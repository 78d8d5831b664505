"""How large files are once compressed, as an app store or a web server ships them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

LEVEL = 6
GZIP_FORMAT = 31
"""`wbits` of zlib for a gzip stream; its header then holds no name and no time, so equal files give equal sizes."""
PIECE = 1 << 20


def gzip_bytes(paths: Iterable[Path]) -> int:
    """Bytes of all files together, each compressed by itself with gzip at level 6.

    Raises:
        OSError: a file cannot be read.
    """
    return sum(_one(path) for path in paths)


def _one(path: Path) -> int:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_FORMAT)
    with path.open("rb") as stream:
        size = sum(len(packer.compress(piece)) for piece in iter(lambda: stream.read(PIECE), b""))
    return size + len(packer.flush())
