"""The benchmark of the techniques' costs: its figures on tiny tasks, and what it makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from autoshrink.bench import technique_costs
from autoshrink.bench.technique_cost_figures import (
    Figure,
    activation_bytes,
    cache_hit,
    few_batches,
    rounding_sensitivities,
    seconds_of,
    step_ratio,
    training_memory,
)
from autoshrink.bench.technique_costs import CLAIMS, MEMORY_TECHNIQUES, Claim, main, memory_figure, write
from autoshrink.cache import StageCache
from autoshrink.config import load_target
from autoshrink.errors import StageError
from autoshrink.types import Recipe
from tests.small_models import tiny_task

TARGET = load_target("onnxruntime-cpu")


def test_a_step_over_itself_is_about_one(tmp_path: Path) -> None:
    task = few_batches(tiny_task("cnn"), 6)
    figure = step_ratio(task, TARGET, "finetune", {}, StageCache(tmp_path), 0, rounds=3)
    assert 0.3 < figure.value < 3
    assert len(figure.details["step_s"]) == len(figure.details["finetune_step_s"]) == 3
    assert figure.note.endswith("32 rows a step")


def test_a_step_of_qat_is_found_among_its_other_work(tmp_path: Path) -> None:
    task = few_batches(tiny_task("cnn"), 4)
    figure = step_ratio(task, TARGET, "qat", {"weight_bits": 4}, StageCache(tmp_path), 0, rounds=1)
    assert figure.value > 0.5


def test_few_batches_are_the_first_ones() -> None:
    task = tiny_task("cnn")
    few = few_batches(task, 2)
    assert few.train is not None and task.train is not None
    assert len(few.train) == 2 and len(few.train.split) == 64
    assert (few.train.split.targets["label"] == task.train.split.targets["label"][:64]).all()
    with pytest.raises(ValueError, match="no training set"):
        few_batches(replace(task, train=None), 2)


def test_seconds_are_those_of_the_technique() -> None:
    task = tiny_task("cnn")
    figure = seconds_of(task, TARGET, "prune", {"ratio": 0.5}, 0, repeats=3)
    assert 0 < figure.value == sorted(figure.details["seconds"])[1]
    assert figure.details["parameters"] == sum(parameter.numel() for parameter in task.model().parameters())
    with pytest.raises(TypeError, match="quantize does not work on a module"):
        seconds_of(task, TARGET, "quantize", {}, 0, repeats=1)


def test_sensitivities_count_every_layer_and_width() -> None:
    figure = rounding_sensitivities(tiny_task("cnn"))
    # Stem, two convolutions, head; 8, 6, 5, 4, 3 and 2 bits.
    assert (figure.details["layers"], figure.details["measurements"]) == (4, 24)
    assert figure.value > 0


def test_hits_of_the_cache(tmp_path: Path) -> None:
    recipe = Recipe.from_json([{"technique": "prune", "ratio": 0.5}])
    cache = StageCache(tmp_path)
    figures = cache_hit(tiny_task("cnn"), TARGET, recipe, cache, 0, repeats=3)
    assert all(min(figure.details["seconds"]) <= figure.value < 0.2 for figure in figures.values())
    assert figures["recipe"].details["first_s"] > 0
    assert figures["entry"].details["bytes"] > 1000


def test_activations_are_what_the_backward_pass_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 4)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(image.flatten(1))
            return logits

    # In bf16 there would be converted copies as well.
    monkeypatch.setattr("autoshrink.techniques.training_device._bf16_processor", lambda: False)
    task, model = tiny_task("cnn"), OneLayer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # The images of a batch for the weight's gradient; log-probabilities, labels and the sum's weight for the loss's.
    images, rest = 32 * 64 * 4, 32 * 4 * 4 + 32 * 8 + 4
    assert images <= activation_bytes(model, task) <= images + rest
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_memory_of_training_is_all_there() -> None:
    task = few_batches(tiny_task("cnn"), 2)
    found = training_memory(task, TARGET, "finetune", MEMORY_TECHNIQUES["finetune"], 0)
    count = found["parameters"]
    assert found["optimizer"] == "sgd" and found["optimizer_bytes"] == 4 * count
    assert found["model_bytes"] > 4 * count
    assert found["batch_bytes"] == 32 * (64 * 4 + 8)
    assert found["peak_bytes"] >= found["model_bytes"]
    json.dumps(found)


def test_the_memory_s_figure_is_the_peak_over_what_must_be_there() -> None:
    found = {
        "peak_bytes": 120_000_000, "model_bytes": 20_000_000, "optimizer_bytes": 15_000_000, "batch_bytes": 5_000_000,
        "activation_bytes": 20_000_000, "optimizer": "sgd", "batch": 128, "parameters": 5,
    }  # fmt: skip
    figure = memory_figure(found)
    assert figure.value == 3.0
    assert figure.details["with_activations"] == 2.0
    assert "120.00 MB over 40.00 MB" in figure.note and "2.00 times" in figure.note


def test_claims_are_checked_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_seed: int) -> Figure:
        raise StageError("qat", "layer a|b: cannot")

    def break_down(_seed: int) -> Figure:
        raise KeyError("gone")

    claims = (
        Claim("kept", 1.6, "times", lambda seed: Figure(1.6 - seed / 10, "how", {"seed": seed})),
        Claim("broken", 5, "s", lambda _seed: Figure(5.01)),
        Claim("refused", 5, "s", refuse),
        Claim("failed", 5, "s", break_down),
    )
    write(claims, tmp_path / "new" / "costs.json", "the command", 1)
    document = json.loads((tmp_path / "new" / "costs.json").read_text())
    assert [(cost["figure"], cost["kept"]) for cost in document["costs"]] == [
        (1.5, True), (5.01, False), (None, None), (None, None),
    ]  # fmt: skip
    assert document["costs"][0]["details"] == {"seed": 1}
    assert document["machine"]["processor"]
    page = (tmp_path / "new" / "costs.md").read_text()
    assert "| kept | 1.6 times | 1.5 times | yes | how |" in page
    assert "| broken | 5 s | 5.01 s | no |  |" in page
    assert "| refused | 5 s | not measured | - | qat: layer a\\|b: cannot |" in page
    assert "KeyError: 'gone'" in page and "`the command`" in page
    assert capsys.readouterr().out.count("\n") == 4


def test_the_models_are_as_large_as_the_claims_say() -> None:
    for task, least, most in (
        (technique_costs.five_million(0), 5e6, 6e6),
        (technique_costs.random_encoder(0), 2e7, 22e6),
    ):
        model = task.model()
        assert least <= sum(parameter.numel() for parameter in model.parameters()) <= most
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), task.model().parameters(), strict=True))


def test_every_claim_is_told_apart() -> None:
    assert len({claim.what for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.unit for claim in CLAIMS} == {"s", "times"}


def test_the_place_of_the_files_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "--out is missing" in capsys.readouterr().err
