"""A task of your own: copy this file and put your model, your data and your metric in.

The model here looks at a part on a conveyor belt. It gets the picture and the number of the camera that took it (the
cameras hang at different heights, so one pixel is not the same length in both), and says what kind of part it is and
how many millimetres it measures.

    python my_task.py      trains the model and writes my_task.safetensors beside this file

autoshrink runs this file, calls `task()` and checks what it gets; docs/task.md explains each part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from autoshrink.task import Split, Task, TrainingSet

WEIGHTS = Path(__file__).with_suffix(".safetensors")
SIDE = 16
MM_PER_PIXEL = np.array([0.5, 0.8])
TOLERANCE_MM = 0.5


# ---- The model: yours stands here, or is imported. Any torch.nn.Module that torch.onnx.export accepts will do.


class PartNet(nn.Module):
    """Picture and camera -> kind of part and its size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.camera = nn.Embedding(2, 8)
        self.mix = nn.Linear(32 + 8, 32)
        self.kind = nn.Linear(32, 3)
        self.size = nn.Linear(32, 1)

    def forward(self, image: torch.Tensor, camera: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float32 [N, 1, 16, 16] and int64 [N] -> logits [N, 3] and millimetres [N, 1]."""
        seen = self.features(image).mean((2, 3))
        mixed = torch.relu(self.mix(torch.cat([seen, self.camera(camera)], dim=1)))
        return self.kind(mixed), self.size(mixed)


def trained_model() -> nn.Module:
    """A fresh model at each call, with its trained weights, in eval mode."""
    model = PartNet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


# ---- The data: numpy arrays by name, samples in the first dimension. Yours may come from files (numpy.memmap works).


def make_parts(count: int, seed: int) -> Split:
    """Pictures of discs, squares and crosses of 2 to 6 pixels radius, in random places, with noise."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, 3, count)
    camera = random.integers(0, 2, count)
    radius = random.uniform(2, 6, count)
    centre = random.uniform(6, SIDE - 6, (2, count, 1, 1))
    y, x = np.abs(np.mgrid[0:SIDE, 0:SIDE][:, np.newaxis] - centre)
    r = radius[:, np.newaxis, np.newaxis]
    shapes = np.stack([x**2 + y**2 < r**2, np.maximum(x, y) < r, (np.maximum(x, y) < r) & (np.minimum(x, y) < r / 3)])
    image = shapes[kind, np.arange(count)] * 2.0 - 1.0 + random.normal(0, 0.2, (count, SIDE, SIDE))
    size = 2 * radius * MM_PER_PIXEL[camera]
    return Split(
        inputs={"image": image[:, np.newaxis].astype(np.float32), "camera": camera},
        targets={"kind": kind, "size": size[:, np.newaxis].astype(np.float32)},
    )


# ---- What counts as good (numpy), and what fine-tuning minimises (torch). Outputs and targets come by name.


def right(outputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> np.ndarray:
    """1.0 for each sample whose kind is right and whose size is within the tolerance, else 0.0: an array [N]."""
    kind_is_right = outputs["kind"].argmax(axis=1) == targets["kind"]
    size_is_right = np.abs(outputs["size"] - targets["size"])[:, 0] < TOLERANCE_MM
    return (kind_is_right & size_is_right).astype(float)


def loss(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of the kind plus a smooth absolute error of the size."""
    return functional.cross_entropy(outputs["kind"], targets["kind"]) + functional.smooth_l1_loss(
        outputs["size"], targets["size"]
    )


# ---- The task: autoshrink calls this function.


def task() -> Task:
    """Everything that autoshrink needs to know."""
    train = make_parts(4_000, seed=0)
    return Task(
        name="parts",
        model=trained_model,
        example_inputs=train.rows(slice(0, 1)).inputs,
        outputs={"kind": "logits", "size": "values"},
        calibration=train.rows(slice(0, 256)).inputs,
        val=make_parts(1_000, seed=1),
        test=make_parts(1_000, seed=2),
        metric=right,
        metric_name="right kind and size",
        train=TrainingSet(train, batch_size=64),
        loss=loss,
        preprocessing="grey picture of 16 x 16 pixels in [-1, 1]; the camera's number, 0 or 1",
    )


# ---- Only for this example: how the weights came to be.


def train_and_save(epochs: int = 20) -> float:
    """Trains on one thread, writes the weights, gives the share of test samples that are right."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batches = PartNet(), TrainingSet(make_parts(4_000, seed=0), batch_size=64)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * len(batches))
    for epoch in range(epochs):
        for _, batch in batches.epoch(seed=epoch):
            kind, size = model(*(torch.tensor(array) for array in batch.inputs.values()))
            error = loss(
                {"kind": kind, "size": size}, {name: torch.tensor(array) for name, array in batch.targets.items()}
            )
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
    save_file(model.state_dict(), WEIGHTS)
    model.eval()
    test = make_parts(1_000, seed=2)
    with torch.no_grad():
        kind, size = model(*(torch.tensor(array) for array in test.inputs.values()))
    return float(right({"kind": kind.numpy(), "size": size.numpy()}, test.targets).mean())


if __name__ == "__main__":
    print(f"{train_and_save():.3f} of the test samples are right")
