"""A loaded artifact over a set of samples, from npy files to npy files, a batch at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from autoshrink.backends.base import Array, Arrays, Session


def evaluate(session: Session, inputs: Path, outputs: Path, batch: int) -> None:
    """Writes one `<output>.npy` [N, ...] an output for the `<input>.npy` [N, ...] in `inputs`.

    The last batch is filled up with copies of the last row, whose outputs are left out. On an error `outputs` goes.

    Raises:
        ValueError: the inputs do not fit each other or the model; an output has no row for every row of the batch.
        OSError: a file cannot be read or written.
    """
    outputs.mkdir(parents=True, exist_ok=True)
    try:
        _evaluate(session, inputs, outputs, batch)
    except BaseException:
        # On a full disk this makes the room in which the reason is written.
        shutil.rmtree(outputs, ignore_errors=True)
        raise


def _evaluate(session: Session, inputs: Path, outputs: Path, batch: int) -> None:
    arrays = map_arrays(inputs)
    count = _count(arrays, inputs)
    files: dict[str, BinaryIO] = {}
    with ExitStack() as stack:
        ranges = list(_batches(count, batch))
        results = session.run_batches(_filled_up(arrays, rows, batch) for rows in ranges)
        for rows, outputs_of_rows in zip(ranges, results, strict=True):
            for name, array in outputs_of_rows.items():
                if not array.ndim or len(array) != batch:
                    raise ValueError(
                        f"output {name!r} has shape {list(array.shape)} for a batch of {batch}; its first dimension "
                        f"must be the batch"
                    )
                if name not in files:
                    files[name] = stack.enter_context(_begin(outputs, name, array, count))
                # Not a memory map: on a full disk that is a crash, this is an OSError.
                files[name].write(np.ascontiguousarray(array[: rows.stop - rows.start]).data)


def map_arrays(folder: Path) -> dict[str, Array]:
    """The npy files of a folder by name, mapped into memory rather than read.

    Raises:
        ValueError: a file is no npy file, or holds Python objects.
    """
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}


def _count(arrays: Arrays, folder: Path) -> int:
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"the inputs in {folder} have {counts} rows; all must have equally many, and at least one")
    return next(iter(counts.values()))


def _batches(count: int, batch: int) -> Iterator[slice]:
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))


def _filled_up(arrays: Arrays, rows: slice, batch: int) -> dict[str, Array]:
    missing = batch - (rows.stop - rows.start)
    parts = {name: array[rows] for name, array in arrays.items()}
    if not missing:
        return parts
    return {name: np.concatenate((part, np.repeat(part[-1:], missing, axis=0))) for name, part in parts.items()}


def _begin(folder: Path, name: str, array: Array, count: int) -> BinaryIO:
    """An npy file with its header written, for rows like those of `array`."""
    if "/" in name:
        raise ValueError(f"output {name!r} cannot be the name of a file; give it a name without '/'")
    # numpy has no types for these two.
    describe: Callable[[np.dtype[Any]], Any] = np.lib.format.dtype_to_descr
    write_header: Callable[[BinaryIO, dict[str, Any]], None] = np.lib.format.write_array_header_1_0
    stream = (folder / f"{name}.npy").open("wb")
    write_header(stream, {"descr": describe(array.dtype), "fortran_order": False, "shape": (count, *array.shape[1:])})
    return stream
