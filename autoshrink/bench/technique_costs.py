"""What the techniques themselves cost: `python -m autoshrink.bench.technique_costs --out results/technique_costs.json`.

Training steps, the techniques that train nothing on 5 million parameters, measured sensitivities, the most memory that
training takes (in a process of its own) and hits in the stage cache, each against what it may be. Takes some ten
minutes on two cores; the machine must be quiet otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoshrink.bench.technique_cost_figures import (
    Figure,
    cache_hit,
    few_batches,
    rounding_sensitivities,
    seconds_of,
    step_ratio,
    training_memory,
)
from autoshrink.bench.technique_page import line, machine_line, text
from autoshrink.cache import StageCache
from autoshrink.config import load_target
from autoshrink.errors import AutoshrinkError
from autoshrink.measure.environment import describe_machine
from autoshrink.records import SCHEMA, write_json
from autoshrink.search.words import human_bytes
from autoshrink.task import Split, Task, TrainingSet
from autoshrink.tasks.classification import cross_entropy, right_answers
from autoshrink.tasks.fashion import fashion_mini
from autoshrink.types import Recipe, Settings

if TYPE_CHECKING:
    from torch import nn

COMMAND = "python -m autoshrink.bench.technique_costs"
TARGET = "onnxruntime-cpu"
STEPS, ROUNDS = 8, 5
REPEATS = 3
HITS = 20
MEMORY_STEPS = 2
FIVE_MILLION_WIDTH = 136
"""A ResNet of this width has 5.5 million parameters."""
ENCODER = {"width": 512, "depth": 8, "ratio": 3, "head_width": 64}
"""A PatchEncoder of these sizes has 21 million parameters."""
ENCODER_ROWS, ENCODER_BATCH = 512, 32
HIT_RECIPE = Recipe.from_json(
    [{"technique": "prune", "ratio": 0.5}, {"technique": "quantize", "scheme": "int8_static"}]
)


@dataclass(frozen=True)
class Cost:
    """One claim and what was measured.

    Attributes:
        what: is measured.
        limit: what it may be at most, in `unit`.
        unit: `s` or `times`.
        figure: what it is; None when it could not be measured.
        kept: whether the figure is within the limit; None without a figure.
        note: how the figure came about, or why there is none.
        details: the figures behind it.
    """

    what: str
    limit: float
    unit: str
    figure: float | None = None
    kept: bool | None = None
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What something may cost; `measure` takes the seed."""

    what: str
    limit: float
    unit: str
    measure: Callable[[int], Figure]

    def check(self, seed: int) -> Cost:
        """What it costs, or why that could not be measured."""
        try:
            found = self.measure(seed)
        except AutoshrinkError as error:
            return Cost(self.what, self.limit, self.unit, note=str(error))
        except Exception as error:
            # One technique that is broken must not take the other claims with it.
            return Cost(self.what, self.limit, self.unit, note=f"{type(error).__name__}: {error}")
        kept = found.value <= self.limit
        return Cost(self.what, self.limit, self.unit, float(f"{found.value:.4g}"), kept, found.note, found.details)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--out", type=Path, help="JSON file to write; a Markdown table is written beside it")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "TECHNIQUE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        model, technique = options.child
        task, settings = few_batches(MEMORY_MODELS[model](options.seed), MEMORY_STEPS), MEMORY_TECHNIQUES[technique]
        print(json.dumps(training_memory(task, load_target(TARGET), technique, settings, options.seed)))
        return
    if not options.out:
        parser.error("--out is missing; it names the JSON file to write, such as results/technique_costs.json")
    # An absolute path would publish a folder of this machine.
    shown = options.out.name if options.out.is_absolute() else options.out
    write(CLAIMS, options.out, f"{COMMAND} --out {shown} --seed {options.seed}", options.seed)
    print(f"wrote {options.out} and {options.out.with_suffix('.md')}")


def write(claims: tuple[Claim, ...], out: Path, command: str, seed: int) -> None:
    """Checks the claims one after the other, and writes the JSON file and the page beside it after each."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "seed": seed,
        "machine": describe_machine(),
        "costs": [],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for claim in claims:
        cost = asdict(claim.check(seed))
        print(line(_cells(cost)), flush=True)
        document["costs"].append(cost)
        write_json(out, document)
        out.with_suffix(".md").write_text(markdown(document))


def markdown(document: Mapping[str, Any]) -> str:
    """The document of the benchmark as a Markdown page."""
    head = ("what", "may be", "is", "kept", "how")
    return "\n".join(
        [
            "# What the techniques cost",
            "",
            f"Made by `{document['command']}` on {document['date']}.",
            "",
            line(head),
            line("---" for _ in head),
            *(line(_cells(cost)) for cost in document["costs"]),
            "",
            WHY,
            "",
            machine_line(document["machine"]),
            "",
        ]
    )


def _cells(cost: Mapping[str, Any]) -> tuple[str, ...]:
    unit = cost["unit"]
    figure = "not measured" if cost["figure"] is None else f"{cost['figure']:.3g} {unit}"
    kept = {True: "yes", False: "no", None: "-"}[cost["kept"]]
    return text(cost["what"]), f"{cost['limit']:g} {unit}", figure, kept, text(cost["note"])


def random_encoder(seed: int) -> Task:
    """A task of an untrained transformer encoder of 21 million parameters, with random images and labels."""
    from autoshrink.tasks.encoder import PatchEncoder

    random = np.random.default_rng(seed)
    images = random.standard_normal((ENCODER_ROWS, 1, 28, 28), np.float32)
    split = Split({"image": images}, {"label": random.integers(0, 10, ENCODER_ROWS)})
    return Task(
        name="random-encoder",
        model=_seeded(seed, lambda: PatchEncoder(**ENCODER)),
        example_inputs={"image": images[:1]},
        outputs={"logits": "logits"},
        calibration=split.inputs,
        val=split,
        test=split,
        metric=right_answers,
        train=TrainingSet(split, ENCODER_BATCH),
        loss=cross_entropy,
    )


def five_million(seed: int) -> Task:
    """The images of the demo with an untrained residual CNN of 5.5 million parameters."""
    from autoshrink.tasks.resnet import ResNet

    return replace(fashion_mini(), model=_seeded(seed, lambda: ResNet(FIVE_MILLION_WIDTH)))


def _seeded(seed: int, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build().eval()

    return model


def _step(settings: Settings) -> Callable[[int], Figure]:
    def measure(seed: int) -> Figure:
        with tempfile.TemporaryDirectory() as place:
            task, cache = few_batches(fashion_mini(), STEPS), StageCache(Path(place))
            return step_ratio(task, load_target(TARGET), "qat", settings, cache, seed, ROUNDS)

    return measure


def _untrained(technique: str, settings: Settings) -> Callable[[int], Figure]:
    return lambda seed: seconds_of(five_million(seed), load_target(TARGET), technique, settings, seed, REPEATS)


def _channel_sensitivities(task: Callable[[int], Task]) -> Callable[[int], Figure]:
    settings: Settings = {"ratio": 0.5, "scope": "per_layer"}
    return lambda seed: seconds_of(task(seed), load_target(TARGET), "prune", settings, seed, 1)


def _memory(model: str, technique: str) -> Callable[[int], Figure]:
    def measure(seed: int) -> Figure:
        child = [sys.executable, "-m", "autoshrink.bench.technique_costs", "--child", model, technique]
        done = subprocess.run([*child, "--seed", str(seed)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"its process ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return memory_figure(json.loads(done.stdout))

    return measure


def memory_figure(found: Mapping[str, Any]) -> Figure:
    """The peak over model, optimizer state and batch, from what `training_memory` gave."""
    least = found["model_bytes"] + found["optimizer_bytes"] + found["batch_bytes"]
    with_activations = found["peak_bytes"] / (least + found["activation_bytes"])
    return Figure(
        found["peak_bytes"] / least,
        f"{human_bytes(found['peak_bytes'])} over {human_bytes(least)}: model {human_bytes(found['model_bytes'])}, "
        f"{found['optimizer']} state {human_bytes(found['optimizer_bytes'])}, {found['batch']} rows "
        f"{human_bytes(found['batch_bytes'])}. What plain training keeps of these rows for its backward pass is "
        f"{human_bytes(found['activation_bytes'])}; counted with it the peak is {with_activations:.2f} times as much",
        {**found, "with_activations": with_activations},
    )


def _hit(which: str) -> Callable[[int], Figure]:
    def measure(seed: int) -> Figure:
        with tempfile.TemporaryDirectory() as place:
            task, cache = fashion_mini(), StageCache(Path(place))
            return cache_hit(task, load_target(TARGET), HIT_RECIPE, cache, seed, HITS)[which]

    return measure


WHY = (
    "A step of QAT is compared with one of fine-tuning in the same arithmetic, bf16 where the processor has it; beside "
    "that the passes over each activation that round it, and that train its step, are long (`step: observed` saves "
    "those of the backward pass). What training keeps for its backward pass is many times the weights of a CNN, so its "
    "peak is compared both without it, as the limit is meant, and with it."
)

MEMORY_MODELS: Mapping[str, Callable[[int], Task]] = {
    "cnn": lambda _seed: fashion_mini(),
    "encoder": random_encoder,
}
MEMORY_TECHNIQUES: Mapping[str, Settings] = {"finetune": {}, "qat": {"weight_bits": 4}}

CLAIMS = (
    Claim("step of QAT, 8 bit, over one of fine-tuning; CNN", 1.6, "times", _step({"weight_bits": 8})),
    Claim("step of QAT, 4 bit, over one of fine-tuning; CNN", 1.6, "times", _step({"weight_bits": 4})),
    Claim("factorizing 5 million parameters", 5, "s", _untrained("factorize", {})),
    Claim("clustering 5 million parameters", 5, "s", _untrained("cluster", {"centroids": 16, "epochs": 0.0})),
    Claim("sparsifying 5 million parameters", 5, "s", _untrained("sparsify", {"epochs": 0.0})),
    Claim("rounding sensitivities, CNN of the demo", 120, "s", lambda _seed: rounding_sensitivities(fashion_mini())),
    Claim("channel sensitivities, CNN of the demo", 120, "s", _channel_sensitivities(lambda _seed: fashion_mini())),
    Claim("rounding sensitivities, encoder", 600, "s", lambda seed: rounding_sensitivities(random_encoder(seed))),
    Claim("channel sensitivities, encoder", 600, "s", _channel_sensitivities(random_encoder)),
    *(
        Claim(
            f"peak memory of {technique} over model, optimizer state and batch; {model}",
            3, "times", _memory(model, technique),
        )
        for model in MEMORY_MODELS
        for technique in MEMORY_TECHNIQUES
    ),
    Claim("an entry of the cache", 0.2, "s", _hit("entry")),
    Claim("a recipe that is wholly in the cache", 0.2, "s", _hit("recipe")),
)  # fmt: skip


if __name__ == "__main__":
    main()
