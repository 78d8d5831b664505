"""The table of built-in tasks: name -> module and function. A new one is its file and its line here."""

from __future__ import annotations

TASKS = {
    "fashion-mini": ("autoshrink.tasks.fashion", "fashion_mini"),
    "fashion-mnist": ("autoshrink.tasks.fashion", "fashion_mnist"),
    "fashion-patches": ("autoshrink.tasks.fashion", "fashion_patches"),
    "digits": ("autoshrink.tasks.digits", "digits"),
}
