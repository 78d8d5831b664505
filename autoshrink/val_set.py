"""What a study keeps of the samples that its trials are scored on: the true classes, and small pictures of the inputs.

<study>/val/
    val.json          names of the classes, which input the pictures are of, how many samples there are
    targets.npy       of classification: the class of each sample, [N]
    inputs.npy        where an input looks like an image: the first samples, uint8 [n, h, w, 1 or 3]

With the predictions of each trial they show what a compressed model takes for what. Read without torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoshrink.errors import ConfigError
from autoshrink.records import SCHEMA, read_json, write_json
from autoshrink.task import Array, Arrays, Split, Task

FOLDER = "val"
VAL_FILE = "val.json"
TARGETS_FILE = "targets.npy"
INPUTS_FILE = "inputs.npy"
MOST_BYTES = 16 * 2**20
"""Of the pictures of all samples together."""
MOST_SIDE = 64
"""Pixels of a picture; larger ones have pixels left out."""
LEAST_SIDE = 4
"""Pixels of the shorter side of what is taken for an image."""
CHANNELS = (1, 3)

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ValSet:
    """The samples as a study keeps them.

    Attributes:
        count: of the samples.
        classes: names of the classes; empty where the task gives none.
        input: name of the input that the pictures are of; empty without pictures.
        targets: the true class of each sample, integers [count]; None where the task is no classification.
        pictures: uint8 [n, h, w, 1 or 3], of the first n samples; None where no input looks like an image.
    """

    count: int
    classes: tuple[str, ...] = ()
    input: str = ""
    targets: Array | None = None
    pictures: Bytes | None = None

    def class_name(self, number: int) -> str:
        """As the task names it, else its number."""
        return self.classes[number] if 0 <= number < len(self.classes) else str(number)


def write_val_set(study: Path, task: Task) -> None:
    """Writes `val` into a study's folder, unless it is there already from the same samples and class names.

    Raises:
        OSError: it cannot be written.
    """
    folder = study / FOLDER
    meta = {
        "schema": SCHEMA,
        "count": len(task.val),
        "classes": list(task.classes),
        "input": image_input(task.val.inputs) or "",
        "fingerprint": task.val.fingerprint(),
    }
    try:
        if read_json(folder / VAL_FILE) == meta:
            return
    except ConfigError:
        pass
    folder.mkdir(exist_ok=True)
    # The last one written, it tells that the others are whole.
    (folder / VAL_FILE).unlink(missing_ok=True)
    targets = true_classes(task)
    arrays: dict[str, Array | None] = {
        TARGETS_FILE: None if targets is None else smallest(targets),
        INPUTS_FILE: pictures(task.val.inputs[str(meta["input"])]) if meta["input"] else None,
    }
    for name, array in arrays.items():
        if array is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_array(folder / name, array)
    write_json(folder / VAL_FILE, meta)


def read_val_set(study: Path) -> ValSet | None:
    """The samples that a study keeps; None of a study from before they were kept.

    Raises:
        ConfigError: a file cannot be read, or does not fit the others.
    """
    folder = study / FOLDER
    if not (folder / VAL_FILE).exists():
        return None
    meta = read_json(folder / VAL_FILE)
    try:
        count, classes, name = int(meta["count"]), tuple(map(str, meta["classes"])), str(meta["input"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError([f"{folder / VAL_FILE}: {error!r}; delete the folder, a search writes it again"]) from error
    targets = _read(folder / TARGETS_FILE, "iu", 1)
    shown = _read(folder / INPUTS_FILE, "u", 4)
    for file, array in ((TARGETS_FILE, targets), (INPUTS_FILE, shown)):
        # Of the pictures there may be fewer.
        if array is not None and (len(array) > count or (len(array) < count and file == TARGETS_FILE)):
            raise ConfigError([f"{folder / file}: holds {len(array)} samples; {VAL_FILE} says {count}"])
    if shown is not None and (shown.dtype != np.uint8 or shown.shape[3] not in CHANNELS):
        raise ConfigError(
            [f"{folder / INPUTS_FILE}: is {shown.dtype} {list(shown.shape)}, not uint8 [n, h, w, 1 or 3]"]
        )
    return ValSet(count, classes, name, targets, None if shown is None else shown.view(np.uint8))


def read_per_sample(file: Path, kinds: str) -> Array:
    """The array [N] of `predictions` (kinds `u`) or `scores` (kinds `f`) of a trial, mapped into memory.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    array = _read(file, kinds, 1)
    if array is None:
        raise ConfigError([f"{file}: there is no such file"])
    return array


def _read(file: Path, kinds: str, dimensions: int) -> Array | None:
    try:
        # Not numpy.load, which opens archives as well.
        mapped: Callable[..., Array] = np.lib.format.open_memmap
        array = mapped(file, mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{file}: cannot be read ({error})"]) from error
    if array.dtype.kind not in kinds or array.ndim != dimensions:
        raise ConfigError([f"{file}: is {array.dtype} {list(array.shape)}; it must have {dimensions} dimension(s)"])
    return array


def write_array(file: Path, array: Array) -> None:
    """Writes an npy file so that a reader sees the old one or the new one."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def true_classes(task: Task) -> Array | None:
    """The class of each sample of val, integers [N]; None where the task is no classification.

    It is one with a single output, of `logits`, and a single target, integers [N].
    """
    kinds, targets = list(task.outputs.values()), list(task.val.targets.values())
    if kinds != ["logits"] or len(targets) != 1 or targets[0].dtype.kind not in "iu" or targets[0].ndim != 1:
        return None
    return targets[0]


def predicted_classes(task: Task, outputs: Arrays) -> Array | None:
    """The class with the largest of the outputs for each sample, smallest unsigned dtype [N].

    None where the task is no classification, or its logits are not [N, classes].
    """
    logits = next(iter(outputs.values()), None)
    if logits is None or logits.ndim != 2 or not logits.shape[1] or true_classes(task) is None:
        return None
    found: Array = logits.argmax(1).astype(np.min_scalar_type(logits.shape[1] - 1))
    return found


def sample_scores(task: Task, outputs: Arrays, split: Split) -> npt.NDArray[np.float32] | None:
    """The metric of each sample, float32 [N]; None where it is one of the whole set."""
    scores = np.asarray(task.metric(outputs, split.targets))
    return scores.astype(np.float32) if scores.shape == (len(split),) else None


def smallest(values: Array) -> Array:
    """Integers in the smallest dtype that holds them all: unsigned where none is negative."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    kinds = ("u1", "u2", "u4", "u8") if low >= 0 else ("i1", "i2", "i4", "i8")
    return values.astype(next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max))


def image_input(inputs: Mapping[str, Array]) -> str | None:
    """The first input that looks like an image: float or uint8, [N, 1 or 3, H, W] or [N, H, W, 1 or 3]."""
    return next((name for name, array in inputs.items() if _channel_axis(array) is not None), None)


def _channel_axis(array: Array) -> int | None:
    if array.ndim != 4 or not (array.dtype.kind == "f" or array.dtype == np.uint8):
        return None
    for axis, sides in ((1, array.shape[2:]), (3, array.shape[1:3])):
        if array.shape[axis] in CHANNELS and min(sides) >= LEAST_SIDE:
            return axis
    return None


def pictures(images: Array) -> Bytes:
    """Small pictures of images: uint8 [n, h, w, channels], of as many of the first ones as `MOST_BYTES` holds.

    Sides over `MOST_SIDE` keep every second, third, ... pixel. Least to largest value of all that are kept become 0 to
    255, so that their differences in brightness stay.
    """
    axis = _channel_axis(images)
    if axis is None:
        raise ValueError(f"{images.dtype} {list(images.shape)} are no images")
    sides = [size for at, size in enumerate(images.shape[1:], 1) if at != axis]
    step = math.ceil(max(sides) / MOST_SIDE)
    bytes_each = math.prod(math.ceil(side / step) for side in sides) * images.shape[axis]
    shown = images[: max(1, MOST_BYTES // bytes_each)]
    shown = shown[:, :, ::step, ::step].transpose(0, 2, 3, 1) if axis == 1 else shown[:, ::step, ::step]
    low, high = float(shown.min()), float(shown.max())
    scaled = (shown.astype(np.float32) - low) * (255 / (high - low) if high > low else 0.0)
    found: Bytes = np.rint(scaled).astype(np.uint8)
    return found
