"""Weight sharing: every weight of a layer takes one of a few values, found by k-means and then trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils import parametrize

from autoshrink.errors import StageError
from autoshrink.fingerprints import training_fingerprint
from autoshrink.target import Target
from autoshrink.task import Task
from autoshrink.techniques.base import Context, ModuleTechnique, Parameter
from autoshrink.techniques.fold_norms import fold_norms, refold
from autoshrink.techniques.training import SPARSE_SHARE, Plan, train
from autoshrink.techniques.weight_values import KEEP, treatable_layers, with_state
from autoshrink.types import Choice, Range, Settings

CENTROIDS = (2, 4, 8, 16, 32, 64, 128, 256)
ITERATIONS = 300
RATE_SHARE = 0.3
"""Of AdamW's usual rate: a centroid moves all of its weights at once."""

ON = ("centroids", CENTROIDS)


class Cluster(ModuleTechnique):
    """A codebook of 2 to 256 values for each layer (Han et al. 2016, section 3).

    It makes the file small: log2 of the number of values in bits a weight. It does not make the model faster: runtimes
    look the values up when they load the file, and compute in float32, or as int8 when static int8 follows.
    """

    name: ClassVar[str] = "cluster"
    version: ClassVar[int] = 1
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "centroids": Parameter(
            Choice((0, *CENTROIDS)), 16, "values that the weights of a layer share, 0 is off; smaller, and no faster"
        ),
        "keep": Parameter(Choice(KEEP), "first_last", "layers with weights that stay float", ON),
        "epochs": Parameter(
            Range(0.0, 20.0),
            1.0,
            "passes over the training set that train the values; 0 trains nothing",
            ON,
            trains_above=0.0,
        ),
        "learning_rate": Parameter(
            Range(0.0, 1.0), 0.0, "largest step of the one-cycle schedule of AdamW; 0 is the usual: 0.0003", ON
        ),
    }
    trains: ClassVar[bool] = False
    few_values: ClassVar[bool] = True

    def is_off(self, settings: Settings) -> bool:
        """No centroids."""
        return settings.get("centroids") == 0

    def resolve(self, settings: Settings, target: Target) -> dict[str, Any]:  # noqa: ARG002
        """The settings with their defaults: the codebooks are the same for every target."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        resolved = {**defaults, **settings}
        numbers = {name: float(resolved[name]) for name in ("epochs", "learning_rate")}
        return {**resolved, **numbers, "centroids": int(resolved["centroids"])}

    def fingerprint(self, task: Task) -> str:
        """Of the training set, its augmentation and the loss."""
        return training_fingerprint(task)

    def apply(self, model: nn.Module, settings: Mapping[str, Any], context: Context) -> tuple[nn.Module, Any]:
        """The model with shared values, and which batch normalisations were folded for it."""
        clustered, folded = cluster(
            model,
            context,
            centroids=int(settings["centroids"]),
            keep=str(settings["keep"]),
            epochs=float(settings["epochs"]),
            learning_rate=float(settings["learning_rate"]),
        )
        return clustered, {"folded": folded}

    def rebuild(self, model: nn.Module, structure: Any, task: Task) -> nn.Module:  # noqa: ARG002
        """Folds the same batch normalisations of a fresh model."""
        return refold(model, structure["folded"])


def cluster(
    model: nn.Module,
    context: Context,
    *,
    centroids: int,
    keep: str = "first_last",
    epochs: float = 0.0,
    learning_rate: float = 0.0,
) -> tuple[nn.Module, list[list[str]]]:
    """A copy of `model`, in eval mode, the weights of each of whose inner layers take at most `centroids` values.

    Batch normalisation is folded first: later it would multiply each channel by a factor of its own. Then come
    k-means over each layer's weights and, with epochs, training under the teacher with AdamW, in which a centroid's
    gradient is the sum of those of its weights (Han et al. 2016, section 3.3). The zeros of a sparse layer stay 0.

    Args:
        model: not touched. Shared, parametrized and embedded weights stay as they are, and so do those of
            `nn.MultiheadAttention`.
        context: as of `training.train`.
        centroids: values a layer, 2 to 256.
        keep: the ends that stay float: `first_last`, `last` or `none`, in the order that the example runs them.
        epochs: passes over the training set; 0 trains nothing.
        learning_rate: the largest of the schedule; 0 is 0.0003.

    Returns:
        The model, and the pairs of `fold_norms.fold_norms` that were folded.

    Raises:
        ValueError: `centroids` or `keep` is not one of those above.
        StageError: no layer is left to treat, or it is to be trained without a training set and loss, or diverges.
    """
    if not 2 <= centroids <= CENTROIDS[-1]:
        raise ValueError(f"centroids is {centroids}; it must be between 2 and {CENTROIDS[-1]}")
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}; it must be one of {', '.join(KEEP)}")
    task = context.task
    if epochs > 0 and not task.trains:
        raise StageError(
            Cluster.name,
            f"task {task.name} has no training set and loss, and the values are to be trained for {epochs:g} epochs; "
            f"set {Cluster.name}.epochs to 0, or give it both",
        )
    layers = treatable_layers(model, task, keep, Cluster.name)
    folded, pairs = fold_norms(model, task)
    sharing = copy.deepcopy(folded)
    for name in layers:
        layer = sharing.get_submodule(name)
        shared = _Shared(layer.get_parameter("weight").detach(), centroids)
        parametrize.register_parametrization(layer, "weight", shared)
    if epochs > 0:
        plan = Plan(epochs, learning_rate, rate_share=RATE_SHARE, optimizer="adamw")
        sharing = train(sharing, context, plan, Cluster.name)
    return with_state(folded, sharing, layers), pairs


def codebook_of(
    weights: npt.NDArray[np.float32], centroids: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The values that `weights` [n] share, float32 ascending, and the index of each weight among them, int64 [n].

    K-means in one dimension by Lloyd's iterations on the sorted weights, from centroids at equal distances (Han et al.
    2016, section 3.2, linear); a centroid that is near to no weight moves to where the error is largest. Weights that
    have no more values than that keep them. Where more than 5 % are exactly 0, one centroid is 0 and the others are
    those of the rest.
    """
    ordered = np.sort(weights)
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    if np.count_nonzero(first) <= centroids:
        codebook = ordered[first]
        return codebook, np.searchsorted(codebook, weights)
    zeros = ordered == 0
    is_sparse = np.count_nonzero(zeros) > SPARSE_SHARE * len(ordered)
    codebook = _lloyd(ordered[~zeros], centroids - 1) if is_sparse else _lloyd(ordered, centroids)
    codebook = codebook.astype(np.float32)
    index = np.searchsorted(_borders(codebook), weights)
    if not is_sparse:
        return codebook, index
    place = int(np.searchsorted(codebook, 0))
    index += index >= place
    index[weights == 0] = place
    return np.insert(codebook, place, 0), index


def _lloyd(ordered: npt.NDArray[np.float32], centroids: int) -> npt.NDArray[np.float64]:
    """Centroids of ascending values; one that no value is near to goes where the squared error is largest."""
    wide = ordered.astype(np.float64)
    sums, squares = (np.concatenate([[0.0], np.cumsum(terms)]) for terms in (wide, wide**2))
    codebook = np.linspace(wide[0], wide[-1], centroids)
    cuts = np.zeros(0, np.int64)
    for _ in range(ITERATIONS):
        before, cuts = cuts, np.concatenate([[0], np.searchsorted(ordered, _borders(codebook)), [len(ordered)]])
        counts = np.diff(cuts)
        empty = np.flatnonzero(counts == 0)
        if np.array_equal(before, cuts) and not len(empty):
            break
        means = np.diff(sums[cuts]) / np.maximum(counts, 1)
        codebook = np.where(counts > 0, means, codebook)
        if len(empty):
            errors = np.where(counts > 0, np.diff(squares[cuts]) - counts * means**2, 0).clip(min=0)
            worst = np.argsort(-errors, kind="stable")[: len(empty)]
            codebook[empty] = means[worst] + np.sqrt(errors[worst] / np.maximum(counts[worst], 1))
            codebook.sort()
    return codebook


def _borders(codebook: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Between neighbours, in the weights' type: mixed types would be converted at every search."""
    borders: npt.NDArray[np.float32] = ((codebook[1:] + codebook[:-1]) / 2).astype(np.float32)
    return borders


class _Shared(nn.Module):
    """Parametrization of a weight by its codebook; which weight has which value stays."""

    index: torch.Tensor
    free: torch.Tensor

    def __init__(self, weight: torch.Tensor, centroids: int) -> None:
        super().__init__()
        codebook, index = codebook_of(weight.float().cpu().numpy().reshape(-1), centroids)
        self.shape = weight.shape
        self.codebook = torch.from_numpy(codebook).to(weight.dtype)
        self.register_buffer("index", torch.from_numpy(index.astype(np.int32)))
        is_sparse = float((weight == 0).float().mean()) > SPARSE_SHARE
        self.register_buffer("free", ((self.codebook != 0) | (not is_sparse)).to(weight.dtype))

    def forward(self, codebook: torch.Tensor) -> torch.Tensor:
        return (codebook * self.free).index_select(0, self.index).view(self.shape)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return self.codebook
