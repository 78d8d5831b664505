"""A small transformer encoder over image patches, the second baseline of the built-in image tasks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2) with separate projections, so that heads can go.

    Maps float32 [N, T, width] to the same shape.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [N, T, width] -> [N, T, width]."""
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class EncoderLayer(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and added to its input (pre-norm).

    Maps float32 [N, T, width] to the same shape.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [N, T, width] -> [N, T, width]."""
        x = x + self.attention(self.norm1(x))
        out: torch.Tensor = x + self.contract(functional.gelu(self.expand(self.norm2(x))))
        return out


WIDTH = 128
DEPTH = 4
HEAD_WIDTH = 32


class PatchEncoder(nn.Module):
    """Linear embedding of square patches, a learned position, encoder layers, mean over the patches, linear head.

    After Dosovitskiy et al. 2021, without the class token.

    Args:
        width: of a token; a multiple of `head_width`.
        depth: encoder layers.
        ratio: hidden width of the perceptron over `width`.
        head_width: of an attention head.
        side: of the image, a multiple of `patch`.
        patch: side of a patch.
        classes: number of logits.

    Maps float32 [N, 1, side, side] to logits float32 [N, classes].
    """

    def __init__(
        self,
        width: int = WIDTH,
        depth: int = DEPTH,
        ratio: int = 3,
        head_width: int = HEAD_WIDTH,
        side: int = 28,
        patch: int = 4,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.patch = patch
        tokens = (side // patch) ** 2
        self.embed = nn.Linear(patch * patch, width)
        self.position = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.layers = nn.Sequential(*(EncoderLayer(width, width // head_width, ratio * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Float32 [N, 1, side, side] -> logits [N, classes]."""
        rows = image.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # type: ignore[no-untyped-call]
        patches = rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = self.layers(self.embed(patches) + self.position)
        logits: torch.Tensor = self.head(self.norm(x).mean(1))
        return logits

    @classmethod
    def of_shares(cls, width: float, depth: float) -> PatchEncoder:
        """The encoder with these shares of the usual width, in whole heads, and of the usual layers; one at least."""
        heads = max(1, round(width * WIDTH / HEAD_WIDTH))
        return cls(heads * HEAD_WIDTH, max(1, round(depth * DEPTH)))
