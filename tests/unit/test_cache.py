from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoshrink.cache import CACHE_VARIABLE, META, StageCache, cache_root, file_sha256

KEY = "ab" * 32


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path)


def write(text: str = "content", name: str = "file.txt") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return make


def never(folder: Path) -> None:
    raise AssertionError("made again")


def visible(cache: StageCache) -> list[str]:
    return sorted(path.name for path in cache.root.iterdir() if path.suffix != ".lock")


class TestRoot:
    def test_the_variable_goes_first(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_root() == tmp_path / "own"
        assert StageCache().root == tmp_path / "own" / "stages"

    def test_then_the_users_cache_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv(CACHE_VARIABLE)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_root() == tmp_path / "xdg" / "autoshrink"

    def test_then_the_home_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv(CACHE_VARIABLE)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_root() == tmp_path / ".cache" / "autoshrink"


class TestGetOrMake:
    def test_miss_makes_and_hit_does_not(self, cache: StageCache) -> None:
        assert cache.get(KEY) is None
        folder, found = cache.get_or_make(KEY, "prune", write())
        assert not found
        assert (folder / "file.txt").read_text() == "content"
        assert cache.get_or_make(KEY, "prune", never) == (folder, True)
        assert cache.get(KEY) == folder

    def test_keys_are_apart(self, cache: StageCache) -> None:
        cache.get_or_make(KEY, "prune", write("one"))
        folder, found = cache.get_or_make("cd" * 32, "prune", write("two"))
        assert not found
        assert (folder / "file.txt").read_text() == "two"

    def test_folders_within_an_entry(self, cache: StageCache) -> None:
        folder, _ = cache.get_or_make(KEY, "x", write(name="inner/file.txt"))
        assert json.loads((folder / META).read_text())["files"] == {
            "inner/file.txt": file_sha256(folder / "inner" / "file.txt")
        }
        (folder / "inner" / "file.txt").write_text("other")
        assert cache.get(KEY) is None

    @pytest.mark.parametrize(
        "damage", ["changed", "truncated", "missing", "no meta", "half a meta", "other meta", "list"]
    )
    def test_what_is_corrupt_is_made_again(self, cache: StageCache, damage: str) -> None:
        folder, _ = cache.get_or_make(KEY, "prune", write())
        file, meta = folder / "file.txt", folder / META
        if damage == "changed":
            file.write_text("CONTENT")
        elif damage == "truncated":
            file.write_text("cont")
        elif damage == "missing":
            file.unlink()
        elif damage == "no meta":
            meta.unlink()
        elif damage == "half a meta":
            meta.write_text(meta.read_text()[:20])
        elif damage == "other meta":
            meta.write_text("{}")
        else:
            meta.write_text("[1]")
        assert cache.get(KEY) is None
        assert not folder.exists()
        again, found = cache.get_or_make(KEY, "prune", write())
        assert not found
        assert (again / "file.txt").read_text() == "content"
        assert cache.get(KEY) == folder

    def test_a_failed_make_leaves_nothing(self, cache: StageCache) -> None:
        def fail(folder: Path) -> None:
            (folder / "half.txt").write_text("half")
            raise RuntimeError("no luck")

        with pytest.raises(RuntimeError, match="no luck"):
            cache.get_or_make(KEY, "prune", fail)
        assert visible(cache) == []
        assert cache.get_or_make(KEY, "prune", write())[1] is False

    def test_a_full_disk_leaves_nothing(self, cache: StageCache) -> None:
        def full(folder: Path) -> None:
            (folder / "half.txt").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            cache.get_or_make(KEY, "prune", full)
        assert visible(cache) == []

    def test_entry_appears_only_when_it_is_whole(self, cache: StageCache) -> None:
        def look(folder: Path) -> None:
            (folder / "file.txt").write_text("content")
            assert not (cache.root / KEY).exists()
            assert cache.entries() == []

        cache.get_or_make(KEY, "prune", look)
        assert visible(cache) == [KEY]

    def test_two_processes_make_it_once(self, cache: StageCache, tmp_path: Path) -> None:
        code = f"""
import os, sys, time
from pathlib import Path
from autoshrink.cache import StageCache
def make(folder):
    with open({str(tmp_path / "made")!r}, "a") as log:
        log.write(f"{{os.getpid()}}\\n")
    time.sleep(0.3)
    (folder / "file.txt").write_text("content")
print("ready", flush=True)
sys.stdin.readline()
folder, found = StageCache(Path({str(tmp_path)!r})).get_or_make({KEY!r}, "prune", make)
print((folder / "file.txt").read_text(), found, flush=True)
"""
        children = [
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = []
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        for child in children:
            said.append(child.communicate(timeout=60)[0].split())
        assert sorted(said) == [["content", "False"], ["content", "True"]]
        assert len((tmp_path / "made").read_text().splitlines()) == 1


class TestTrim:
    @pytest.fixture
    def filled(self, cache: StageCache) -> StageCache:
        now = time.time()
        for number, age in enumerate((30, 10, 20)):
            folder, _ = cache.get_or_make(f"{number}" * 64, f"kind{number}", write("x" * 1000))
            os.utime(folder / META, (now - age, now - age))
        return cache

    def test_entries_come_with_kind_and_size_longest_unused_first(self, filled: StageCache) -> None:
        entries = filled.entries()
        assert [entry.kind for entry in entries] == ["kind0", "kind2", "kind1"]
        assert all(entry.size == sum(p.stat().st_size for p in entry.folder.iterdir()) > 1000 for entry in entries)

    def test_longest_unused_goes_first(self, filled: StageCache) -> None:
        keep = sum(entry.size for entry in filled.entries()) - 1
        assert [entry.kind for entry in filled.trim(keep)] == ["kind0"]
        assert [entry.kind for entry in filled.entries()] == ["kind2", "kind1"]
        assert filled.get("0" * 64) is None

    def test_use_counts(self, filled: StageCache) -> None:
        assert filled.get("0" * 64) is not None
        size = filled.entries()[0].size
        assert [entry.kind for entry in filled.trim(2 * size)] == ["kind2"]

    def test_nothing_goes_that_fits(self, filled: StageCache) -> None:
        assert filled.trim(10**6) == []

    def test_everything_goes_for_zero(self, filled: StageCache) -> None:
        assert len(filled.trim(0)) == 3
        assert filled.entries() == []

    def test_half_made_folders_of_killed_processes_go_after_an_hour(self, filled: StageCache) -> None:
        for name, age in ((".old", 7200), (".young", 60)):
            folder = filled.root / name
            folder.mkdir()
            os.utime(folder, (time.time() - age, time.time() - age))
        filled.trim(10**6)
        assert not (filled.root / ".old").exists()
        assert (filled.root / ".young").exists()

    def test_corrupt_entries_are_the_first_to_go(self, filled: StageCache) -> None:
        (filled.root / ("1" * 64) / META).write_text("{")
        assert filled.entries()[0].kind == "corrupt"

    def test_cache_that_was_never_used(self, tmp_path: Path) -> None:
        unused = StageCache(tmp_path / "nowhere")
        assert unused.entries() == []
        assert unused.trim(0) == []
