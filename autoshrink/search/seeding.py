"""Where a search starts: recipes that an expert would try first, so that the sampler begins on good ground."""

from __future__ import annotations

from autoshrink.search.space import complete
from autoshrink.types import Choice, Range, Recipe, Scalar, Space


def start_recipes(space: Space) -> list[Recipe]:
    """Plain quantization first (it is cheap and often enough), then pruning from mild to strong with it, then alone.

    Then integers in the weights only, and what trains more: 8- and 4-bit weights, a student of half the width, low
    rank, and the small files of clustered and binary weights.

    The baseline is not among them: every search measures it anyway. A recipe the space does not hold is left out.
    """
    schemes = _values(space, "quantize", "scheme")
    ratios = [ratio for ratio in _values(space, "prune", "ratio") if ratio]
    ratios = sorted(ratios, key=lambda ratio: abs(float(ratio) - 0.5))
    epochs = max((float(value) for value in _values(space, "finetune", "epochs")), default=None)
    off: dict[str, Scalar] = {"prune.ratio": 0.0} if "prune" in space.techniques else {}
    wishes: list[dict[str, Scalar]] = []
    for scheme in ("int8_static", "int8_dynamic", "bf16", "fp16"):
        if scheme in schemes:
            wishes.append({**off, "quantize.scheme": scheme})
    tuned: dict[str, Scalar] = {} if epochs is None else {"finetune.epochs": epochs}
    best = next((scheme for scheme in ("int8_static", "int8_dynamic", "fp16", "fp32") if scheme in schemes), None)
    quantized: dict[str, Scalar] = {} if best is None else {"quantize.scheme": best}
    wishes.extend({"prune.ratio": ratio, **tuned, **quantized} for ratio in ratios)
    if ratios:
        wishes.append({"prune.ratio": ratios[0], **tuned, **({"quantize.scheme": "fp32"} if "fp32" in schemes else {})})
    wishes.extend(_further_wishes(tuned, quantized))
    recipes: dict[str, Recipe] = {}
    for wish in wishes:
        recipe = complete(space, wish)
        if recipe is not None and recipe.stages:
            recipes.setdefault(recipe.key, recipe)
    return list(recipes.values())


def _further_wishes(tuned: dict[str, Scalar], quantized: dict[str, Scalar]) -> list[dict[str, Scalar]]:
    eight: dict[str, Scalar] = {"qat.allocation": "uniform", "qat.weight_bits": 8, "qat.activation_bits": 8}
    four = {**eight, "qat.weight_bits": 4}
    half: dict[str, Scalar] = {"student.width": 0.5, "student.depth": 1.0, "student.convolutions": "dense"}
    return [
        {"quantize.scheme": "int8_weights"},
        {"quantize.scheme": "int4_weights"},
        eight,
        four,
        {**half, **quantized},
        {**half, **four},
        {"factorize.rule": "energy", "factorize.energy": 0.9, **tuned, **quantized},
        {"prune.ratio": 0.5, **tuned, **four},
        {"qat.allocation": "mixed", "qat.average_bits": 4.0},
        {"cluster.centroids": 16},
        {"binarize.values": "binary"},
    ]


def _values(space: Space, technique: str, parameter: str) -> tuple[Scalar, ...]:
    dimension = space.techniques.get(technique, {}).get(parameter)
    if isinstance(dimension, Choice):
        return dimension.values
    if isinstance(dimension, Range):
        return (dimension.low, (dimension.low + dimension.high) / 2, dimension.high)
    return ()
