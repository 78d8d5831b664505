"""How a weight lies in a Core ML program: plain, linear integers, or indices into a table; sparse where that is less.

Numpy only. What is chosen loses nothing of the values it is given: rounding them comes before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]
Form = Literal["plain", "linear", "palette"]

TABLE_BITS = {17: (1, 2, 4, 6, 8), 18: (1, 2, 3, 4, 6, 8)}
"""iOS version -> widths of an index into a table that its programs may have."""
BLOCKWISE = 18
"""The iOS version from which there are 4-bit integers, scales by block or before a table, and sparse integers."""
SMALLEST = 256
"""Elements below which a weight of few values is left as it is: what decodes it is as large."""
PART_BYTES = 128
"""Of each array beside its content: its header in the weight file, and filling up to the next one."""
CHANNEL_AXIS = 0


@dataclass(frozen=True)
class Stored:
    """A weight as it is stored; its value is `scale * (x - offset)`, x being `data` or `table[data]`, 0 off the mask.

    Attributes:
        form: `plain` floats, `linear` integers, or a `palette`, whose data are indices.
        bits: of one element of `data` in the file.
        data: dense, of the weight's shape: float32, int8, or uint8 for unsigned integers and indices.
        table: float32 [2^bits] of a palette.
        scale: float32, of the weight's rank; each of its dimensions divides the weight's.
        offset: of the dtype of `data` and the shape of `scale`.
        mask: bool, of the weight's shape; where it is false the weight is 0 and nothing is stored.
    """

    form: Form
    bits: int
    data: Array
    table: Floats | None = None
    scale: Floats | None = None
    offset: Array | None = None
    mask: npt.NDArray[np.bool_] | None = field(default=None)

    @property
    def is_int8(self) -> bool:
        """Whether it is what 8-bit arithmetic reads: dense 8-bit integers with no scale within a channel."""
        by_channel = self.scale is not None and all(size == 1 for size in self.scale.shape[1:])
        return self.form == "linear" and self.bits == 8 and self.mask is None and by_channel

    @property
    def words(self) -> str:
        """Such as `int4`, `table of 2^6 values`, `sparse float`."""
        sparse = "sparse " if self.mask is not None else ""
        if self.form == "palette":
            return f"{sparse}table of 2^{self.bits} values"
        return f"{sparse}int{self.bits}" if self.form == "linear" else f"{sparse}float"

    @property
    def content_bits(self) -> int:
        """Of all elements in the file, without tables and scales."""
        return self.data.size * self.bits if self.mask is None else int(self.mask.sum()) * self.bits + self.mask.size

    def size(self, width: int) -> int:
        """About how many bytes it takes in the file, a float being `width` bytes."""
        count = self.data.size if self.mask is None else int(self.mask.sum())
        parts = [-(-count * self.bits // 8)]
        parts += [] if self.mask is None else [-(-self.mask.size // 8)]
        parts += [self.table.size * width] if self.table is not None else []
        parts += [self.scale.size * width] if self.scale is not None else []
        parts += [-(-self.offset.size * self.bits // 8)] if self.offset is not None else []
        return sum(parts) + PART_BYTES * len(parts)

    def restored(self) -> npt.NDArray[np.float32]:
        """The weight that it stands for."""
        values = (self.data if self.table is None else self.table[self.data]).astype(np.float32)
        if self.offset is not None:
            values = values - repeated(self.offset, values.shape).astype(np.float32)
        if self.scale is not None:
            values = values * repeated(self.scale, values.shape).astype(np.float32)
        return values if self.mask is None else np.where(self.mask, values, np.float32(0))


def repeated(blocks: Array, shape: tuple[int, ...]) -> Array:
    """One value by block, spread over what it is for: each dimension of `blocks` divides that of `shape`."""
    for axis, (size, count) in enumerate(zip(shape, blocks.shape, strict=True)):
        blocks = np.repeat(blocks, size // count, axis)
    return blocks


def store_floats(values: Floats, width: int, system: int) -> Stored:
    """The smallest form of a weight in which no value changes.

    Args:
        values: of a convolution or linear layer, output channels first; float16 or float32.
        width: bytes of a float in the file.
        system: iOS version that must read it, 17 or 18.
    """
    values = np.asarray(values, np.float32)
    plain = Stored("plain", 8 * width, values)
    if values.size < SMALLEST or not np.isfinite(values).all():
        return plain
    candidates = [plain, *_palettes(values, system)]
    if system >= BLOCKWISE:
        scaled = _signs(values)
        candidates += [] if scaled is None else _palettes(scaled[0], system, scaled[1])
    return _smallest([*candidates, *_sparse(candidates, system)], width)


def store_integers(
    codes: Array, scale: Floats, offset: Array | None, width: int, system: int, packed: bool = True
) -> Stored:
    """The smallest form of a weight that was rounded to integers.

    Args:
        codes: int8, or uint8 with an offset.
        scale: float32 of the rank of `codes`, one value by block.
        offset: uint8, shaped as `scale`; None is 0.
        width: bytes of a float in the file.
        system: iOS version that must read it, 17 or 18. 17 has linear integers of 8 bits only, by channel or tensor.
        packed: whether fewer than 8 bits may be used; else 8-bit arithmetic finds what it reads.
    """
    linear = Stored("linear", 8, codes, scale=scale, offset=offset)
    if not packed or codes.size < SMALLEST:
        return linear
    if system < BLOCKWISE:
        # Without a scale before the table, it holds the weight's own values.
        return _smallest([linear, *_palettes(linear.restored(), system)], width)
    candidates = [linear]
    low, high = (0, 15) if codes.dtype == np.uint8 else (-8, 7)
    if low <= codes.min() and codes.max() <= high:
        candidates.append(replace(linear, bits=4))
    if offset is None:
        candidates += _palettes(codes.astype(np.float32), system, scale)
    candidates += _sparse(candidates, system)
    return _smallest(candidates, width)


def _smallest(candidates: list[Stored], width: int) -> Stored:
    """The first of those that take the fewest bytes: the simplest form stands first."""
    return min(candidates, key=lambda stored: stored.size(width))


def _palettes(values: Floats, system: int, scale: Floats | None = None) -> list[Stored]:
    distinct, indices = np.unique(values, return_inverse=True)
    bits = next((bits for bits in TABLE_BITS[system] if len(distinct) <= 2**bits), None)
    if bits is None:
        return []
    table = np.zeros(2**bits, np.float32)
    table[: len(distinct)] = distinct
    return [Stored("palette", bits, indices.reshape(values.shape).astype(np.uint8), table, scale)]


def _signs(values: Floats) -> tuple[Floats, Floats] | None:
    """-1, 0 or 1 and the magnitude of each channel, of a weight that has no more than that (binary and ternary)."""
    axes = tuple(axis for axis in range(values.ndim) if axis != CHANNEL_AXIS)
    magnitude = np.abs(values).max(axes, keepdims=True)
    if not np.array_equal(np.abs(values), np.where(values != 0, magnitude, 0)):
        return None
    return np.sign(values), np.where(magnitude > 0, magnitude, 1).astype(np.float32)


def _sparse(dense: list[Stored], system: int) -> list[Stored]:
    """The same without their zeros."""
    found = []
    for stored in dense:
        kept = stored.restored() != 0
        # Nothing is stored of a weight of zeros alone, and an empty array is no array.
        if kept.all() or not kept.any():
            continue
        if stored.form in ("plain", "linear"):
            found.append(replace(stored, mask=kept))
        elif stored.form == "palette" and stored.scale is None and system >= BLOCKWISE and stored.table is not None:
            # Of the values that are left: 16 of them beside the zero fit into 4 bits.
            values = stored.table[stored.data]
            table = np.unique(values[kept])
            indices = np.where(kept, np.searchsorted(table, values), 0).astype(np.uint8)
            bits = next(bits for bits in TABLE_BITS[system] if len(table) <= 2**bits)
            padded = np.concatenate([table, np.zeros(2**bits - len(table), np.float32)])
            found.append(Stored("palette", bits, indices, padded, mask=kept))
    return found
