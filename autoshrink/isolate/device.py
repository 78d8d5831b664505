"""The lock of a device: whoever trains or measures on it holds it, also against other processes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from autoshrink.cache import cache_root


@contextmanager
def device_lock(device: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds `device` (such as `cpu`) for this thread; the same thread may take it again within.

    A process that is killed lets go of it.

    Args:
        device: as `Target.device` names it.
        waiting: called once when another process or thread holds the device.

    Raises:
        OSError: the cache folder, where the lock lies, cannot be written.
    """
    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    # One instance a path, for that is what counts how often this thread took it.
    lock = FileLock(folder / f"{re.sub(r'[^A-Za-z0-9_-]', '-', device)}.lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
