"""A small residual CNN family for 28 x 28 grey images, the baseline of the built-in image tasks."""

from __future__ import annotations

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, figure 2), batch-normalised.

    Maps float32 [N, inputs, H, W] to [N, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem and up to three residual blocks of `width`, 2 and 4 times `width` channels.

    Args:
        width: channels of the stem.
        depth: share of the three blocks, over 0 to 1; the first ones stay, at least one.
        classes: number of logits.

    Maps float32 [N, 1, H, W] to logits float32 [N, classes].
    """

    def __init__(self, width: int = 64, depth: float = 1.0, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks = [
            ResidualBlock(width, width, 1),
            ResidualBlock(width, 2 * width, 2),
            ResidualBlock(2 * width, 4 * width, 2),
        ][: max(1, round(3 * depth))]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width * 2 ** (len(blocks) - 1), classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Float32 [N, 1, H, W] -> logits [N, classes]."""
        features = self.blocks(self.stem(image)).mean((2, 3))
        logits: torch.Tensor = self.head(features)
        return logits
