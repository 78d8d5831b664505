"""What the browser target needs on this machine: the pinned onnxruntime-web, and a Chromium.

`python -m autoshrink.backends.browser_runtime` installs the former. Standard library only: the timed child imports it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from autoshrink.cache import cache_root
from autoshrink.compressed_size import gzip_bytes
from autoshrink.errors import AutoshrinkError, StageError, TargetUnavailable

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's tarball, as npm's lock files have it."""
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""What a page loads of it to run models on the processor, with the SHA-256 of each."""
SIZES = "sizes.json"
NPM_LIMIT_S = 300
INSTALL = "python -m autoshrink.backends.browser_runtime"

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands that are looked for, in this order; then what Playwright downloaded."""
PLAYWRIGHT_BROWSERS = (
    "chromium-*/chrome-linux*/chrome",
    "chromium_headless_shell-*/chrome-*/*headless*shell",
    "chromium-*/chrome-mac*/*.app/Contents/MacOS/*",
)
NO_BROWSER = "no Chromium is on this machine"
BROWSER_FIX = "apt-get install chromium, or: python -m playwright install --with-deps chromium"


def runtime_folder() -> Path:
    """Where the pinned version lies once it is installed: in the user's cache."""
    return cache_root() / PACKAGE / VERSION


def is_installed() -> bool:
    """Whether all files are there; `check` tells whether they are sound."""
    return all((runtime_folder() / name).is_file() for name in (*FILES, SIZES))


def check(stage: str) -> Path:
    """The folder of the runtime, its files those that were pinned.

    Raises:
        StageError: of `stage`: a file is missing, or another one.
    """
    folder = runtime_folder()
    for name, sha256 in FILES.items():
        try:
            with (folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise StageError(stage, f"{PACKAGE} {VERSION} is not installed: {error}; {INSTALL}") from error
        if found != sha256:
            raise StageError(
                stage, f"{folder / name} is not that of {PACKAGE} {VERSION}: its SHA-256 is {found}; {INSTALL}"
            )
    return folder


def download_sizes() -> tuple[int, int]:
    """Bytes that a page downloads of the runtime: as they are, and each file compressed with gzip.

    Raises:
        OSError: it is not installed.
        ValueError: the file with the sizes is damaged.
    """
    sizes = json.loads((runtime_folder() / SIZES).read_text())
    return int(sizes["bytes"]), int(sizes["gzip_bytes"])


def install() -> Path:
    """Gets the pinned version with npm, checks it, and keeps what a page needs; nothing to do when it is there.

    npm goes by the user's settings, such as a registry of a company's own.

    Raises:
        TargetUnavailable: there is no npm, it fails, or what it gets is not what was pinned.
        OSError: the cache folder cannot be written.
    """
    if is_installed():
        try:
            return check("install")
        except StageError:
            shutil.rmtree(runtime_folder(), ignore_errors=True)
    folder = runtime_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as name:
        partial = Path(name)
        _unpack(_packed(partial / "package"), partial / VERSION)
        sizes = {
            "bytes": sum((partial / VERSION / file).stat().st_size for file in FILES),
            "gzip_bytes": gzip_bytes(partial / VERSION / file for file in FILES),
        }
        (partial / VERSION / SIZES).write_text(json.dumps(sizes))
        if not is_installed():
            # What is half there, as after a loss of power, would be in the way of the rename.
            shutil.rmtree(folder, ignore_errors=True)
            (partial / VERSION).rename(folder)
    return folder


def _packed(folder: Path) -> Path:
    """The tarball of the package, as npm gets it, with the integrity that was pinned."""
    npm = shutil.which("npm")
    if npm is None:
        raise TargetUnavailable(
            f"npm is not installed, which gets {PACKAGE} {VERSION}: apt-get install npm, or https://nodejs.org"
        )
    folder.mkdir()
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--prefer-offline", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise TargetUnavailable(f"npm pack {PACKAGE}@{VERSION} did not end within {NPM_LIMIT_S} s") from None
    packed = sorted(folder.glob("*.tgz"))
    if done.returncode or not packed:
        said = " ".join(done.stderr.split()) or f"code {done.returncode}"
        raise TargetUnavailable(f"npm pack {PACKAGE}@{VERSION} failed: {said[-500:]}")
    found = f"sha512-{_sha512(packed[0])}"
    if found != INTEGRITY:
        raise TargetUnavailable(f"npm got a {PACKAGE} {VERSION} with integrity {found}; it must be {INTEGRITY}")
    return packed[0]


def _sha512(path: Path) -> str:
    with path.open("rb") as stream:
        return base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()


def _unpack(tarball: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(tarball) as archive:
        for name in FILES:
            source = archive.extractfile(f"package/dist/{name}")
            if source is None:
                raise TargetUnavailable(f"{PACKAGE} {VERSION} has no file dist/{name}")
            with source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def find_browser(wanted: str = "") -> Path | None:
    """The Chromium to use: the path or command `wanted`, else the first that is found; None when there is none."""
    if wanted:
        found = shutil.which(wanted)
        return Path(found) if found else None
    for command in BROWSERS:
        found = shutil.which(command)
        if found:
            return Path(found)
    return _of_playwright()


def _of_playwright() -> Path | None:
    named = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    caches = (
        [Path(named)] if named else [Path.home() / ".cache/ms-playwright", Path.home() / "Library/Caches/ms-playwright"]
    )
    found = [
        path
        for cache in caches
        for pattern in PLAYWRIGHT_BROWSERS
        for path in sorted(cache.glob(pattern), reverse=True)
        if os.access(path, os.X_OK)
    ]
    return found[0] if found else None


def main() -> None:
    """Installs the pinned runtime and says where."""
    try:
        folder = install()
    except (AutoshrinkError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(f"{PACKAGE} {VERSION}: {folder}\n")


if __name__ == "__main__":
    main()
