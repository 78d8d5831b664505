"""Recipes and quantities as people read them."""

from __future__ import annotations

from collections.abc import Callable

from autoshrink.types import Recipe, Settings


def describe(recipe: Recipe) -> str:
    """A recipe in a few words, such as `prune 50 % + fine-tune 1 epoch + int8 static`."""
    if not recipe.stages:
        return "fp32 baseline"
    return " + ".join(
        _WORDS.get(stage.technique, _plain(stage.technique))(dict(stage.settings)) for stage in recipe.stages
    )


def human_bytes(size: float) -> str:
    """Bytes in kB or MB of 1000, as `4.92 MB`."""
    if size < 1000:
        return f"{size:.0f} B"
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def human_ms(milliseconds: float) -> str:
    """Milliseconds with three significant digits, as `0.312 ms`."""
    digits = 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1
    return f"{milliseconds:.{digits}f} ms"


def human_seconds(seconds: float) -> str:
    """Seconds as `8 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _prune(settings: Settings) -> str:
    text = f"prune {100 * float(settings['ratio']):g} %"
    return text if settings.get("importance", "magnitude") == "magnitude" else f"{text} by {settings['importance']}"


def _finetune(settings: Settings) -> str:
    epochs = float(settings["epochs"])
    return f"fine-tune {epochs:g} epoch{'' if epochs == 1 else 's'}"


def _quantize(settings: Settings) -> str:
    words = [str(settings["scheme"]).replace("_", " ")]
    if settings.get("calibration", "minmax") != "minmax":
        words.append(str(settings["calibration"]))
    if settings.get("keep_float", "none") != "none":
        words.append(f"{str(settings['keep_float']).replace('_', ' and ')} layer float")
    return ", ".join(words)


def _plain(technique: str) -> Callable[[Settings], str]:
    return lambda settings: f"{technique} " + " ".join(f"{name}={value}" for name, value in settings.items())


_WORDS: dict[str, Callable[[Settings], str]] = {"prune": _prune, "finetune": _finetune, "quantize": _quantize}
