"""Fashion-MNIST on disk: the idx files, their checksums, and the one split that both built-in tasks share."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autoshrink.errors import ConfigError

CLASSES = 10
CLASS_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""In the order of the labels, as the authors of the set name them."""
VAL_PER_CLASS = 200
MINI_TRAIN_PER_CLASS = 1_000
MINI_TEST_PER_CLASS = 500

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FOLDER_VARIABLE = "AUTOSHRINK_FASHION_MNIST"
MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
# Of the decompressed files: Debian strips the gzip headers, so its .gz differ from the published ones in 24 bytes.
SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class Images(NamedTuple):
    """Grey images, uint8 [N, 28, 28], and their class numbers, uint8 [N]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def take(self, indices: npt.NDArray[np.int64]) -> Images:
        """The rows at `indices`, in that order."""
        return Images(self.images[indices], self.labels[indices])


class Split(NamedTuple):
    """Row numbers of the split: of the 60,000 for train and val, of the 10,000 for test (int64)."""

    mini_train: npt.NDArray[np.int64]
    val: npt.NDArray[np.int64]
    full_train: npt.NDArray[np.int64]
    mini_test: npt.NDArray[np.int64]


def split(train_labels: npt.NDArray[np.uint8], test_labels: npt.NDArray[np.uint8]) -> Split:
    """The balanced, seeded split: 2,000 val, 10,000 small train, 58,000 full train, 5,000 small test.

    `RandomState` is used because NumPy froze its stream; `Generator` may change between releases.
    """
    random = np.random.RandomState(0)
    val, mini_train, mini_test = [], [], []
    for label in range(CLASSES):
        rows = random.permutation(np.flatnonzero(train_labels == label))
        val.append(rows[:VAL_PER_CLASS])
        mini_train.append(rows[VAL_PER_CLASS : VAL_PER_CLASS + MINI_TRAIN_PER_CLASS])
        rows = random.permutation(np.flatnonzero(test_labels == label))
        mini_test.append(rows[:MINI_TEST_PER_CLASS])
    val_rows = np.sort(np.concatenate(val))
    return Split(
        mini_train=np.sort(np.concatenate(mini_train)),
        val=val_rows,
        full_train=np.setdiff1d(np.arange(len(train_labels)), val_rows),
        mini_test=np.sort(np.concatenate(mini_test)),
    )


def read_folder(folder: Path) -> tuple[Images, Images]:
    """The 60,000 and the 10,000 of a folder with the four idx.gz files.

    Raises:
        ConfigError: a file is missing, is no gzip, or its content is not the published data set's.
    """
    problems = []
    content: dict[str, bytes] = {}
    for name in SHA256:
        try:
            content[name] = _checked(name, (folder / name).read_bytes())
        except OSError as error:
            problems.append(f"{folder / name}: {error.strerror or error}")
        except ValueError as error:
            problems.append(f"{folder / name}: {error}")
    if problems:
        raise ConfigError([f"{problem}; put the published file there" for problem in problems])
    return (_images(content, "train"), _images(content, "t10k"))


def _checked(name: str, compressed: bytes) -> bytes:
    try:
        content = gzip.decompress(compressed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"is not a whole gzip file ({error})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise ValueError(f"decompressed SHA-256 is {found}, must be {SHA256[name]}")
    return content


def find_folder(named: Path | None = None) -> Path:
    """The folder with the full set: the one named, the environment's, the Debian package's, or a download.

    Raises:
        ConfigError: none of them is there and the download fails; says every way to get the data.
    """
    return named or local_folder() or _download()


def local_folder() -> Path | None:
    """The folder that the environment names, or the Debian package's; None when there is neither."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    return DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else None


def _download() -> Path:
    from autoshrink.cache import cache_root

    folder = cache_root() / "datasets" / "fashion-mnist"
    for name in SHA256:
        target = folder / name
        if target.exists():
            continue
        try:
            # MIRROR is a constant with the scheme http, and the checksum vouches for what comes.
            with urllib.request.urlopen(f"{MIRROR}/{name}", timeout=30) as reply:  # noqa: S310
                compressed: bytes = reply.read()
            _checked(name, compressed)
            folder.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(compressed)
            partial.replace(target)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ConfigError(
                [
                    f"fashion-mnist: the data set is not on this machine and {name} could not be downloaded ({error}). "
                    f"Name a folder with the four idx.gz files in {FOLDER_VARIABLE}, or install Debian's package "
                    "dataset-fashion-mnist (it holds the images), or use fashion-mini, which is inside autoshrink"
                ]
            ) from error
    return folder


def _images(content: dict[str, bytes], part: str) -> Images:
    images, labels = content[f"{part}-images-idx3-ubyte.gz"], content[f"{part}-labels-idx1-ubyte.gz"]
    # idx headers: 4 big-endian integers for images, 2 for labels; the checksum has already vouched for them.
    return Images(
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)
    )
