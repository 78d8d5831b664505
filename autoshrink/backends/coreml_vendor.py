"""How coremltools is imported: without the frameworks that it takes along, and without its word on versions."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

UNUSED = (
    *("torchvision", "torchaudio", "torchao", "executorch", "tensorflow", "transformers"),
    *("sklearn", "xgboost", "libsvm"),
)
"""What it imports where it finds it, and nothing here needs of it."""


def vendor(converts: bool = True) -> Any:
    """The module coremltools. The first call of a process decides what it takes along.

    Args:
        converts: torch models, so that torch is imported as well; it must not be beside what is timed.
    """
    blocked = [name for name in (*UNUSED, *(() if converts else ("torch",))) if name not in sys.modules]
    for name in blocked:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        with quietly():
            import coremltools
    finally:
        for name in blocked:
            del sys.modules[name]
    return coremltools


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silences its warnings of versions, its progress bars, and what it logs of its passes; errors are still raised."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    logger = logging.getLogger("coremltools")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
