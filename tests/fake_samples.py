"""FAKE samples of a study: pictures that nobody took, classes that no model predicted, latencies that no clock told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from autoshrink.activity import Activity, Underway, now, write_activity
from autoshrink.measure.timing import Samples
from autoshrink.records import SCHEMA, StudyFolder, write_json
from autoshrink.types import Recipe, TrialRecord
from autoshrink.val_set import FOLDER, INPUTS_FILE, TARGETS_FILE, VAL_FILE, write_array

FAKE_CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FAKE_PICTURES = 1000
"""Of the first samples; the others have none."""
SIDE = 16
CONFUSED = (6, 9, 4, 2, 2, 7, 0, 5, 0, 7)
"""Which class each one is mostly taken for."""
SHAPES = {
    "stem.conv": (64, 1, 3, 3),
    "blocks.0.conv1": (64, 64, 3, 3),
    "blocks.0.conv2": (64, 64, 3, 3),
    "blocks.1.conv1": (64, 64, 3, 3),
    "blocks.1.conv2": (64, 64, 3, 3),
    "blocks.2.conv1": (128, 64, 3, 3),
    "blocks.2.conv2": (128, 128, 3, 3),
    "blocks.3.conv1": (128, 128, 3, 3),
    "blocks.3.conv2": (128, 128, 3, 3),
    "head": (10, 128),
}
"""Layer -> weight of a FAKE baseline."""


def fake_weights(prune: float = 0.0, rank: int | None = None) -> dict[str, tuple[int, ...]]:
    """Weights with a share of the channels pruned; with `rank` the last convolution is two factors."""

    def kept(channels: int) -> int:
        return max(1, round(channels * (1 - prune)))

    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, into, *kernel) in SHAPES.items():
        out = out if name == "head" else kept(out)
        shapes[name] = (out, into if name == "stem.conv" else kept(into), *kernel)
    if rank is not None:
        out, into, *_ = shapes.pop("blocks.3.conv2")
        shapes |= {"blocks.3.conv2.0": (rank, into, 3, 1), "blocks.3.conv2.1": (out, rank, 1, 3)}
    return shapes


def fake_targets(count: int) -> npt.NDArray[np.uint8]:
    """Classes in turn."""
    return (np.arange(count) % len(FAKE_CLASSES)).astype(np.uint8)


def fake_pictures(count: int = FAKE_PICTURES) -> npt.NDArray[np.uint8]:
    """Bars in the direction of the class, uint8 [count, 16, 16, 1]."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angles = np.pi * np.arange(len(FAKE_CLASSES)) / len(FAKE_CLASSES)
    across = np.cos(angles)[:, None, None] * rows + np.sin(angles)[:, None, None] * columns
    images = 200 * np.exp(-((across / 2.5) ** 2))[fake_targets(count)] + random.uniform(0, 55, (count, SIDE, SIDE))
    return images.astype(np.uint8)[..., None]


def fake_predictions(accuracy: float, count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Predictions that are right for that share of the samples. Trials err on mostly the same ones."""
    targets = fake_targets(count)
    difficulty = np.random.default_rng(1).random(count) + 0.02 * np.random.default_rng([2, seed]).standard_normal(count)
    wrong = np.argsort(-difficulty, kind="stable")[: round((1 - accuracy) * count)]
    found = targets.copy()
    found[wrong] = np.array(CONFUSED, np.uint8)[targets[wrong]]
    others = wrong[np.random.default_rng([3, seed]).random(len(wrong)) < 0.3]
    found[others] = (targets[others] + 1) % len(FAKE_CLASSES)
    return found


def write_fake_val_set(study: StudyFolder, count: int) -> None:
    """The folder `val` of a study."""
    folder = study.path / FOLDER
    folder.mkdir(exist_ok=True)
    write_array(folder / TARGETS_FILE, fake_targets(count))
    write_array(folder / INPUTS_FILE, fake_pictures(min(count, FAKE_PICTURES)))
    write_json(
        folder / VAL_FILE,
        {"schema": SCHEMA, "count": count, "classes": list(FAKE_CLASSES), "input": "image", "fingerprint": "fake"},
    )


def with_fake_files(study: StudyFolder, record: TrialRecord) -> TrialRecord:
    """The record of a scored trial with FAKE predictions, latency samples and log beside it."""
    if record.val is None:
        return record
    folder = study.trial_folder(record.target, record.number)
    folder.mkdir(exist_ok=True)
    place = f"{record.target}/trials/{folder.name}"
    seed = record.number + 1000 * len(record.target)
    write_array(folder / "predictions.npy", fake_predictions(record.val.value, record.val.count, seed))
    (folder / "child.log").write_text("FAKE log: compiled, measured by nobody\n")
    record = replace(record, predictions=f"{place}/predictions.npy", log=f"{place}/child.log")
    if record.latency is None:
        return record
    random = np.random.default_rng(seed)
    reference_ms = record.latency.ms / record.latency.ratio
    rows = [
        (turn, which, seconds, seconds)
        for turn in range(record.latency.rounds)
        for which, ms in enumerate((record.latency.ms, reference_ms))
        for seconds in ms / 1000 * random.lognormal(0.01, 0.03, 20)
    ]
    Samples(np.array(rows, np.float64)).save(folder / "samples.npy")
    return replace(record, samples=f"{place}/samples.npy")


def write_fake_activity(study: StudyFolder, stage: str = "finetune", device: str = "") -> Activity:
    """Says that this process searches: a trial of each target is on its way."""
    recipe = Recipe.from_json([{"technique": "prune", "ratio": 0.5}, {"technique": "finetune", "epochs": 1}])
    meta, moment = study.meta, now()
    underway = {}
    for target in meta.targets:
        number = len(list((study.path / target / "trials").glob("*.json")))
        underway[target] = (Underway(number, recipe, stage, device, moment, moment),)
    planned = None if meta.trials is None else meta.trials * len(meta.targets)
    activity = replace(Activity.here(planned, meta.time_limit_s), targets=underway)
    write_activity(study.path, activity)
    return activity
