"""The pipeline: a recipe's stages in order, each looked up in the stage cache by what it was made from, else made.

The key of a stage holds the key of the one before it, so equal beginnings of recipes are made once, over trials,
targets and studies. A cached stage in the middle is never loaded when a later one is there.
"""

from __future__ import annotations

import copy
import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from autoshrink.backends import get_backend
from autoshrink.backends.base import installed_version
from autoshrink.cache import CACHE_VARIABLE, StageCache
from autoshrink.errors import StageError
from autoshrink.fingerprints import model_fingerprint
from autoshrink.module_files import Step, load_module, save_module
from autoshrink.onnx_graph import write_onnx
from autoshrink.sensitivities import SharedOut, shared_out_from_json
from autoshrink.target import Target
from autoshrink.task import Arrays, Task, call
from autoshrink.techniques import get_technique
from autoshrink.techniques.base import Context, GraphTechnique, ModuleTechnique, Technique
from autoshrink.tensors import as_tensors
from autoshrink.types import Recipe, Settings, content_key

LOOKUP = "cache"
"""The entry of `Built.seconds` for finding, checking and loading what was there."""
EXPORT = "export"
EXPORT_VERSION = 1
"""Raised when the export writes another file of the same model: it is part of the cache's key."""
MODEL_FILE = "model.onnx"
PROGRAM_FILE = "model.pt2"
FILES: Mapping[str, str] = {"onnx": MODEL_FILE, "program": PROGRAM_FILE}
"""Form of an export (see `Backend.form`) -> its file."""
PARITY_FILE = "parity.json"
WEIGHTS = "weights"
"""The entry of the export's report for the shapes of the weights."""
SHARED_OUT = "shared out"
"""The same for what was shared out among the layers."""
COST_FILE = "cost.json"
PACK = "pack"
PACK_VERSION = 1
"""Raised when packing writes another file of the same model."""
ROWS = 64
"""Samples of one call of `float_outputs`."""

Listener = Callable[[str, int, int], None]
"""Told (stage, steps done, steps in all); (stage, 0, 0) when a stage begins."""


@dataclass(frozen=True)
class Built:
    """What a recipe became.

    Attributes:
        model: after every stage; for a backend that compiles programs, after the module stages.
        float_model: after the module stages only; the same file when no stage works on the graph.
        settings: of the stage that quantizes, resolved, where the backend does it and not the pipeline.
        key: of `model`, by content: 64 hex digits.
        seconds: stage -> wall seconds of making it; `cache` -> those of looking up and loading what was there.
        reused: the stages that were not made this time, in order.
        cost_seconds: stage -> wall seconds of making it, whenever that was; of stages whose result is gone, absent.
        weight_bits: layer -> bits of its trained integers; empty without quantization-aware training.
        weights: layer -> shape of its weight after the module stages; see `weight_shapes`.
        shared_out: what the module stages shared out among the layers by their sensitivities, in order.
    """

    model: Path
    float_model: Path
    settings: Settings
    key: str
    seconds: Mapping[str, float]
    reused: tuple[str, ...]
    cost_seconds: Mapping[str, float]
    weight_bits: Mapping[str, int]
    weights: Mapping[str, tuple[int, ...]]
    shared_out: tuple[SharedOut, ...] = ()


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Qualified name of each module with a weight of two dimensions or more -> the shape of that weight.

    Convolutions and linear layers have their output channels first, transposed convolutions their input channels.
    """
    found: dict[str, tuple[int, ...]] = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim >= 2:
                found[name] = tuple(weight.shape)
    return found


@dataclass(frozen=True)
class _Stage:
    """A stage of a recipe on a target; `settings` are resolved, `key` names its result."""

    technique: Technique
    settings: Mapping[str, Any]
    key: str


@dataclass
class _Work:
    """What one run made, and how long that took."""

    listen: Listener
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def making(self, stage: str) -> Iterator[None]:
        """Times a stage that has to be made."""
        self.listen(stage, 0, 0)
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = time.monotonic() - began

    def finished(self) -> dict[str, float]:
        """Seconds by stage; what no stage took was spent on lookups."""
        return {**self.seconds, LOOKUP: time.monotonic() - self.began - sum(self.seconds.values())}


class Pipeline:
    """Runs recipes of one task. Fingerprints and the trained model are read once; results are kept in `cache`.

    Args:
        task: is not changed while the pipeline lives.
        cache: shared with other processes.
        seed: of everything random.
        fidelity: share of the training steps that are made, over 0 to 1.
    """

    def __init__(self, task: Task, cache: StageCache, seed: int, fidelity: float = 1.0) -> None:
        self._task = task
        self._cache = cache
        self._seed = seed
        self._fidelity = fidelity
        self._root = ""
        self._trained: nn.Module | None = None
        self._fingerprints: dict[str, str] = {}
        self._latest: tuple[str, nn.Module, list[Step]] | None = None

    def run(self, recipe: Recipe, target: Target, progress: Listener) -> Built:
        """The files of a recipe in the form that the target's backend compiles, made where they are not in the cache.

        Raises:
            StageError: a technique cannot treat the model; the export fails; the cache cannot be written.
        """
        work = _Work(progress)
        form = get_backend(target.backend).form
        module_stages, graph_stages = self._stages(recipe, target)
        float_key = self._float_key(module_stages, target, form)
        entry = self._cache.get(float_key)
        if entry is None:
            model, steps = self._module(module_stages, work)
            entry = self._make(float_key, EXPORT, partial(self._export, model, steps, target, form, work))
        keys = {stage.technique.name: stage.key for stage in module_stages} | {EXPORT: float_key}
        built = entry / FILES[form]
        settings: Settings = {}
        if form == "program":
            # The backend quantizes what it has converted; it is told how.
            settings = graph_stages[-1].settings if graph_stages else {}
        else:
            for stage in graph_stages:
                name = stage.technique.name
                keys[name] = stage.key
                built = self._make(stage.key, name, partial(self._transform, stage, built, work)) / MODEL_FILE
            if any(stage.technique.few_values for stage in module_stages):
                keys[PACK] = content_key([graph_stages[-1].key if graph_stages else float_key, PACK, PACK_VERSION])
                built = self._make(keys[PACK], PACK, partial(self._pack, built, work)) / MODEL_FILE
        report = json.loads((entry / PARITY_FILE).read_text())
        return Built(
            built,
            entry / FILES[form],
            settings,
            list(keys.values())[-1],
            work.finished(),
            tuple(name for name in keys if name not in work.seconds),
            {name: seconds for name, key in keys.items() if (seconds := self._cost(key)) is not None},
            report.get("weight_bits", {}),
            {layer: tuple(shape) for layer, shape in report[WEIGHTS].items()}
            # The export is from before they were kept.
            if WEIGHTS in report
            else weight_shapes(self._module(module_stages, work)[0]),
            tuple(shared_out_from_json(value) for value in report.get(SHARED_OUT, ())),
        )

    def _cost(self, key: str) -> float | None:
        """Seconds that making the result of `key` took."""
        try:
            return float(json.loads((self._cache.root / key / COST_FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def module(self, recipe: Recipe, target: Target) -> nn.Module:
        """The torch model after the module stages, in eval mode; not to be changed.

        Raises:
            StageError: as `run`.
        """
        return self._module(self._stages(recipe, target)[0], _Work(lambda _stage, _done, _total: None))[0]

    def float_outputs(self, recipe: Recipe, target: Target, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """The outputs of `module` for samples: input name -> [N, ...] gives output name -> float32 [N, ...].

        Raises:
            StageError: as `run`.
        """
        model = self.module(recipe, target)
        names = tuple(self._task.outputs)
        pieces: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
        count = len(next(iter(inputs.values())))
        with torch.no_grad():
            for start in range(0, count, ROWS):
                rows = {name: array[start : start + ROWS] for name, array in inputs.items()}
                for name, output in call(model, as_tensors(rows), names).items():
                    pieces[name].append(output.float().numpy())
        return {name: np.concatenate(arrays) for name, arrays in pieces.items()}

    def _stages(self, recipe: Recipe, target: Target) -> tuple[list[_Stage], list[_Stage]]:
        """The stages that work on the module and those that work on the graph, with their keys."""
        if not self._root:
            self._root = content_key(["model", model_fingerprint(self._task), torch.__version__])
        key = self._root
        module_stages: list[_Stage] = []
        graph_stages: list[_Stage] = []
        for spec in recipe.stages:
            technique, settings = get_technique(spec.technique), dict(spec.settings)
            if technique.is_off(settings):
                continue
            if isinstance(technique, GraphTechnique):
                if not graph_stages:
                    key = self._float_key(module_stages, target, "onnx")
                key = self._key(key, technique, settings, target, ("onnx", "onnxruntime"))
                graph_stages.append(_Stage(technique, technique.resolve(settings, target), key))
            elif graph_stages:
                before = graph_stages[-1].technique.name
                reason = f"stands after {before}, which works on the exported graph; put it before"
                raise StageError(technique.name, reason)
            else:
                key = self._key(key, technique, settings, target, ("torch", "torch-pruning"))
                module_stages.append(_Stage(technique, technique.resolve(settings, target), key))
        return module_stages, graph_stages

    def _key(
        self, before: str, technique: Technique, settings: Settings, target: Target, packages: tuple[str, ...]
    ) -> str:
        name = technique.name
        if name not in self._fingerprints:
            self._fingerprints[name] = technique.fingerprint(self._task)
        resolved = technique.resolve(settings, target)
        versions = [installed_version(package) for package in packages]
        parts = [before, name, technique.version, resolved, self._fingerprints[name], self._seed, versions]
        if isinstance(technique, ModuleTechnique) and self._fidelity != 1:
            parts.append(self._fidelity)
        if technique.shares_out(resolved):
            # Results from before it was kept do not say what was shared out.
            parts.append(SHARED_OUT)
        return content_key(parts)

    def _float_key(self, module_stages: Sequence[_Stage], target: Target, form: str) -> str:
        before = module_stages[-1].key if module_stages else self._root
        versions = [installed_version(package) for package in ("torch", "onnx", "onnxscript")]
        # The export's file differs with the names and dtypes of the inputs, not with their values.
        inputs = [[name, array.dtype.str, list(array.shape)] for name, array in self._task.example_inputs.items()]
        parts = [before, EXPORT, EXPORT_VERSION, inputs, list(self._task.outputs), target.batch, versions]
        return content_key(parts if form == "onnx" else [*parts, form])

    def _trained_model(self) -> nn.Module:
        if self._trained is None:
            self._trained = self._task.model().eval()
        return self._trained

    def _module(self, stages: Sequence[_Stage], work: _Work) -> tuple[nn.Module, list[Step]]:
        """The model after `stages` and its steps, from the longest beginning of them that is in the cache."""
        if not stages:
            return self._trained_model(), []
        if self._latest is not None and self._latest[0] == stages[-1].key:
            return self._latest[1:]
        model, steps = self._trained_model(), list[Step]()
        done = 0
        for count in range(len(stages), 0, -1):
            folder = self._cache.get(stages[count - 1].key)
            if folder is not None:
                model, steps = self._load(folder)
                done = count
                break
        for stage in stages[done:]:
            model, steps = self._apply(stage, model, steps, work)
        self._latest = (stages[-1].key, model, steps)
        return model, steps

    def _apply(self, stage: _Stage, model: nn.Module, steps: list[Step], work: _Work) -> tuple[nn.Module, list[Step]]:
        technique = stage.technique
        made: list[tuple[nn.Module, list[Step]]] = []

        def make(folder: Path) -> None:
            if not isinstance(technique, ModuleTechnique):
                raise TypeError(f"{technique.name} does not work on a module")
            told: list[dict[str, Any]] = []
            context = replace(self._context(stage, work), shared_out=lambda found: told.append(asdict(found)))
            with work.making(technique.name):
                result, structure = technique.apply(model, stage.settings, context)
                result = result.eval()
                made.append((result, [*steps, Step(technique.name, structure, tuple(told))]))
                save_module(folder, *made[0])

        folder = self._make(stage.key, technique.name, make)
        # Not made here: another process was faster.
        return made[0] if made else self._load(folder)

    def _load(self, folder: Path) -> tuple[nn.Module, list[Step]]:
        return load_module(folder, copy.deepcopy(self._trained_model()), self._task)

    def _export(
        self, model: nn.Module, steps: Sequence[Step], target: Target, form: str, work: _Work, folder: Path
    ) -> None:
        from autoshrink.export import export_onnx
        from autoshrink.program import write_program

        write = write_program if form == "program" else export_onnx
        with work.making(EXPORT):
            parity = write(model, self._task, target.batch, folder / FILES[form])
            shared_out = [value for step in steps for value in step.shared_out]
            report = {**parity, WEIGHTS: weight_shapes(model), SHARED_OUT: shared_out}
            (folder / PARITY_FILE).write_text(json.dumps(report))

    def _transform(self, stage: _Stage, source: Path, work: _Work, folder: Path) -> None:
        technique = stage.technique
        if not isinstance(technique, GraphTechnique):
            raise TypeError(f"{technique.name} does not work on a graph")
        with work.making(technique.name):
            technique.transform(source, folder / MODEL_FILE, stage.settings, self._context(stage, work))

    def _pack(self, source: Path, work: _Work, folder: Path) -> None:
        import onnx

        from autoshrink.onnx_packing import pack_weights

        with work.making(PACK):
            model = onnx.load(str(source))
            pack_weights(model)
            write_onnx(model, folder / MODEL_FILE, PACK)

    def _context(self, stage: _Stage, work: _Work) -> Context:
        return Context(
            self._task,
            self._trained_model,
            self._seed,
            partial(work.listen, stage.technique.name),
            self._cache,
            self._fidelity,
            self._cache.checkpoint(stage.key),
        )

    def _make(self, key: str, stage: str, make: Callable[[Path], None]) -> Path:
        """The cache's folder of `key`.

        Raises:
            StageError: it cannot be written.
        """

        def timed(folder: Path) -> None:
            began = time.monotonic()
            make(folder)
            (folder / COST_FILE).write_text(json.dumps(round(time.monotonic() - began, 3)))

        try:
            return self._cache.get_or_make(key, stage, timed)[0]
        except OSError as error:
            if error.filename is not None and not Path(error.filename).is_relative_to(self._cache.root):
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            way_out = "free some (`autoshrink cache --trim` helps)" if full else "make that folder writable"
            raise StageError(
                "cache",
                f"the result of {stage} cannot be written under {self._cache.root}: "
                f"{(error.strerror or str(error)).lower()}; {way_out}, or set {CACHE_VARIABLE} to another folder",
            ) from error
