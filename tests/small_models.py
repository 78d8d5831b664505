"""Tiny tasks that train in a moment: one for each kind of model that techniques, export and backends must cope with.

`from tests.small_models import tiny_task`. Data is random but learnable: each class adds its own pattern to noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from autoshrink.task import Arrays, Split, Task, TrainingSet, call

CLASSES = 4
SIDE = 8
TOKENS = 6
VOCABULARY = 12


class TinyCnn(nn.Module):
    """Stem, one residual block with batch normalisation, pooled linear head. [N, 1, 8, 8] -> logits [N, 4]."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        y = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(x + self.norm2(self.conv2(y)))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class ConvStack(nn.Module):
    """Convolutions only, no Linear and no normalisation. [N, 1, 8, 8] -> logits [N, 4]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 2, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.classify = nn.Conv2d(width, CLASSES, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(image))))
        logits: torch.Tensor = self.classify(x).mean((2, 3))
        return logits


class GroupedCnn(nn.Module):
    """A depthwise, a pointwise and a grouped convolution, flattened into the head. [N, 1, 8, 8] -> logits [N, 4]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 2, 1)
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.grouped = nn.Conv2d(width, width, 3, 2, 1, groups=4)
        self.head = nn.Linear(width * 4, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.depthwise(torch.relu(self.stem(image)))))
        x = torch.relu(self.grouped(torch.relu(self.pointwise(x))))
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits


class Attention(nn.Module):
    """Multi-head self-attention with separate projections, [N, T, width] -> the same; any head size."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: torch.Tensor = self.out(mixed)
        return out


class FusedAttention(nn.Module):
    """The same with one projection for query, key and value, and every size written into the views."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        packed = self.qkv(x).view(n, t, 3, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = packed.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(n, t, self.width))
        return out


class TinyTransformer(nn.Module):
    """One pre-norm encoder layer over token ids int64 [N, 6] -> logits [N, 4]."""

    def __init__(self, attention: Callable[[int, int], nn.Module] = Attention, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(torch.randn(1, TOKENS, width) * 0.02)
        self.norm1 = nn.LayerNorm(width)
        self.attention = attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.contract(functional.gelu(self.expand(self.norm2(x))))
        logits: torch.Tensor = self.head(self.norm(x).mean(1))
        return logits


class TiedTokens(nn.Module):
    """Embedding and output projection share one weight. Token ids int64 [N, 6] -> logits [N, 6, 12]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.hidden = nn.Linear(width, 2 * width)
        self.back = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        x = x + self.back(torch.relu(self.hidden(x)))
        logits: torch.Tensor = self.head(x)
        return logits


class TwoInTwoOut(nn.Module):
    """An image [N, 1, 8, 8] and features [N, 5] -> logits [N, 4] and a value [N, 1]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, 2, 1)
        self.side = nn.Linear(5, width)
        self.joint = nn.Linear(16 * width + width, 32)
        self.classify = nn.Linear(32, CLASSES)
        self.measure = nn.Linear(32, 1)

    def forward(self, image: torch.Tensor, features: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.conv(image)).flatten(1)
        x = torch.relu(self.joint(torch.cat((x, torch.relu(self.side(features))), 1)))
        return {"logits": self.classify(x), "value": self.measure(x)}


Loss = Callable[[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]], torch.Tensor]


def _images(random: np.random.Generator, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    patterns = np.random.default_rng(7).normal(size=(CLASSES, 1, SIDE, SIDE))
    return (patterns[labels] + random.normal(size=(len(labels), 1, SIDE, SIDE))).astype(np.float32)


def _tokens(random: np.random.Generator, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    own = 3 * labels[:, None] + random.integers(0, 3, (len(labels), TOKENS))
    noise = random.integers(0, VOCABULARY, own.shape)
    return np.where(random.random(own.shape) < 0.6, own, noise)


def _split(name: str, seed: int, count: int) -> Split:
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    if name in ("transformer", "fused_qkv"):
        return Split({"tokens": _tokens(random, labels)}, {"label": labels})
    if name == "tied":
        tokens = _tokens(random, labels)
        return Split({"tokens": tokens}, {"label": (tokens + 1) % VOCABULARY})
    if name == "two_outputs":
        features = random.normal(size=(count, 5)).astype(np.float32)
        inputs: Arrays = {"image": _images(random, labels), "features": features}
        return Split(inputs, {"label": labels, "amount": features.sum(1, keepdims=True)})
    return Split({"image": _images(random, labels)}, {"label": labels})


def _cross_entropy(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    loss = functional.cross_entropy(outputs["logits"].flatten(0, -2), targets["label"].flatten())
    return loss + functional.mse_loss(outputs["value"], targets["amount"]) if "value" in outputs else loss


def _accuracy(outputs: Arrays, targets: Arrays) -> npt.NDArray[np.floating]:
    right = outputs["logits"].argmax(-1) == targets["label"]
    return right.reshape(len(right), -1).mean(1)


BUILDERS: Mapping[str, Callable[[], nn.Module]] = {
    "cnn": TinyCnn,
    "conv_only": ConvStack,
    "grouped": GroupedCnn,
    "transformer": TinyTransformer,
    "fused_qkv": lambda: TinyTransformer(FusedAttention),
    "tied": TiedTokens,
    "two_outputs": TwoInTwoOut,
}


def _width(share: float, whole: int) -> int:
    return max(8, 8 * round(share * whole / 8))


# They have one block each: their depth stays.
FAMILIES: Mapping[str, Callable[[float, float], nn.Module]] = {
    "cnn": lambda width, _depth: TinyCnn(_width(width, 24)),
    "conv_only": lambda width, _depth: ConvStack(_width(width, 32)),
    "grouped": lambda width, _depth: GroupedCnn(_width(width, 32)),
    "transformer": lambda width, _depth: TinyTransformer(width=_width(width, 32)),
    "fused_qkv": lambda width, _depth: TinyTransformer(FusedAttention, _width(width, 32)),
    "tied": lambda width, _depth: TiedTokens(_width(width, 32)),
    "two_outputs": lambda width, _depth: TwoInTwoOut(_width(width, 16)),
}


@lru_cache
def _trained_state(name: str) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = BUILDERS[name]()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        names = ("logits", "value") if name == "two_outputs" else ("logits",)
        for step in range(25):
            batch = _split(name, 100 + step, 64)
            inputs = {key: torch.from_numpy(array) for key, array in batch.inputs.items()}
            targets = {key: torch.from_numpy(array) for key, array in batch.targets.items()}
            optimizer.zero_grad()
            _cross_entropy(call(model, inputs, names), targets).backward()
            optimizer.step()
    return model.state_dict()


def tiny_task(name: str) -> Task:
    """A task by the name of its model (a key of `BUILDERS`); every call of `task.model()` gives a fresh trained model.

    256 training, 64 calibration, 128 validation and 128 test samples; the trained models are right far more often
    than chance.
    """

    def model() -> nn.Module:
        built = BUILDERS[name]()
        built.load_state_dict(_trained_state(name))
        return built.eval()

    train, val, test = _split(name, 0, 256), _split(name, 1, 128), _split(name, 2, 128)
    return Task(
        name=f"tiny-{name}",
        model=model,
        example_inputs={key: array[:1] for key, array in train.inputs.items()},
        outputs={"logits": "logits", "value": "values"} if name == "two_outputs" else {"logits": "logits"},
        calibration={key: array[:64] for key, array in train.inputs.items()},
        val=val,
        test=test,
        metric=_accuracy,
        train=TrainingSet(train, batch_size=32),
        loss=_cross_entropy,
        student=FAMILIES[name],
    )


def model_task(build: Callable[[], nn.Module], example: npt.NDArray[np.float32], **others: Any) -> Task:
    """A task of an untrained model alone, one input `x` and one output `y`; every `task.model()` is the same."""

    def model() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build().eval()

    split = Split({"x": example}, {})
    return Task(
        name="test",
        model=model,
        example_inputs={"x": example},
        outputs={"y": "values"},
        calibration={"x": example},
        val=split,
        test=split,
        metric=lambda _outputs, _targets: 0.0,
        **others,
    )
