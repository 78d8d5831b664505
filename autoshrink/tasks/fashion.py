"""The Fashion-MNIST tasks: `fashion-mini`, which ships with autoshrink, and two on the full set.

One baseline serves `fashion-mini` and `fashion-mnist`: a residual CNN (`resnet.py`). That of `fashion-patches` is a
transformer encoder (`encoder.py`). `train_fashion.py` trained both on the 58,000 images that are not val.
"""

from __future__ import annotations

import functools
import io
import lzma
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoshrink.task import Split, Task, TrainingSet
from autoshrink.tasks.classification import calibration_rows, cross_entropy, right_answers
from autoshrink.tasks.fashion_data import (
    CLASS_NAMES,
    CLASSES,
    MINI_TRAIN_PER_CLASS,
    VAL_PER_CLASS,
    Images,
    find_folder,
    read_folder,
    split,
)
from autoshrink.tasks.make_fashion_mini import ASSETS

if TYPE_CHECKING:
    import torch

WIDTH = 64
BATCH_SIZE = 128
CALIBRATION_IMAGES = 512
PREPROCESSING = "grey image of 28 x 28 pixels, light on black, 0 to 255: x / 127.5 - 1, as float32 [N, 1, 28, 28]"


def fashion_mini() -> Task:
    """10,000 train, 2,000 val and 5,000 test images of Fashion-MNIST (Xiao et al. 2017); needs no download.

    Input `image` float32 [1, 1, 28, 28] in [-1, 1]; output `logits` float32 [1, 10]; accuracy.
    """
    shipped = read_shipped()
    train_end = CLASSES * MINI_TRAIN_PER_CLASS
    val_end = train_end + CLASSES * VAL_PER_CLASS
    parts = [
        Images(shipped.images[rows], shipped.labels[rows])
        for rows in (slice(0, train_end), slice(train_end, val_end), slice(val_end, None))
    ]
    return _task("fashion-mini", *parts, model=trained_model, student=residual_student)


def fashion_mnist() -> Task:
    """58,000 train, 2,000 val (those of `fashion_mini`) and 10,000 test images: all of Fashion-MNIST.

    Raises:
        ConfigError: the data set is not on this machine and cannot be downloaded, or a file is not the published one.
    """
    return _task("fashion-mnist", *_full_set(), model=trained_model, student=residual_student)


def fashion_patches() -> Task:
    """The images of `fashion_mnist` with a transformer encoder over patches of 4 x 4 pixels as the baseline.

    Raises:
        ConfigError: as `fashion_mnist`.
    """
    return _task("fashion-patches", *_full_set(), model=trained_encoder, student=encoder_student)


@functools.cache
def read_shipped() -> Images:
    """The 17,000 images inside autoshrink: train, val and test rows in this order. Decompressed once a process."""
    content = lzma.decompress((ASSETS / "images.npy.xz").read_bytes())
    images: npt.NDArray[np.uint8] = np.load(io.BytesIO(content), allow_pickle=False)
    labels: npt.NDArray[np.uint8] = np.load(ASSETS / "labels.npy", allow_pickle=False)
    return Images(images, labels)


def to_input(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 [N, 28, 28] -> float32 [N, 1, 28, 28] in [-1, 1]."""
    scaled = images.astype(np.float32)[:, np.newaxis]
    scaled /= 127.5
    scaled -= 1.0
    return scaled


def trained_model() -> torch.nn.Module:
    """The baseline, ResNet of width 64 with its trained weights, in eval mode."""
    from safetensors.torch import load_file

    from autoshrink.tasks.resnet import ResNet

    model = ResNet(WIDTH)
    model.load_state_dict(load_file(ASSETS / "weights.safetensors"))
    return model.eval()


def residual_student(width: float, depth: float) -> torch.nn.Module:
    """An untrained ResNet with these shares of the baseline's width, in steps of 8 channels, and of its blocks."""
    from autoshrink.tasks.resnet import ResNet

    return ResNet(max(8, 8 * round(WIDTH * width / 8)), depth)


def trained_encoder() -> torch.nn.Module:
    """The second baseline, PatchEncoder with its trained weights, in eval mode."""
    from safetensors.torch import load_file

    from autoshrink.tasks.encoder import PatchEncoder

    model = PatchEncoder()
    model.load_state_dict(load_file(ASSETS / "encoder-weights.safetensors"))
    return model.eval()


def encoder_student(width: float, depth: float) -> torch.nn.Module:
    """An untrained PatchEncoder with these shares of the baseline's heads and layers."""
    from autoshrink.tasks.encoder import PatchEncoder

    return PatchEncoder.of_shares(width, depth)


def _full_set() -> tuple[Images, Images, Images]:
    whole, test = read_folder(find_folder())
    rows = split(whole.labels, test.labels)
    return whole.take(rows.full_train), whole.take(rows.val), test


def _task(
    name: str,
    train: Images,
    val: Images,
    test: Images,
    *,
    model: Callable[[], torch.nn.Module],
    student: Callable[[float, float], torch.nn.Module],
) -> Task:
    train_split = _split(train)
    return Task(
        name=name,
        model=model,
        example_inputs={"image": train_split.inputs["image"][:1]},
        outputs={"logits": "logits"},
        calibration=calibration_rows(train_split, CALIBRATION_IMAGES),
        val=_split(val),
        test=_split(test),
        metric=right_answers,
        # Not augmented: an image that stays what it is lets fine-tuning compute the teacher's outputs once.
        train=TrainingSet(train_split, BATCH_SIZE),
        loss=cross_entropy,
        preprocessing=PREPROCESSING,
        student=student,
        classes=CLASS_NAMES,
    )


def _split(part: Images) -> Split:
    return Split({"image": to_input(part.images)}, {"label": part.labels.astype(np.int64)})
