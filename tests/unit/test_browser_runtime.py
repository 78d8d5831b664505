"""Installing the pinned runtime: what npm gets is checked against the pinned hashes; looking for a Chromium."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from autoshrink.backends import browser_runtime
from autoshrink.backends.browser import Browser
from autoshrink.cache import CACHE_VARIABLE, cache_root
from autoshrink.errors import StageError, TargetUnavailable
from autoshrink.target import Precision, Target
from autoshrink.types import Recipe

CONTENT = {"ort.mjs": b"// a page's script", "ort.wasm": bytes(5000)}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a PATH of this folder alone."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "browsers"))
    return folder


@pytest.fixture
def fake_npm(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes an npm that packs a small package with known files, or does what it is told to do instead."""
    tarball = tmp_path / "fake.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name, content in CONTENT.items():
            (tmp_path / name).write_bytes(content)
            archive.add(tmp_path / name, f"package/dist/{name}")
    integrity = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    monkeypatch.setattr(browser_runtime, "INTEGRITY", f"sha512-{integrity}")
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(browser_runtime, "FILES", hashes)

    def make(instead: str = "") -> None:
        script = instead or f"import shutil; shutil.copy({str(tarball)!r}, sys.argv[-1])"
        (tools / "npm").write_text(f"#!{sys.executable}\nimport sys; {script}\n")
        (tools / "npm").chmod(0o755)

    return make


def test_installs_once_and_counts_the_download(fake_npm: Callable[[str], None], tools: Path) -> None:
    fake_npm("")
    assert not browser_runtime.is_installed()
    folder = browser_runtime.install()
    assert folder == browser_runtime.runtime_folder()
    assert folder.is_relative_to(cache_root())
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert [path for path in folder.parent.iterdir() if path != folder] == []
    raw, compressed = browser_runtime.download_sizes()
    assert raw == 5000 + len(CONTENT["ort.mjs"])
    assert 0 < compressed < 200
    # There is no npm any more, and none is needed.
    (tools / "npm").unlink()
    assert browser_runtime.install() == folder


def test_what_was_damaged_is_installed_again(fake_npm: Callable[[str], None]) -> None:
    fake_npm("")
    folder = browser_runtime.install()
    (folder / "ort.wasm").write_bytes(b"damaged")
    with pytest.raises(StageError, match=r"load: .*ort\.wasm is not that of onnxruntime-web .*; python -m "):
        browser_runtime.check("load")
    browser_runtime.install()
    assert browser_runtime.check("load") == folder


def test_another_package_than_was_pinned_is_refused(
    fake_npm: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm("")
    monkeypatch.setattr(browser_runtime, "INTEGRITY", "sha512-of-another")
    with pytest.raises(TargetUnavailable, match="it must be sha512-of-another"):
        browser_runtime.install()
    assert not browser_runtime.is_installed()


def test_says_why_npm_failed(fake_npm: Callable[[str], None], tools: Path) -> None:
    with pytest.raises(TargetUnavailable, match="npm is not installed"):
        browser_runtime.install()
    fake_npm("sys.exit('npm error network ENOTFOUND')")
    with pytest.raises(TargetUnavailable, match="ENOTFOUND"):
        browser_runtime.install()
    fake_npm("pass")
    with pytest.raises(TargetUnavailable, match="failed: code 0"):
        browser_runtime.install()


def test_the_command_installs(tools: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autoshrink.backends.browser_runtime"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("npm is not installed")


def test_a_missing_part_is_unavailable_with_the_way_out(fake_npm: Callable[[str], None], tools: Path) -> None:
    fake_npm("")
    found = Browser().available()
    assert (found.state, found.fix) == ("unavailable", "python -m autoshrink.backends.browser_runtime")
    assert browser_runtime.VERSION in found.why
    Browser().install()
    found = Browser().available()
    assert found.state == "unavailable"
    assert "Chromium" in found.why and "playwright install" in found.fix
    _program(tools / "chromium")
    assert Browser().available().state == "ready"


def test_finds_a_browser_by_name_then_by_path_then_playwrights(tools: Path, tmp_path: Path) -> None:
    assert browser_runtime.find_browser() is None
    downloaded = _program(tmp_path / "browsers" / "chromium-1200" / "chrome-linux" / "chrome")
    assert browser_runtime.find_browser() == downloaded
    chrome = _program(tools / "google-chrome")
    assert browser_runtime.find_browser() == chrome
    chromium = _program(tools / "chromium")
    assert browser_runtime.find_browser() == chromium
    assert browser_runtime.find_browser("google-chrome") == chrome
    assert browser_runtime.find_browser(str(downloaded)) == downloaded
    assert browser_runtime.find_browser("firefox") is None


def test_a_browser_that_is_not_there_is_refused_before_any_work(tools: Path) -> None:
    target = Target("page", "browser", {"fp32": Precision()}, options={"browser": "no-such-browser"})
    assert "'no-such-browser'" in Browser().refuses(Recipe(), target)
    _program(tools / "no-such-browser")
    assert Browser().refuses(Recipe(), target) == ""


def _program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path
