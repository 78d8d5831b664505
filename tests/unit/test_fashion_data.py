"""Fashion-MNIST on disk: the shipped subset, its making, reading the full set, the download."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from autoshrink.cache import CACHE_VARIABLE, file_sha256
from autoshrink.errors import ConfigError
from autoshrink.tasks import fashion_data
from autoshrink.tasks.fashion import read_shipped
from autoshrink.tasks.fashion_data import Images, find_folder, local_folder, read_folder, split
from autoshrink.tasks.make_fashion_mini import ASSETS, build

SHIPPED = {
    "images.npy.xz": "4fc9d9cf00e0d8cbe056832c4cf7c9bc5cdb670cf5f3d7478c7399d182692941",
    "labels.npy": "d433d6b9375e8d86e9f422db960e39081b233d2cfa3e5330d8f5dc677170f843",
}
NAMES = list(fashion_data.SHA256)


class TestTheShippedSubset:
    @pytest.mark.parametrize("name", SHIPPED)
    def test_the_files_are_those_that_were_made(self, name: str) -> None:
        assert file_sha256(ASSETS / name) == SHIPPED[name]

    def test_they_are_small(self) -> None:
        assert sum((ASSETS / name).stat().st_size for name in SHIPPED) < 9_000_000

    def test_shape_and_balance(self) -> None:
        images, labels = read_shipped()
        assert images.shape == (17_000, 28, 28)
        assert images.dtype == labels.dtype == np.uint8
        for rows, per_class in ((slice(0, 10_000), 1_000), (slice(10_000, 12_000), 200), (slice(12_000, None), 500)):
            assert np.bincount(labels[rows]).tolist() == [per_class] * 10

    def test_the_full_set_gives_them_byte_for_byte(self) -> None:
        folder = local_folder()
        if folder is None:
            pytest.skip(f"the full set is not here: name its folder in {fashion_data.FOLDER_VARIABLE}")
        made = build(*read_folder(folder))
        assert {name: hashlib.sha256(content).hexdigest() for name, content in made.items()} == SHIPPED


class TestSplit:
    TRAIN = np.tile(np.arange(10, dtype=np.uint8), 6_000)
    TEST = np.tile(np.arange(10, dtype=np.uint8), 1_000)

    def test_train_and_val_are_disjoint_and_balanced(self) -> None:
        rows = split(self.TRAIN, self.TEST)
        assert [len(part) for part in rows] == [10_000, 2_000, 58_000, 5_000]
        assert not set(rows.val) & set(rows.full_train)
        assert set(rows.mini_train) <= set(rows.full_train)
        assert set(np.bincount(self.TRAIN[rows.val])) == {200}
        assert set(np.bincount(self.TRAIN[rows.mini_train])) == {1_000}
        assert set(np.bincount(self.TEST[rows.mini_test])) == {500}

    def test_it_is_the_same_every_time(self) -> None:
        first, second = split(self.TRAIN, self.TEST), split(self.TRAIN, self.TEST)
        assert all((a == b).all() for a, b in zip(first, second, strict=True))

    def test_take_keeps_the_order(self) -> None:
        whole = Images(np.arange(4 * 784, dtype=np.uint8).reshape(4, 28, 28), np.array([5, 6, 7, 8], np.uint8))
        part = whole.take(np.array([2, 0]))
        assert part.labels.tolist() == [7, 5]
        assert (part.images[1] == whole.images[0]).all()


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """File name -> gzip content of a set of 3 and 2 images, its hashes put in the place of the published ones."""
    content = {}
    for part, count in (("train", 3), ("t10k", 2)):
        images = np.arange(count * 784, dtype=np.uint32).astype(np.uint8)
        content[f"{part}-images-idx3-ubyte.gz"] = bytes(16) + images.tobytes()
        content[f"{part}-labels-idx1-ubyte.gz"] = bytes(8) + bytes(range(count))
    for name in NAMES:
        monkeypatch.setitem(fashion_data.SHA256, name, hashlib.sha256(content[name]).hexdigest())
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(fashion_data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(fashion_data, "DEBIAN_FOLDER", tmp_path / "not there")
    return {name: gzip.compress(raw) for name, raw in content.items()}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


class TestReadFolder:
    def test_a_good_folder(self, tmp_path: Path, small_set: dict[str, bytes]) -> None:
        train, test = read_folder(written(tmp_path / "data", small_set))
        assert train.images.shape == (3, 28, 28)
        assert train.images[1, 0, 0] == 784 % 256
        assert test.labels.tolist() == [0, 1]

    def test_only_the_decompressed_content_counts(self, tmp_path: Path, small_set: dict[str, bytes]) -> None:
        again = {name: gzip.compress(gzip.decompress(content), 1, mtime=7) for name, content in small_set.items()}
        assert again != small_set
        read_folder(written(tmp_path / "data", again))

    def test_every_problem_comes_at_once_with_its_file_and_its_rule(
        self, tmp_path: Path, small_set: dict[str, bytes]
    ) -> None:
        wrong, truncated, missing, plain = NAMES
        files = {
            wrong: gzip.compress(b"something else"),
            truncated: small_set[truncated][:-9],
            plain: b"not compressed at all",
        }
        folder = written(tmp_path / "data", files)
        with pytest.raises(ConfigError) as caught:
            read_folder(folder)
        problems = dict(zip(NAMES, caught.value.problems, strict=True))
        for name, problem in problems.items():
            assert problem.startswith(f"{folder / name}: ")
        assert f"must be {fashion_data.SHA256[wrong]}" in problems[wrong]
        assert "is not a whole gzip file" in problems[truncated]
        assert "No such file" in problems[missing]
        assert "is not a whole gzip file" in problems[plain]


class TestFindFolder:
    def test_the_named_folder_comes_before_the_environments(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(fashion_data.FOLDER_VARIABLE, "elsewhere")
        assert find_folder(tmp_path) == tmp_path
        assert find_folder() == Path("elsewhere")

    def test_the_debian_package_comes_before_a_download(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_set: dict[str, bytes]
    ) -> None:
        monkeypatch.setattr(fashion_data, "DEBIAN_FOLDER", tmp_path)
        assert find_folder() == tmp_path


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands behind the mirror's address."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(fashion_data, "MIRROR", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()
        thread.join()


class TestDownload:
    def test_what_is_served_lands_in_the_cache_and_is_not_fetched_again(
        self, tmp_path: Path, served: Path, small_set: dict[str, bytes]
    ) -> None:
        written(served, small_set)
        folder = find_folder()
        assert folder.is_relative_to(tmp_path / "cache")
        assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
        assert len(read_folder(folder)[0].labels) == 3
        for name in NAMES:
            (served / name).unlink()
        assert find_folder() == folder

    def test_wrong_content_is_refused_and_not_kept(
        self, tmp_path: Path, served: Path, small_set: dict[str, bytes]
    ) -> None:
        written(served, {**small_set, NAMES[2]: gzip.compress(b"something else")})
        with pytest.raises(ConfigError) as caught:
            find_folder()
        assert f"{NAMES[2]} could not be downloaded" in str(caught.value)
        assert f"must be {fashion_data.SHA256[NAMES[2]]}" in str(caught.value)
        kept = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
        assert kept == set(NAMES[:2])

    def test_a_download_that_ends_early_is_refused(
        self, served: Path, small_set: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written(served, small_set)
        send_header = QuietHandler.send_header

        def promise_more(self: QuietHandler, keyword: str, value: str) -> None:
            send_header(self, keyword, str(int(value) + 5) if keyword == "Content-Length" else value)

        monkeypatch.setattr(QuietHandler, "send_header", promise_more)
        with pytest.raises(ConfigError, match="could not be downloaded"):
            find_folder()

    def test_a_file_the_mirror_does_not_have(self, served: Path, small_set: dict[str, bytes]) -> None:
        with pytest.raises(ConfigError, match="404"):
            find_folder()

    def test_offline_it_says_every_way_to_get_the_data(
        self, small_set: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            monkeypatch.setattr(fashion_data, "MIRROR", f"http://127.0.0.1:{closed.getsockname()[1]}")
            with pytest.raises(ConfigError) as caught:
                find_folder()
        for way in (fashion_data.FOLDER_VARIABLE, "dataset-fashion-mnist", "fashion-mini"):
            assert way in str(caught.value)

    def test_a_cache_that_cannot_be_written_is_said(
        self, tmp_path: Path, served: Path, small_set: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written(served, small_set)
        (tmp_path / "a file").write_text("")
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "a file"))
        with pytest.raises(ConfigError, match="Not a directory"):
            find_folder()
