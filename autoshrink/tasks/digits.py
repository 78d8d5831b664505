"""The `digits` task: scikit-learn's 8 x 8 handwritten digits and a tiny CNN. Everything on it takes seconds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoshrink.errors import ConfigError
from autoshrink.task import Split, Task, TrainingSet
from autoshrink.tasks.classification import calibration_rows, cross_entropy, right_answers

if TYPE_CHECKING:
    import torch

ASSETS = Path(__file__).parent / "assets" / "digits"
WIDTH = 8
BATCH_SIZE = 64
CALIBRATION_IMAGES = 256
VAL_PER_CLASS = 30
TEST_PER_CLASS = 50


def digits() -> Task:
    """997 train, 300 val and 500 test images of the UCI handwritten digits that scikit-learn holds.

    Input `image` float32 [1, 1, 8, 8] in [-1, 1]; output `logits` float32 [1, 10]; accuracy.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    train, val, test = read_splits()
    return Task(
        name="digits",
        model=trained_model,
        example_inputs={"image": train.inputs["image"][:1]},
        outputs={"logits": "logits"},
        calibration=calibration_rows(train, CALIBRATION_IMAGES),
        val=val,
        test=test,
        metric=right_answers,
        train=TrainingSet(train, BATCH_SIZE),
        loss=cross_entropy,
        student=student,
        classes=tuple(map(str, range(10))),
        preprocessing="grey image of 8 x 8 pixels, white ink on black, 0 to 16: x / 8 - 1, as float32 [N, 1, 8, 8]",
    )


def read_splits() -> tuple[Split, Split, Split]:
    """Train, val and test: seeded, with equally many of each class in val and in test.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    table = _table()
    images, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    whole = Split({"image": (images / 8 - 1).astype(np.float32)}, {"label": labels})
    # RandomState, whose stream NumPy froze: the same split with every release.
    random = np.random.RandomState(0)
    by_class = [random.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    held = VAL_PER_CLASS + TEST_PER_CLASS
    train, val, test = (
        np.sort(np.concatenate([rows[part] for rows in by_class]))
        for part in (slice(held, None), slice(0, VAL_PER_CLASS), slice(VAL_PER_CLASS, held))
    )
    return whole.rows(train), whole.rows(val), whole.rows(test)


def _table() -> npt.NDArray[np.float64]:
    """A row an image: its 64 pixels from 0 to 16, then its class.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        # Its file alone: importing scikit-learn, and SciPy with it, takes seconds.
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError(
            [f"digits: the data set is part of scikit-learn ({error}); run: pip install 'autoshrink[digits]'"]
        ) from error
    data = load_digits()
    return np.column_stack([data.data, data.target])


def student(width: float, depth: float) -> torch.nn.Module:
    """An untrained ResNet of `width` times the baseline's channels and `depth` times its blocks."""
    from autoshrink.tasks.resnet import ResNet

    return ResNet(max(1, round(WIDTH * width)), depth)


def trained_model() -> torch.nn.Module:
    """The baseline, ResNet of width 8 with the weights that `train_digits.py` wrote, in eval mode."""
    from safetensors.torch import load_file

    from autoshrink.tasks.resnet import ResNet

    model = ResNet(WIDTH)
    model.load_state_dict(load_file(ASSETS / "weights.safetensors"))
    return model.eval()
