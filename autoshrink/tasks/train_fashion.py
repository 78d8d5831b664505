"""Trains the baselines of the Fashion-MNIST tasks: `python -m autoshrink.tasks.train_fashion --source FOLDER`.

`--model resnet` is the residual CNN, `--model encoder` the transformer encoder. The 58,000 images that are not val are
the training set; val picks nothing here, it is only logged; the 10,000 of test are scored once, at the end. Writes the
weights and the log beside the subset.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch.nn import functional

from autoshrink.tasks.encoder import PatchEncoder
from autoshrink.tasks.fashion import WIDTH, to_input
from autoshrink.tasks.fashion_data import Images, find_folder, read_folder, split
from autoshrink.tasks.make_fashion_mini import ASSETS
from autoshrink.tasks.resnet import ResNet

AVERAGE_DECAY = 0.998
PAD = 2
CUTOUT = 8


@dataclass(frozen=True)
class Plan:
    """A baseline and how it is trained; `name` precedes `weights.safetensors` and `train.log`."""

    name: str
    build: Callable[[], torch.nn.Module]
    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer]
    peak: float
    batch: int
    epochs: int


def _sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)


def _adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), weight_decay=0.05)


PLANS = {
    "resnet": Plan("", lambda: ResNet(WIDTH), _sgd, 0.1, 128, 18),
    "encoder": Plan("encoder-", PatchEncoder, _adamw, 2e-3, 256, 10),
}


def normalise(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [N, 28, 28] -> float32 [N, 1, 28, 28] in [-1, 1]."""
    return torch.from_numpy(to_input(images))


def augment(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Random shift by up to 2 pixels, mirror, and an 8 x 8 cut-out; whole batch at once, same shape out."""
    count, side = len(images), images.shape[-1]
    padded = functional.pad(images, (PAD,) * 4, value=-1.0)
    top, left = torch.randint(0, 2 * PAD + 1, (2, count, 1), generator=random)
    across = torch.arange(side).expand(count, side)
    mirrored = torch.rand(count, 1, generator=random) < 0.5
    columns = torch.where(mirrored, side - 1 - across, across) + left
    rows = across + top
    shifted = padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    centre_y, centre_x = torch.randint(0, side, (2, count, 1), generator=random)
    hole_y, hole_x = (across - centre_y).abs() <= CUTOUT // 2, (across - centre_x).abs() <= CUTOUT // 2
    cut = torch.rand(count, 1, 1, generator=random) < 0.5
    return shifted.masked_fill(hole_y[:, :, None] & hole_x[:, None, :] & cut, -1.0).unsqueeze(1)


@torch.no_grad()
def accuracy(model: torch.nn.Module, part: Images) -> float:
    """Share of right answers, computed in float32."""
    model.eval()
    right = 0
    for start in range(0, len(part.labels), 500):
        logits = model(normalise(part.images[start : start + 500]).contiguous(memory_format=torch.channels_last))
        right += int((logits.argmax(1).numpy() == part.labels[start : start + 500]).sum())
    return right / len(part.labels)


def main() -> None:
    """Reads the command line, trains, writes the two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="folder with the four idx.gz files of Fashion-MNIST")
    parser.add_argument("--model", choices=list(PLANS), default="resnet")
    parser.add_argument("--epochs", type=int, help="instead of the model's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    plan = PLANS[arguments.model]
    epochs = arguments.epochs or plan.epochs

    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    torch.manual_seed(arguments.seed)
    random = torch.Generator().manual_seed(arguments.seed)
    whole, test = read_folder(find_folder(arguments.source))
    rows = split(whole.labels, test.labels)
    train, val = whole.take(rows.full_train), whole.take(rows.val)
    images = normalise(train.images)
    labels = torch.from_numpy(train.labels.astype(np.int64))

    model = plan.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model)
    steps_per_epoch = len(labels) // plan.batch
    optimizer = plan.optimizer(model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.peak, total_steps=epochs * steps_per_epoch, pct_start=0.25
    )
    log(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; {arguments.model}, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(labels):,} images, batch {plan.batch}, "
        f"{epochs} epochs, seed {arguments.seed}"
    )
    began = time.monotonic()
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(len(labels), generator=random)
        total = 0.0
        for step in range(steps_per_epoch):
            chosen = order[step * plan.batch : (step + 1) * plan.batch]
            batch = augment(images[chosen], random).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch)
            loss = functional.cross_entropy(logits.float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
            with torch.no_grad():
                for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                    if mean.is_floating_point():
                        mean.lerp_(value, 1 - AVERAGE_DECAY)
                    else:
                        mean.copy_(value)
        log(
            f"epoch {epoch + 1:2d}  loss {total / steps_per_epoch:.4f}  val {accuracy(model, val):.4f}  "
            f"val of the averaged weights {accuracy(average, val):.4f}  {time.monotonic() - began:.0f} s"
        )
    log(f"test accuracy of the averaged weights on the 10,000: {accuracy(average, test):.4f}")
    mini_test = test.take(rows.mini_test)
    log(f"test accuracy of the averaged weights on the 5,000 of fashion-mini: {accuracy(average, mini_test):.4f}")
    state = {name: value.contiguous() for name, value in average.state_dict().items()}
    save_file(state, arguments.out / f"{plan.name}weights.safetensors")
    (arguments.out / f"{plan.name}train.log").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
