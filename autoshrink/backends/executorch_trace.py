"""The event trace that ExecuTorch writes of a call, read without its tools, which import the exporter.

The file is a size-prefixed FlatBuffer with the schema `etdump_schema_flatcc.fbs` of the package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

IDENTIFIER = b"ED00"
PREFIX = 4
"""Bytes of the length before the buffer; places in it count from behind them."""

# Numbers of the fields in their tables, in the order of the schema.
RUNS = 1
RUN_NAME, RUN_EVENTS = 0, 3
PROFILE = 0
EVENT_NAME, DELEGATE_NAME, START, END = 0, 4, 6, 7


@dataclass(frozen=True)
class _Table:
    """A table at a place of a buffer."""

    content: bytes
    place: int

    def field(self, number: int) -> int:
        """Where a field lies; 0 when the table does not have it."""
        layout = self.place - _number("<i", self.content, self.place)
        slot = PREFIX + 2 * number
        if slot >= _number("<H", self.content, layout):
            return 0
        offset = _number("<H", self.content, layout + slot)
        return self.place + offset if offset else 0

    def table(self, number: int) -> _Table | None:
        """The table that a field refers to."""
        place = self.field(number)
        return _Table(self.content, _target(self.content, place)) if place else None

    def tables(self, number: int) -> Iterator[_Table]:
        """The tables of a vector."""
        place = self.field(number)
        if not place:
            return
        vector = _target(self.content, place)
        for index in range(_number("<I", self.content, vector)):
            yield _Table(self.content, _target(self.content, vector + 4 + 4 * index))

    def number(self, number: int) -> int:
        """An unsigned integer of 64 bits; 0 when the table does not have it."""
        place = self.field(number)
        return _number("<Q", self.content, place) if place else 0

    def text(self, number: int) -> str:
        """A string; empty when the table does not have it."""
        place = self.field(number)
        if not place:
            return ""
        start = _target(self.content, place)
        return self.content[start + 4 : start + 4 + _number("<I", self.content, start)].decode()


@dataclass(frozen=True)
class Event:
    """What the runtime did: its name, or the delegate's for it, and how many ticks of its clock it took."""

    name: str
    ticks: int


def events(trace: bytes) -> Iterator[tuple[str, list[Event]]]:
    """(name of the run, its events in their order) of a trace; a delegate's event has the delegate's name.

    Raises:
        ValueError: it is no such trace, or damaged.
    """
    content = trace[PREFIX:]
    if content[4:8] != IDENTIFIER:
        raise ValueError(f"the trace begins with {trace[:12]!r}; it must have the identifier {IDENTIFIER!r}")
    try:
        for run in _Table(content, _target(content, 0)).tables(RUNS):
            profiles = [profile for event in run.tables(RUN_EVENTS) if (profile := event.table(PROFILE))]
            yield run.text(RUN_NAME), [_event(each) for each in profiles]
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"the trace is damaged: {error}") from error


def _event(profile: _Table) -> Event:
    name = profile.text(DELEGATE_NAME) or profile.text(EVENT_NAME)
    return Event(name, max(0, profile.number(END) - profile.number(START)))


def _number(kind: str, content: bytes, place: int) -> int:
    if place < 0:
        raise struct.error(f"a place of {place}, before the file")
    return int(struct.unpack_from(kind, content, place)[0])


def _target(content: bytes, place: int) -> int:
    """Where the offset that is stored at `place` leads."""
    return place + _number("<I", content, place)
