"""What the benchmark of the techniques tries: one recipe a technique, the best combination, and the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoshrink.types import Recipe, Scalar

MODELS = {"cnn": "fashion-mnist", "encoder": "fashion-patches"}
"""Model -> the built-in task that brings it."""
BOTH = tuple(MODELS)
CNN = ("cnn",)
ENCODER = ("encoder",)


@dataclass(frozen=True)
class TechniqueRow:
    """One row of the benchmark.

    Attributes:
        name: as `--rows` names it.
        recipe: what is tried.
        models: on which of `MODELS`.
    """

    name: str
    recipe: Recipe
    models: tuple[str, ...] = BOTH


@dataclass(frozen=True)
class Goal:
    """What a technique is to reach; None is not asked for.

    Attributes:
        words: as it was set.
        model: on which of `MODELS`.
        rows: names of the rows any of which may reach it.
        drop: most loss of accuracy on test, 0.01 is one point.
        smaller: how many times smaller the files that ship must be, uncompressed.
        faster: how many times faster a call must be.
    """

    words: str
    model: str
    rows: tuple[str, ...]
    drop: float | None = None
    smaller: float | None = None
    faster: float | None = None


def scaled(recipe: Recipe, share: float) -> Recipe:
    """The recipe with `share` of its epochs."""

    def setting(name: str, value: Scalar) -> Scalar:
        return float(value) * share if name.endswith("epochs") and not isinstance(value, str) else value

    stages = [{name: setting(name, value) for name, value in stage.items()} for stage in recipe.to_json()]
    return Recipe.from_json(stages) if share != 1 else recipe


def _row(name: str, *stages: Mapping[str, Any], models: Sequence[str] = BOTH) -> TechniqueRow:
    return TechniqueRow(name, Recipe.from_json(stages), tuple(models))


def _finetune(epochs: float) -> dict[str, Any]:
    return {"technique": "finetune", "epochs": epochs}


def _qat(epochs: float, **others: Scalar) -> dict[str, Any]:
    return {"technique": "qat", "epochs": epochs, **others}


def _scheme(scheme: str, **others: Scalar) -> dict[str, Any]:
    return {"technique": "quantize", "scheme": scheme, **others}


_INT8 = _scheme("int8_static")
# Of the CNN's parameters, 70 % go with this share of all channels, and 72 % with that of each layer's.
_PRUNED = {"technique": "prune", "ratio": 0.47}
_PRUNED_PER_LAYER = {"technique": "prune", "ratio": 0.5, "scope": "per_layer"}
_LOW_RANK = {"technique": "factorize", "rule": "energy", "energy": 0.8}
_HALF_WIDTH = {"technique": "student", "width": 0.5, "epochs": 4.0}

_NARROWER = {"technique": "student", "width": 0.75, "epochs": 4.0}
_HALF_DEPTH = {"technique": "student", "depth": 0.5, "epochs": 3.0}
_THINNER = ({"technique": "prune", "ratio": 0.25}, _finetune(1.0), _qat(2.0, weight_bits=4))

BASELINE = _row("baseline")
_ROWS = (
    _row("int8_static", _INT8),
    _row("int8_dynamic", _scheme("int8_dynamic"), models=ENCODER),
    # Only matrix products: of the CNN that is its head.
    _row("weight_only_int8", _scheme("int8_weights"), models=ENCODER),
    _row("weight_only_int4", _scheme("int4_weights"), models=ENCODER),
    _row("weight_only_int4_gptq", _scheme("int4_weights", rounding="gptq"), models=ENCODER),
    _row("qat_8_bit", _qat(0.5, weight_bits=8)),
    _row("qat_4_bit", _qat(1.0, weight_bits=4)),
    _row("qat_2_bit", _qat(1.0, weight_bits=2)),
    _row("mixed_precision_4_bit", _qat(0.5, allocation="mixed", average_bits=4.0)),
    _row("binary", {"technique": "binarize", "values": "binary", "epochs": 1.5}, _INT8),
    _row("ternary", {"technique": "binarize", "values": "ternary", "epochs": 1.0}, _INT8),
    _row("weight_sharing", {"technique": "cluster", "centroids": 16, "epochs": 0.3}, _INT8),
    _row("prune", _PRUNED, _finetune(1.0)),
    _row("prune_per_layer", _PRUNED_PER_LAYER, _finetune(1.0)),
    _row("prune_int8", _PRUNED, _finetune(1.0), _INT8),
    _row("prune_heads", {"technique": "prune", "ratio": 0.25, "heads": "remove"}, _finetune(0.5), models=ENCODER),
    _row("sparse_80", {"technique": "sparsify", "ratio": 0.8, "schedule": "gradual", "epochs": 1.0}, _INT8),
    _row("sparse_2_4", {"technique": "sparsify", "pattern": "2:4", "epochs": 0.5}, _INT8),
    _row("low_rank", _LOW_RANK, _finetune(0.5)),
    _row("low_rank_int8", _LOW_RANK, _finetune(0.5), _INT8),
    _row("student_half_width", _HALF_WIDTH, _INT8, models=CNN),
    _row("student_separable", {"technique": "student", "convolutions": "separable", "epochs": 3.0}, _INT8, models=CNN),
    _row("student_half_depth", _HALF_DEPTH, _INT8, models=ENCODER),
    # Half the width loses more than it gains here: 42 times smaller, and 1.8 points.
    _row("best_combination", _NARROWER, *_THINNER[:2], _qat(1.0, weight_bits=4), models=CNN),
    _row("best_combination", _HALF_DEPTH, *_THINNER, models=ENCODER),
)

EPOCH_SHARES = {"cnn": 1.0, "encoder": 0.5}
"""An epoch of the encoder costs a CPU more, so its rows make fewer."""
ROWS = tuple(
    replace(row, recipe=scaled(row.recipe, EPOCH_SHARES[model]), models=(model,))
    for row in _ROWS
    for model in row.models
)
"""In the order of the tables. Rows that begin alike share what was trained: keep their settings equal."""

GOALS = (
    Goal(
        "static int8 within 0.5 points at 3.5 times smaller and 2.5 times faster",
        "cnn", ("int8_static",), drop=0.005, smaller=3.5, faster=2.5,
    ),
    Goal("4-bit-weight QAT within 1 point at 7 times smaller", "cnn", ("qat_4_bit",), drop=0.01, smaller=7.0),
    Goal(
        "pruning at 70 % of the parameters within 1.5 points at 3 times smaller and 2 times faster",
        "cnn", ("prune", "prune_per_layer"), drop=0.015, smaller=3.0, faster=2.0,
    ),
    Goal(
        "student + pruning + QAT within 1.5 points at 20 times smaller and 6 times faster",
        "cnn", ("best_combination",), drop=0.015, smaller=20.0, faster=6.0,
    ),
    Goal("binary inner layers at 20 times smaller", "cnn", ("binary",), smaller=20.0),
)  # fmt: skip
