"""Recipes and quantities as people read them."""

from __future__ import annotations

from collections.abc import Callable

from autoshrink.types import Figure, Latency, Recipe, Scalar, Settings


def describe(recipe: Recipe, fidelity: float = 1.0) -> str:
    """A recipe in a few words, such as `prune 50 % + fine-tune 1 epoch + int8 static`.

    At a fidelity under 1 a recipe that trains says so: `fine-tune 1 epoch (30 % of the training)`.
    """
    if not recipe.stages:
        return "fp32 baseline"
    text = " + ".join(
        _WORDS.get(stage.technique, _plain(stage.technique))(dict(stage.settings)) for stage in recipe.stages
    )
    trains = any(name.endswith("epochs") and value for stage in recipe.stages for name, value in stage.settings)
    return f"{text}{reduced_training(fidelity)}" if trains else text


def reduced_training(fidelity: float) -> str:
    """` (30 % of the training)`; empty when every step is made."""
    return "" if fidelity == 1 else f" ({_percent(fidelity)} of the training)"


def human_bytes(size: float) -> str:
    """Bytes in kB or MB of 1000, as `4.92 MB`."""
    if size < 1000:
        return f"{size:.0f} B"
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def human_ms(milliseconds: float) -> str:
    """Milliseconds with three significant digits, as `0.312 ms`."""
    digits = 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1
    return f"{milliseconds:.{digits}f} ms"


def rows_per_second(latency: Latency, batch: int) -> float:
    """Throughput of calls of `batch` rows, one after the other."""
    return 1000.0 * batch / latency.ms


def human_rate(rows: float) -> str:
    """Rows a second with three significant digits and more, as `12.5 rows/s` or `4,870 rows/s`."""
    return f"{rows:,.0f} rows/s" if rows >= 100 else f"{rows:.3g} rows/s"


def human_figure(figure: Figure, value: float | None = None) -> str:
    """A figure with its unit, as `262 kB`; what is estimated says so, as `~1.84 ms (estimate)`.

    Args:
        figure: its unit says how it is written.
        value: written in the place of the figure's own, such as a limit on it; then nothing is said of an estimate.
    """
    text = _amount(figure.value if value is None else value, figure.unit)
    return f"~{text} (estimate)" if figure.estimate and value is None else text


def _amount(value: float, unit: str) -> str:
    if unit in ("bytes", "byte", "B"):
        return human_bytes(value)
    if unit == "ms":
        return human_ms(value)
    number = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"
    return f"{number} {unit}".strip()


def human_seconds(seconds: float) -> str:
    """Seconds as `8 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _percent(share: Scalar) -> str:
    return f"{100 * float(share):g} %"


def _student(settings: Settings) -> str:
    words = []
    if settings.get("width", 1) != 1:
        words.append(f"{float(settings['width']):g} wide")
    if settings.get("depth", 1) != 1:
        depth = float(settings["depth"])
        words.append("half the layers" if depth == 0.5 else f"{_percent(depth)} of the layers")
    form = settings.get("convolutions", "dense")
    if form != "dense":
        words.append(f"{_CONVOLUTIONS.get(str(form), str(form))} convolutions")
    return f"student {', '.join(words)}"


def _prune(settings: Settings) -> str:
    words = [f"prune {_percent(settings['ratio'])}"]
    if settings.get("importance", "magnitude") != "magnitude":
        words[0] += f" by {settings['importance']}"
    if settings.get("scope", "global") == "per_layer":
        words.append("layer by layer")
    if float(settings.get("steps", 1)) > 1:
        words.append(f"{float(settings['steps']):g} steps")
    if settings.get("heads", "narrow") == "remove":
        words.append("whole heads")
    return ", ".join(words)


def _factorize(settings: Settings) -> str:
    if settings.get("rule", "energy") == "energy":
        text = f"rank for {_percent(settings['energy'])} energy"
    else:
        text = f"rank for {_percent(settings['budget'])} of the arithmetic"
    return f"{text}, spatial" if settings.get("convolutions") == "spatial" else text


def _finetune(settings: Settings) -> str:
    text = f"fine-tune {_epochs(settings['epochs'])}"
    return f"{text} with hints" if settings.get("hint", 0) else text


def _sparsify(settings: Settings) -> str:
    pattern = str(settings.get("pattern", "unstructured"))
    words = [f"{_percent(settings['ratio'])} sparse" if pattern == "unstructured" else f"{pattern} sparse"]
    if settings.get("importance", "magnitude") != "magnitude":
        words[0] += f" by {settings['importance']}"
    if settings.get("schedule", "one_shot") != "one_shot":
        words.append(str(settings["schedule"]))
    return ", ".join([*words, *_trained(settings)])


def _cluster(settings: Settings) -> str:
    return ", ".join([f"{float(settings['centroids']):g} centroids", *_trained(settings), *_treated(settings)])


def _binarize(settings: Settings) -> str:
    return ", ".join([f"{settings['values']} weights", *_trained(settings), *_treated(settings)])


def _qat(settings: Settings) -> str:
    if settings.get("allocation") == "mixed":
        words = [f"mixed {float(settings['average_bits']):g}-bit weights"]
    else:
        words = [f"{float(settings['weight_bits']):g}-bit weights"]
    words.append(f"{float(settings.get('activation_bits', 8)):g}-bit activations")
    words.extend(_trained(settings) or ["not trained"])
    if settings.get("step", "learned") == "observed":
        words.append("observed steps")
    return ", ".join([*words, *_kept(settings)])


def _quantize(settings: Settings) -> str:
    words = [str(settings["scheme"]).replace("_", " ")]
    if settings.get("calibration", "minmax") != "minmax":
        words.append(str(settings["calibration"]))
    if "block" in settings:
        block = float(settings["block"])
        words.append(f"blocks of {block:g}" if block else "one block a channel")
    if settings.get("rounding", "nearest") != "nearest":
        words.append(str(settings["rounding"]).upper())
    return ", ".join([*words, *_kept(settings)])


def _epochs(epochs: Scalar) -> str:
    return f"{float(epochs):g} epoch{'' if float(epochs) == 1 else 's'}"


def _trained(settings: Settings) -> list[str]:
    epochs = settings.get("epochs", 0)
    return [f"trained {_epochs(epochs)}"] if epochs else []


def _kept(settings: Settings) -> list[str]:
    ends = str(settings.get("keep_float", "none"))
    return [] if ends == "none" else [f"{ends.replace('_', ' and ')} layer float"]


def _treated(settings: Settings) -> list[str]:
    ends = str(settings.get("keep", "first_last"))
    return [] if ends == "first_last" else ["every layer" if ends == "none" else f"{ends} layer float"]


def _plain(technique: str) -> Callable[[Settings], str]:
    return lambda settings: f"{technique} " + " ".join(f"{name}={value}" for name, value in settings.items())


_CONVOLUTIONS = {"inverted": "inverted-residual"}
_WORDS: dict[str, Callable[[Settings], str]] = {
    "student": _student,
    "prune": _prune,
    "factorize": _factorize,
    "finetune": _finetune,
    "sparsify": _sparsify,
    "cluster": _cluster,
    "binarize": _binarize,
    "qat": _qat,
    "quantize": _quantize,
}
