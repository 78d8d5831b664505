"""What the built-in classification tasks share: the metric, the loss, the calibration set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoshrink.task import Arrays, Split

if TYPE_CHECKING:
    import torch


def right_answers(outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
    """1 for each sample whose largest of `logits` [N, classes] is its `label` [N], 0 for the others: float64 [N]."""
    right: npt.NDArray[np.float64] = (outputs["logits"].argmax(-1) == targets["label"]).astype(np.float64)
    return right


def cross_entropy(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of `logits` [N, classes] against the class numbers `label`, int64 [N]; a scalar in nats."""
    from torch.nn import functional

    return functional.cross_entropy(outputs["logits"], targets["label"])


def calibration_rows(train: Split, count: int) -> Arrays:
    """The inputs of `count` samples that lie evenly over the training set."""
    return train.rows(np.linspace(0, len(train) - 1, count).astype(np.int64)).inputs
