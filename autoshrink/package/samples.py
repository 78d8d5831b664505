"""Arrays of a package on disk: one `<name>.npy` each, read with suspicion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoshrink.errors import StageError
from autoshrink.package.manifest import Port
from autoshrink.task import Arrays

Array = npt.NDArray[np.generic]


def write_arrays(folder: Path, arrays: Arrays) -> None:
    """Makes `folder` and writes one file for each array."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def read_arrays(folder: Path, ports: Sequence[Port]) -> dict[str, Array]:
    """The arrays [N, ...] of `ports`, held against their shapes and dtypes.

    Raises:
        StageError: a file is no plain array of that shape and dtype, or the arrays have different numbers of rows.
    """
    arrays = {port.name: _read(folder, port) for port in ports}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise StageError("samples", f"numbers of rows are {counts}; all need equally many, 1 at least")
    return arrays


def _read(folder: Path, port: Port) -> Array:
    path = folder / f"{port.name}.npy"
    try:
        # Mapped first: a header that promises more than the file holds fails before anything is allocated.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StageError("samples", f"{path.name} is no array of numbers ({error}); fetch the package again") from error
    found = f"{mapped.dtype} {list(mapped.shape)}" if isinstance(mapped, np.ndarray) else "a zip of arrays"
    if not isinstance(mapped, np.ndarray) or _differs(mapped, port):
        sizes = ", ".join(["N", *map(str, port.shape[1:])])
        raise StageError("samples", f"{path.name} is {found}; the signature says {port.dtype} [{sizes}]")
    return np.array(mapped)


def _differs(array: Array, port: Port) -> bool:
    return array.ndim != len(port.shape) or array.shape[1:] != port.shape[1:] or str(array.dtype) != port.dtype
