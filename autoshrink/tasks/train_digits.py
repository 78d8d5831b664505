"""Trains the baseline of the digits task in some seconds: `python -m autoshrink.tasks.train_digits`.

Val picks nothing, it is only logged; test is scored once, at the end. One thread and one seed, so that a run on the
same machine repeats. Writes `weights.safetensors` and `train.log`.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from autoshrink.task import Split, TrainingSet
from autoshrink.tasks.digits import ASSETS, BATCH_SIZE, WIDTH, read_splits
from autoshrink.tasks.resnet import ResNet

PEAK_LEARNING_RATE = 0.1
WEIGHT_DECAY = 5e-4


def shifted(batch: Split, random: np.random.Generator) -> Split:
    """Each image of the batch moved by up to one pixel in both directions, black coming in at the edge."""
    images = batch.inputs["image"]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1.0)
    count, _, side, _ = images.shape
    top, left = random.integers(0, 3, (2, count, 1)) + np.arange(side)
    moved = padded[np.arange(count)[:, None, None], 0, top[:, :, None], left[:, None, :]]
    return Split({"image": moved[:, np.newaxis]}, batch.targets)


@torch.no_grad()
def accuracy(model: torch.nn.Module, part: Split) -> float:
    """Share of right answers, computed in float32."""
    model.eval()
    logits = model(torch.tensor(part.inputs["image"]))
    return float((logits.argmax(1).numpy() == part.targets["label"]).mean())


def train(epochs: int, seed: int, log: list[str]) -> ResNet:
    """The trained model in eval mode; says its progress in `log` as well as on the terminal."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    train_split, val, test = read_splits()
    batches = TrainingSet(train_split, BATCH_SIZE, augment=shifted)
    model = ResNet(WIDTH)
    optimizer = torch.optim.SGD(
        model.parameters(), PEAK_LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=epochs * len(batches))

    def say(line: str) -> None:
        log.append(line)
        print(line, flush=True)

    say(
        f"torch {torch.__version__}, 1 thread, {platform.machine()}; width {WIDTH}, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(train_split):,} images, "
        f"batch {BATCH_SIZE}, {epochs} epochs, seed {seed}"
    )
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for _, batch in batches.epoch(seed + epoch):
            logits = model(torch.tensor(batch.inputs["image"]))
            loss = functional.cross_entropy(logits, torch.tensor(batch.targets["label"]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 5 == 4:
            say(f"epoch {epoch + 1:2d}  loss {total / len(batches):.4f}  val {accuracy(model, val):.4f}")
    say(f"test accuracy on the {len(test)}: {accuracy(model, test):.4f}")
    return model.eval()


def main() -> None:
    """Reads the command line, trains, writes the two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    log: list[str] = []
    model = train(arguments.epochs, arguments.seed, log)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), arguments.out / "weights.safetensors")
    (arguments.out / "train.log").write_text("\n".join(log) + "\n")


if __name__ == "__main__":
    main()
