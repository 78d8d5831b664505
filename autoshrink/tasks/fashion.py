"""The Fashion-MNIST tasks: `fashion-mini`, which ships with autoshrink, and `fashion-mnist`, the full set.

One baseline serves both: a residual CNN (`resnet.py`) that `train_fashion.py` trained on the 58,000 images that are
not val.
"""

from __future__ import annotations

import functools
import io
import lzma
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoshrink.task import Split, Task, TrainingSet
from autoshrink.tasks.classification import calibration_rows, cross_entropy, right_answers
from autoshrink.tasks.fashion_data import (
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
    return _task("fashion-mini", *parts)


def fashion_mnist() -> Task:
    """58,000 train, 2,000 val (those of `fashion_mini`) and 10,000 test images: all of Fashion-MNIST.

    Raises:
        ConfigError: the data set is not on this machine and cannot be downloaded, or a file is not the published one.
    """
    whole, test = read_folder(find_folder())
    rows = split(whole.labels, test.labels)
    return _task("fashion-mnist", whole.take(rows.full_train), whole.take(rows.val), test)


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


def _task(name: str, train: Images, val: Images, test: Images) -> Task:
    train_split = _split(train)
    return Task(
        name=name,
        model=trained_model,
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
    )


def _split(part: Images) -> Split:
    return Split({"image": to_input(part.images)}, {"label": part.labels.astype(np.int64)})
