"""Results that are kept for as long as the objects they were made from are the newest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Source = TypeVar("Source")
Made = TypeVar("Made")


class Kept(Generic[Source, Made]):
    """What `make` gave for the last `most` objects, told apart by identity. May be called from several threads."""

    def __init__(self, make: Callable[[Source], Made], most: int) -> None:
        self._make = make
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[int, tuple[Source, Made]] = OrderedDict()

    def of(self, source: Source) -> Made:
        """What was made of an object, made now if it was not yet."""
        with self._lock:
            found = self._known.get(id(source))
            if found is None or found[0] is not source:
                found = self._known[id(source)] = source, self._make(source)
            self._known.move_to_end(id(source))
            while len(self._known) > self._most:
                self._known.popitem(last=False)
            return found[1]
