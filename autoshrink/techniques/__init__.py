"""The table of techniques, in the order of the pipeline: structure first (it needs training), precision last.

A new technique is its file and its line here.
"""

from __future__ import annotations

from importlib import import_module

from autoshrink.techniques.base import Technique

TECHNIQUES = {
    "student": ("autoshrink.techniques.student", "Student"),
    "prune": ("autoshrink.techniques.prune", "Prune"),
    "factorize": ("autoshrink.techniques.factorize", "Factorize"),
    "finetune": ("autoshrink.techniques.finetune", "FineTune"),
    "sparsify": ("autoshrink.techniques.sparsify", "Sparsify"),
    "cluster": ("autoshrink.techniques.cluster", "Cluster"),
    "binarize": ("autoshrink.techniques.binarize", "Binarize"),
    "qat": ("autoshrink.techniques.qat", "Qat"),
    "quantize": ("autoshrink.techniques.quantize", "Quantize"),
}


def get_technique(name: str) -> Technique:
    """The technique of a stage.

    Raises:
        KeyError: no such technique; spaces and recipes are checked before this is called.
    """
    module, cls = TECHNIQUES[name]
    technique: Technique = getattr(import_module(module), cls)()
    return technique
